"""Limiter: what one rate-limited host lets through, and what it has taught us. Pure: times and jitter are arguments.

One Limiter is shared by all requests for one key, so that they behave like one polite client:

    open ── a rejection ──> closed until opens_at ── one request, the probe ──> answered: learn, open
                                     ^                                     └──> rejected: closed for longer

Each rule is here because leaving it out was measured (rejected requests for each accepted one, and the time taken over
the best possible time):

- A rejection closes the gate for all requests, not only for the one that was rejected: the others would be, too.
- The gate opens to one request. If a thousand waited for the same second, they would meet the next rejection together.
- What was accepted in the cycle before, from one opening of the gate to the next, gives the rate: see cycle.py and
  curve.py.
- Requests are sent one by one, an interval apart, and no more are in flight than rate times latency: a burst would
  look like a higher rate than it is.
- Before the first rejection nothing is known. The number in flight starts low, and grows by about half a request with
  each response.
- A server that says how many requests are left is believed before it has to reject any.
- If the user knows a limit, every request waits for that as well, the probe included, and the number in flight does not
  have to start low. A rate that is learned holds if it is lower.
- A rejection that says nothing for how long, and any 503, may be a fault of a server that fails now and then. One alone
  closes nothing. Several close the gate if they are more than the usual share of faults explains: see evidence.py.
  Without this, 3 % of faults made a job on a server without any limit take 20 times as long, and 10 % 300 times.
- What such rejections were is decided once the probe is accepted, when the requests that were on their way have been
  answered as well: see diagnosis.py. If that is unclear, a trial at a lower rate decides: see trial.py. If it was no
  limit, nothing is learned, and the faults are expected from then on. Without this, 30 % of faults still made the job
  take 15 times as long.
- A route that is rejected time and again while others are served has a problem of its own.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._throttle.closure import FIRST_BACKOFF, Closure
from prefect_http._throttle.curve import Curve, learn_curve
from prefect_http._throttle.cycle import Cycle
from prefect_http._throttle.diagnosis import Diagnoses, Diagnosis
from prefect_http._throttle.early_probes import EarlyProbes
from prefect_http._throttle.evidence import Evidence, FaultShare, LimitTest
from prefect_http._throttle.known_limit import KnownLimit
from prefect_http._throttle.quota import Quota
from prefect_http._throttle.routes import RouteStreaks
from prefect_http._throttle.share import Share
from prefect_http._throttle.ticket import Ticket
from prefect_http._throttle.trial import Outcome, Trial

_FIRST_WINDOW = 10.0
# A little under one half: with one half, early probes came to 5 % of rejections on a window of 100.
_WINDOW_STEP = 0.47
# What several processes have in flight when the first of them is rejected comes to more.
_SHARED_WINDOW_STEP = 0.25
# How fast the latency follows the answers: it must follow (when it rose tenfold, a fixed one stalled us), but no single
# answer may move it far.
_LATENCY_WEIGHT = 1 / 32
_LATENCIES_TO_WAIT = 4
_UNKNOWN_LATENCY = 0.25
_SHORTEST_LEASE = 1.0
_SHORTEST_PAUSE = 0.25
_JITTER_SHARE, _LONGEST_JITTER = 0.1, 0.25
_ENDS_ONCE = "a request ends once"


class Change(enum.Enum):
    """What a Limiter reports about itself."""

    CLOSED = "closed"
    OPENED = "opened"
    LEARNED = "learned"
    ALONE = "alone"
    SHARED = "shared"


@dataclass(slots=True)
class Told:
    """What the other processes have been told of a cycle.

    Attributes:
        accepted: how many requests were accepted.
        done: how many answers have moved the curve.
    """

    accepted: float = 0.0
    done: float = 0.0


class Limiter:
    """The state of one key.

    Args:
        max_in_flight: how many requests may be in flight at most.
        slow_start: whether the number in flight starts low while nothing is known.
        early_probe: whether one request per closure may be sent before the server's Retry-After has passed.
        known: the limit that the user knows; None if there is none.
        share: the part that this process has of a key which it shares with others, and of what the user knows of it;
            None if it shares nothing.
        on_change: called at each change.

    Attributes:
        known: likewise.
        share: likewise.
        in_flight: how many requests are in flight: sent, but not answered yet.
        accepted: how many requests were answered with something other than a rejection.
        rejections: how many requests were rejected.
        sure_room: while fewer requests are in flight, one may be sent, and ``next_send()`` need not be asked. So it is
            while nothing is known and nothing forbids it; 0 at any other time.
    """

    def __init__(
        self,
        *,
        max_in_flight: int,
        slow_start: bool = True,
        early_probe: bool = False,
        known: KnownLimit | None = None,
        share: Share | None = None,
        on_change: Callable[[Change], object] = lambda change: None,
    ) -> None:
        self.in_flight: int = 0
        self.accepted: int = 0
        self.rejections: int = 0
        self.sure_room: float = 0
        self.known: KnownLimit | None = known
        self.share: Share | None = share
        self._max_in_flight = max_in_flight
        self._most_in_flight: float = max(1, max_in_flight)  # fewer if the server says so
        self._slow_start = slow_start and math.isinf(self.known_rate)
        # Where a gate is shared, only the learner may send a probe, and not before the others have told what they sent.
        self._early_probes = EarlyProbes(is_allowed=early_probe and share is None)
        self._on_change = on_change
        self._routes = RouteStreaks()
        self._quota = Quota()
        self._window = _FIRST_WINDOW if self._slow_start else math.inf
        self._window_step = _WINDOW_STEP
        self._curve: Curve | None = None
        self._done: float = 0  # answers that have moved the curve
        self._latency: float | None = None
        self._last_sent = -math.inf
        self._last_ended = -math.inf
        self._faults = FaultShare()
        self._limit_test = LimitTest(self._faults)
        self._diagnoses = Diagnoses(self._faults)
        self._trial: Trial | None = None
        self._cycle = Cycle()
        self._closure: Closure | None = None
        self._told = Told()

    @property
    def closed_until(self) -> float | None:
        """When the first request may be sent; None while the gate is open."""
        return None if self._closure is None else self._closure.until

    @property
    def shut_until(self) -> float:
        """The earliest time at which the gate may open; minus infinity if it is open or may open at any time."""
        return -math.inf if self._closure is None else self._closure.shut_until

    @property
    def own_until(self) -> float:
        """Until when the server has told this process to wait; minus infinity if it has not."""
        return -math.inf if self._closure is None else self._closure.own_until

    @property
    def known_rate(self) -> float:
        """Requests per second of the known limit; infinity if there is none."""
        if self.share is not None:
            return self.share.known.rate
        return math.inf if self.known is None else self.known.rate

    @property
    def rate(self) -> float:
        """Requests per second, at most those of the known limit; infinity while no rate has been learned."""
        if self._curve is None:
            return math.inf
        rate = self._curve.rate(self._done) if self._trial is None else self._trial.rate
        return min(rate, self.known_rate)

    @property
    def limit(self) -> int:
        """How many requests may be in flight."""
        return math.ceil(min(self._most_in_flight, self._learned_window(self.rate)))

    def _learned_window(self, rate: float) -> float:
        return self._window if math.isinf(rate) else max(1, math.ceil(rate * (self._latency or 0.0)))

    def is_idle(self, now: float) -> bool:
        """Return whether no request is in flight or would have to wait, so that only what was learned would be lost."""
        return (
            not self.in_flight
            and (self._closure is None or self._closure.until <= now)
            and (self.known is None or self.known.is_unused(now))
        )

    def next_send(self, now: float) -> float:
        """Return when the next request may be sent: by ``now``, later, or infinity if that depends on a response."""
        share = self.share
        if self.in_flight >= self._most_in_flight or (share is not None and not share.is_valid(now)):
            return math.inf
        if self._closure is not None:
            if share is not None and not share.may_probe(self._closure.until):
                return math.inf
            due = self._closure.next_probe(max(_SHORTEST_LEASE, _LATENCIES_TO_WAIT * (self._latency or 0.0)))
        else:
            if self._curve is None:
                due, window = self._last_sent, self._window
                if share is not None:
                    if share.known.rate < math.inf:
                        due = share.next_turn(now, share.known.rate, self._last_sent)
                    elif self._slow_start and self.in_flight + self._cycle.accepted >= _FIRST_WINDOW / share.members:
                        due += share.first_interval(now, self._cycle.accepted - self._told.accepted)
                elif self.known is None and not self._quota.is_known:
                    # It holds until the gate closes, or the server says something: the window only grows until then.
                    self.sure_room = min(window, self._most_in_flight)
            else:
                rate = self.rate
                due = self._last_sent + 1 / rate if share is None else share.next_turn(now, rate, self._last_sent)
                window = self._learned_window(rate)
            if self.in_flight >= window:
                # A latency that has grown would never be seen if the full window stopped everything; and the responses
                # may be late on purpose.
                due = max(due, self._last_sent + _LATENCIES_TO_WAIT * (self._latency or _UNKNOWN_LATENCY))
            if self._quota.is_known:
                # The others have as many on their way.
                due = max(due, self._quota.next_room_at(self.in_flight * self._members, now))
        return due if self.known is None else max(due, self.known.due)

    def send(self, now: float, route: Callable[[], str] = str, *, has_waited: bool) -> Ticket:
        """Record that a request is sent, and return its ticket."""
        closure, cycle = self._closure, self._cycle
        ticket = Ticket()
        ticket.route, ticket.sent_at, ticket.has_waited = route, now, has_waited
        ticket.cycle, ticket.is_probe, ticket.is_out = cycle.number, closure is not None, True
        if self.known is not None:
            self.known.reserve()
        if closure is not None:
            closure.begin_probe(ticket)
        elif self.share is not None:
            self.share.sent(now)
        if not cycle.has_begun:
            cycle.sent(now)
        if closure is None and not (has_waited or self.in_flight) and now - self._last_ended > _SHORTEST_PAUSE:
            cycle.resumed(now)
        self.in_flight += 1
        self._last_sent = now
        return ticket

    def answered(self, ticket: Ticket, now: float) -> None:
        """Record an answer that is not a rejection, whatever its status."""
        # As _take_back() does, which would be another call for each request.
        assert ticket.is_out, _ENDS_ONCE
        ticket.is_out = False
        self.in_flight -= 1
        self._last_ended = now
        self.accepted += 1
        if self._routes.streaks:
            self._routes.served(ticket.route)
        latency, known = now - ticket.sent_at, self._latency
        self._latency = latency if known is None else known + (latency - known) * _LATENCY_WEIGHT
        if self._curve is None:
            self._window += self._window_step
        closure = self._closure
        if closure is not None:
            closure.end_probe(ticket)
            closure.accepted(ticket, now)
        elif self._trial is not None:
            self._try(self._trial, self._trial.accepted(ticket.sent_at))
        elif self._limit_test.has_doubts:
            self._limit_test.accepted(now, counts=self._is_low, number=self._members)
        elif self._curve is None or self._is_low:
            # The rejections of the other processes count here as well: so this stands for an accepted one of each.
            # Without _members, since most answers pass here.
            self._faults.new_answers += 1 if self.share is None else self.share.members
        if ticket.has_waited:
            self._done += 1
        cycle = self._cycle
        if ticket.cycle == cycle.number:
            if closure is not None and ticket.is_probe and closure.is_opened_by(ticket):
                self._open(closure, ticket)
            else:
                cycle.accepted += 1

    def rejected(
        self,
        ticket: Ticket,
        now: float,
        retry_after: float | None,
        jitter: float,
        *,
        is_doubtful: bool = False,
        backoff: float | None = None,
    ) -> None:
        """Record a rejection.

        Args:
            ticket: the request.
            now: the time.
            retry_after: for how many seconds the server wants no more requests; None if it does not say.
            jitter: a number from 0 to 1, to keep several clients from coming back together.
            is_doubtful: whether it may be a fault of the server rather than a rejection.
            backoff: for how many seconds to wait at first if the server does not say; None: as usual.
        """
        self._take_back(ticket, now)
        self.rejections += 1
        probed = self._end_probe(ticket)
        if self._routes.rejected(ticket.route, self.accepted):
            return
        if probed is not None:
            probed.back_off()
            if probed.is_early(ticket):
                self._early_probes.count(was_rejected=True)
        is_late = ticket.cycle != self._cycle.number
        first = FIRST_BACKOFF if backoff is None else backoff
        if self._closure is not None:
            self._closure.rejected(is_doubtful=is_doubtful, is_late=is_late)
            self._closure.backoff = max(self._closure.backoff, first)
            self._closure.extend(now + _wait(retry_after, self._closure.backoff, jitter))
        elif is_late and (is_doubtful or (retry_after is None and backoff is None)):
            pass  # what it says about the last cycle is known already
        else:
            evidence = self._weigh(ticket, now, retry_after) if is_doubtful else None
            if evidence is None and is_doubtful and self.share is not None:
                self.share.doubted()
            if evidence is not None or not is_doubtful:
                until = now + _wait(retry_after, first, jitter)
                self._close(now, until, hit_at=ticket.sent_at, teaches=not is_late, backoff=first, evidence=evidence)

    def _weigh(self, ticket: Ticket, now: float, retry_after: float | None) -> Evidence | None:
        """Return the evidence for a limit if there is enough of it with this doubtful rejection."""
        if self._trial is not None:
            self._cycle.accepted += 1
            self._try(self._trial, self._trial.rejected(ticket.sent_at))
            return None
        until = -math.inf if retry_after is None else now + retry_after
        evidence = self._limit_test.rejected(now, sent_at=ticket.sent_at, retry_after_until=until, counts=self._is_low)
        # A fault shows, as well as any response, that the server took a request.
        self._cycle.accepted += 1 if evidence is None else 1 - evidence.rejected
        return evidence

    @property
    def _is_low(self) -> bool:
        """Whether no rate is known, or it has not climbed far, so that a limit is not expected yet."""
        return self._curve is None or self._curve.is_low(self._done)

    def dropped(self, ticket: Ticket, now: float, *, has_failed: bool) -> None:
        """Record that a request ended without an answer: it was cancelled, or (``has_failed``) the network failed."""
        self._take_back(ticket, now)
        probed = self._end_probe(ticket)
        if probed is not None and has_failed:
            probed.back_off()
            probed.extend(now + probed.backoff)

    def withdrawn(self, ticket: Ticket, now: float) -> None:
        """Record that a request whose turn it was is not sent: its task was cancelled before it could run."""
        self.dropped(ticket, now, has_failed=False)
        if self.known is not None:
            self.known.release()
        if self.share is not None and not ticket.is_probe:
            self.share.withdrawn(now)

    def advertised(self, ticket: Ticket, now: float, limit: RateLimit) -> None:
        """Record what the response to a request says about the server's limits; see Quota.update()."""
        self.sure_room = 0
        none_left_until = self._quota.update(now, limit, sent_at=ticket.sent_at, cycle_began=self._cycle.began_at)
        if none_left_until is not None:
            self._close(now, none_left_until, hit_at=now, teaches=False)
        if self._quota.concurrency < math.inf:
            self._most_in_flight = max(1, min(self._max_in_flight, self._quota.concurrency // self._members))

    # --- What is shared with other processes

    @property
    def _members(self) -> int:
        """How many processes send requests for this key, this one included."""
        return 1 if self.share is None else self.share.members

    def to_tell(self) -> tuple[float, float, Told]:
        """Return what the other processes do not know of this cycle.

        Returns:
            How many requests were accepted, how many answers have moved the curve, and where it is to be recorded that
            they have been told so. The last is replaced when the counts begin anew, so that it does not matter then.
        """
        return self._cycle.accepted - self._told.accepted, self._done - self._told.done, self._told

    def close_with_others(self, now: float, until: float) -> None:
        """Close the gate, or keep it closed until then, because another process was rejected."""
        if self._closure is None:
            self._close(now, until, hit_at=now, teaches=True, is_of_others=True)
        else:
            self._closure.follow(until)

    def doubt_with_others(self, now: float, jitter: float) -> None:
        """Weigh a doubtful rejection of another process, unless something else is going on.

        Args:
            now: the time.
            jitter: as for ``rejected()``.
        """
        if self._closure is not None or self._trial is not None:
            return
        sent_at = now - (self._latency or 0.0)
        evidence = self._limit_test.rejected(now, sent_at=sent_at, retry_after_until=-math.inf, counts=self._is_low)
        if evidence is not None:
            self._close(now, now + _wait(None, FIRST_BACKOFF, jitter), hit_at=sent_at, teaches=True, evidence=evidence)

    def open_with_others(self, now: float, began: float, *, begins_cycle: bool) -> None:
        """Open the gate, because the probe of another process was accepted.

        Args:
            now: the time.
            began: when that was sent.
            begins_cycle: whether a new cycle began with it.
        """
        self._trial = None
        if begins_cycle:
            self._cycle.begin(began)
            self._cycle.accepted = 0
            self._told = Told(done=self._told.done)
        if self._closure is not None and self._closure.own_until <= now:
            self._closure = None
            self._on_change(Change.OPENED)

    @property
    def curve(self) -> Curve | None:
        """What has been learned; None if nothing has."""
        return self._curve

    @property
    def is_probing(self) -> bool:
        """Whether a probe is in flight."""
        return self._closure is not None and self._closure.is_probing

    def follow(self, curve: Curve | None, done: float, *, accepted: float | None) -> None:
        """Take over the curve of all processes, unless it is on trial.

        Args:
            curve: the curve; None if there is none.
            done: how many answers have moved it.
            accepted: how many requests all processes have had accepted, if the gate has never been closed.
        """
        assert self.share is not None
        if self._trial is not None:
            return
        if curve is None and self._curve is not None:
            self._forget_rate()
        has_changed, self._curve = curve != self._curve, curve
        untold = 0.0 if has_changed else self._done - self._told.done
        self._told.done = done
        self._done = done + untold
        self._window_step = _WINDOW_STEP if self.share.members == 1 else _SHARED_WINDOW_STEP
        if accepted is not None and self._slow_start:
            self._window = max(1.0, (_FIRST_WINDOW + self._window_step * accepted) / self.share.members)
        if has_changed and curve is not None:
            self._on_change(Change.LEARNED)

    def _take_back(self, ticket: Ticket, now: float) -> None:
        assert ticket.is_out, _ENDS_ONCE
        ticket.is_out = False
        self.in_flight -= 1
        self._last_ended = now

    def _end_probe(self, ticket: Ticket) -> Closure | None:
        """Return the closure whose current probe has ended with this request; None if the request was not it."""
        closure = self._closure
        return closure if closure is not None and closure.end_probe(ticket) else None

    def _close(
        self,
        now: float,
        until: float,
        *,
        hit_at: float,
        teaches: bool,
        backoff: float = FIRST_BACKOFF,
        evidence: Evidence | None = None,
        is_of_others: bool = False,
    ) -> None:
        if self._closure is not None:
            self._closure.extend(until)
            return
        self.sure_room = 0
        self._limit_test.begin()  # what it has belongs to this cycle
        self._closure = Closure(
            now,
            until,
            hit_at=hit_at,
            rate=self.rate,
            is_low=self._is_low,
            evidence=evidence,
            teaches=teaches,
            allows_early_probes=self._early_probes.is_allowed,
            backoff=backoff,
            is_of_others=is_of_others,
        )
        self._trial = None  # not before: its rate was the one that met with the rejection
        if teaches and backoff == FIRST_BACKOFF and self._early_probes.is_next(until - now, FIRST_BACKOFF):
            self._closure.early_probe_at = now + FIRST_BACKOFF
        self._on_change(Change.CLOSED)

    def _open(self, closure: Closure, probe: Ticket) -> None:
        if closure.is_early(probe):
            self._early_probes.count(was_rejected=False)
        diagnosis = self._diagnose(closure)
        has_learned = diagnosis is not Diagnosis.NOT_THE_RATE and closure.teaches and self._learn(closure, probe)
        if diagnosis is Diagnosis.NOT_THE_RATE:
            self._forget_rate()
        elif diagnosis is Diagnosis.UNCLEAR and has_learned:
            assert closure.evidence is not None
            self._trial = Trial(closure.evidence, opened_at=probe.sent_at, latency=self._latency or 0.0)
            has_learned = False
        self._closure = None
        if self.share is not None:
            self.share.opened(probe.sent_at, begins_cycle=self._cycle.began_at == probe.sent_at)
            self._told = Told(self._cycle.accepted, self._done)
        self._on_change(Change.OPENED)
        if has_learned:
            self._on_change(Change.LEARNED)

    def _try(self, trial: Trial, outcome: Outcome | None) -> None:
        """End the trial if its outcome is clear."""
        if outcome is None:
            return
        self._trial = None
        self._done = 0
        if self.share is not None:
            self._told = Told(self._told.accepted)
            self.share.learned()
        if outcome is Outcome.LIMIT:
            self._on_change(Change.LEARNED)
        else:
            self._diagnoses.found_faults(trial.all_rejected)
            self._curve = None

    def _forget_rate(self) -> None:
        """Start slowly again, from the number of requests in flight that is allowed now."""
        self._window = max(1.0, self.limit / self._members) if self._slow_start else math.inf
        self._curve = None

    def _diagnose(self, closure: Closure) -> Diagnosis:
        if closure.evidence is None:
            self._diagnoses.limit_is_certain()
            return Diagnosis.LIMIT
        return self._diagnoses.diagnose(
            closure.evidence, rate=closure.rate, is_low=closure.is_low, rejected_probes=closure.setbacks
        )

    def _learn(self, closure: Closure, probe: Ticket) -> bool:
        """Begin a new cycle, and return whether the last one has taught a rate."""
        assert self._latency is not None
        share, cycle = self.share, self._cycle
        accepted: float
        if share is None or share.is_single(probe.sent_at):
            has_learned = cycle.accepted > 0
            began, accepted = cycle.busiest_part(closure.hit_at, probe.sent_at) if has_learned else (0.0, 0)
        else:
            untold = cycle.accepted - self._told.accepted
            began, accepted = share.cycle_so_far(cycle.accepted, untold, cycle.began_at, probe.sent_at)
            has_learned = accepted > 0
        # Another process may have begun the cycle at this very moment, or the clock of the store have gone back.
        has_learned = has_learned and began < probe.sent_at
        if has_learned:
            self._curve = learn_curve(
                accepted=accepted,
                busy=max(closure.hit_at - began, self._latency),
                whole=probe.sent_at - began,
                closed_for=probe.sent_at - closure.began_at,
                last_rate=closure.rate,
                accepted_share=closure.accepted_share,
            )
        elif self._slow_start:  # an outage: begin anew
            self._window = max(1.0, _FIRST_WINDOW / self._members)
        self._done = 0
        self._cycle.begin(probe.sent_at)
        return has_learned


def _wait(retry_after: float | None, backoff: float, jitter: float) -> float:
    wait = max(retry_after or 0.0, backoff)
    return wait + min(_JITTER_SHARE * wait, _LONGEST_JITTER) * jitter
