"""StreamBody: the body of a response over HTTP/2, received while it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Self

import httpx

from prefect_http._wire.h2.exchange import StreamExchange
from prefect_http._wire.trace import Trace


class StreamBody(httpx.AsyncByteStream):
    """The body of a response. The server sends as much as the window of the stream allows, and more as it is read.

    Args:
        exchange: where it comes from.
        trailers: where to put the trailers, once they are there.
        tidy_up: called when the exchange has ended.
        drop: called instead if the body is never closed, when it is freed, perhaps in another thread.
        trace: what listens.
    """

    __slots__ = ("_drop", "_exchange", "_has_started", "_is_closed", "_tidy_up", "_trace", "_trailers")

    def __init__(
        self,
        exchange: StreamExchange,
        trailers: list[tuple[bytes, bytes]],
        tidy_up: Callable[[], Awaitable[None]],
        drop: Callable[[], None],
        trace: Trace | None,
    ) -> None:
        self._exchange = exchange
        self._trailers = trailers
        self._tidy_up = tidy_up
        self._drop = drop
        self._trace = trace
        self._has_started = False
        self._is_closed = False

    def __del__(self) -> None:
        if not self._is_closed:
            self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._is_closed:
            raise StopAsyncIteration if self._is_read else httpx.StreamClosed
        try:
            chunk = await (self._exchange.read() if self._trace is None else self._traced_read(self._trace))
        except BaseException:
            await self.aclose()
            raise
        if not chunk:
            self._trailers += self._exchange.stream.trailers or ()
            raise StopAsyncIteration
        return chunk

    @property
    def _is_read(self) -> bool:
        return self._exchange.stream.is_complete and not self._exchange.stream.has_body

    async def _traced_read(self, trace: Trace) -> bytes:
        info = trace.info(stream_id=self._exchange.stream.id)
        if not self._has_started:
            self._has_started = True
            await trace.emit("http2.receive_response_body.started", info)
        try:
            chunk = await self._exchange.read()
        except BaseException as error:
            await trace.emit("http2.receive_response_body.failed", {"exception": error})
            raise
        if not chunk:
            await trace.emit("http2.receive_response_body.complete", {"return_value": None})
        return chunk

    async def aclose(self) -> None:
        """Reset the stream, unless the response has been read to its end."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._trace is None:
            await self._close()
        else:
            await self._trace.close(self._close, "http2", {"stream_id": self._exchange.stream.id})

    async def _close(self) -> None:
        self._exchange.close()
        await self._tidy_up()
