"""One request over one connection, as far as the head of its response."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx

from prefect_http._connection import Connection
from prefect_http._request_head import BodyFraming, RequestHead
from prefect_http._response_parser import ResponseParser
from prefect_http._trace import Trace, step
from prefect_http._upload import Upload

# A body up to here goes out along with the head. The socket's buffer takes it, so nobody has to watch for an early
# answer meanwhile.
_SMALL = 64 * 1024


class Exchange:
    """One request over one connection.

    Attributes:
        parser: has the response.
        first: what of the response's body came along with its head.
        is_sent: all of the request has been sent, so that the connection can serve another one.
    """

    __slots__ = ("_connection", "_read_timeout", "_trace", "_write_timeout", "first", "is_sent", "parser")

    def __init__(
        self, connection: Connection, method: str, timeouts: Mapping[str, float | None], trace: Trace | None
    ) -> None:
        self._connection = connection
        self._read_timeout = timeouts.get("read")
        self._write_timeout = timeouts.get("write")
        self._trace = trace
        self.parser = ResponseParser(method)
        self.first = b""
        self.is_sent = False

    async def run(self, head: RequestHead, body: bytes | httpx.AsyncByteStream) -> None:
        """Send the request, and receive the head of its response.

        Raises:
            httpx.TransportError: that fails.
            Exception: the body's stream fails; what it raises is marked as plain.
        """
        framing, trace = BodyFraming(head.length), self._trace
        if isinstance(body, bytes) and len(body) <= _SMALL:
            data = framing.frame(body) + framing.end()
            if trace is None:
                self.is_sent = await self._send(head.data + data)
                await self._receive_head()
            else:
                is_sent = await trace.step("http11.send_request_headers", lambda: self._send(head.data))
                self.is_sent = await trace.step("http11.send_request_body", lambda: self._send(data)) and is_sent
                await trace.step(
                    "http11.receive_response_headers", self._receive_head, result=lambda _: self.parser.told()
                )
        else:
            await step(trace, "http11.send_request_headers", lambda: self._send(head.data))
            upload = Upload(self._connection, self.parser, framing, self._read_timeout, self._write_timeout)
            await upload.run(_slices(body) if isinstance(body, bytes) else body, trace)
            self.is_sent, self.first = upload.is_sent, upload.first

    async def _send(self, data: bytes) -> bool:
        try:
            await self._connection.send(data, self._write_timeout)
        except httpx.WriteError:
            # The server may have said why it takes no more; and httpx, too, raises what reading comes to.
            return False
        return True

    async def _receive_head(self) -> None:
        parser = self.parser
        while parser.head is None:
            data = await self._connection.receive(self._read_timeout)
            if data:
                self.first = parser.feed(data)
            else:
                parser.feed_eof()


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    """Cut a long body, so that the limit on the time to write holds for each part and not for the whole."""
    view = memoryview(body)
    for start in range(0, len(body), _SMALL):
        yield bytes(view[start : start + _SMALL])
