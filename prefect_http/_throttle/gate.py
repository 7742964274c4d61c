"""Gate: the queue of requests for one key.

It is first in, first out, but for requests that a fault has struck: these have been at the head of the queue before. At
its end they would all be sent last, and what fails then makes the whole job wait.

The Limiter decides when the next request may be sent, and the gate gives it its turn. Each response, rejection or
failure may change the Limiter's decision, so each of them dispatches the queue at once. Only the head of the queue has
a timer, so the cost of a request does not depend on how many are waiting.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable

import anyio

from prefect_http._concurrency.backend import CancelScope, Event, new_cancel_scope, new_event
from prefect_http._errors import ThrottleTimeout
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._throttle.closure_reason import (
    NONE_LEFT,
    OTHERS,
    PROBE_FAILED,
    ClosureReason,
    no_requests_for,
    until_text,
)
from prefect_http._throttle.limiter import Limiter
from prefect_http._throttle.ticket import Ticket

# How many entries of requests that are no longer in the queue are kept before they are swept.
_FEW = 64


class _Waiter:
    """A request in the queue.

    Attributes:
        route: returns the request's route.
        expires_at: when it has queued for ``max_wait``.
        deadline: the caller's deadline or ``expires_at``, whichever comes first.
        ready: set when it is its turn, or when it fails.
        ticket: set when it is its turn.
        failure: set when it fails.
        timer: around its wait; expires when the head of the queue has to dispatch.
    """

    __slots__ = ("deadline", "expires_at", "failure", "ready", "route", "ticket", "timer")

    def __init__(self, route: Callable[[], str], expires_at: float, deadline: float) -> None:
        self.route = route
        self.expires_at = expires_at
        self.deadline = deadline
        self.ready: Event = new_event()
        self.ticket: Ticket | None = None
        self.failure: ThrottleTimeout | None = None
        self.timer: CancelScope = new_cancel_scope()


class Gate:
    """A first-in, first-out queue in front of a Limiter.

    Args:
        limiter: decides when the next request may be sent.
        max_wait: how many seconds a request may queue; infinity: until its caller's deadline.
        now: returns the event loop's time.

    Attributes:
        limiter: likewise.
        notice: what is to be logged: that the gate has closed for long; None if there is nothing to log.
        on_dispatch: called when anything has changed that other processes may have to know; None: there are none.
    """

    def __init__(self, limiter: Limiter, max_wait: float, now: Callable[[], float]) -> None:
        self.limiter = limiter
        self.notice: str | None = None
        self.on_dispatch: Callable[[], object] | None = None
        self._max_wait = max_wait
        self._now = now
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # A heap of the requests that have a deadline, to fail them when the gate closes beyond it. Those that are no
        # longer in the queue stay here for a while.
        self._deadlines: list[tuple[float, int, _Waiter]] = []
        self._count = itertools.count()
        self._reason = ClosureReason()
        # The closure for which all requests in the queue have been checked against the known limit.
        self._checked_until = -math.inf

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    def is_idle(self) -> bool:
        """Return whether no request is in flight, waits or would have to wait."""
        return not self._queue and self.limiter.is_idle(self._now())

    def enter_nowait(self, route: Callable[[], str]) -> Ticket | None:
        """Return the ticket of a request that may be sent at once, since the queue is empty; None if it may not."""
        if self._queue:
            return None
        now, limiter = self._now(), self.limiter
        if limiter.in_flight >= limiter.sure_room and limiter.next_send(now) > now:
            return None
        ticket = limiter.send(now, route, has_waited=False)
        if limiter.known is not None:
            limiter.known.book(now)
        if self.on_dispatch is not None:
            self.on_dispatch()
        return ticket

    async def queue(self, route: Callable[[], str], *, goes_first: bool = False) -> Ticket:
        """Wait for a request's turn.

        Args:
            route: returns the request's route.
            goes_first: whether it is queued at the front.

        Raises:
            ThrottleTimeout: the request cannot be sent before the caller's deadline or within ``max_wait``; raised as
                soon as that is known.

        Cancellation:
            Removes the request from the queue. If it was its turn already, the next one is sent.
        """
        waiter = self._queue_up(route, self._now(), goes_first=goes_first)
        try:
            while True:
                self._dispatch(self._now())
                with waiter.timer:
                    await waiter.ready.wait()
                if waiter.failure is not None:
                    raise waiter.failure
                if waiter.ticket is None:
                    waiter.timer = new_cancel_scope()
                elif self._has_closed_since(waiter.ticket):
                    self._requeue(waiter, waiter.ticket)
                else:
                    self._book()
                    return waiter.ticket
        except BaseException:
            waiter.failure = None  # its traceback holds this frame, and so the waiter
            self._withdraw(waiter)
            raise

    def _book(self) -> None:
        """Record for the known limit that a request is sent now, which may have been its turn a moment ago."""
        if self.limiter.known is not None:
            now = self._now()
            self.limiter.known.book(now)
            self._dispatch(now)

    def _has_closed_since(self, ticket: Ticket) -> bool:
        """Return whether the gate has closed between the request's turn and the moment at which its task could run."""
        return self.limiter.closed_until is not None and not ticket.is_probe

    def _requeue(self, waiter: _Waiter, ticket: Ticket) -> None:
        """Put a request whose turn it was back at the front of the queue."""
        self.limiter.withdrawn(ticket, self._now())
        waiter.ticket, waiter.ready, waiter.timer = None, new_event(), new_cancel_scope()
        self._insert(waiter, goes_first=True)

    def _queue_up(self, route: Callable[[], str], now: float, *, goes_first: bool) -> _Waiter:
        expires_at = now + self._max_wait
        waiter = _Waiter(route, expires_at, min(expires_at, anyio.current_effective_deadline()))
        self._fail_if_too_late(waiter, 0 if goes_first else len(self._queue), now)
        if waiter.failure is None:
            self._insert(waiter, goes_first=goes_first)
        return waiter

    def _insert(self, waiter: _Waiter, *, goes_first: bool) -> None:
        self._queue[waiter] = None
        self._queue.move_to_end(waiter, last=not goes_first)
        self._remember_deadline(waiter)

    def _remember_deadline(self, waiter: _Waiter) -> None:
        if waiter.deadline < math.inf:
            if len(self._deadlines) > 2 * len(self._queue) + _FEW:
                self._deadlines = [entry for entry in self._deadlines if entry[2] in self._queue]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (waiter.deadline, next(self._count), waiter))

    def _withdraw(self, waiter: _Waiter) -> None:
        """Remove a waiter that is cancelled, and take back its ticket if it was just its turn."""
        now = self._now()
        self._queue.pop(waiter, None)
        if waiter.ticket is not None:
            self.limiter.withdrawn(waiter.ticket, now)
        self._dispatch(now)

    def answered(self, ticket: Ticket, rate_limit: RateLimit | None) -> None:
        """Record a response and what it says about the server's limits, and send the requests that may be sent now."""
        now = self._now()
        self.limiter.answered(ticket, now)
        if rate_limit is not None:
            self._advertised(ticket, rate_limit, now)
        if self._queue:
            self._dispatch(now)
        elif self.on_dispatch is not None:
            self.on_dispatch()

    def rejected(
        self,
        ticket: Ticket,
        rate_limit: RateLimit | None,
        retry_after: float | None,
        *,
        is_doubtful: bool,
        backoff: float | None = None,
        reason: str = "a rejection",
    ) -> bool:
        """Record a rejection, likewise, and the reason that it gives for closing the gate; see Limiter.rejected().

        Returns:
            Whether it was taken for a fault, which holds back no other request.
        """
        now, before = self._now(), self.limiter.closed_until
        self.limiter.rejected(ticket, now, retry_after, random.random(), is_doubtful=is_doubtful, backoff=backoff)
        if ticket.is_probe and retry_after is None:
            reason = f"rejected time and again, most recently with {reason}"
        is_fault = is_doubtful and self.limiter.closed_until is None
        self._note_closure(reason, before, now)
        if rate_limit is not None:
            self._advertised(ticket, rate_limit, now)
        self._dispatch(now)
        return is_fault

    def _advertised(self, ticket: Ticket, limit: RateLimit, now: float) -> None:
        before = self.limiter.closed_until
        self.limiter.advertised(ticket, now, limit)
        self._note_closure(NONE_LEFT, before, now)

    def dropped(self, ticket: Ticket, *, has_failed: bool) -> None:
        """Record the end of a request without a response; see Limiter.dropped()."""
        now, before = self._now(), self.limiter.closed_until
        self.limiter.dropped(ticket, now, has_failed=has_failed)
        self._note_closure(PROBE_FAILED, before, now)
        self._dispatch(now)

    def follow_others(self, change: Callable[[float], object]) -> None:
        """Let other processes change the Limiter, and send the requests that may be sent now.

        Args:
            change: changes it; its argument is the time.
        """
        now, before = self._now(), self.limiter.closed_until
        change(now)
        self._note_closure(OTHERS, before, now)
        self._dispatch(now)

    def _note_closure(self, reason: str, before: float | None, now: float) -> None:
        until = self.limiter.closed_until
        if self._reason.update(reason, now, before=before, until=until):
            assert until is not None
            self.notice = no_requests_for(until - now, self._reason.text, time.time())

    def _dispatch(self, now: float) -> None:
        """Fail the requests that cannot be sent in time, send those that may be, and set the timer of the next."""
        if self._queue:
            self._fail_expired(now)
            self._serve(now)
        if not self._queue:
            self._deadlines.clear()  # so that requests which are no longer queued are not kept alive
        if self.on_dispatch is not None:
            self.on_dispatch()

    def _serve(self, now: float) -> None:
        while self._queue:
            head = next(iter(self._queue))
            due = self.limiter.next_send(now)
            if due > now:
                # The head is not always the first to expire: one that goes first has been in the queue for less time.
                head.timer.deadline = min(due, self._deadlines[0][0] if self._deadlines else math.inf)
                return
            del self._queue[head]
            head.ticket = self.limiter.send(now, head.route, has_waited=True)
            head.ready.set()

    def _fail_expired(self, now: float) -> None:
        shut_until = self.limiter.shut_until
        while self._deadlines and self._deadlines[0][0] <= max(shut_until, now):
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter not in self._queue:
                continue
            if waiter.expires_at <= now:
                why = f"; the gate is closed ({self._reason.text})" if self.limiter.closed_until is not None else ""
                message = f"it has waited in the throttle's queue for max_wait, {self._max_wait:g} s{why}"
            elif waiter.deadline <= shut_until:
                opens = no_requests_for(shut_until - now, self._reason.text, time.time())
                message = f"{opens}, and {_time_left(waiter, now)}"
            else:  # the caller's deadline has passed: it is cancelled, unless the deadline has been moved
                waiter.deadline = waiter.expires_at
                self._remember_deadline(waiter)
                continue
            del self._queue[waiter]
            self._fail(waiter, message)
        if self.limiter.known is not None and now < shut_until != self._checked_until:
            self._checked_until = shut_until
            ahead = 0
            for waiter in list(self._queue):
                self._fail_if_too_late(waiter, ahead, now)
                if waiter.failure is None:
                    ahead += 1
                else:
                    del self._queue[waiter]

    def _fail_if_too_late(self, waiter: _Waiter, ahead: int, now: float) -> None:
        """Fail a request if the known limit does not let it be sent in time, behind so many others."""
        known, shut_until = self.limiter.known, self.limiter.shut_until
        if known is None or waiter.deadline == math.inf or waiter.deadline <= shut_until:
            return
        earliest = known.earliest(ahead, max(now, shut_until))
        if earliest > now and earliest >= waiter.deadline:
            seconds = earliest - now
            when = f"it cannot be sent for {seconds:.1f} s{until_text(seconds, time.time())}"
            why = f"{ahead} ahead of it in the queue, at the known rate of {known.text}"
            self._fail(waiter, f"{when} ({why}), and {_time_left(waiter, now)}")

    def _fail(self, waiter: _Waiter, why: str) -> None:
        waiter.failure = ThrottleTimeout(f"the request was not sent: {why}")
        waiter.ready.set()


def _time_left(waiter: _Waiter, now: float) -> str:
    name = "max_wait ends" if waiter.deadline == waiter.expires_at else "the deadline is"
    return f"{name} in {waiter.deadline - now:.1f} s"
