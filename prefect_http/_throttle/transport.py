"""ThrottledTransport: sends requests through another transport when a Throttle allows it."""

from __future__ import annotations

from collections.abc import Coroutine
from types import TracebackType
from typing import Self

import httpx

from prefect_http._httpx_requests import check_request
from prefect_http._telemetry import Telemetry
from prefect_http._throttle.admission import Admissions
from prefect_http._throttle.throttle import Throttle, gates_of


class ThrottledTransport(httpx.AsyncBaseTransport):
    """Sends each request through another transport, when the throttle allows it.

    For a plain httpx.AsyncClient; PrefectHttpxClient has ``throttle=``. A request that waits holds no connection. A
    request is in flight until its response headers have arrived, not until the body has been read: otherwise a task
    that reads one response and sends another request would wait for itself.

    Args:
        transport: sends the requests. It is entered and closed with this one.
        throttle: may be shared with other transports and clients.

    Raises:
        TypeError: ``throttle`` is not a Throttle.
        ValueError: ``transport`` is already behind the same throttle.

    Requests raise:
        ThrottleTimeout: the request could not be sent in time, and was not sent.
        httpx.ConnectError: the transport was closed while the request waited; it was not sent.
        RuntimeError: the throttle is used in another event loop, which has not ended.

    Cancellation:
        Gives the request's turn to the next one.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, throttle: Throttle) -> None:
        gates = gates_of(throttle)
        if isinstance(transport, ThrottledTransport) and transport._throttle is throttle:
            raise ValueError("the transport already uses this throttle: each request would wait for itself")
        self._transport = transport
        self._throttle: Throttle = throttle
        self._admissions = Admissions(transport, gates)

    # Not async, since each time that the request waits costs something in each coroutine around it.
    def handle_async_request(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: httpx.Request
    ) -> Coroutine[object, object, httpx.Response]:
        """Wait for the request's turn, and send it.

        Raises:
            TypeError: it is the request of another library, as httpx2.
        """
        if type(request) is not httpx.Request:
            check_request(request, "ThrottledTransport")
        return self._admissions.send(request)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        async with self._admissions.closing():
            await self._transport.__aexit__(exc_type, exc, tb)

    async def aclose(self) -> None:
        """Close the other transport; requests that still wait for their turn are not sent."""
        async with self._admissions.closing():
            await self._transport.aclose()


def observed_transport(
    transport: httpx.AsyncBaseTransport, throttle: Throttle, telemetry: Telemetry | None
) -> ThrottledTransport:
    """Return a ThrottledTransport that tells a telemetry of its waits."""
    throttled = ThrottledTransport(transport, throttle)
    throttled._admissions.telemetry = telemetry  # pyright: ignore[reportPrivateUsage]
    return throttled


def transport_behind(transport: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
    """Return what sends the requests that a transport gets: the transport behind its throttles, if it has any."""
    while isinstance(transport, ThrottledTransport):
        transport = transport._transport  # pyright: ignore[reportPrivateUsage]
    return transport
