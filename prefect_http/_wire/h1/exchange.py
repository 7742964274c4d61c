"""Exchange: one request over one connection, up to the head of its response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple

import httpx

from prefect_http._concurrency.backend import checkpoint_if_cancelled
from prefect_http._fields.methods import IDEMPOTENT_METHODS
from prefect_http._request_timeouts import checked_timeouts
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.plain_head import plain_head
from prefect_http._wire.h1.request_head import BodyFramer, EncodedHeaders, request_line
from prefect_http._wire.h1.response_parser import PlainHead, ResponseParser
from prefect_http._wire.h1.upload import Upload
from prefect_http._wire.trace import Trace

# A body up to this size goes out along with the head. The socket's buffer takes it, so there is no need to watch for an
# early response meanwhile.
_SMALL = 64 * 1024


class OutgoingRequest(NamedTuple):
    """A request that has been checked and can be sent.

    Attributes:
        method: the method.
        line: the first line.
        headers: the headers, encoded.
        body: the body, or the stream that makes it.
        source: the request that it was made of.
        timeouts: by name, in seconds; those that are absent or None are not limited.
        trace: what listens to its events.
    """

    method: str
    line: bytes
    headers: EncodedHeaders
    body: bytes | httpx.AsyncByteStream
    source: httpx.Request
    timeouts: Mapping[str, float | None]
    trace: Trace | None

    @classmethod
    def of(
        cls,
        request: httpx.Request,
        encode: Callable[[tuple[tuple[bytes, bytes], ...]], EncodedHeaders],
        encode_line: Callable[[str, bytes], bytes] = request_line,
    ) -> OutgoingRequest:
        """Check a request and encode it.

        Args:
            request: the request.
            encode: encodes its headers.
            encode_line: encodes its method and target.

        Raises:
            httpx.LocalProtocolError: it cannot be sent.
            TypeError, ValueError: one of its extensions is invalid.
        """
        extensions, stream = request.extensions, request.stream
        if "target" in extensions:
            line = request_line(request.method, extensions["target"])
        else:
            line = encode_line(request.method, request.url.raw_path)
        headers = encode(tuple(request.headers.raw))
        assert isinstance(stream, httpx.AsyncByteStream)
        # Not of a subclass, which may want to know how much of it has been sent.
        body = b"".join(stream) if type(stream) is httpx.ByteStream else stream
        timeouts = checked_timeouts(extensions.get("timeout"))
        return cls(request.method, line, headers, body, request, timeouts, Trace.of(request))

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again if the server may have received it (RFC 9110 section 9.2.2)."""
        return self.method in IDEMPOTENT_METHODS and isinstance(self.body, bytes)


class Exchange:
    """One request over one connection.

    Args:
        connection: the connection.
        request: the request.
        parse: parses the head of the response; see ResponseParser.

    Attributes:
        connection: as given.
        parser: has the response.
        initial_body: the part of the response body that arrived along with the head.
        is_sent: whether all of the request has been sent, so that the connection can serve another one.
    """

    __slots__ = ("_request", "connection", "initial_body", "is_sent", "parser")

    def __init__(self, connection: Connection, request: OutgoingRequest, parse: PlainHead = plain_head) -> None:
        self.connection = connection
        self.parser = ResponseParser(request.method, allow_upgrade=request.headers.allow_upgrade, parse=parse)
        self.initial_body = b""
        self.is_sent = False
        self._request = request

    async def send(self) -> None:
        """Send the request. While a large body, or a stream, is sent, the head of the response is received as well.

        Raises:
            httpx.TransportError: that fails.
            Exception: what the stream of the request body raises.
        """
        request = self._request
        body = request.body
        if isinstance(body, bytes) and len(body) <= _SMALL:
            if body or request.headers.content_length != 0:
                framer = BodyFramer(request.headers.content_length)
                body = framer.frame(body) + framer.end()
            self.is_sent = await self._send(body)
        elif await self._send(None):
            await self._upload(BodyFramer(request.headers.content_length))

    def receive_head(self) -> Awaitable[None]:
        """Return an awaitable that receives the head of the response, if it has not been received yet.

        Raises:
            httpx.TransportError: that fails.
        """
        trace = self._request.trace
        if trace is None or self.parser.head is not None:
            return self._receive_head()
        name = "http11.receive_response_headers"
        return trace.step(name, self._receive_head, None, lambda _: self.parser.head_for_trace())

    @property
    def can_be_repeated(self) -> bool:
        """Whether the request can be sent on another connection, after this one has turned out to be closed."""
        return self._request.is_repeatable and not (self.parser.has_started or self.connection.is_closed)

    async def _send(self, body: bytes | None) -> bool:
        """Send the head, and the body unless it is None because it follows later. Return whether that succeeded.

        If the connection breaks, the server may have said why, so the response is read all the same; as httpx does.
        """
        request, trace = self._request, self._request.trace
        head = request.line + request.headers.lines
        try:
            if trace is None:
                await self.connection.send(head + body if body else head, request.timeouts.get("write"))
            else:
                await trace.step("http11.send_request_headers", lambda: self._write(head))
                if body is not None:
                    await trace.step("http11.send_request_body", lambda: self._write(body))
        except httpx.WriteError:
            return False
        return True

    async def _write(self, data: bytes) -> None:
        """Send data after an event, whose listener may have cancelled the task."""
        await checkpoint_if_cancelled()
        if data:
            await self.connection.send(data, self._request.timeouts.get("write"))

    async def _upload(self, framer: BodyFramer) -> None:
        request = self._request
        upload = Upload(
            self.connection, self.parser, framer, request.timeouts.get("read"), request.timeouts.get("write")
        )
        await upload.run(_slices(request.body) if isinstance(request.body, bytes) else request.body, request.trace)
        self.is_sent, self.initial_body = upload.is_sent, upload.initial_body

    async def _receive_head(self) -> None:
        timeout = self._request.timeouts.get("read")
        while self.parser.head is None:
            data = await self.connection.receive(timeout)
            if data:
                self.initial_body = self.parser.feed(data)
            else:
                self.parser.feed_eof(self.connection.peer)


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    """Cut a large body, so that the write timeout holds for each part and not for the whole."""
    view = memoryview(body)
    for start in range(0, len(body), _SMALL):
        yield bytes(view[start : start + _SMALL])
