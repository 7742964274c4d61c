"""ResponseBody: the body of a response, received as it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import httpx

from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.trace import Trace


class ResponseBody(httpx.AsyncByteStream):
    """The body of a response. No more of it is in memory than one read from the socket gives, which is 64 KiB.

    A plain iterator: an async generator would cost a request on trio 2 us.

    Args:
        connection: where it comes from.
        parser: has the head already.
        first: what of the body came along with it.
        read_timeout: for each part, in seconds.
        leave: called once, when the body is closed, with whether the response is through.
        trace: who listens.
    """

    __slots__ = ("_connection", "_first", "_leave", "_parser", "_read_timeout", "_trace", "_was_asked")

    def __init__(
        self,
        connection: Connection,
        parser: ResponseParser,
        first: bytes,
        read_timeout: float | None,
        leave: Callable[[bool], Awaitable[None]],
        trace: Trace | None,
    ) -> None:
        self._connection = connection
        self._parser = parser
        self._first = first
        self._read_timeout = read_timeout
        self._leave: Callable[[bool], Awaitable[None]] | None = leave
        self._trace = trace
        self._was_asked = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._leave is None:
            raise StopAsyncIteration if self._parser.is_complete else httpx.StreamClosed
        try:
            chunk = await (self._next() if self._trace is None else self._traced_next(self._trace))
        except BaseException:
            await self.aclose()
            raise
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _traced_next(self, trace: Trace) -> bytes:
        if not self._was_asked:
            self._was_asked = True
            await trace.tell("http11.receive_response_body.started")
        try:
            chunk = await self._next()
        except BaseException as error:
            await trace.tell("http11.receive_response_body.failed", {"exception": error})
            raise
        if not chunk:
            await trace.tell("http11.receive_response_body.complete", {"return_value": None})
        return chunk

    async def _next(self) -> bytes:
        chunk, self._first = self._first, b""
        while not chunk and not self._parser.is_complete:
            if self._parser.error is not None:
                raise self._parser.error
            data = await self._connection.receive(self._read_timeout)
            if data:
                chunk = self._parser.feed(data)
            else:
                self._parser.feed_eof()
        return chunk

    async def aclose(self) -> None:
        """Let the connection serve the next request, if the body has been read to its end; else close it."""
        if self._leave is not None:
            leave, self._leave = self._leave, None
            is_through = self._parser.leaves_reusable
            if self._trace is None:
                await leave(is_through)
            else:
                await self._trace.close(lambda: leave(is_through))
