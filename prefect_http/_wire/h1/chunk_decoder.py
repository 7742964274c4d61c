"""ChunkDecoder: takes a body out of its chunks. Pure. RFC 9112 section 7.1.

Chunk extensions and trailers are checked and discarded. Beyond the RFC, whitespace may follow a chunk's size, and a
chunk extension may be anything without control characters. Each line ends with CRLF: a reader that took a bare LF for
the end of a line would find other chunks than one that does not.
"""

from __future__ import annotations

import re

from prefect_http._wire.h1.lenient_head import is_trailer
from prefect_http._wire.h1.response_head import HEAD_TOO_LARGE, MAX_FIELDS, MAX_HEAD_BYTES, TOO_MANY_FIELDS

# chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
_SIZE = rb"0*([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r"
_SIZE_LINE = re.compile(_SIZE + rb"\n")
# The beginning of such a line, and of a trailer: garbage is found before its line ends, if it ever does.
_SIZE_BEGINNING = re.compile(rb"(?:%b?)?" % _SIZE)
_TRAILER_BEGINNING = re.compile(rb"[^\x00\r\n]*\r?")
_BEGINNING = 64
# Almost all of these lines, read faster.
_PLAIN_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CRLF = b"\r\n"
# Of a chunk of this size or more, the body is made without a copy in between, a third of the time for 64 KiB. Of a
# smaller one, the copy is faster than a memoryview.
_LARGE = 2048

_BAD_SIZE = "the response has an invalid chunk size"
_BAD_TRAILER = "the response has an invalid trailer"


class ChunkDecoder:
    """Takes the body of one message out of its chunks.

    Attributes:
        is_complete: whether the last chunk and its trailers have arrived.
        has_trailing_data: whether anything has arrived after them.
        error: what is wrong, after all of the body that ``feed()`` has returned; None: nothing.
    """

    __slots__ = (
        *("_fields", "_is_last", "_left", "_partial", "_size", "_wants_crlf"),
        *("error", "has_trailing_data", "is_complete"),
    )

    def __init__(self) -> None:
        self.is_complete = False
        self.has_trailing_data = False
        self.error: str | None = None
        self._left = 0  # the number of bytes still to come of the current chunk
        self._wants_crlf = False  # whether the CRLF after a chunk's data comes next
        self._is_last = False  # whether the last chunk's size has been read, so that trailers come next
        self._fields = 0  # the number of trailers
        self._size = 0  # of the last chunk's line and the trailers, in bytes
        self._partial: bytes = b""  # a line, or a CRLF, whose end has not arrived

    @property
    def trailing_data(self) -> bytes:
        """What has arrived after them."""
        return self._partial if self.is_complete else b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in what has arrived."""
        body: list[bytes | memoryview] = []
        if self._partial:
            data = self._partial + data
        start, view = 0, memoryview(data)
        while not self.is_complete:
            if self._left:
                piece = view[start : start + self._left]
                body.append(piece)
                start += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._wants_crlf = True
            if self._wants_crlf:
                if data[start : start + 2] != _CRLF:
                    if data[start:] not in (b"", b"\r"):
                        self.error = "a chunk of the response is longer than its size"
                    break
                start += 2
                self._wants_crlf = False
            if not self._is_last:
                start = _take_whole_chunks(data, view, start, body)
            end = data.find(b"\n", start) + 1
            if not end:
                self._check_beginning(data, start)
                break
            if self._is_last:
                self._take_trailer(data[start:end])
            else:
                self._take_size(data, start, end)
            start = end
            if self.error is not None:
                break
        self._partial = data[start:]
        if self.is_complete:
            self.has_trailing_data = bool(self._partial)
        return b"".join(body)

    def _take_size(self, data: bytes, start: int, end: int) -> None:
        match = _SIZE_LINE.fullmatch(data, start, end)
        if match is None:
            self.error = _BAD_SIZE
        elif end - start > MAX_HEAD_BYTES:
            self.error = HEAD_TOO_LARGE
        else:
            self._left = int(match[1], 16)
            self._is_last = not self._left
            self._size = end - start

    def _take_trailer(self, line: bytes) -> None:
        self._size += len(line)
        if self._size > MAX_HEAD_BYTES:
            self.error = HEAD_TOO_LARGE
        elif line == _CRLF:
            self.is_complete = True
        elif not line.endswith(_CRLF) or not is_trailer(line[:-2], is_first=not self._fields):
            self.error = _BAD_TRAILER
        else:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                self.error = TOO_MANY_FIELDS

    def _check_beginning(self, data: bytes, start: int) -> None:
        """Check a line that is incomplete."""
        if (self._size if self._is_last else 0) + len(data) - start > MAX_HEAD_BYTES:
            self.error = HEAD_TOO_LARGE
        beginning = _TRAILER_BEGINNING if self._is_last else _SIZE_BEGINNING
        if not beginning.fullmatch(data, start, min(len(data), start + _BEGINNING)):
            self.error = _BAD_TRAILER if self._is_last else _BAD_SIZE


def _take_whole_chunks(data: bytes, view: memoryview, start: int, body: list[bytes | memoryview]) -> int:
    """Take the chunks that have arrived whole and without extensions, and return where the rest begins.

    The result is the same without it, but it makes decoding twice as fast.
    """
    while match := _PLAIN_SIZE_LINE.match(data, start):
        begin = match.end()
        end = begin + int(match[1], 16)
        if begin == end or data[end : end + 2] != _CRLF:
            break
        body.append(data[begin:end] if end - begin < _LARGE else view[begin:end])
        start = end + 2
    return start
