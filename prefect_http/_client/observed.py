"""ObservedExchange: sends requests, and tells a telemetry of each attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx

from prefect_http._response import PrefectResponse
from prefect_http._telemetry import ON_ADMITTED, AttemptObserver, Telemetry, begin_safely, call_safely


class ObservedExchange:
    """The exchanges of one ``send()``, each of which is an attempt.

    Args:
        exchange: sends a request once.
        telemetry: is told.
        is_throttled: whether a throttle may hold the request back, and says when the attempt begins.
    """

    __slots__ = ("_attempt", "_exchange", "_is_throttled", "_sent", "_telemetry")

    def __init__(
        self,
        exchange: Callable[[httpx.Request], Awaitable[PrefectResponse]],
        telemetry: Telemetry,
        *,
        is_throttled: bool,
    ) -> None:
        self._exchange = exchange
        self._telemetry = telemetry
        self._is_throttled = is_throttled
        self._attempt: AttemptObserver | None = None
        self._sent = 0

    async def send(self, request: httpx.Request) -> PrefectResponse:
        """Begin an attempt, and send the request."""
        if self._is_throttled:
            response = await self._send_throttled(request)
        else:
            self._begin(request)
            response = await self._exchange(request)
        if self._attempt is not None:
            call_safely(self._attempt.set_response, response)
        return response

    async def _send_throttled(self, request: httpx.Request) -> PrefectResponse:
        token = ON_ADMITTED.set(self._begin)
        try:
            return await self._exchange(request)
        finally:
            # An event hook has failed, or something has replaced the transport, and the throttle with it.
            if ON_ADMITTED.get() is not None:
                self._begin(request)
            ON_ADMITTED.reset(token)

    def _begin(self, request: httpx.Request) -> None:
        self._attempt = begin_safely(self._telemetry, request, self._sent)
        self._sent += 1

    def end(self, error: BaseException | None = None) -> None:
        """End the attempt, unless it has ended.

        Args:
            error: why it has failed; None if it has not.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        if error is None:
            call_safely(attempt.__exit__, None, None, None)
        else:
            call_safely(attempt.set_error, error)
            call_safely(attempt.__exit__, type(error), error, error.__traceback__)
