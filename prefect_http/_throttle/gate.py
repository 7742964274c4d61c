"""Gate: the queue of requests in front of one key.

The Limiter decides when the next may leave, and the gate lets it out; whoever changes the Limiter's mind, by an answer,
a rejection or an end without either, looks at once for whom that lets out. Only the head of the queue has a timer. So
what a request costs does not depend on how many wait.
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
from prefect_http._throttle.limiter import Limiter, Ticket

# Entries of requests that have left the queue; fewer are not worth the sweeping.
_FEW = 64


class _Waiter:
    """A request in the queue.

    Attributes:
        route: tells what it is for.
        expires_at: when it has queued for too long.
        deadline: when its caller has no more use for it, or ``expires_at``, whichever comes first.
        ready: set when it is let out, or fails.
        ticket: there when it has been let out.
        failure: there when it fails.
        timer: around its wait; ends when there is something to do for the head of the queue.
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
    """A queue: first come, first served.

    Args:
        limiter: decides.
        max_wait: how many seconds a request may queue; infinity: for as long as its caller likes.
        now: tells the event loop's time.
    """

    def __init__(self, limiter: Limiter, max_wait: float, now: Callable[[], float]) -> None:
        self.limiter = limiter
        self._max_wait = max_wait
        self._now = now
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        # Those with a deadline, the nearest first, for when the gate closes beyond it. Who has left the queue stays
        # here for a while.
        self._deadlines: list[tuple[float, int, _Waiter]] = []
        self._count = itertools.count()

    @property
    def waiting(self) -> int:
        """How many requests queue."""
        return len(self._queue)

    def is_idle(self) -> bool:
        """Say whether all there is to lose is what was learned."""
        return not self._queue and self.limiter.is_idle(self._now())

    def enter_nowait(self, route: Callable[[], str]) -> Ticket | None:
        """Let a request out if nobody queues and it may leave at once; None if not."""
        if self._queue:
            return None
        now = self._now()
        return self.limiter.send(now, route, has_waited=False) if self.limiter.next_send(now) <= now else None

    async def queue(self, route: Callable[[], str]) -> Ticket:
        """Wait for a request's turn.

        Raises:
            ThrottleTimeout: its turn cannot come before the caller's deadline or within ``max_wait``, as soon as that
                is known; or has not come within ``max_wait``.

        Cancellation:
            Takes the request out of the queue.
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
            self._withdraw(waiter)
            raise

    def _has_closed_since(self, ticket: Ticket) -> bool:
        """Say whether the gate has closed between a request's turn and its task's."""
        return self.limiter.closed_until is not None and not ticket.is_probe

    def _requeue(self, waiter: _Waiter, ticket: Ticket) -> None:
        """Have a request queue again, at the front."""
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
        """Give up the place of a waiter that is cancelled, or the turn that it has been given this very moment."""
        now = self._now()
        self._queue.pop(waiter, None)
        if waiter.ticket is not None:
            self.limiter.dropped(waiter.ticket, now, has_failed=False)
        self._dispatch(now)

    def answered(self, ticket: Ticket, told: RateLimit | None) -> None:
        """Take note of an answer, and of what it tells of the server's limits; then look whom that lets out."""
        now = self._now()
        self.limiter.answered(ticket, now)
        self._update(told, now)

    def rejected(self, ticket: Ticket, told: RateLimit | None, retry_after: float | None, *, is_doubtful: bool) -> None:
        """Take note of a rejection, likewise; see Limiter.rejected()."""
        now = self._now()
        self.limiter.rejected(ticket, now, retry_after, random.random(), is_doubtful=is_doubtful)
        self._update(told, now)

    def _update(self, told: RateLimit | None, now: float) -> None:
        if told is not None:
            self.limiter.advertised(now, remaining=told.remaining, reset=told.reset, concurrency=told.concurrency)
        self._dispatch(now)

    def dropped(self, ticket: Ticket, *, has_failed: bool) -> None:
        """Take note of a request without an answer; see Limiter.dropped()."""
        now = self._now()
        self.limiter.dropped(ticket, now, has_failed=has_failed)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        """Let out whoever may leave, fail whoever waits in vain, and set the timer of the one who is next then."""
        if self._queue:
            self._fail_expired(now)
            self._serve(now)
        if not self._queue:
            self._deadlines.clear()  # what has left the queue is not kept alive

    def _serve(self, now: float) -> None:
        while self._queue:
            head = next(iter(self._queue))
            if head.expires_at <= now:
                self._fail(head, f"it has queued for {self._max_wait:g} s, which is max_wait")
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
                limit = "max_wait" if waiter.deadline == waiter.expires_at else "the deadline"
                opens, left = shut_until - now, waiter.deadline - now
                self._fail(waiter, f"the server lets nothing in for {opens:.3g} s, and {limit} is {left:.3g} s away")

    def _fail(self, waiter: _Waiter, why: str) -> None:
        del self._queue[waiter]
        waiter.failure = ThrottleTimeout(f"the request was not sent: {why}")
        waiter.ready.set()
