"""Admissions: sends the requests of one transport through the gates of a throttle.

Most requests find their gate open, and are accepted. What that costs each of them is counted in
tests/client/test_cost.py: `Admissions.send()` has it in one place, with a few plain calls. Whatever else may happen
has a method of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from types import MethodType

import anyio
import httpx

from prefect_http._concurrency.backend import CancelScope, checkpoint_if_cancelled, new_cancel_scope
from prefect_http._fields.epoch import LONGEST_WAIT
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_parser import RAW_NAMES
from prefect_http._httpx_details import header_names
from prefect_http._response import REJECTED, rate_limit, retry_after
from prefect_http._telemetry import ON_ADMITTED, Telemetry, call_safely
from prefect_http._throttle.closure_reason import IGNORED, rejection
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.gates import Gates, log_notice
from prefect_http._throttle.replayed_body import HTTPX, Library
from prefect_http._throttle.routes import route_of
from prefect_http._throttle.ticket import Ticket
from prefect_http._throttle.verdict import BACKOFF, THROTTLED, ask

_CLOSE_SECONDS = 5.0
# A request with this extension was struck by a fault, and goes first when it is sent again.
_GOES_FIRST = "prefect_http.goes_first"


class Admissions:
    """The requests of one transport on their way through the gates of a throttle.

    Args:
        transport: sends the requests.
        gates: may be shared with other transports.
        library: the library of the transport.

    Attributes:
        telemetry: is told of waits, and when attempts begin; None: nothing is.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, gates: Gates, library: Library = HTTPX) -> None:
        self._transport = transport
        self._gates = gates
        self._library = library
        self._waits: set[CancelScope] = set()
        self.telemetry: Telemetry | None = None

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Wait for a request's turn, send it, and learn from its response, which is marked if it is a rejection.

        Raises:
            ThrottleTimeout: it cannot be sent in time; see Gate.queue().
            httpx.ConnectError: ``closing()`` was entered while it waited.
            RuntimeError: the throttle is used in another event loop, which has not ended.
            TypeError: the key cannot be hashed.
            Exception: whatever the key function, ``on_event`` or the transport raises.
            BaseException: whatever ``is_throttled`` raises that is no Exception.

        Cancellation:
            Gives the turn to the next request, and closes the response, if there is one, shielded for at most 5 s.
        """
        gates = self._gates
        gate = gates.gate_for(request)
        goes_first = _GOES_FIRST in request.extensions
        if goes_first:
            del request.extensions[_GOES_FIRST]
        begin = None if self.telemetry is None else _take_begin()
        route = MethodType(_route, request)  # half the cost of a partial
        ticket = gate.enter_nowait(route)
        if ticket is None:
            ticket = await self._wait(gate, request, route, goes_first=goes_first)
        response = None
        try:
            if begin is not None:
                begin(request)
            response = await self._transport.handle_async_request(request)
            if gates.is_throttled is None:
                is_rejection = response.status_code in THROTTLED
            else:
                response.request = request  # it may look at it
                is_rejection = await ask(gates.is_throttled, response, self._library)
            # Most responses say nothing about it.
            limit = None if RAW_NAMES.isdisjoint(header_names(response)) else _rate_limit(response)
            if is_rejection:
                _record_rejection(gate, ticket, request, response, limit)
            else:
                gate.answered(ticket, limit)
            if gate.notice is not None:
                log_notice(gate, request.url)
            if gates.changes:
                gates.report_changes()
        except BaseException as error:
            await self._end(gate, ticket, request, response, error)
            raise
        return response

    async def _wait(self, gate: Gate, request: httpx.Request, route: Callable[[], str], *, goes_first: bool) -> Ticket:
        """Wait for a request's turn in the queue of its gate."""
        scope = new_cancel_scope()
        self._waits.add(scope)
        since = anyio.current_time()
        with self._library.errors:
            try:
                with scope:
                    return await gate.queue(route, goes_first=goes_first)
            finally:
                self._waits.discard(scope)
                if self.telemetry is not None:
                    waited = anyio.current_time() - since
                    call_safely(self.telemetry.wait, request, waited, "it was in the queue of the throttle")
            await checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
            raise httpx.ConnectError("the transport was closed while the request waited for its turn; it was not sent")

    @contextlib.asynccontextmanager
    async def closing(self) -> AsyncGenerator[None]:
        """Fail the requests that are still waiting; after the block, give up the shares that are not in use.

        Cancellation:
            See Gates.settle().
        """
        for scope in self._waits:
            scope.cancel()
        try:
            yield
        finally:
            await self._gates.settle()

    async def _end(
        self,
        gate: Gate,
        ticket: Ticket,
        request: httpx.Request,
        response: httpx.Response | None,
        error: BaseException,
    ) -> None:
        """Close the response, if there is one; if it has not been recorded, give the turn to the next request.

        Args:
            gate: the request's gate.
            ticket: the request's ticket.
            request: the request.
            response: its response.
            error: what was raised while the request was sent, or while its response was recorded.

        Cancellation:
            Shielded, for at most 5 s.
        """
        try:
            if response is not None:
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await response.aclose()
        finally:
            if ticket.is_out:
                gate.dropped(ticket, has_failed=isinstance(error, self._library.failure))
                log_notice(gate, request.url)


def _take_begin() -> Callable[[httpx.Request], None] | None:
    begin = ON_ADMITTED.get()
    ON_ADMITTED.set(None)
    return begin


def _record_rejection(
    gate: Gate, ticket: Ticket, request: httpx.Request, response: httpx.Response, limit: RateLimit | None
) -> None:
    response.extensions[REJECTED] = True
    wait = retry_after(response) or None
    reason = rejection(response.status_code, wait)
    has_none_left = limit is not None and limit.remaining == 0 and bool(limit.reset)
    backoff = response.extensions.get(BACKOFF)
    # Others may be faults. A Retry-After that is too long to be true is that of a limit nevertheless.
    is_sure = backoff is not None or has_none_left or (wait is not None and response.status_code != 503)
    if wait is not None and wait > LONGEST_WAIT:
        reason, wait = reason + IGNORED, None
    is_fault = gate.rejected(ticket, limit, wait, is_doubtful=not is_sure, backoff=backoff, reason=reason)
    if is_fault:
        request.extensions[_GOES_FIRST] = True


def _route(request: httpx.Request) -> str:
    return route_of(request.method, request.url.path)


def _rate_limit(response: httpx.Response) -> RateLimit | None:
    """Return what a response says about its server's limits; None for one from a cache, which is old, and a redirect.

    A redirect may carry the limits of another server.
    """
    return None if "Age" in response.headers or response.is_redirect else rate_limit(response)
