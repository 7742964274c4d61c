"""One request over one connection, as far as the head of its response."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import httpx

from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.request_head import BodyFraming, EncodedHeaders
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.h1.upload import Upload
from prefect_http._wire.trace import Trace

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

    __slots__ = ("_block", "_connection", "_read_timeout", "_trace", "_write_timeout", "first", "is_sent", "parser")

    def __init__(
        self,
        connection: Connection,
        method: str,
        block: EncodedHeaders,
        timeouts: Mapping[str, float | None],
        trace: Trace | None,
    ) -> None:
        self._connection = connection
        self._block = block
        self._read_timeout = timeouts.get("read")
        self._write_timeout = timeouts.get("write")
        self._trace = trace
        self.parser = ResponseParser(method, allow_upgrade=block.allow_upgrade)
        self.first = b""
        self.is_sent = False

    async def run(self, line: bytes, body: bytes | httpx.AsyncByteStream) -> None:
        """Send the request, from its first line on, and receive the head of its response.

        Raises:
            httpx.TransportError: that fails.
            Exception: the body's stream fails; what it raises is marked as plain.
        """
        head, trace = line + self._block.lines, self._trace
        framing = BodyFraming(self._block.length)
        small = body if isinstance(body, bytes) and len(body) <= _SMALL else None
        data = b"" if small is None else framing.frame(small) + framing.end()
        # A server that takes no more may have said why. And httpx, too, raises what the reading comes to then.
        with contextlib.suppress(httpx.WriteError):
            if trace is None:
                await self._send(head + data)
            else:
                await trace.step("http11.send_request_headers", lambda: self._send(head))
                if small is not None:
                    await trace.step("http11.send_request_body", lambda: self._send(data))
            self.is_sent = True
        if self.is_sent and small is None:
            upload = Upload(self._connection, self.parser, framing, self._read_timeout, self._write_timeout)
            await upload.run(_slices(body) if isinstance(body, bytes) else body, trace)
            self.is_sent, self.first = upload.is_sent, upload.first
        elif trace is None:
            await self._receive_head()
        else:
            await trace.step(
                "http11.receive_response_headers", self._receive_head, result=lambda _: self.parser.head_for_trace()
            )

    async def _send(self, data: bytes) -> None:
        if data:
            await self._connection.send(data, self._write_timeout)

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
