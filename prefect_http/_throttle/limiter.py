"""What one rate-limited host lets through, and what it has taught us. Pure: clock readings and jitter are arguments.

One Limiter is shared by all requests for one key, so that they behave like one polite client:

    open ── a rejection ──> closed until opens_at ── one request, the probe ──> answered: learn, open
                                     ^                                     └──> rejected: closed for longer

Each rule is here because leaving it out was measured (rejected requests for each accepted one, time over the best
possible time):

- A rejection closes the gate for everybody, and not for the request that met with it: they would all be rejected.
- The gate opens to one request. A thousand that wait for the same second would meet the next rejection together.
- What has been accepted in the cycle before tells the rate. A concurrency limit accepts `high` = accepted / time it was
  open; a fixed window `low` = accepted / time from one opening to the next; a token bucket lies between them. The rate
  begins at their geometric mean, which halves the error (as a logarithm) in each cycle whatever the limiter is.
- From there it climbs along a cubic curve: slowly near the rate that was rejected last, then faster, beyond it. The
  climb takes longer the longer we were shut out, so that about a twentieth of the time is spent on being rejected.
- Requests leave one by one, an interval apart, and no more are under way than rate times latency: a burst would look
  like a higher rate than it is.
- Before the first rejection nothing is known. The number under way starts low, and grows by about half a request with
  each answer.
- A server that says how many requests are left is believed before it has to reject any.
- One 503 without a Retry-After among many good answers is a fault, and not a limit; a route that is rejected time and
  again while others are served has a problem of its own.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from prefect_http._throttle.early_probes import EarlyProbes
from prefect_http._throttle.quota import Quota
from prefect_http._throttle.routes import RouteStreaks

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
_FIRST_WINDOW = 10.0
# A little under one half: with that, early probes came to 5 % of rejections on a window of 100.
_WINDOW_STEP = 0.47
# How slowly the latency follows: it must follow (a latency that rose tenfold stalled us), but no single answer.
_LATENCY_WEIGHT = 1 / 32
_LATENCIES_TO_WAIT = 4
_UNKNOWN_LATENCY = 0.25
_SHORTEST_LEASE = 1.0
_JITTER_SHARE, _LONGEST_JITTER = 0.1, 0.25
_BELOW_THE_LAST = 0.95
_BASE_BELOW_CEILING = 0.9
# Times the seconds that we were shut out: so about a twentieth of the time goes into probing the limit.
_PAYBACK, _SHORTEST_CLIMB, _LONGEST_CLIMB = 20.0, 5.0, 60.0
_FEWEST_ANSWERS = 10.0
_GOOD_TO_DOUBT = 20
_SHORTEST_TIME = 1e-3


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that has been let out.

    Attributes:
        route: tells what it is for, within the key; rarely asked.
        sent_at: when it was let out.
        has_waited: whether it had to queue.
        cycle: the number of the cycle in which it was let out.
        is_probe: whether it was let out through a closed gate, to see whether that may open.
        is_out: whether it has not come to its end yet.
    """

    route: Callable[[], str]
    sent_at: float
    has_waited: bool
    cycle: int
    is_probe: bool
    is_out: bool = True


@dataclass(frozen=True, slots=True)
class Curve:
    """A rate that climbs with the number of answers.

    Attributes:
        base: where it begins, in requests per second.
        ceiling: what it comes to after ``span`` answers; there it climbs most slowly, and then goes on.
        span: a number of answers.
    """

    base: float
    ceiling: float
    span: float

    def rate(self, done: int) -> float:
        """Give the rate after so many answers."""
        return self.ceiling - (self.ceiling - self.base) * (1 - done / self.span) ** 3


class Change(enum.Enum):
    """What a Limiter tells of itself."""

    CLOSED = "closed"
    OPENED = "opened"
    LEARNED = "learned"


class Limiter:
    """The state of one key.

    Args:
        max_in_flight: how many requests may be under way at most.
        slow_start: whether the number under way starts low while nothing is known.
        early_probe: whether one request per closure may leave before the server's Retry-After has passed.
        on_change: called at each change.

    Attributes:
        in_flight: how many requests are under way.
        accepted: how many answers there were that are no rejections.
        rejections: how many there were that are.
        closed_until: when the first request may leave; None while the gate is open.
    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        slow_start: bool = True,
        early_probe: bool = False,
        on_change: Callable[[Change], object] = lambda change: None,
    ) -> None:
        self.in_flight: int = 0
        self.accepted: int = 0
        self.rejections: int = 0
        self.closed_until: float | None = None
        self._max_in_flight = max_in_flight
        self._early_probes = EarlyProbes(is_allowed=early_probe)
        self._tell = on_change
        self._routes = RouteStreaks()
        self._slow_start = slow_start
        self._window = _FIRST_WINDOW if slow_start else math.inf
        self._curve: Curve | None = None
        self._done = 0  # answers that have moved the curve
        self._latency: float | None = None
        self._last_sent = -math.inf
        self._good_in_a_row = 0
        # The cycle: from one opening of the gate to the next.
        self._cycle = 0
        self._began: float | None = None
        self._ok = 0
        # The closure.
        # Nothing is to be learned where the server said that nothing is left, nor from a late rejection of an earlier
        # cycle's request.
        self._teaches = False
        self._closed_at = 0.0
        self._hit = 0.0  # when the first request that was rejected was sent
        self._rate_at_hit = math.inf
        self._backoff = _FIRST_BACKOFF
        self._probe: Ticket | None = None
        self._quota = Quota()

    @property
    def rate(self) -> float:
        """Requests per second; infinity while none has been learned."""
        return math.inf if self._curve is None else self._curve.rate(self._done)

    @property
    def limit(self) -> int:
        """How many requests may be under way."""
        return math.ceil(min(self._most_in_flight, self._learned_window(self.rate)))

    @property
    def _most_in_flight(self) -> float:
        return max(1, min(self._max_in_flight, self._quota.concurrency))

    def _learned_window(self, rate: float) -> float:
        return self._window if math.isinf(rate) else max(1, math.ceil(rate * (self._latency or 0.0)))

    def is_idle(self, now: float) -> bool:
        """Say whether nothing is under way or has to wait, so that all there is to lose is what was learned."""
        return not self.in_flight and (self.closed_until is None or self.closed_until <= now)

    @property
    def shut_until(self) -> float:
        """When the gate may open at the earliest, as far as is known; minus infinity if that may be at any time."""
        if self.closed_until is None or self._probe is not None or self._early_probes.due < math.inf:
            return -math.inf
        return self.closed_until

    def next_send(self, now: float) -> float:
        """Say when the next request may leave: not after ``now``, later, or infinity, if only an answer can tell."""
        if self.in_flight >= self._most_in_flight:
            return math.inf
        if self.closed_until is not None:
            return self._next_probe(self.closed_until)
        rate = self.rate
        due = self._last_sent + 1 / rate
        if self.in_flight >= self._learned_window(rate):
            # A latency that has grown would never be seen if the window let nothing out; and what is under way may be
            # requests that are answered late on purpose.
            due = max(due, self._last_sent + _LATENCIES_TO_WAIT * (self._latency or _UNKNOWN_LATENCY))
        return max(due, self._quota.next_room_at(self.in_flight, now))

    def _next_probe(self, closed_until: float) -> float:
        due = min(closed_until, self._early_probes.due)
        if self._probe is not None:
            due = max(due, self._probe.sent_at + max(_SHORTEST_LEASE, _LATENCIES_TO_WAIT * (self._latency or 0.0)))
        return due

    def send(self, now: float, route: Callable[[], str] = str, *, has_waited: bool) -> Ticket:
        """Let a request out."""
        ticket = Ticket(route, now, has_waited, self._cycle, is_probe=self.closed_until is not None)
        if ticket.is_probe:
            self._probe = ticket
            self._early_probes.due = math.inf
        if self._began is None:
            self._began = now
        self.in_flight += 1
        self._last_sent = now
        return ticket

    def answered(self, ticket: Ticket, now: float) -> None:
        """Take note of an answer that is no rejection, whatever its status."""
        self._take_back(ticket)
        self._end_probe(ticket)
        self.accepted += 1
        self._good_in_a_row += 1
        self._routes.served(ticket.route)
        latency = now - ticket.sent_at
        known = latency if self._latency is None else self._latency
        self._latency = known + (latency - known) * _LATENCY_WEIGHT
        if self._curve is None:
            self._window += _WINDOW_STEP
        self._done += ticket.has_waited
        if ticket.cycle == self._cycle:
            if ticket.is_probe and self._may_open(ticket):
                self._open(ticket)
            else:
                self._ok += 1

    def rejected(
        self, ticket: Ticket, now: float, retry_after: float | None, jitter: float, *, is_doubtful: bool = False
    ) -> None:
        """Take note of a rejection.

        Args:
            ticket: the request.
            now: the time.
            retry_after: for how many seconds the server wants no more; None if it does not say.
            jitter: a number from 0 to 1, to keep several clients from coming back together.
            is_doubtful: whether it may as well be a fault of the server's.
        """
        if is_doubtful and not ticket.is_probe and self._good_in_a_row >= _GOOD_TO_DOUBT:
            self.answered(ticket, now)
            self._good_in_a_row = 0
            return
        self._take_back(ticket)
        self.rejections += 1
        self._good_in_a_row = 0
        was_probe = self._end_probe(ticket)
        if self._routes.rejected(ticket.route, self.accepted):
            return
        if was_probe:
            self._back_off()
            if self._is_early(ticket):
                self._early_probes.count(was_in_vain=True)
        is_late = ticket.cycle != self._cycle
        if is_late and self.closed_until is None and retry_after is None:
            return
        wait = max(retry_after or 0.0, self._backoff)
        wait += min(_JITTER_SHARE * wait, _LONGEST_JITTER) * jitter
        self._close(now, now + wait, hit=ticket.sent_at, teaches=not is_late)

    def dropped(self, ticket: Ticket, now: float, *, has_failed: bool) -> None:
        """Take note of a request without an answer: it was cancelled, or it has failed on the way."""
        self._take_back(ticket)
        if self._end_probe(ticket) and has_failed and self.closed_until is not None:
            self._back_off()
            self.closed_until = max(self.closed_until, now + self._backoff)

    def advertised(self, now: float, *, remaining: int | None, reset: float | None, concurrency: int | None) -> None:
        """Take note of what the server says of its limits.

        Args:
            now: the time.
            remaining: how many more requests it takes.
            reset: in how many seconds it takes more.
            concurrency: how many it takes at a time.
        """
        nothing_left_until = self._quota.update(now, remaining=remaining, reset=reset, concurrency=concurrency)
        if nothing_left_until is not None:
            self._close(now, nothing_left_until, hit=now, teaches=False)

    def _may_open(self, probe: Ticket) -> bool:
        """Say whether a probe is of this closure, and left when all that was known by now had passed."""
        if self.closed_until is None:
            return False
        return probe.sent_at >= (self._closed_at if self._early_probes.is_allowed else self.closed_until)

    def _take_back(self, ticket: Ticket) -> None:
        assert ticket.is_out, "a request ends once"
        ticket.is_out = False
        self.in_flight -= 1

    def _end_probe(self, ticket: Ticket) -> bool:
        """Say whether a request was the probe that is under way; there is none any more then."""
        if ticket is not self._probe:
            return False
        self._probe = None
        return True

    def _back_off(self) -> None:
        self._backoff = min(_LONGEST_BACKOFF, 2 * self._backoff)

    def _is_early(self, probe: Ticket) -> bool:
        return self.closed_until is not None and probe.sent_at < self.closed_until

    def _close(self, now: float, until: float, *, hit: float, teaches: bool) -> None:
        if self.closed_until is not None:
            self.closed_until = max(self.closed_until, until)
            return
        self.closed_until = until
        self._closed_at = now
        self._hit = hit
        self._rate_at_hit = self.rate
        self._teaches = teaches
        if teaches:
            self._early_probes.plan(now, until, self._backoff)
        self._tell(Change.CLOSED)

    def _open(self, probe: Ticket) -> None:
        if self._is_early(probe):
            self._early_probes.count(was_in_vain=False)
        has_learned = self._teaches and self._learn(probe)
        self.closed_until = self._probe = None
        self._early_probes.due = math.inf
        self._backoff = _FIRST_BACKOFF
        self._tell(Change.OPENED)
        if has_learned:
            self._tell(Change.LEARNED)

    def _learn(self, probe: Ticket) -> bool:
        """Begin a new cycle; say whether the last one has taught a rate."""
        assert self._began is not None
        assert self._latency is not None
        has_learned = bool(self._ok)
        if has_learned:
            busy = max(self._hit - self._began, self._latency, _SHORTEST_TIME)
            whole = probe.sent_at - self._began
            high = self._ok / busy if math.isinf(self._rate_at_hit) else _BELOW_THE_LAST * self._rate_at_hit
            base = min(math.sqrt(self._ok / whole * high), _BASE_BELOW_CEILING * high)
            climb = min(max(_PAYBACK * (probe.sent_at - self._closed_at), _SHORTEST_CLIMB), _LONGEST_CLIMB)
            self._curve = Curve(base, high, max(base * climb, _FEWEST_ANSWERS))
        elif self._slow_start:
            self._window = _FIRST_WINDOW  # an outage: begin anew
        self._done = 0
        self._cycle += 1
        self._began = probe.sent_at
        self._ok = 1
        return has_learned
