"""ThrottledTransport: lets requests out to another transport when a Throttle does."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx

from prefect_http._throttle import Throttle

# A response extension: the throttle takes the response for a rejection, whatever its status.
REJECTED = "prefect_http.rejected"


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
        RuntimeError: the throttle is used in another event loop.

    Cancellation:
        Gives the request's turn to the next.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, throttle: Throttle) -> None:
        if not isinstance(throttle, Throttle):
            raise TypeError(f"throttle must be a Throttle, not {throttle!r}")
        self._transport = transport
        self._throttle = throttle

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for the request's turn, and send it."""
        gate, ticket = await self._throttle.enter(request)
        try:
            response = await self._transport.handle_async_request(request)
        except BaseException as error:
            self._throttle.note_failure(gate, ticket, error)
            raise
        try:
            if self._throttle.note_response(gate, ticket, response):
                response.extensions[REJECTED] = True
        except BaseException:
            await response.aclose()
            raise
        return response

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._transport.aclose()
