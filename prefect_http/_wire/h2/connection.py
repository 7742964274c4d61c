"""H2Connection: the client's side of one HTTP/2 connection. Pure: bytes and calls in, bytes and changed streams out.

Sections are of RFC 9113.

- The first flight is the preface, SETTINGS, a larger window for the connection, and the first request, in one write;
  nothing waits for the server's SETTINGS (3.4). Each SETTINGS of the server is applied, then acknowledged (6.5.3).
- GOAWAY ends the opening of streams. Streams above its number were never processed; the others go on. A server may
  first send the highest number there is, and the real one later (6.8).
- REFUSED_STREAM means "never processed", unless a part of the response has arrived. A reset after a complete response
  only ends the upload (8.1).
- A stream that was reset stays unknown: what comes late for it is decoded, since the table of HPACK is shared, and
  counted for the connection's window, and otherwise ignored. No second RST_STREAM is sent (5.1, 5.4.2).
- What a server sends wrongly within one stream resets that stream. Whatever concerns all of them (the compression, the
  framing, stream 0, streams that do not exist) ends the connection with GOAWAY (5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import ClassVar

from prefect_http._wire.h2.body_queue import MAX_TURN_BYTES, BodyQueue
from prefect_http._wire.h2.control_frames import (
    check_ping,
    is_settings_ack,
    last_stream_and_code,
    reset_code,
    window_increment,
)
from prefect_http._wire.h2.errors import (
    CANCEL,
    COMPRESSION_ERROR,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HTTP_1_1_REQUIRED,
    NO_ERROR,
    REFUSED_STREAM,
    ConnectionFault,
    FailureKind,
    RequestTooLarge,
    StreamError,
    StreamFailure,
    error_name,
    kind_of_reset,
)
from prefect_http._wire.h2.flood_guard import LATE_BLOCK_BYTES, SETTINGS_WEIGHT, FloodGuard
from prefect_http._wire.h2.frames import (
    ACK,
    DATA,
    DATA_RUN,
    END_STREAM,
    GOAWAY,
    HEADERS,
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
)
from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http._wire.h2.hpack.encoder import Encoder
from prefect_http._wire.h2.hpack.errors import HeaderListTooLarge, HPACKError
from prefect_http._wire.h2.open_streams import OpenStreams
from prefect_http._wire.h2.receive_window import ReceiveWindow
from prefect_http._wire.h2.resets import Resets, ping_answer
from prefect_http._wire.h2.response import add_body, add_body_parts, add_fields
from prefect_http._wire.h2.settings import FIRST_FLIGHT, MAX_LIST_BYTES, MAX_WINDOW, STREAM_WINDOW, ServerSettings
from prefect_http._wire.h2.stream import Headers, Stream

Fields = Sequence[tuple[bytes, bytes]]

_SETTINGS_ACK = frame_head(0, SETTINGS, ACK, 0)

_NEVER_PROCESSED, _MAY_HAVE_BEEN_PROCESSED = FailureKind.NEVER_PROCESSED, FailureKind.MAY_HAVE_BEEN_PROCESSED
_INVALID_RESPONSE = FailureKind.INVALID_RESPONSE


class H2Connection:
    """The client's side of one HTTP/2 connection.

    After any call, the caller wakes the streams in `take_changed()`, and sends what `data_to_send()` returns, if
    `has_data_to_send`. Nothing raises because of what the server sends.

    Attributes:
        error: why the connection has ended; None: it has not. Send what is left, then close it.
        is_going_away: whether it takes no new streams: the server said GOAWAY, the numbers of streams are used up,
            there were too many cancelled streams, or it has ended. Its open streams go on unless it has ended.
    """

    __slots__ = (
        "_decoder",
        "_encoder",
        "_goaway",
        "_guard",
        "_last_sent_id",
        "_out",
        "_queue",
        "_reader",
        "_resets",
        "_settings",
        "_streams",
        "_window",
        "error",
        "is_going_away",
    )

    def __init__(self) -> None:
        self.error: str | None = None
        self.is_going_away = False
        self._reader = FrameReader()
        self._decoder = Decoder(max_list_size=MAX_LIST_BYTES)
        self._encoder = Encoder()
        self._streams = OpenStreams()
        self._out = bytearray(FIRST_FLIGHT)
        self._queue = BodyQueue()
        self._window = ReceiveWindow()
        self._resets = Resets()
        self._settings = ServerSettings()
        self._last_sent_id = 0  # of the streams whose head was taken by data_to_send()
        self._guard = FloodGuard()
        self._goaway: int | None = None  # the code of the server's GOAWAY

    @property
    def free_streams(self) -> int:
        """How many streams can be opened now; 0 if it is going away. Any call may change it, in both directions."""
        if self.is_going_away:
            return 0
        return max(0, self._settings.max_streams - len(self._streams.by_id) - self._resets.unconfirmed)

    @property
    def max_open_streams(self) -> int:
        """How many streams may be open at once: those that are, and the free ones, unless it is going away."""
        return max(self._settings.max_streams - self._resets.unconfirmed, len(self._streams.by_id))

    @property
    def has_settings(self) -> bool:
        """Whether the server's SETTINGS have arrived: until then it may refuse some of the free streams."""
        return self._settings.have_arrived

    @property
    def open_streams(self) -> int:
        """How many streams are open: requests or responses that are not complete."""
        return len(self._streams.by_id)

    @property
    def has_goaway(self) -> bool:
        """Whether the server said GOAWAY."""
        return self._goaway is not None

    @property
    def is_drained(self) -> bool:
        """Whether it is going away and no stream is open: send what is left, then close it."""
        return self.is_going_away and not self._streams.by_id

    @property
    def is_ping_pending(self) -> bool:
        """Whether a PING has been sent that the server has not answered."""
        return self._resets.is_ping_pending

    @property
    def send_window(self) -> int:
        """How many bytes of request bodies the server accepts on the connection."""
        return self._queue.window

    @property
    def has_data_to_send(self) -> bool:
        """Whether `data_to_send()` would return anything now."""
        return bool(self._out or self._queue)

    # --- What the caller does

    def send_request(self, fields: Fields, *, end_stream: bool, wake: Callable[[], object]) -> Stream:
        """Open a stream and send the head of a request on it; call it only if ``free_streams`` is not 0.

        Args:
            fields: the head, from ``request_fields()``.
            end_stream: whether the request has no body.
            wake: kept as ``stream.wake``.

        Raises:
            RequestTooLarge: the server accepts only smaller heads. Nothing has changed.
        """
        limit = self._settings.max_list_bytes
        if limit is not None and sum(map(len, chain.from_iterable(fields))) + 32 * len(fields) > limit:
            raise RequestTooLarge(f"its headers are larger than the {limit} bytes that the server accepts")
        stream = self._streams.open(fields[0][1], self._settings.initial_window, STREAM_WINDOW, wake)
        stream.is_request_complete = end_stream
        if self._streams.are_used_up:
            self.is_going_away = True
        block = self._encoder.encode(fields)
        self._out += headers_frames(stream.id, block, end_stream=end_stream, max_frame=self._settings.max_frame)
        return stream

    def send_body(self, stream: Stream, data: bytes, *, end_stream: bool) -> None:
        """Queue a part of the body. It is framed by `data_to_send()`, as the windows allow, in turn with other streams.

        The stream is in ``take_changed()`` once all of it has been framed (``unsent`` is 0), also if it is nothing but
        the end: wait for that before the next part. If ``stream.is_request_complete`` is true, the server wants no
        more, and the data is dropped.
        """
        if stream.is_request_complete:
            return
        stream.ends_request = end_stream
        if data:
            self._queue.add(stream, data)
        elif end_stream and not stream.unsent:  # it needs no window
            self._out += frame_head(0, DATA, END_STREAM, stream.id)
            self._streams.mark_changed(stream)
            self._streams.end_request(stream)

    def take_body(self, stream: Stream) -> bytes:
        """Take all of the response body that has arrived, and let the server send more; ``b""``: there is nothing."""
        parts = stream.body
        if not parts:
            return b""
        data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if not stream.is_complete and stream.failure is None:
            self._out += self._window.taken(stream, len(data))
        return data

    def cancel(self, stream: Stream) -> None:
        """Reset a stream, unless its request and its response are complete. It does not change after this call."""
        stream.is_changed = False
        stream.body.clear()
        if stream.id in self._streams.by_id:
            self._reset(stream, CANCEL)

    def ping(self) -> None:
        """Send a PING, unless one is pending."""
        if self.error is None:
            self._out += self._resets.ping()

    def go_away(self) -> None:
        """Take no new streams, and tell the server with a GOAWAY that the connection will be closed."""
        if self.error is None:
            self.is_going_away = True
            self._out += goaway(NO_ERROR)

    def close(self, message: str) -> None:
        """Note that the connection has ended: the server closed it, the network failed, or a PING was not answered.

        Streams that are not complete fail: as never processed if their head was never taken from `data_to_send()`.

        Args:
            message: what happened, for ``stream.failure``.
        """
        if self.error is None:
            if self._goaway:
                message = f"{message}, after a GOAWAY with {error_name(self._goaway)}"
            self._end(message, None)

    def data_to_send(self, max_body: int = MAX_TURN_BYTES) -> bytes:
        """Return what to send now, and forget it: first all frames but DATA, then DATA in turn.

        Args:
            max_body: after how many bytes of bodies to stop; the last frame may go beyond.
        """
        out = self._out
        self._last_sent_id = self._streams.last_id
        self._guard.sent()
        if self._queue:
            before = len(out)
            emptied = self._queue.frame_into(out, max_body)
            self._guard.body_sent(len(out) - before, has_emptied=bool(emptied))
            for stream in emptied:
                self._streams.mark_changed(stream)
                if stream.ends_request:
                    self._streams.end_request(stream)
        data = bytes(out)
        out.clear()
        return data

    def take_changed(self) -> list[Stream]:
        """Return the streams that have changed since the last time, each once; those cancelled are left out."""
        return self._streams.take_changed()

    def receive(self, data: bytes) -> None:
        """Take in what has been received, cut anywhere. If the server breaks a rule, ``error`` is set."""
        if self.error is not None:
            return
        streams, on_frame = self._streams.by_id, self._ON_FRAME
        try:
            for kind, flags, stream_id, payload, padding in self._reader.feed(data):
                if kind <= HEADERS:
                    stream = streams.get(stream_id)
                    try:
                        if kind == DATA:
                            self._on_data(stream, flags, stream_id, payload, padding)
                        else:
                            self._on_headers(stream, flags, stream_id, payload)
                    except StreamError as error:
                        assert stream is not None
                        self._fail_stream(stream, error)
                else:
                    on_frame.get(kind, H2Connection._on_other)(self, flags, stream_id, payload)
        except ConnectionFault as fault:
            self._end(fault.message, fault.code, fault.stream_id)
            self._out += goaway(fault.code)

    # --- Frames of responses

    def _on_data(self, stream: Stream | None, flags: int, stream_id: int, payload: bytes, padding: int) -> None:
        self._out += self._window.arrived(len(payload) + padding)
        if stream is None:
            self._on_late(stream_id)
            return
        if payload:
            if self._guard.idle > 0:
                self._guard.idle = 0
        elif not flags & END_STREAM:
            self._guard.count()
        add_body(stream, payload, padding)
        if padding:
            self._out += self._window.taken(stream, padding)
        if flags & END_STREAM:
            self._streams.end_response(stream)
        self._streams.mark_changed(stream)

    def _on_data_run(self, _: int, stream_id: int, __: bytes) -> None:
        """Do for all frames of a run at once what is to be done for each, unless one of them is not valid."""
        run = self._reader.run
        stream, size = self._streams.by_id.get(stream_id), len(run) * len(run[0])
        if stream is not None and add_body_parts(stream, run, size):
            self._out += self._window.arrived(size)
            if self._guard.idle > 0:
                self._guard.idle = 0
            self._streams.mark_changed(stream)
            return
        for payload in run:
            stream = self._streams.by_id.get(stream_id)
            try:
                self._on_data(stream, 0, stream_id, payload, 0)
            except StreamError as error:
                assert stream is not None
                self._fail_stream(stream, error)

    def _on_headers(self, stream: Stream | None, flags: int, stream_id: int, block: bytes) -> None:
        fields: Headers | None = None
        try:
            fields = self._decoder.decode(block)
        except HPACKError as error:
            message = "the server sent headers that cannot be decoded"
            raise ConnectionFault(message, COMPRESSION_ERROR, stream_id) from error
        except HeaderListTooLarge:
            pass  # the table of the decoder is right all the same
        if stream is None:
            self._on_late(stream_id, 1 + len(block) // LATE_BLOCK_BYTES)
            return
        if fields is None:
            raise StreamError("the headers or trailers of the response are too large or too many")
        if self._guard.idle > 0:
            self._guard.idle = 0
        add_fields(stream, fields, ends=bool(flags & END_STREAM))
        if flags & END_STREAM:
            self._streams.end_response(stream)
        self._streams.mark_changed(stream)

    # --- Other frames

    def _on_rst_stream(self, _: int, stream_id: int, payload: bytes) -> None:
        code = reset_code(stream_id, payload)
        stream = self._streams.by_id.get(stream_id)
        if stream is None:
            self._on_late(stream_id)
            return
        self._forget(stream)
        self._streams.mark_changed(stream)
        if stream.is_complete:
            return
        message = f"the server reset the stream with {error_name(code)}"
        stream.failure = StreamFailure(kind_of_reset(code, stream.has_begun), message, code)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if is_settings_ack(flags, stream_id, payload):
            self._guard.count()
            return
        self._guard.count(SETTINGS_WEIGHT)
        settings = self._settings
        window, table_size = settings.initial_window, settings.table_size
        settings.update(payload)
        self._queue.max_frame = min(settings.max_frame, MAX_TURN_BYTES)
        if settings.initial_window != window:
            self._change_windows(settings.initial_window - window)
        if settings.table_size != table_size:
            self._encoder.set_max_table_size(settings.table_size)
        self._answer(_SETTINGS_ACK)

    def _change_windows(self, change: int) -> None:
        """Change the send windows of all open streams (6.9.2). They may become negative."""
        streams = self._streams.by_id.values()
        for stream in streams:
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise ConnectionFault("the server made the window of a stream too large", FLOW_CONTROL_ERROR, stream.id)
        self._queue.update_all(streams)

    def _on_push_promise(self, _: int, stream_id: int, __: bytes) -> None:
        raise ConnectionFault("the server sent a PUSH_PROMISE, though push is disabled", stream_id=stream_id)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        check_ping(stream_id, payload)
        self._guard.count()
        self._answer(self._resets.acknowledged(payload) if flags & ACK else ping_answer(payload))

    def _on_goaway(self, _: int, stream_id: int, payload: bytes) -> None:
        last_id, code = last_stream_and_code(stream_id, payload)
        self._guard.count()
        self.is_going_away = True
        self._goaway = code
        # Whatever the code is: these streams are as good as refused.
        refusal = HTTP_1_1_REQUIRED if code == HTTP_1_1_REQUIRED else REFUSED_STREAM
        message = f"the server ended the connection with GOAWAY ({error_name(code)})"
        for stream in self._streams.above(last_id):
            self._forget(stream)
            self._streams.mark_changed(stream)
            if not stream.is_complete:
                stream.failure = StreamFailure(kind_of_reset(refusal, stream.has_begun), message, code)

    def _on_window_update(self, _: int, stream_id: int, payload: bytes) -> None:
        increment = window_increment(stream_id, payload)
        self._guard.count()
        if not stream_id:
            if not increment:
                raise ConnectionFault("the server sent a WINDOW_UPDATE of 0")
            self._queue.window += increment
            if self._queue.window > MAX_WINDOW:
                raise ConnectionFault("the server made the window of the connection too large", FLOW_CONTROL_ERROR)
            return
        stream = self._streams.by_id.get(stream_id)
        if stream is None:
            self._on_late(stream_id)
        elif not increment:
            self._fail_stream(stream, StreamError("the server sent a WINDOW_UPDATE of 0"))
        elif stream.send_window + increment > MAX_WINDOW:
            error = StreamError("the server made the window of the stream too large", FLOW_CONTROL_ERROR)
            self._fail_stream(stream, error)
        else:
            stream.send_window += increment
            self._queue.update(stream)

    def _on_priority(self, _: int, stream_id: int, payload: bytes) -> None:
        """Check a PRIORITY, and ignore it: it is deprecated (5.3.2, 6.3)."""
        self._guard.count()
        if not stream_id:
            raise ConnectionFault("the server sent a PRIORITY for the connection")
        stream = self._streams.by_id.get(stream_id)
        if len(payload) != 5 and stream is not None:
            self._fail_stream(stream, StreamError("the server sent a PRIORITY of the wrong size", FRAME_SIZE_ERROR))

    def _on_other(self, _: int, __: int, ___: bytes) -> None:
        """Ignore a frame whose type is unknown (5.5)."""
        self._guard.count()

    def _on_late(self, stream_id: int, weight: int = 1) -> None:
        """Ignore a frame of a stream that has ended (5.1).

        Args:
            stream_id: the stream.
            weight: how many frames it counts as.

        Raises:
            ConnectionFault: there was no such stream.
        """
        self._streams.check_late(stream_id)
        self._guard.count(weight)

    def _answer(self, frame: bytes) -> None:
        self._out += frame
        self._guard.count_answer()

    # --- Streams

    def _forget(self, stream: Stream) -> None:
        """Remove a stream that has ended."""
        self._streams.forget(stream)
        if stream.unsent:
            self._queue.drop(stream)

    def _reset(self, stream: Stream, code: int) -> None:
        """Send the one RST_STREAM of a stream."""
        self._forget(stream)
        self._guard.expect_late_frames()
        self._out += rst_stream(stream.id, code)
        self._out += self._resets.add()
        if self._resets.are_too_many:
            self.is_going_away = True

    def _fail_stream(self, stream: Stream, error: StreamError) -> None:
        """Reset a stream in which the server broke a rule. If its response was complete, it remains valid."""
        self._reset(stream, error.code)
        if not stream.is_complete:
            stream.failure = StreamFailure(_INVALID_RESPONSE, error.message, error.code)
        self._streams.mark_changed(stream)

    def _end(self, message: str, code: int | None, guilty_id: int = 0) -> None:
        """End the connection, and all of its streams.

        Args:
            message: what happened.
            code: the error code that was sent or received; None: there was none.
            guilty_id: the stream whose response is invalid; 0: no particular one.
        """
        self.error = message
        self.is_going_away = True
        self._out.clear()  # there may be requests in it, which are not processed then
        is_http2 = self._settings.have_arrived or code is None
        for stream in self._streams.above(0):
            self._forget(stream)
            self._streams.mark_changed(stream)
            if stream.is_complete:
                continue
            if stream.id > self._last_sent_id:
                kind = _NEVER_PROCESSED
            elif stream.id == guilty_id or not is_http2:
                kind = _INVALID_RESPONSE
            else:
                kind = _MAY_HAVE_BEEN_PROCESSED
            stream.failure = StreamFailure(kind, message, code)

    _ON_FRAME: ClassVar = {
        DATA_RUN: _on_data_run,
        PRIORITY: _on_priority,
        RST_STREAM: _on_rst_stream,
        SETTINGS: _on_settings,
        PUSH_PROMISE: _on_push_promise,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
    }
