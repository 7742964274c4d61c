"""Frames: how they are written, and how they are found in the bytes that arrive. Pure. RFC 9113 sections 4 and 6.

- A frame is a length of 24 bits, a type, flags, and a stream; then the payload (4.1).
- The server's first frame is a SETTINGS (3.4). Anything else is not an HTTP/2 server.
- A payload is at most 16,384 bytes, since nothing more was offered to the server (4.2).
- A block of fields is one HEADERS and the CONTINUATIONs after it, with no other frame between them (4.3). It leaves
  here as one frame. Its size and the number of its pieces are limited: an endless block would fill the memory.
- DATA frames of one size that follow each other leave here as one `DATA_RUN`: nginx cuts a body into 8 KiB, and each
  frame by itself took 2 us.
- Padding is removed here, and so is the priority in a HEADERS, which is deprecated (5.3.2, 6.1, 6.2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain

from prefect_http._wire.h2.errors import ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, ConnectionFault

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9
DATA_RUN = 0x100  # not a type of the RFC's; see ``FrameReader.run``

ACK = 0x1  # of SETTINGS and PING
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

MAX_FRAME_BYTES = 16_384
# Of a block, compressed. The list in it is limited by the decoder.
MAX_BLOCK_BYTES = 128 * 1024
MAX_BLOCK_PIECES = 128
# Smaller DATA frames do not become runs: as objects, their payloads would take up much more memory.
_MIN_RUN_BYTES = 1024

# The length in two parts, type, flags, stream.
_HEAD = struct.Struct(">BHBBL")
_HEAD_AND_LONG = struct.Struct(">BHBBLL")
_GOAWAY = struct.Struct(">BHBBLLL")
_HEAD_SIZE = 9
_PAD_OR_PRIORITY = PADDED | HAS_PRIORITY

# Type, flags, stream, payload, and the number of bytes of padding.
Frame = tuple[int, int, int, bytes, int]


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes before a payload."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM."""
    return _HEAD_AND_LONG.pack(0, 4, RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE; stream 0 is the connection."""
    return _HEAD_AND_LONG.pack(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


def goaway(code: int, last_id: int = 0) -> bytes:
    """Return a GOAWAY.

    Args:
        code: the error code.
        last_id: the last stream of the other side that has been processed. A server cannot open any.
    """
    return _GOAWAY.pack(0, 8, GOAWAY, 0, 0, last_id, code)


def headers_frames(stream_id: int, block: bytes, *, end_stream: bool, max_frame: int) -> bytes:
    """Return the frames for a block of fields: a HEADERS, and CONTINUATIONs if it is long."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= max_frame:
        return frame_head(len(block), HEADERS, flags | END_HEADERS, stream_id) + block
    parts: list[bytes] = []
    for start in range(0, len(block), max_frame):
        piece = block[start : start + max_frame]
        end = END_HEADERS if start + max_frame >= len(block) else 0
        kind = CONTINUATION if start else HEADERS
        parts += [frame_head(len(piece), kind, end if start else flags, stream_id), piece]
    return b"".join(parts)


class FrameReader:
    """Finds frames in bytes that are cut anywhere.

    Attributes:
        run: at a DATA_RUN, the payloads of its frames: at least two of one size, without flags.
    """

    __slots__ = ("_block", "_block_flags", "_block_pieces", "_block_stream", "_has_begun", "_missing", "_rest", "run")

    def __init__(self) -> None:
        self._rest = bytearray()  # the beginning of a frame
        self._missing = 0  # how many bytes the frame still needs at least
        self._has_begun = False
        self._block = bytearray()
        self._block_stream = 0  # 0: no block is open
        self._block_flags = 0
        self._block_pieces = 0
        self.run: list[bytes] = []

    def feed(self, data: bytes) -> Iterable[Frame]:
        """Return the frames that are complete, and keep the rest. Take all of them before the next call.

        Raises:
            ConnectionFault: the server broke a rule. No more may be fed.
        """
        rest, missing = self._rest, self._missing
        if not rest:
            return self._frames(data, 0)
        if len(data) < missing:  # a frame is copied once more if it is cut, and not once for each cut
            rest += data
            self._missing -= len(data)
            return ()
        has_length = len(rest) >= _HEAD_SIZE
        rest += data[:missing]
        first = bytes(rest)
        rest.clear()
        if has_length:
            return chain(self._frames(first, 0), self._frames(data, missing))
        return self._frames(first + data[missing:], 0)

    def _frames(self, data: bytes, at: int) -> Iterator[Frame]:
        """Yield the complete frames in bytes that begin with a frame, and keep what follows them."""
        size = len(data)
        while size - at >= _HEAD_SIZE:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            length = high << 16 | low
            stream_id &= 0x7FFF_FFFF
            if not self._has_begun:
                if kind != SETTINGS or flags & ACK or stream_id or length > MAX_FRAME_BYTES:
                    raise ConnectionFault("the server does not speak HTTP/2: it did not begin with SETTINGS")
                self._has_begun = True
            if length > MAX_FRAME_BYTES:
                raise ConnectionFault(
                    f"the server sent a frame of more than {MAX_FRAME_BYTES} bytes", FRAME_SIZE_ERROR, stream_id
                )
            start = at + _HEAD_SIZE
            end = start + length
            if end > size:
                self._missing = end - size
                self._rest += memoryview(data)[at:]
                return
            if kind == DATA and not flags and length >= _MIN_RUN_BYTES and not self._block_stream:
                head, run, step = data[at:start], [data[start:end]], end - at
                while end + step <= size and data.startswith(head, end):
                    run.append(data[end + _HEAD_SIZE : end + step])
                    end += step
                if len(run) > 1:
                    at = end
                    self.run = run
                    yield DATA_RUN, 0, stream_id, b"", 0
                    self.run = []
                    continue
            at = end
            payload, padding = data[start:end], 0
            if kind <= HEADERS and flags & _PAD_OR_PRIORITY:
                payload = _without_padding(kind, flags, stream_id, payload)
                padding = length - len(payload)
            if self._block_stream or kind == CONTINUATION or (kind == HEADERS and not flags & END_HEADERS):
                if not self._add_to_block(kind, flags, stream_id, payload):
                    continue
                kind, flags, payload = HEADERS, self._block_flags, bytes(self._block)
                self._block.clear()
            yield kind, flags, stream_id, payload, padding
        if at < size:
            self._missing = _HEAD_SIZE - (size - at)
            self._rest += memoryview(data)[at:]

    def _add_to_block(self, kind: int, flags: int, stream_id: int, payload: bytes) -> bool:
        """Add a piece to the block of fields, and return whether it is complete."""
        if self._block_stream:
            if kind != CONTINUATION or stream_id != self._block_stream:
                raise ConnectionFault("the server sent a frame between HEADERS and CONTINUATION")
        elif kind == CONTINUATION:
            raise ConnectionFault("the server sent a CONTINUATION without HEADERS")
        elif not stream_id:
            raise ConnectionFault("the server sent HEADERS for the connection")
        else:
            self._block_stream, self._block_flags, self._block_pieces = stream_id, flags, 0
        self._block += payload
        self._block_pieces += 1
        if len(self._block) > MAX_BLOCK_BYTES or self._block_pieces > MAX_BLOCK_PIECES:
            raise ConnectionFault("the server sent endless headers", ENHANCE_YOUR_CALM, stream_id)
        if flags & END_HEADERS:
            self._block_stream = 0
            return True
        return False


def _without_padding(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS without padding and priority."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ConnectionFault("a padded frame lacks its padding length", FRAME_SIZE_ERROR, stream_id)
        start, end = 1, end - payload[0]
    if kind == HEADERS and flags & HAS_PRIORITY:
        if len(payload) < start + 5:
            raise ConnectionFault("the server sent HEADERS that are too short", FRAME_SIZE_ERROR, stream_id)
        start += 5
    if start > end:
        raise ConnectionFault("the server sent a frame with more padding than payload", stream_id=stream_id)
    return payload[start:end]
