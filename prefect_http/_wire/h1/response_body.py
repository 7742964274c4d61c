"""ResponseBody: the body of a response, received while it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import anyio
import httpx

from prefect_http._errors import InvalidResponse
from prefect_http._wire.close_reasons import CANCELLED, FAILED
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.trace import Trace


class ResponseBody(httpx.AsyncByteStream):
    """The body of a response. No more of it is in memory than one read from the socket returns.

    A plain iterator: an async generator would cost a request 2 us on trio.

    Args:
        connection: where it comes from.
        parser: has parsed the head.
        initial_body: the part of the body that arrived along with the head.
        read_timeout: in seconds, for each part; None: no limit.
        release: called once, when the body is closed: with whether the connection can be reused, and with why not if
            receiving the body has failed, else "".
        drop: called instead if the body is never closed, when it is freed, perhaps in another thread.
        trace: what listens.
        may_end_with_reset: whether the body has ended, and is not incomplete, if the server resets the connection. That
            is how a connection ends that the server closes before it has read all of an upload.
    """

    __slots__ = (
        *("_connection", "_drop", "_has_started", "_initial_body", "_may_end_with_reset", "_parser", "_read_timeout"),
        *("_release", "_trace"),
    )

    def __init__(
        self,
        connection: Connection,
        parser: ResponseParser,
        initial_body: bytes,
        read_timeout: float | None,
        release: Callable[[bool, str], Awaitable[None]],
        drop: Callable[[], None],
        trace: Trace | None,
        *,
        may_end_with_reset: bool = False,
    ) -> None:
        self._connection = connection
        self._parser = parser
        self._initial_body = initial_body
        self._read_timeout = read_timeout
        self._release: Callable[[bool, str], Awaitable[None]] | None = release
        self._drop = drop
        self._trace = trace
        self._may_end_with_reset = may_end_with_reset
        self._has_started = False

    def __del__(self) -> None:
        if self._release is not None:
            self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._release is None:
            raise StopAsyncIteration if self._parser.is_complete else httpx.StreamClosed
        try:
            chunk = await (self._next() if self._trace is None else self._traced_next(self._trace))
        except BaseException as error:
            await self._close(FAILED if isinstance(error, Exception) else CANCELLED)
            raise
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _traced_next(self, trace: Trace) -> bytes:
        if not self._has_started:
            self._has_started = True
            await trace.emit("http11.receive_response_body.started")
        try:
            chunk = await self._next()
        except BaseException as error:
            await trace.emit("http11.receive_response_body.failed", {"exception": error})
            raise
        if not chunk:
            await trace.emit("http11.receive_response_body.complete", {"return_value": None})
        return chunk

    async def _next(self) -> bytes:
        chunk, self._initial_body = self._initial_body, b""
        while not chunk and not self._parser.is_complete:
            if self._parser.body_error is not None:
                raise InvalidResponse(self._parser.body_error)
            try:
                data = await self._connection.receive(self._read_timeout)
            except httpx.ReadError as error:
                if not (self._may_end_with_reset and _is_reset(error)):
                    raise
                data = b""
            if data:
                chunk = self._parser.feed(data)
            else:
                self._parser.feed_eof(self._connection.peer)
        return chunk

    async def aclose(self) -> None:
        """Let the connection serve another request if the body has been read to its end; else close the connection."""
        await self._close("")

    async def _close(self, failure: str) -> None:
        if self._release is None:
            return
        release, self._release = self._release, None
        can_reuse = self._parser.can_reuse_connection
        if self._trace is None:
            await release(can_reuse, failure)
        else:
            await self._trace.close(lambda: release(can_reuse, failure))


def _is_reset(error: httpx.ReadError) -> bool:
    """Return whether the other side has reset the connection; streams tell so by the cause of what they raise."""
    broken = error.__cause__
    return isinstance(broken, anyio.BrokenResourceError) and isinstance(broken.__cause__, ConnectionResetError)


class WholeBody(httpx.AsyncByteStream):
    """The body of a response, all of which has arrived along with the head.

    Args:
        body: the body.
    """

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, b""
        if not body:
            raise StopAsyncIteration
        return body
