"""Admissions: lets the requests of one transport through the gates of a throttle, each with a permit."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

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
        """Return the permit of a request, which may have to wait for its turn.

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
    """The turn of one request, which is given back exactly once: by ``record()``, or without a response by ``end()``.

    It is used like this, so that a request which does not have to wait makes nothing but plain calls:

        permit = admissions.admit(request)
        if permit.has_to_wait:
            await permit.wait()
        try:
            response = ...
            if (recording := permit.record(response)) is not None:
                await recording
        except BaseException as error:
            await permit.end(error)
            raise
    """

    __slots__ = ("_admissions", "_gate", "_goes_first", "_request", "_response", "_ticket", "has_to_wait")

    def __init__(self, admissions: Admissions, gate: Gate, request: httpx.Request) -> None:
        self._admissions = admissions
        self._gate = gate
        self._request = request
        self._response: httpx.Response | None = None
        self._goes_first: bool = request.extensions.pop(_GOES_FIRST, False)
        # No bound method of the permit: the permit holds the ticket, which holds the route.
        self._ticket: Ticket | None = gate.enter_nowait(partial(_route, request))
        self.has_to_wait: bool = self._ticket is None

    async def wait(self) -> None:
        """Wait for the request's turn.

        Raises:
            ThrottleTimeout: the request cannot be sent in time; see Gate.queue().
            httpx.ConnectError: the transport was closed while the request waited.

        Cancellation:
            Gives the turn to the next request.
        """
        route = partial(_route, self._request)
        self._ticket = await self._admissions.wait(self._gate, route, goes_first=self._goes_first)

    def record(self, response: httpx.Response) -> Awaitable[None] | None:
        """Learn from the request's response, and mark it if it is a rejection.

        Returns:
            What to wait for, if ``is_throttled`` is async; otherwise None.

        Raises:
            Exception: whatever ``on_event`` raises.
            BaseException: whatever ``is_throttled`` raises that is no Exception.
        """
        self._response = response
        verdict = ask(self._admissions.gates.is_throttled, response)
        if isinstance(verdict, bool):
            self._record(response, is_rejection=verdict)
            return None
        return self._record_later(response, verdict)

    async def _record_later(self, response: httpx.Response, verdict: Awaitable[object]) -> None:
        self._record(response, is_rejection=await wait_for(verdict, response, self._admissions.library))

    def _record(self, response: httpx.Response, *, is_rejection: bool) -> None:
        assert self._ticket is not None
        gate, limit = self._gate, _own_rate_limit(response)
        if is_rejection:
            self._record_rejection(response, self._ticket, limit)
        else:
            gate.answered(self._ticket, limit)
        if gate.notice is not None:
            self._log(gate)
        if self._admissions.gates.changes:
            self._admissions.gates.report_changes()

    def _record_rejection(self, response: httpx.Response, ticket: Ticket, limit: RateLimit | None) -> None:
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

    async def end(self, error: BaseException) -> None:
        """Close the response, if there is one; if it has not been recorded, give the turn to the next request.

        Args:
            error: what was raised while the request was sent, or while its response was recorded.

        Cancellation:
            Shielded, for at most 5 s.
        """
        try:
            if self._response is not None:
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await self._response.aclose()
        finally:
            assert self._ticket is not None
            if self._ticket.is_out:
                self._gate.dropped(self._ticket, has_failed=isinstance(error, self._admissions.library.failure))
                if self._gate.notice is not None:
                    self._log(self._gate)

    def _log(self, gate: Gate) -> None:
        """Log what is to be told about the gate. The key may contain a credential, the origin not."""
        url = self._request.url
        _logger.info("%s://%s: %s", url.scheme, url.netloc.decode("ascii"), gate.notice)
        gate.notice = None


def _route(request: httpx.Request) -> str:
    return route_of(request.method, request.url.path)


def _own_rate_limit(response: httpx.Response) -> RateLimit | None:
    """Return what a response says about its server's limits; None for one from a cache, which is old, and a redirect.

    A redirect may carry the limits of another server.
    """
    limit = rate_limit(response)
    return None if limit is not None and ("Age" in response.headers or response.is_redirect) else limit
