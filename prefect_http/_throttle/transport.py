"""ThrottledTransport: lets requests out to another transport when a Throttle does."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio.lowlevel
import httpx

from prefect_http._concurrency.backend import CancelScope, new_cancel_scope
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.limiter import Ticket
from prefect_http._throttle.routes import route_of
from prefect_http._throttle.throttle import Throttle


class ThrottledTransport(httpx.AsyncBaseTransport):
    """Sends each request through another transport, when its turn has come.

    For a plain httpx.AsyncClient; PrefectHttpxClient has ``throttle=``. A request that waits holds no connection.
    It counts as under way until its headers are there, and not until its body is read: else a task that reads one
    response and asks for another would wait for itself.

    Args:
        transport: sends the requests. It is entered and closed with this one.
        throttle: may be shared with other transports and clients.

    Requests raise:
        ThrottleTimeout: the request cannot be let out in time; it was not sent.
        httpx.ConnectError: the transport was closed while it waited; likewise.
        RuntimeError: the throttle is used in another event loop.

    Cancellation:
        Gives the request's turn to the next.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, throttle: Throttle) -> None:
        if not isinstance(throttle, Throttle):
            raise TypeError(f"throttle must be a Throttle, not {throttle!r}")
        if isinstance(transport, ThrottledTransport) and transport._throttle is throttle:
            raise ValueError("the transport is behind this throttle already; a request would wait for itself")
        self._transport = transport
        self._throttle: Throttle = throttle
        self._queues: set[CancelScope] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for the request's turn, and send it."""
        gate = self._throttle.gate(request)

        def route() -> str:
            return route_of(request.method, request.url.path)

        ticket = gate.enter_nowait(route) or await self._queue(gate, route)
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            gate.dropped(ticket, has_failed=isinstance(error, httpx.TransportError))
            raise
        response.request = request  # for the predicate
        try:
            self._throttle.note_response(gate, ticket, response)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _queue(self, gate: Gate, route: Callable[[], str]) -> Ticket:
        scope = new_cancel_scope()
        self._queues.add(scope)
        try:
            with scope:
                return await gate.queue(route)
        finally:
            self._queues.discard(scope)
        await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        raise httpx.ConnectError("the transport has been closed while the request waited for its turn")

    def _end_queues(self) -> None:
        for scope in self._queues:
            scope.cancel()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self._end_queues()
        await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport; what still waits for its turn is not sent."""
        self._end_queues()
        await self._transport.aclose()
