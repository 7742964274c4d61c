"""Gate: the queue of requests for one key.

The Limiter decides when the next request may leave, and the gate lets it out. Each answer, rejection or failure may
change the Limiter's decision, so each of them dispatches the queue at once. Only the head of the queue has a timer, so
the cost of a request does not depend on how many are waiting.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Callable

import anyio

from prefect_http._concurrency.backend import CancelScope, Event, new_cancel_scope, new_event
from prefect_http._errors import ThrottleTimeout
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._throttle.limiter import Limiter
from prefect_http._throttle.ticket import Ticket

# How many entries of requests that have left the queue are kept before they are swept.
_FEW = 64


class _Waiter:
    """A request in the queue.

    Attributes:
        route: returns the request's route.
        expires_at: when it has queued for ``max_wait``.
        deadline: the caller's deadline or ``expires_at``, whichever comes first.
        ready: set when it is let out, or fails.
        ticket: set when it is let out.
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
        limiter: decides when the next request may leave.
        max_wait: how many seconds a request may queue; infinity: until its caller's deadline.
        now: returns the event loop's time.
    """

    def __init__(self, limiter: Limiter, max_wait: float, now: Callable[[], float]) -> None:
        self.limiter = limiter
        self._max_wait = max_wait
        self._now = now
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # A heap of the requests that have a deadline, to fail them when the gate closes beyond it. Those that have left
        # the queue stay here for a while.
        self._deadlines: list[tuple[float, int, _Waiter]] = []
        self._count = itertools.count()

    @property
    def waiting(self) -> int:
        """How many requests are in the queue."""
        return len(self._queue)

    def is_idle(self) -> bool:
        """Return whether no request is under way, waits or would have to wait."""
        return not self._queue and self.limiter.is_idle(self._now())

    def enter_nowait(self, route: Callable[[], str]) -> Ticket | None:
        """Let a request out if the queue is empty and it may leave at once; return None if not."""
        if self._queue:
            return None
        now = self._now()
        return self.limiter.send(now, route, has_waited=False) if self.limiter.next_send(now) <= now else None

    async def queue(self, route: Callable[[], str]) -> Ticket:
        """Wait for a request's turn.

        Raises:
            ThrottleTimeout: the request cannot leave before the caller's deadline or within ``max_wait``; raised as
                soon as that is known.

        Cancellation:
            Removes the request from the queue. If it had been let out already, the next one goes.
        """
        waiter = self._queue_up(route, self._now())
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
                    return waiter.ticket
        except BaseException:
            waiter.failure = None  # its traceback holds this frame, and so the waiter
            self._withdraw(waiter)
            raise

    def _has_closed_since(self, ticket: Ticket) -> bool:
        """Return whether the gate has closed after the request was let out and before its task could run."""
        return self.limiter.closed_until is not None and not ticket.is_probe

    def _requeue(self, waiter: _Waiter, ticket: Ticket) -> None:
        """Put a request that has been let out back at the front of the queue."""
        self.limiter.dropped(ticket, self._now(), has_failed=False)
        waiter.ticket, waiter.ready, waiter.timer = None, new_event(), new_cancel_scope()
        self._queue[waiter] = None
        self._queue.move_to_end(waiter, last=False)
        self._remember_deadline(waiter)

    def _queue_up(self, route: Callable[[], str], now: float) -> _Waiter:
        expires_at = now + self._max_wait
        waiter = _Waiter(route, expires_at, min(expires_at, anyio.current_effective_deadline()))
        self._queue[waiter] = None
        self._remember_deadline(waiter)
        return waiter

    def _remember_deadline(self, waiter: _Waiter) -> None:
        if waiter.deadline < math.inf:
            if len(self._deadlines) > 2 * len(self._queue) + _FEW:
                self._deadlines = [entry for entry in self._deadlines if entry[2] in self._queue]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (waiter.deadline, next(self._count), waiter))

    def _withdraw(self, waiter: _Waiter) -> None:
        """Remove a waiter that is cancelled, and take back its ticket if it has just been let out."""
        now = self._now()
        self._queue.pop(waiter, None)
        if waiter.ticket is not None:
            self.limiter.dropped(waiter.ticket, now, has_failed=False)
        self._dispatch(now)

    def answered(self, ticket: Ticket, rate_limit: RateLimit | None) -> None:
        """Record an answer and what it says about the server's limits, and let out the requests that may leave now."""
        now = self._now()
        self.limiter.answered(ticket, now)
        self._update(ticket, rate_limit, now)

    def rejected(
        self,
        ticket: Ticket,
        rate_limit: RateLimit | None,
        retry_after: float | None,
        *,
        is_doubtful: bool,
        backoff: float | None = None,
    ) -> None:
        """Record a rejection, likewise; see Limiter.rejected()."""
        now = self._now()
        self.limiter.rejected(ticket, now, retry_after, random.random(), is_doubtful=is_doubtful, backoff=backoff)
        self._update(ticket, rate_limit, now)

    def _update(self, ticket: Ticket, limit: RateLimit | None, now: float) -> None:
        if limit is not None:
            self.limiter.advertised(ticket, now, limit)
        self._dispatch(now)

    def dropped(self, ticket: Ticket, *, has_failed: bool) -> None:
        """Record the end of a request without an answer; see Limiter.dropped()."""
        now = self._now()
        self.limiter.dropped(ticket, now, has_failed=has_failed)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        """Fail the requests that cannot leave in time, let out those that may leave, and set the timer of the next."""
        if self._queue:
            self._fail_expired(now)
            self._serve(now)
        if not self._queue:
            self._deadlines.clear()  # so that requests which have left are not kept alive

    def _serve(self, now: float) -> None:
        while self._queue:
            head = next(iter(self._queue))
            if head.expires_at <= now:
                self._fail(head, f"it has waited in the throttle's queue for max_wait, {self._max_wait:g} s")
                continue
            due = self.limiter.next_send(now)
            if due > now:
                head.timer.deadline = min(due, head.expires_at)
                return
            del self._queue[head]
            head.ticket = self.limiter.send(now, head.route, has_waited=True)
            head.ready.set()

    def _fail_expired(self, now: float) -> None:
        shut_until = self.limiter.shut_until
        while self._deadlines and self._deadlines[0][0] <= shut_until:
            waiter = heapq.heappop(self._deadlines)[2]
            if waiter in self._queue:
                limit = "max_wait ends" if waiter.deadline == waiter.expires_at else "the deadline is"
                opens, left = shut_until - now, waiter.deadline - now
                self._fail(waiter, f"the server accepts no requests for {opens:.1f} s, and {limit} in {left:.1f} s")

    def _fail(self, waiter: _Waiter, why: str) -> None:
        del self._queue[waiter]
        waiter.failure = ThrottleTimeout(f"the request was not sent: {why}")
        waiter.ready.set()
