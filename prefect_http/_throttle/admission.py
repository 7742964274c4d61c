"""Admissions: lets the requests of one transport through the gates of a throttle, each with a permit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import anyio.lowlevel
import httpx

from prefect_http._concurrency.backend import CancelScope, new_cancel_scope
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._response import REJECTED, rate_limit, retry_after
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.gates import Gates
from prefect_http._throttle.routes import route_of
from prefect_http._throttle.ticket import Ticket


class Admissions:
    """The requests of one transport on their way through the gates of a throttle.

    Args:
        gates: may be shared with other transports.
        failures: what the transport raises where a request failed on its way; of httpx2, httpx2's.
    """

    def __init__(self, gates: Gates, failures: type[Exception] = httpx.TransportError) -> None:
        self.gates = gates
        self.failures = failures
        self._waits: set[CancelScope] = set()

    def admit(self, request: httpx.Request) -> Permit:
        """Return the permit of a request.

        Raises:
            RuntimeError: the throttle is used in another event loop, which has not ended.
        """
        # No bound method of the permit: the permit holds the ticket, which holds the route.
        return Permit(self, self.gates.gate_for(request), partial(_route, request))

    async def wait(self, gate: Gate, route: Callable[[], str]) -> Ticket:
        """Wait for a request's turn in the queue of a gate.

        Raises:
            ThrottleTimeout: it cannot come in time; see Gate.queue().
            httpx.ConnectError: ``end_waits()`` was called meanwhile.
        """
        scope = new_cancel_scope()
        self._waits.add(scope)
        try:
            with scope:
                return await gate.queue(route)
        finally:
            self._waits.discard(scope)
        await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        raise httpx.ConnectError("the transport was closed while the request waited for its turn; it was not sent")

    def end_waits(self) -> None:
        """Fail the requests that are still waiting."""
        for scope in self._waits:
            scope.cancel()


class Permit:
    """A context that waits for a request's turn when it is entered, and within which the request is under way.

    The turn is given back exactly once: by ``record()``, or if there is no response, when the context is left.

    Entering it raises:
        ThrottleTimeout: the request cannot leave in time; see Gate.queue().
        httpx.ConnectError: the transport was closed while the request waited.

    Cancellation:
        Gives the turn to the next request.
    """

    __slots__ = ("_admissions", "_gate", "_route", "_ticket")

    def __init__(self, admissions: Admissions, gate: Gate, route: Callable[[], str]) -> None:
        self._admissions = admissions
        self._gate = gate
        self._route = route
        self._ticket: Ticket

    async def __aenter__(self) -> Self:
        gate = self._gate
        self._ticket = gate.enter_nowait(self._route) or await self._admissions.wait(gate, self._route)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._ticket.is_out:
            self._gate.dropped(self._ticket, has_failed=isinstance(exc, self._admissions.failures))

    async def record(self, response: httpx.Response) -> None:
        """Learn from the status and headers of the request's response, and mark it if it is a rejection.

        Whatever ``is_throttled`` or ``on_event`` raises is raised here; the permit has been given back then, and the
        response been closed. Otherwise, this does not wait.
        """
        try:
            self._record(response)
        except BaseException:
            await response.aclose()
            raise

    def _record(self, response: httpx.Response) -> None:
        ticket = self._ticket
        try:
            is_rejection = self._admissions.gates.is_throttled(response)
            wait = retry_after(response) or None if is_rejection else None
            limit = _own_rate_limit(response)
        except BaseException:
            self._gate.dropped(ticket, has_failed=False)
            raise
        if is_rejection:
            response.extensions[REJECTED] = True
            has_none_left = limit is not None and limit.remaining == 0 and bool(limit.reset)
            is_doubtful = (response.status_code == 503 or wait is None) and not has_none_left
            self._gate.rejected(ticket, limit, wait, is_doubtful=is_doubtful)
        else:
            self._gate.answered(ticket, limit)
        self._admissions.gates.report_changes()


def _route(request: httpx.Request) -> str:
    return route_of(request.method, request.url.path)


def _own_rate_limit(response: httpx.Response) -> RateLimit | None:
    """Return what a response says about its server's limits; None for one from a cache, which is old, and a redirect.

    A redirect may carry the limits of another server.
    """
    limit = rate_limit(response)
    return None if limit is not None and ("Age" in response.headers or response.is_redirect) else limit
