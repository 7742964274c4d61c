"""H1Server: the server's side of an HTTP/1.1 connection. Pure: bytes in, events out; calls in, bytes out.

- Requests are parsed strictly, also those that come before a response has ended: each is a stream of its own.
- A body is as long as Content-Length says, whatever it is, or as the response's own Transfer-Encoding says. If there is
  neither, it is sent in chunks; to HTTP/1.0, it ends with the connection (RFC 9112 section 6).
- After CONNECT and Upgrade, what arrives waits for the response, which decides whether it is another request or belongs
  to another protocol.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from prefect_http._wire.h1.chunk_decoder import ChunkDecoder
from prefect_http.testing._events import (
    BodyReceived,
    Event,
    ProtocolError,
    RequestBegun,
    RequestEnded,
)
from prefect_http.testing._h1_request_head import CHUNKED, REQUEST_LINE, check_beginning, read_headers
from prefect_http.testing._h1_response_head import Framing, informational_head, response_head
from prefect_http.testing._operations import Fields

MAX_HEAD_BYTES = 1024 * 1024


class _Reading(enum.Enum):
    """What comes next."""

    HEAD = enum.auto()
    BODY = enum.auto()
    CHUNKS = enum.auto()
    UNDECIDED = enum.auto()
    """After CONNECT and Upgrade, until there is a response."""
    TUNNEL = enum.auto()
    NOTHING = enum.auto()
    """After a request that closes the connection."""


# Members of an enum are looked up slowly.
_HEAD, _BODY, _CHUNKS, _UNDECIDED, _TUNNEL, _NOTHING = _Reading
_NO_BODY, _AS_IS, _IN_CHUNKS = Framing


class _Exchange:
    """A request and its response.

    Args:
        method: the method.
        is_old: whether the request is of HTTP/1.0.
        closes: whether the request asks to close the connection.
        may_tunnel: whether it asks for another protocol.

    Attributes:
        framing: how the body of the response is sent.
        closes: whether the connection is closed after the response.
        is_decided: whether it is known what follows the request: another request, or another protocol.
        is_tunnel: whether another protocol does.
    """

    __slots__ = ("closes", "framing", "is_decided", "is_old", "is_tunnel", "method", "request_closes")

    def __init__(self, method: bytes, is_old: bool, closes: bool, may_tunnel: bool) -> None:
        self.method = method
        self.is_old = is_old
        self.closes = self.request_closes = closes
        self.is_decided = not may_tunnel
        self.is_tunnel = False
        self.framing = _NO_BODY


class H1Server:
    """The server's side of an HTTP/1.1 connection: a `ServerProtocol`."""

    __slots__ = ("_decoder", "_exchanges", "_left", "_out", "_reading", "_rest", "_stream")

    def __init__(self) -> None:
        self._reading = _HEAD
        self._rest: bytes = b""  # what has arrived and is not parsed
        self._stream = 0  # the last request that has begun
        self._left = 0  # of its body, in bytes
        self._decoder = ChunkDecoder()
        self._exchanges: dict[int, _Exchange] = {}
        self._out: list[bytes] = []

    # --- Requests

    def receive(self, data: bytes) -> list[Event]:
        """Take in what has been received, cut anywhere, and return what it means.

        After the response to CONNECT or Upgrade, this also returns what the client had sent before it.

        Raises:
            ProtocolError: the client broke the protocol.
        """
        events: list[Event] = []
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        while at < len(data):
            reading = self._reading
            if reading is _HEAD:
                end = data.find(b"\r\n\r\n", at)
                if end < 0 or end - at > MAX_HEAD_BYTES:
                    self._keep_head(data[at:])
                    break
                at = self._take_head(events, data, at, end)
            elif reading is _BODY:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                events.append(BodyReceived(self._stream, piece))
                if not self._left:
                    self._end_body(events)
            elif reading is _CHUNKS:
                at = self._take_chunks(events, data, at)
            elif reading is _TUNNEL:
                events.append(BodyReceived(self._stream, data[at:]))
                break
            elif reading is _UNDECIDED:
                self._rest = data[at:]
                break
            else:
                raise ProtocolError("the client sent more after a request that closes the connection")
        return events

    def _keep_head(self, data: bytes) -> None:
        if len(data) > MAX_HEAD_BYTES:
            raise ProtocolError(f"the client sent a head of more than {MAX_HEAD_BYTES} bytes")
        check_beginning(data)
        self._rest = data

    def _take_head(self, events: list[Event], data: bytes, at: int, end: int) -> int:
        """Parse a head, and return where its body begins."""
        match = REQUEST_LINE.match(data, at, end + 2)
        if match is None:
            raise ProtocolError("the client sent an invalid request line")
        method, target, minor = match.groups()
        fields, host, length, closes, keeps_alive, upgrades, expects_continue = read_headers(data[match.end() : end])
        is_old = minor == b"0"
        if is_old:
            if length == CHUNKED:
                raise ProtocolError("the client sent a Transfer-Encoding with HTTP/1.0")
            closes = closes or not keeps_alive
            upgrades = expects_continue = False
        elif host is None:
            raise ProtocolError("the client sent no Host")
        self._stream = stream = self._stream + 1
        self._exchanges[stream] = exchange = _Exchange(method, is_old, closes, upgrades or method == b"CONNECT")
        events.append(
            RequestBegun(stream, method, target, fields, host or b"", not length, expects_continue and length != 0)
        )
        if length > 0:
            self._left = length
            self._reading = _BODY
        elif length:
            self._decoder = ChunkDecoder()
            self._reading = _CHUNKS
        elif closes or not exchange.is_decided:
            self._after_request()
        return end + 4

    def _take_chunks(self, events: list[Event], data: bytes, at: int) -> int:
        """Take what there is of a body in chunks, and return where the rest begins."""
        decoder = self._decoder
        body = decoder.feed(data[at:])
        if body:
            events.append(BodyReceived(self._stream, body))
        if decoder.error is not None:
            raise ProtocolError(f"the client sent an invalid body: {decoder.error.replace('response', 'request')}")
        if not decoder.is_complete:
            return len(data)
        self._end_body(events)
        return len(data) - len(decoder.trailing_data)

    def _end_body(self, events: list[Event]) -> None:
        events.append(RequestEnded(self._stream))
        self._after_request()

    def _after_request(self) -> None:
        """Choose what comes after the last request."""
        exchange = self._exchanges[self._stream]
        if not exchange.is_decided:
            self._reading = _UNDECIDED
        elif exchange.is_tunnel:
            self._reading = _TUNNEL
        else:
            self._reading = _NOTHING if exchange.request_closes else _HEAD

    # --- Responses

    def send_head(
        self, stream: int, status: int, headers: Iterable[tuple[bytes, bytes]], *, is_last: bool, reason: bytes = b""
    ) -> None:
        """Send the head of a response; see `ServerProtocol`."""
        fields = tuple(headers)
        if status < 200 and status != 101:
            self._out.append(informational_head(status, fields))
            return
        self._send_head(stream, status, fields, is_last, reason)
        if is_last:
            self.end(stream)

    def has_room(self, stream: int, size: int) -> bool:
        """Whether a response can be sent at once: each can; see `ServerProtocol`."""
        return True

    def send_response(self, stream: int, status: int, headers: Fields, body: bytes) -> None:
        """Send a whole response; see `ServerProtocol`."""
        exchange = self._send_head(stream, status, headers, not body, b"")
        if body and exchange.framing is _AS_IS:
            self._out.append(body)
        elif exchange.framing is not _NO_BODY:
            self.send_body(stream, body)
            self.end(stream)

    def _send_head(self, stream: int, status: int, fields: Fields, is_last: bool, reason: bytes) -> _Exchange:
        exchange = self._exchanges[stream]
        data, exchange.framing, exchange.closes, exchange.is_tunnel = response_head(
            exchange.method, exchange.is_old, exchange.request_closes, status, reason, fields, not is_last
        )
        self._out.append(data)
        exchange.is_decided = True
        self._exchanges.pop(stream - 1, None)
        if self._reading is _UNDECIDED and stream == self._stream:
            self._after_request()
        return exchange

    def send_body(self, stream: int, data: bytes) -> None:
        """Send a part of the body; see `ServerProtocol`."""
        framing = self._exchanges[stream].framing
        if framing is _AS_IS:
            self._out.append(data)
        elif framing is _IN_CHUNKS and data:  # an empty chunk would be the last
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self, stream: int) -> None:
        """End the body; see `ServerProtocol`."""
        exchange = self._exchanges[stream]
        if exchange.framing is _IN_CHUNKS:
            self._out.append(b"0\r\n\r\n")
        exchange.framing = _NO_BODY

    def take_output(self) -> bytes:
        """Return what can be sent now, and forget it; ``b""``: nothing."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def closes_after(self, stream: int) -> bool:
        """Whether the connection is to be closed after this response. Call it when the head has been sent."""
        return self._exchanges[stream].closes
