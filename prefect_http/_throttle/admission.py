"""Admissions: lets the requests of one transport through the gates of a throttle, each with a permit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel
import httpx

from prefect_http._concurrency.backend import CancelScope, new_cancel_scope
from prefect_http._fields.epoch import LONGEST_WAIT
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._response import REJECTED, rate_limit, retry_after
from prefect_http._throttle.closure_reason import IGNORED, rejection
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.gates import Gates
from prefect_http._throttle.replayed_body import HTTPX, Library
from prefect_http._throttle.routes import route_of
from prefect_http._throttle.ticket import Ticket
from prefect_http._throttle.verdict import BACKOFF, ask, wait_for

_CLOSE_SECONDS = 5.0
# A request with this extension was struck by a fault, and goes first when it is sent again.
_GOES_FIRST = "prefect_http.goes_first"

_logger = logging.getLogger("prefect_http.throttle")


class Admissions:
    """The requests of one transport on their way through the gates of a throttle.

    Args:
        gates: may be shared with other transports.
        library: the library of the transport.
    """

    def __init__(self, gates: Gates, library: Library = HTTPX) -> None:
        self.gates = gates
        self.library = library
        self._waits: set[CancelScope] = set()

    def admit(self, request: httpx.Request) -> Permit:
        """Return the permit of a request.

        Raises:
            RuntimeError: the throttle is used in another event loop, which has not ended.
            TypeError: the key cannot be hashed.
            Exception: whatever the key function raises.
        """
        return Permit(self, self.gates.gate_for(request), request)

    async def wait(self, gate: Gate, route: Callable[[], str], *, goes_first: bool) -> Ticket:
        """Wait for a request's turn in the queue of a gate.

        Raises:
            ThrottleTimeout: it cannot come in time; see Gate.queue().
            httpx.ConnectError: ``end_waits()`` was called meanwhile.
        """
        scope = new_cancel_scope()
        self._waits.add(scope)
        try:
            with scope:
                return await gate.queue(route, goes_first=goes_first)
        finally:
            self._waits.discard(scope)
        await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        raise httpx.ConnectError("the transport was closed while the request waited for its turn; it was not sent")

    def end_waits(self) -> None:
        """Fail the requests that are still waiting."""
        for scope in self._waits:
            scope.cancel()


class Permit:
    """A context that waits for a request's turn when it is entered, and within which the request is in flight.

    The turn is given back exactly once: by ``record()``, or if there is no response, when the context is left.

    Entering it raises:
        ThrottleTimeout: the request cannot be sent in time; see Gate.queue().
        httpx.ConnectError: the transport was closed while the request waited.

    Cancellation:
        Gives the turn to the next request.
    """

    __slots__ = ("_admissions", "_gate", "_request", "_route", "_ticket")

    def __init__(self, admissions: Admissions, gate: Gate, request: httpx.Request) -> None:
        self._admissions = admissions
        self._gate = gate
        self._request = request
        # No bound method of the permit: the permit holds the ticket, which holds the route.
        self._route = partial(_route, request)
        self._ticket: Ticket

    async def __aenter__(self) -> Self:
        gate = self._gate
        goes_first = self._request.extensions.pop(_GOES_FIRST, False)
        self._ticket = gate.enter_nowait(self._route) or await self._admissions.wait(
            gate, self._route, goes_first=goes_first
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._ticket.is_out:
            self._gate.dropped(self._ticket, has_failed=isinstance(exc, self._admissions.library.failure))
            self._log_closure()

    async def record(self, response: httpx.Response) -> None:
        """Learn from the request's response, and mark it if it is a rejection.

        It waits only for an async ``is_throttled``. What ``on_event`` raises is raised here, and what ``is_throttled``
        raises if it is no Exception. The response has been closed then.

        Cancellation:
            Closes the response, shielded for at most 5 s. The permit is given back when the context is left.
        """
        try:
            verdict = ask(self._admissions.gates.is_throttled, response)
            if not isinstance(verdict, bool):
                verdict = await wait_for(verdict, response, self._admissions.library)
            self._record(response, is_rejection=verdict)
        except BaseException:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await response.aclose()
            raise

    def _record(self, response: httpx.Response, *, is_rejection: bool) -> None:
        ticket, limit = self._ticket, _own_rate_limit(response)
        if is_rejection:
            response.extensions[REJECTED] = True
            wait = retry_after(response) or None
            reason = rejection(response.status_code, wait)
            has_none_left = limit is not None and limit.remaining == 0 and bool(limit.reset)
            backoff = response.extensions.get(BACKOFF)
            # Others may be faults. A Retry-After that is too long to be true is that of a limit nevertheless.
            is_sure = backoff is not None or has_none_left or (wait is not None and response.status_code != 503)
            if wait is not None and wait > LONGEST_WAIT:
                reason, wait = reason + IGNORED, None
            is_fault = self._gate.rejected(ticket, limit, wait, is_doubtful=not is_sure, backoff=backoff, reason=reason)
            if is_fault:
                self._request.extensions[_GOES_FIRST] = True
        else:
            self._gate.answered(ticket, limit)
        self._log_closure()
        self._admissions.gates.report_changes()

    def _log_closure(self) -> None:
        """Log that the gate has closed for long, if that is news. The key may contain a credential, the origin not."""
        notice = self._gate.notice
        if notice is not None:
            self._gate.notice = None
            url = self._request.url
            _logger.info("%s://%s: %s", url.scheme, url.netloc.decode("ascii"), notice)


def _route(request: httpx.Request) -> str:
    return route_of(request.method, request.url.path)


def _own_rate_limit(response: httpx.Response) -> RateLimit | None:
    """Return what a response says about its server's limits; None for one from a cache, which is old, and a redirect.

    A redirect may carry the limits of another server.
    """
    limit = rate_limit(response)
    return None if limit is not None and ("Age" in response.headers or response.is_redirect) else limit
