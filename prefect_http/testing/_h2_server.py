"""H2Server: the server's side of an HTTP/2 connection. Pure: bytes in, events out; calls in, bytes out.

Sections are of RFC 9113.

- Whatever the client does wrong is an error of the connection, also where the RFC resets only a stream: it is a mistake
  in the test. A GOAWAY goes out, and `ProtocolError` is raised.
- Bodies of responses are queued, and framed when output is taken, as far as the client's windows allow. Streams take
  turns, a frame at a time (5.2, 6.9).
- What has arrived is given back to the client's windows with the next output. Until that is taken, the client cannot
  know of it, so sending more is an error (5.2, 6.9).
- A stream that was reset, refused, or is above the number in a GOAWAY stays unknown. What comes late for it is decoded,
  since the table of HPACK is shared, and otherwise ignored (5.1, 6.8).
- More streams than the limit are refused until the client has acknowledged it; then they are an error (5.1.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from prefect_http._wire.h2.errors import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
)
from prefect_http._wire.h2.frames import (
    ACK,
    DATA,
    DATA_RUN,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_FRAME_BYTES,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    FrameReader,
    frame_head,
    goaway,
    headers_frames,
    rst_stream,
    window_update,
)
from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http._wire.h2.hpack.encoder import Encoder
from prefect_http._wire.h2.hpack.errors import HeaderListTooLarge, HPACKError
from prefect_http._wire.h2.response_fields import CONNECTION_FIELDS
from prefect_http._wire.h2.settings import (
    DEFAULT_WINDOW,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_TABLE_SIZE,
    MAX_WINDOW,
    PREFACE,
    read_settings,
)
from prefect_http.testing._events import (
    BodyReceived,
    Event,
    ProtocolError,
    RequestBegun,
    RequestCancelled,
    RequestEnded,
)
from prefect_http.testing._h2_request_head import check_trailers, read_head
from prefect_http.testing._operations import Fields

_SETTINGS_ACK = frame_head(0, SETTINGS, ACK, 0)
# How much of a window may be used up before it is given back.
_HALF_WINDOW = DEFAULT_WINDOW // 2

_MAX_LIST_BYTES = 1024 * 1024
_MAX_FIELDS = 10_000

_STATUS_FIELDS = [(b":status", b"%d" % status) for status in range(1000)]


class _Stream:
    """One request and its response.

    Attributes:
        id: its number.
        method: the method of the request.
        body_left: how much of the request's body is to come; None: it does not say.
        has_request: whether the request has arrived to its end.
        receive_window: how many bytes the client may send.
        credit: how many have arrived since it was told so.
        has_response: whether the response has been framed to its end.
        send_window: how many bytes the client accepts.
        parts: what is queued of the response's body.
        ends: whether that is all of it.
    """

    __slots__ = (
        *("body_left", "credit", "ends", "has_request", "has_response", "id", "method", "parts", "receive_window"),
        "send_window",
    )

    def __init__(self, stream_id: int, method: bytes, body_left: int | None, send_window: int) -> None:
        self.id = stream_id
        self.method = method
        self.body_left = body_left
        self.has_request = False
        self.receive_window = DEFAULT_WINDOW
        self.credit = 0
        self.has_response = False
        self.send_window = send_window
        self.parts: deque[bytes | memoryview] = deque()
        self.ends = False


class H2Server:
    """The server's side of an HTTP/2 connection: a `ServerProtocol`.

    What is sent on a stream that the client has reset is dropped.

    Args:
        max_concurrent_streams: how many requests the client may have open at once; None: it is not told.

    Attributes:
        goaway_code: the error code in the client's GOAWAY; None: none has arrived.
    """

    __slots__ = (
        *("_credit", "_decoder", "_encoder", "_events", "_ignored", "_initial_window", "_is_limit_known", "_last_id"),
        *("_last_kept_id", "_max_frame", "_max_streams", "_out", "_preface", "_reader", "_receive_window", "_streams"),
        *("_uploads", "_waiting", "_window", "goaway_code"),
    )

    def __init__(self, *, max_concurrent_streams: int | None = None) -> None:
        self.goaway_code: int | None = None
        self._preface = PREFACE  # what is to come of it
        self._reader = FrameReader()
        self._decoder = Decoder(max_list_size=_MAX_LIST_BYTES, max_fields=_MAX_FIELDS)
        self._encoder = Encoder()
        self._events: list[Event] = []
        self._streams: dict[int, _Stream] = {}
        self._waiting: dict[int, _Stream] = {}  # those with parts of a body that have not been framed
        self._uploads: dict[int, _Stream] = {}  # those that have used up half of their window
        self._ignored = set[int]()  # streams that the client may take for open
        self._last_id = 0  # the highest stream of the client
        self._last_kept_id = MAX_WINDOW  # the one in the GOAWAY that was sent
        self._max_streams = max_concurrent_streams
        self._is_limit_known = False
        # What the client may send on the connection, and what has arrived since it was told so.
        self._receive_window = DEFAULT_WINDOW
        self._credit = 0
        # What the client accepts: on the connection, on a new stream, and in a frame.
        self._window = self._initial_window = DEFAULT_WINDOW
        self._max_frame = MAX_FRAME_BYTES
        settings = b""
        if max_concurrent_streams is not None:
            settings = MAX_CONCURRENT_STREAMS.to_bytes(2) + max_concurrent_streams.to_bytes(4)
        self._out = bytearray(frame_head(len(settings), SETTINGS, 0, 0) + settings)

    # --- Requests

    def receive(self, data: bytes) -> list[Event]:
        """Take in what has been received, cut anywhere, and return what it means.

        Raises:
            ProtocolError: the client broke the protocol. A GOAWAY that says so is among the output.
        """
        events: list[Event] = []
        self._events = events
        try:
            if self._preface:
                data = self._take_preface(data)
            for kind, flags, stream_id, payload, padding in self._reader.feed(data):
                if kind == HEADERS:
                    self._on_headers(flags, stream_id, payload)
                elif kind == DATA:
                    self._on_data(flags, stream_id, payload, padding)
                elif kind == DATA_RUN:
                    for each in self._reader.run:
                        self._on_data(flags, stream_id, each, 0)
                else:
                    handler = self._ON_FRAME.get(kind)
                    if handler is not None:  # 5.5: others are ignored
                        handler(self, flags, stream_id, payload)
        except ConnectionFault as fault:
            self._out += goaway(fault.code, self._last_id)
            self._waiting.clear()
            self._uploads.clear()
            self._credit = 0
            raise ProtocolError(fault.message.replace("the server", "the client")) from None
        return events

    def _take_preface(self, data: bytes) -> bytes:
        """Check the preface, and return what follows it."""
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise ConnectionFault("the client does not speak HTTP/2: it did not begin with the preface")
        self._preface = self._preface[size:]
        return data[size:]

    def _on_headers(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            fields = self._decoder.decode(block)
        except HPACKError:
            raise ConnectionFault("the client sent headers that cannot be decoded", COMPRESSION_ERROR) from None
        except HeaderListTooLarge:
            raise ConnectionFault("the client sent headers that are too large", ENHANCE_YOUR_CALM) from None
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.has_request:
            if not flags & END_STREAM:
                raise ConnectionFault("the client sent trailers that do not end the request")
            check_trailers(fields)
            self._end_request(stream)
        elif stream_id > self._last_id:
            self._begin(stream_id, fields, ends=bool(flags & END_STREAM))
        elif stream_id not in self._ignored:
            raise ConnectionFault("the client sent HEADERS for a stream that it had ended", STREAM_CLOSED)

    def _begin(self, stream_id: int, fields: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        if not stream_id & 1:
            raise ConnectionFault("the client opened a stream with an even number")
        self._last_id = stream_id
        if stream_id > self._last_kept_id:
            self._ignored.add(stream_id)
            return
        if self._max_streams is not None and len(self._streams) >= self._max_streams:
            if self._is_limit_known:
                raise ConnectionFault("the client opened more streams than MAX_CONCURRENT_STREAMS allows")
            self._ignored.add(stream_id)
            self._out += rst_stream(stream_id, REFUSED_STREAM)
            return
        method, target, authority, headers, length, expects_continue = read_head(fields)
        self._streams[stream_id] = stream = _Stream(stream_id, method, length, self._initial_window)
        self._events.append(
            RequestBegun(stream_id, method, target, headers, authority, ends, expects_continue and not ends)
        )
        if ends:
            self._check_length(stream)
            stream.has_request = True

    def _on_data(self, flags: int, stream_id: int, payload: bytes, padding: int) -> None:
        size = len(payload) + padding
        self._receive_window -= size
        self._credit += size
        if self._receive_window < 0:
            raise ConnectionFault("the client sent more than the connection's window allows", FLOW_CONTROL_ERROR)
        stream = self._streams.get(stream_id)
        if stream is None or stream.has_request:
            self._check_begun(stream_id)
            if stream_id in self._ignored:
                return
            raise ConnectionFault("the client sent DATA for a stream that it had ended", STREAM_CLOSED)
        stream.receive_window -= size
        stream.credit += size
        if stream.receive_window < 0:
            raise ConnectionFault("the client sent more than the stream's window allows", FLOW_CONTROL_ERROR)
        if payload:
            if stream.body_left is not None:
                stream.body_left -= len(payload)
            self._events.append(BodyReceived(stream_id, payload))
        if flags & END_STREAM:
            self._end_request(stream)
        elif stream.credit >= _HALF_WINDOW:
            self._uploads[stream_id] = stream

    def _end_request(self, stream: _Stream) -> None:
        self._check_length(stream)
        stream.has_request = True
        self._uploads.pop(stream.id, None)
        self._events.append(RequestEnded(stream.id))
        if stream.has_response:
            del self._streams[stream.id]

    def _check_length(self, stream: _Stream) -> None:
        if stream.body_left:
            raise ConnectionFault("the client sent a body that is not as long as its Content-Length says")

    # --- Other frames

    def _on_rst_stream(self, _: int, stream_id: int, payload: bytes) -> None:
        _check_size(payload, 4, "RST_STREAM")
        self._check_begun(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream)
            self._events.append(RequestCancelled(stream_id))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_for_connection(stream_id, "SETTINGS")
        if flags & ACK:
            _check_size(payload, 0, "SETTINGS acknowledgement")
            self._is_limit_known = True
            return
        values = read_settings(payload, max_push=1)
        if HEADER_TABLE_SIZE in values:
            self._encoder.set_max_table_size(min(values[HEADER_TABLE_SIZE], MAX_TABLE_SIZE))
        self._max_frame = values.get(MAX_FRAME_SIZE, self._max_frame)
        window = values.get(INITIAL_WINDOW_SIZE, self._initial_window)
        for stream in self._streams.values():
            stream.send_window += window - self._initial_window
            _check_window(stream.send_window)
        self._initial_window = window
        self._out += _SETTINGS_ACK

    def _on_push_promise(self, _: int, __: int, ___: bytes) -> None:
        raise ConnectionFault("the client sent a PUSH_PROMISE")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        _check_for_connection(stream_id, "PING")
        _check_size(payload, 8, "PING")
        if not flags & ACK:
            self._out += frame_head(8, PING, ACK, 0) + payload

    def _on_goaway(self, _: int, stream_id: int, payload: bytes) -> None:
        _check_for_connection(stream_id, "GOAWAY")
        if len(payload) < 8:
            raise ConnectionFault("the client sent a GOAWAY of the wrong size", FRAME_SIZE_ERROR)
        self.goaway_code = int.from_bytes(payload[4:8])

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        _check_size(payload, 4, "WINDOW_UPDATE")
        increment = int.from_bytes(payload) & MAX_WINDOW
        if not increment:
            raise ConnectionFault("the client sent a WINDOW_UPDATE of 0")
        if not stream_id:
            self._window += increment
            _check_window(self._window)
            return
        self._check_begun(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.send_window += increment
            _check_window(stream.send_window)

    def _on_priority(self, _: int, stream_id: int, payload: bytes) -> None:
        """Check a PRIORITY, and ignore it: it is deprecated (5.3.2, 6.3)."""
        if not stream_id:
            raise ConnectionFault("the client sent a PRIORITY for the connection")
        _check_size(payload, 5, "PRIORITY")

    def _check_begun(self, stream_id: int) -> None:
        """Check that a frame other than HEADERS is not for a stream that has not begun (5.1)."""
        if not stream_id & 1 or stream_id > self._last_id:
            raise ConnectionFault("the client sent a frame for a stream that does not exist")

    # --- Responses

    def send_head(
        self, stream: int, status: int, headers: Iterable[tuple[bytes, bytes]], *, is_last: bool, reason: bytes = b""
    ) -> None:
        """Send the head of a response; see `ServerProtocol`. Headers that concern an HTTP/1.1 connection are left out.

        HTTP/2 has no reason phrase.
        """
        found = self._streams.get(stream)
        if found is None or found.has_response:
            return
        fields = [_STATUS_FIELDS[status]]
        for name, value in headers:
            key = name.lower()
            if key not in CONNECTION_FIELDS:  # a response may be written for both protocols
                fields.append((key, value))
        ends = status >= 200 and (is_last or found.method == b"HEAD" or status in {204, 304})
        block = self._encoder.encode(fields)
        self._out += headers_frames(stream, block, end_stream=ends, max_frame=self._max_frame)
        if ends:
            self._end_response(found)

    def has_room(self, stream: int, size: int) -> bool:
        """Whether the windows allow a response at once, unless the stream was reset; see `ServerProtocol`."""
        found = self._streams.get(stream)
        return found is not None and size <= found.send_window and size <= self._window and not self._waiting

    def send_response(self, stream: int, status: int, headers: Fields, body: bytes) -> None:
        """Send a whole response; see `ServerProtocol`."""
        self.send_head(stream, status, headers, is_last=not body)
        if body:
            self.send_body(stream, body)
            self.end(stream)

    def send_body(self, stream: int, data: bytes) -> None:
        """Queue a part of the body; see `ServerProtocol`."""
        found = self._streams.get(stream)
        if found is not None and not found.has_response and data:
            found.parts.append(data)
            self._waiting[stream] = found

    def end(self, stream: int) -> None:
        """End the body, when all of it has been framed; see `ServerProtocol`."""
        found = self._streams.get(stream)
        if found is None or found.has_response:
            return
        found.ends = True
        if not found.parts:
            self._out += frame_head(0, DATA, END_STREAM, stream)
            self._end_response(found)

    def reset(self, stream: int, code: int) -> None:
        """Reset a stream, after the part of its body that the client's windows allow; the rest is dropped.

        Args:
            stream: which; nothing is done if it has ended.
            code: the error code (7).
        """
        found = self._streams.get(stream)
        if found is None:
            return
        while self._frame(found):
            pass
        if stream in self._streams:  # the last frame may have ended it
            self._forget(found)
            self._ignored.add(stream)
            self._out += rst_stream(stream, code)

    def goaway(self, last_stream: int, code: int = NO_ERROR) -> None:
        """Send a GOAWAY (6.8).

        Args:
            last_stream: the last request that is answered. Those above are ignored, also those that are open.
            code: the error code (7).
        """
        self._last_kept_id = last_stream
        for stream in [stream for stream in self._streams.values() if stream.id > last_stream]:
            self._forget(stream)
            self._ignored.add(stream.id)
        self._out += goaway(code, last_stream)

    def take_output(self) -> bytes:
        """Return what can be sent now, and forget it; ``b""``: nothing."""
        if self._waiting:
            ready = list(self._waiting.values())
            while ready:
                ready = [stream for stream in ready if self._frame(stream)]
        if self._credit >= _HALF_WINDOW or self._uploads:
            self._give_back()
        data = bytes(self._out)
        self._out.clear()
        return data

    def _give_back(self) -> None:
        """Let the client send as much as has arrived."""
        self._out += window_update(0, self._credit)
        self._receive_window += self._credit
        self._credit = 0
        for stream in self._uploads.values():
            self._out += window_update(stream.id, stream.credit)
            stream.receive_window += stream.credit
            stream.credit = 0
        self._uploads.clear()

    def closes_after(self, stream: int) -> bool:
        """Whether the connection is to be closed after this response: it never is."""
        return False

    def is_sending(self, stream: int) -> bool:
        """Whether the windows have not allowed all of the body yet, or it has not been taken."""
        return stream in self._waiting

    def _frame(self, stream: _Stream) -> bool:
        """Add a frame of a queued body to the output, and return whether there may be another one."""
        parts = stream.parts
        if not parts:
            return False
        part = parts[0]
        size = min(len(part), stream.send_window, self._window, self._max_frame)
        if size <= 0:
            return False
        stream.send_window -= size
        self._window -= size
        if size == len(part):
            parts.popleft()
        else:
            parts[0] = memoryview(part)[size:]
            part = memoryview(part)[:size]
        is_end = stream.ends and not parts
        self._out += frame_head(size, DATA, END_STREAM if is_end else 0, stream.id)
        self._out += part
        if parts:
            return True
        del self._waiting[stream.id]
        if is_end:
            self._end_response(stream)
        return False

    def _end_response(self, stream: _Stream) -> None:
        stream.has_response = True
        if stream.has_request:
            del self._streams[stream.id]

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.id]
        self._waiting.pop(stream.id, None)
        self._uploads.pop(stream.id, None)

    _ON_FRAME: ClassVar = {
        PRIORITY: _on_priority,
        RST_STREAM: _on_rst_stream,
        SETTINGS: _on_settings,
        PUSH_PROMISE: _on_push_promise,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
    }


def _check_size(payload: bytes, size: int, name: str) -> None:
    if len(payload) != size:
        raise ConnectionFault(f"the client sent a {name} of the wrong size", FRAME_SIZE_ERROR)


def _check_for_connection(stream_id: int, name: str) -> None:
    if stream_id:
        raise ConnectionFault(f"the client sent a {name} for a stream")


def _check_window(size: int) -> None:
    if size > MAX_WINDOW:
        raise ConnectionFault("the client made a window too large", FLOW_CONTROL_ERROR)
