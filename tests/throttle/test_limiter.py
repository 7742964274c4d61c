"""What a Limiter lets through, and what it learns: no clock, no loop.

Most times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefect_http._throttle.limiter import Change, Curve, Limiter, Ticket

INF = math.inf
LATENCY = 0.125
MAX = 100


def make(
    *,
    max_in_flight: int = MAX,
    slow_start: bool = True,
    early_probe: bool = False,
    changes: list[Change] | None = None,
) -> Limiter:
    """Make a Limiter that writes its changes down."""
    told: list[Change] = [] if changes is None else changes
    return Limiter(max_in_flight=max_in_flight, slow_start=slow_start, early_probe=early_probe, on_change=told.append)


def may_leave(limiter: Limiter, now: float) -> bool:
    """Say whether the next request may leave by now."""
    return limiter.next_send(now) <= now


def let_out(limiter: Limiter, now: float, count: int = 1, *, route: str = "", has_waited: bool = True) -> list[Ticket]:
    """Let requests out that may leave."""
    tickets: list[Ticket] = []
    for _ in range(count):
        assert may_leave(limiter, now), limiter.next_send(now)
        tickets.append(limiter.send(now, lambda: route, has_waited=has_waited))
    return tickets


def let_one_out(limiter: Limiter, now: float, *, route: str = "", has_waited: bool = True) -> Ticket:
    """Let a request out that may leave."""
    return let_out(limiter, now, route=route, has_waited=has_waited)[0]


def fill(limiter: Limiter, now: float) -> list[Ticket]:
    """Let out all that may leave."""
    tickets: list[Ticket] = []
    while may_leave(limiter, now):
        tickets.append(let_one_out(limiter, now))
    return tickets


def answer(limiter: Limiter, tickets: list[Ticket], now: float) -> None:
    """Answer requests."""
    for ticket in tickets:
        limiter.answered(ticket, now)


def serve(limiter: Limiter, now: float, count: int = 1, *, latency: float = LATENCY, route: str = "") -> float:
    """Serve requests one after the other, each as soon as it may leave; give the time."""
    for _ in range(count):
        now = max(now, limiter.next_send(now))
        ticket = let_one_out(limiter, now, route=route)
        now += latency
        limiter.answered(ticket, now)
    return now


def advertise(
    limiter: Limiter,
    now: float,
    remaining: int | None = None,
    reset: float | None = None,
    concurrency: int | None = None,
) -> None:
    """Let the server say something of its limits."""
    limiter.advertised(now, remaining=remaining, reset=reset, concurrency=concurrency)


def closed(
    *, retry_after: float | None = 1.0, early_probe: bool = False, changes: list[Change] | None = None
) -> Limiter:
    """Make a Limiter whose first request has been rejected at 0."""
    limiter = make(early_probe=early_probe, changes=changes)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, retry_after, 0.0)
    return limiter


# What the tests of what comes afterwards begin with: ten requests are sent at 0 and answered, the next one is sent at 1
# and rejected with two seconds to wait, and the probe leaves when they have passed.
REJECTED_AT = 1 + LATENCY
PROBED_AT = REJECTED_AT + 2
TAUGHT_AT = PROBED_AT + LATENCY
TAUGHT_BASE = math.sqrt(10 / PROBED_AT * 10)
TAUGHT = Curve(TAUGHT_BASE, 10.0, TAUGHT_BASE * 40)


def taught(
    *,
    accepted: int = 10,
    hit: float = 1.0,
    retry_after: float | None = 2.0,
    latency: float = LATENCY,
    max_in_flight: int = MAX,
    early_probe: bool = False,
    changes: list[Change] | None = None,
) -> tuple[Limiter, float]:
    """Make a Limiter that has been through a closure; give it, and the time at which it has opened."""
    limiter = make(max_in_flight=max_in_flight, slow_start=False, early_probe=early_probe, changes=changes)
    first = let_out(limiter, 0.0, accepted)
    if hit:
        answer(limiter, first, latency)
        unlucky = let_one_out(limiter, hit)
    else:
        unlucky = let_one_out(limiter, hit)
        answer(limiter, first, latency)
    limiter.rejected(unlucky, hit + latency, retry_after, 0.0)
    opens_at = limiter.closed_until
    assert opens_at is not None
    probe = let_one_out(limiter, opens_at)
    limiter.answered(probe, opens_at + latency)
    return limiter, opens_at + latency


# --- Before the first rejection


def test_a_new_limiter() -> None:
    """Nothing is known: no rate, ten requests at a time, and an open gate."""
    limiter = make()
    assert (limiter.rate, limiter.limit, limiter.closed_until, limiter.in_flight) == (INF, 10, None, 0)
    assert (limiter.accepted, limiter.rejections, limiter.is_idle(0.0), limiter.shut_until) == (0, 0, True, -INF)


def test_the_first_ten_leave_at_once() -> None:
    """Ten requests leave in the same moment; the eleventh waits for an answer, or a second, lest none comes soon."""
    limiter = make()
    tickets = let_out(limiter, 5.0, 10)
    assert limiter.next_send(5.0) == 6.0
    assert limiter.in_flight == 10
    limiter.answered(tickets[3], 5.0)
    assert may_leave(limiter, 5.0)


@pytest.mark.parametrize(
    ("answers", "limit"), [(0, 10), (1, 11), (2, 11), (3, 12), (10, 15), (22, 21), (189, 99), (192, 100), (1000, 100)]
)
def test_slow_start(answers: int, limit: int) -> None:
    """The number under way grows by about half a request with each answer, up to max_in_flight."""
    limiter = make()
    serve(limiter, 0.0, answers)
    assert limiter.limit == limit


def test_without_slow_start() -> None:
    """Without slow start, max_in_flight requests leave at once."""
    limiter = make(slow_start=False)
    assert limiter.limit == MAX
    let_out(limiter, 0.0, MAX)
    assert limiter.next_send(0.0) == INF


@pytest.mark.parametrize("slow_start", [True, False])
@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_max_in_flight(max_in_flight: int, slow_start: bool) -> None:
    """Never more requests are under way than max_in_flight, however long it is since the last one left."""
    limiter = make(max_in_flight=max_in_flight, slow_start=slow_start)
    assert limiter.limit == max_in_flight
    now = serve(limiter, 0.0, 50)
    let_out(limiter, now, max_in_flight)
    assert limiter.next_send(now + 1e6) == INF


def test_one_more_goes_after_four_latencies() -> None:
    """A full window lets one more go when nothing has left for four latencies, and then another one."""
    limiter = make()
    now = serve(limiter, 0.0, 2)
    fill(limiter, now)
    assert limiter.next_send(now) == now + 4 * LATENCY
    let_one_out(limiter, now + 4 * LATENCY)
    assert limiter.next_send(now + 4 * LATENCY) == now + 8 * LATENCY


@pytest.mark.parametrize("count", [1, 10])
def test_a_latency_of_zero(count: int) -> None:
    """Answers that take no time at all tell of no latency, and a full window then lets one more out each second."""
    limiter = make()
    answer(limiter, let_out(limiter, 0.0, count), 0.0)
    fill(limiter, 0.0)
    assert limiter.next_send(0.0) == 1.0


# --- A rejection


@pytest.mark.parametrize(
    ("retry_after", "jitter", "wait"),
    [
        (None, 0.0, 0.1),
        (None, 1.0, 0.11),
        (0.0, 0.0, 0.1),
        (0.05, 0.0, 0.1),
        (1.0, 0.0, 1.0),
        (1.0, 0.5, 1.05),
        (1.0, 1.0, 1.1),
        (2.5, 1.0, 2.75),
        (10.0, 0.5, 10.125),
        (10.0, 1.0, 10.25),
        (3600.0, 1.0, 3600.25),
    ],
)
def test_how_long_a_rejection_closes(retry_after: float | None, jitter: float, wait: float) -> None:
    """It closes for Retry-After or the back-off, the longer of them, and up to a tenth and a quarter second more."""
    limiter = make()
    limiter.rejected(let_one_out(limiter, 7.0), 8.0, retry_after, jitter)
    assert limiter.closed_until == pytest.approx(8.0 + wait)
    assert limiter.next_send(8.0) == limiter.closed_until == limiter.shut_until
    assert (limiter.in_flight, limiter.rejections, limiter.accepted, limiter.is_idle(8.0)) == (0, 1, 0, False)


@pytest.mark.parametrize(("second", "closed_until"), [(5.0, 6.0), (1.0, 2.0), (0.5, 1.5), (None, 1.5)])
def test_later_rejections_only_extend(second: float | None, closed_until: float) -> None:
    """While closed, a rejection moves the opening to later, and never to sooner."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.5, 1.0, 0.0)
    limiter.rejected(two, 1.0, second, 0.0)
    assert limiter.closed_until == closed_until


def test_the_first_rejection_is_the_one_to_learn_from() -> None:
    """What is learned is what was accepted until the first request that was rejected was sent."""
    limiter, _ = taught()
    other = make(slow_start=False)
    answer(other, let_out(other, 0.0, 10), LATENCY)
    first, second = let_one_out(other, 1.0), let_one_out(other, REJECTED_AT)
    other.rejected(first, REJECTED_AT, 2.0, 0.0)
    other.rejected(second, REJECTED_AT + LATENCY, 0.5, 0.0)
    other.answered(let_one_out(other, PROBED_AT), TAUGHT_AT)
    assert other.rate == limiter.rate


# --- The probe


def test_one_request_goes_first() -> None:
    """When the wait has passed, exactly one request leaves; the others follow when it has been answered."""
    limiter = closed()
    assert not may_leave(limiter, 0.99)
    probe = let_one_out(limiter, 1.0)
    assert probe.is_probe
    assert not may_leave(limiter, 1.99)
    limiter.answered(probe, 1.5)
    assert limiter.closed_until is None
    assert not let_one_out(limiter, 1.5).is_probe


def test_a_rejected_probe_doubles_the_back_off() -> None:
    """Each probe that is rejected doubles the wait, up to ten seconds; an answer brings it back."""
    limiter = make()
    now, waits = 0.0, list[float]()
    for _ in range(10):
        limiter.rejected(let_one_out(limiter, now), now, None, 0.0)
        assert limiter.closed_until is not None
        waits.append(limiter.closed_until - now)
        now = limiter.closed_until
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0])
    limiter.answered(let_one_out(limiter, now), now)
    limiter.rejected(let_one_out(limiter, now), now, None, 0.0)
    assert limiter.closed_until == pytest.approx(now + 0.1)


def test_a_failed_probe_is_like_a_rejected_one() -> None:
    """A probe that fails on the way doubles the wait, up to ten seconds."""
    limiter = closed(retry_after=None)
    now, waits = 0.125, list[float]()
    for _ in range(8):
        limiter.dropped(let_one_out(limiter, now), now, has_failed=True)
        assert limiter.closed_until is not None
        waits.append(limiter.closed_until - now)
        now = limiter.closed_until
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert limiter.rejections == 1


def test_a_failed_probe_opens_nothing_sooner() -> None:
    """When a probe fails that left early, the server's own wait still holds."""
    limiter = closed(retry_after=5.0, early_probe=True)
    limiter.dropped(let_one_out(limiter, 0.125), 0.25, has_failed=True)
    assert limiter.closed_until == limiter.next_send(0.25) == limiter.shut_until == 5.0


def test_after_a_cancelled_probe_the_next_request_goes() -> None:
    """When the probe is cancelled, another request is the probe at once, and the back-off is what it was."""
    limiter = closed(retry_after=None)
    for now in (0.125, 0.25, 0.375):
        limiter.dropped(let_one_out(limiter, now), now + 0.0625, has_failed=False)
    assert may_leave(limiter, 0.4375)
    limiter.rejected(let_one_out(limiter, 0.5), 0.5, None, 0.0)
    assert limiter.closed_until == pytest.approx(0.7)


@pytest.mark.parametrize("has_failed", [True, False])
def test_other_ends_without_an_answer_change_nothing(has_failed: bool) -> None:
    """A request that ends without an answer, and is no probe, was under way, and is no longer."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.dropped(one, 0.5, has_failed=has_failed)
    assert (limiter.in_flight, limiter.closed_until, limiter.limit, limiter.accepted) == (1, None, 10, 0)
    limiter.rejected(let_one_out(limiter, 0.5), 0.5, None, 0.0)
    limiter.dropped(two, 0.5, has_failed=has_failed)
    assert limiter.closed_until == pytest.approx(0.6)
    assert limiter.in_flight == 0


@pytest.mark.parametrize(("latency", "lease"), [(None, 1.0), (0.0, 1.0), (0.125, 1.0), (0.25, 1.0), (0.5, 2.0)])
def test_a_probe_without_an_answer(latency: float | None, lease: float) -> None:
    """A probe that is not answered for a second, or for four latencies, has another one follow it."""
    limiter = make()
    if latency is not None:
        answer(limiter, let_out(limiter, 0.0), latency)
    limiter.rejected(let_one_out(limiter, 1.0), 1.0, 1.0, 0.0)
    let_one_out(limiter, 2.0)
    assert limiter.next_send(2.0) == 2.0 + lease
    let_one_out(limiter, 2.0 + lease)
    assert limiter.next_send(2.0 + lease) == 2.0 + 2 * lease


@pytest.mark.parametrize("which", [0, 1])
def test_whichever_probe_is_answered_opens(which: int) -> None:
    """When a second probe has followed the first, the answer to either opens the gate."""
    limiter = closed()
    probes = [let_one_out(limiter, 1.0), let_one_out(limiter, 2.0)]
    limiter.answered(probes[which], 2.5)
    assert limiter.closed_until is None
    limiter.answered(probes[1 - which], 2.75)
    assert limiter.closed_until is None
    assert limiter.in_flight == 0


def test_only_the_last_probe_doubles_the_back_off() -> None:
    """The late rejection of a probe that another one has followed makes the wait no longer than it is."""
    limiter = closed(retry_after=None)
    first, second = let_one_out(limiter, 0.125), let_one_out(limiter, 1.125)
    limiter.rejected(first, 1.25, None, 0.0)
    assert limiter.closed_until == pytest.approx(1.35)
    assert limiter.next_send(1.25) == 2.125
    limiter.rejected(second, 1.25, None, 0.0)
    assert limiter.closed_until == pytest.approx(1.45)


def test_an_answer_to_what_was_sent_before_opens_nothing() -> None:
    """While closed, answers to requests that left before are good to learn from, and open nothing."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.5, 1.0, 0.0)
    limiter.answered(two, 0.75)
    assert limiter.closed_until == 1.5
    assert limiter.accepted == 1


# --- Late rejections


def with_a_late_one() -> tuple[Limiter, Ticket]:
    """Give an open Limiter, and a request that was sent before the closure that it has been through."""
    limiter = make()
    one, late = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.0, 1.0, 0.0)
    limiter.answered(let_one_out(limiter, 1.0), 1.125)
    return limiter, late


def test_a_late_rejection_is_old_news() -> None:
    """A request of an earlier cycle that is rejected when the gate is open again closes nothing."""
    limiter, late = with_a_late_one()
    limiter.rejected(late, 1.25, None, 0.0)
    assert limiter.closed_until is None
    assert (limiter.rejections, limiter.in_flight) == (1 + 1, 0)


def test_a_late_rejection_that_says_when() -> None:
    """A late rejection with a Retry-After is obeyed, and nothing is learned from it."""
    limiter, late = with_a_late_one()
    limiter.rejected(late, 1.25, 5.0, 0.0)
    assert limiter.closed_until == 6.25
    limiter.answered(let_one_out(limiter, 6.25), 6.375)
    assert limiter.rate == INF
    assert may_leave(limiter, 6.375)


@pytest.mark.parametrize(
    ("now", "retry_after", "closed_until"), [(1.5, None, 3.0), (1.5, 0.5, 3.0), (1.5, 5.0, 6.5), (2.9375, None, 3.0375)]
)
def test_a_late_rejection_while_closed(now: float, retry_after: float | None, closed_until: float) -> None:
    """A late rejection moves the opening to later when the gate is closed once more, and never to sooner."""
    limiter, late = with_a_late_one()
    limiter.rejected(let_one_out(limiter, 1.25), 1.25, 1.75, 0.0)
    limiter.rejected(late, now, retry_after, 0.0)
    assert limiter.closed_until == pytest.approx(closed_until)


def test_a_late_answer_belongs_to_no_cycle() -> None:
    """The answer to a request of an earlier cycle moves the curve, and does not count as accepted in this one."""
    rates: list[tuple[float, float]] = []
    for is_answered in (True, False):
        limiter, now = taught()
        late = let_one_out(limiter, now + 9)
        limiter.rejected(let_one_out(limiter, now + 10), now + 10, 1.0, 0.0)
        limiter.answered(let_one_out(limiter, now + 11), now + 11 + LATENCY)
        before = limiter.rate
        if is_answered:
            limiter.answered(late, now + 12)
            # The same latency in both, so that what is learned next does not differ by it.
            assert limiter.rate > before
        else:
            limiter.dropped(late, now + 12, has_failed=False)
            assert limiter.rate == before
        rate = limiter.rate
        limiter.rejected(let_one_out(limiter, now + 20), now + 20, 1.0, 0.0)
        limiter.answered(let_one_out(limiter, now + 21), now + 21 + LATENCY)
        # Ten seconds from one probe to the next, and one request that was accepted in them.
        rates.append((limiter.rate, math.sqrt(0.1 * 0.95 * rate)))
    for learned, expected in rates:
        assert learned == pytest.approx(expected)


# --- Learning


@pytest.mark.parametrize(
    ("accepted", "hit", "retry_after", "base", "ceiling", "span"),
    [
        # The geometric mean of accepted / busy and accepted / whole; the climb, twenty times the time shut out.
        (10, 1.0, 2.0, math.sqrt(10 * 10 / 3.125), 10.0, 40 * math.sqrt(10 * 10 / 3.125)),
        (20, 4.0, 1.0, math.sqrt(5 * 20 / 5.125), 5.0, 20 * math.sqrt(5 * 20 / 5.125)),
        # Never above nine tenths of the ceiling; the climb takes five seconds at least.
        (10, 4.0, 0.125, 0.9 * 2.5, 2.5, 5 * 0.9 * 2.5),
        # Ten answers at least.
        (1, 4.0, 0.125, 0.9 * 0.25, 0.25, 10.0),
        (1, 1.0, 0.375, math.sqrt(1 / 1.5), 1.0, 10.0),
        # A minute at most.
        (10, 1.0, 98.875, 1.0, 10.0, 60.0),
        (10, 1.0, 3.0, math.sqrt(10 * 10 / 4.125), 10.0, 60 * math.sqrt(10 * 10 / 4.125)),
        # What was rejected at once was sent one latency after the first, as far as the rate is concerned.
        (10, 0.0, 2.0, math.sqrt(80 * 10 / 2.125), 80.0, 40 * math.sqrt(80 * 10 / 2.125)),
    ],
)
def test_the_first_lesson(
    accepted: int, hit: float, retry_after: float, base: float, ceiling: float, span: float
) -> None:
    """The first rejection teaches a curve from what was accepted until then, and from the time it took in all."""
    limiter, now = taught(accepted=accepted, hit=hit, retry_after=retry_after)
    expected = Curve(base, ceiling, span)
    for done in range(12):
        assert limiter.rate == pytest.approx(expected.rate(done))
        now = serve(limiter, now)


def test_a_later_lesson() -> None:
    """The next ceiling is a little below the rate that was rejected."""
    limiter, now = taught()
    now = serve(limiter, now, 30)
    rate = TAUGHT.rate(30)
    assert limiter.rate == pytest.approx(rate)
    hit = max(now, limiter.next_send(now))
    limiter.rejected(let_one_out(limiter, hit), hit, 2.0, 0.0)
    serve(limiter, hit + 2.0)
    # The probe counts for the cycle that it opens.
    high, low = 0.95 * rate, (1 + 30) / (hit + 2.0 - PROBED_AT)
    base = math.sqrt(low * high)
    assert base < 0.9 * high
    assert limiter.rate == pytest.approx(base)
    serve(limiter, hit + 3.0, 20)
    assert limiter.rate == pytest.approx(Curve(base, high, base * 40).rate(20))


@pytest.mark.parametrize(("accepted", "latency"), [(1, 0.0), (10, 0.0)])
def test_a_server_without_any_latency(accepted: int, latency: float) -> None:
    """When everything happens in the same moment, there is a rate all the same."""
    limiter, _ = taught(accepted=accepted, hit=0.0, retry_after=None, latency=latency)
    assert limiter.rate == pytest.approx(math.sqrt(accepted / 0.001 * accepted / 0.1))
    assert limiter.limit == 1


def test_an_outage_at_the_beginning() -> None:
    """When nothing was accepted before the gate opens, there is nothing to learn, and the slow start begins anew."""
    limiter = make()
    tickets = let_out(limiter, 0.0, 10)
    for ticket in tickets:
        limiter.rejected(ticket, 0.125, 30.0, 0.0)
    limiter.answered(let_one_out(limiter, 30.125), 30.25)
    assert (limiter.rate, limiter.limit, limiter.closed_until) == (INF, 10, None)
    assert len(fill(limiter, 30.25)) == 10


def test_an_outage_without_slow_start() -> None:
    """After an outage at the beginning, the number under way is as free as it was."""
    limiter = make(slow_start=False)
    limiter.rejected(let_one_out(limiter, 0.0), 0.125, 30.0, 0.0)
    limiter.answered(let_one_out(limiter, 30.125), 30.25)
    assert limiter.limit == MAX


def test_an_outage_later_on() -> None:
    """When only the probe was accepted in a cycle, the rate goes down, and the ceiling stays near."""
    limiter, now = taught()
    sent_at = limiter.next_send(now)
    limiter.rejected(let_one_out(limiter, sent_at), sent_at, 300.0, 0.0)
    limiter.answered(let_one_out(limiter, sent_at + 300.0), sent_at + 300.125)
    high, low = 0.95 * TAUGHT.base, 1 / (sent_at + 300.0 - PROBED_AT)
    base = math.sqrt(low * high)
    assert limiter.rate == pytest.approx(base)
    serve(limiter, sent_at + 301.0, 5)
    assert limiter.rate == pytest.approx(Curve(base, high, max(60 * base, 10.0)).rate(5))


def test_the_curve() -> None:
    """The rate goes from the base to the ceiling, more and more slowly, and beyond it faster and faster."""
    curve = Curve(10.0, 20.0, 100.0)
    assert [curve.rate(done) for done in (0, 50, 100, 150, 200)] == [10.0, 18.75, 20.0, 21.25, 30.0]


@pytest.mark.parametrize(("has_waited", "done"), [(True, 10), (False, 0)])
def test_who_has_not_waited_proves_nothing(has_waited: bool, done: int) -> None:
    """Only answers to requests that had to wait raise the rate: the others say nothing of what more would be served."""
    limiter, now = taught()
    for _ in range(10):
        now = limiter.next_send(now) + 1
        answer(limiter, let_out(limiter, now, has_waited=has_waited), now + LATENCY)
    assert limiter.rate == pytest.approx(TAUGHT.rate(done))


# --- Pacing, and the window


def test_requests_leave_an_interval_apart() -> None:
    """Once there is a rate, requests leave one by one, the first an interval after the probe."""
    limiter, now = taught(latency=1.0, retry_after=7.0)
    assert limiter.limit > 3
    due = now - 1.0
    for _ in range(3):
        due += 1 / limiter.rate
        assert limiter.next_send(now) == due
        now = max(now, due)
        let_one_out(limiter, now)
        due = now


@pytest.mark.parametrize(
    ("latency", "limit"),
    [
        (0.125, 1),
        (0.5, math.ceil(0.5 * math.sqrt(10 * 10 / 3.5))),
        (2.0, math.ceil(2 * math.sqrt(5 * 10 / 6))),
        (8.0, math.ceil(8 * math.sqrt(1.25 * 10 / 18))),
        (4096.0, 8),
    ],
)
def test_the_window_is_rate_times_latency(latency: float, limit: int) -> None:
    """No more requests are under way than leave in one latency, and at least one."""
    limiter, now = taught(hit=max(1.0, latency), latency=latency)
    assert limiter.limit == limit
    now = max(now, limiter.next_send(now))
    for _ in range(limit):
        let_one_out(limiter, now)
        now += 1 / limiter.rate
    assert limiter.next_send(now) == now - 1 / limiter.rate + 4 * latency


def test_a_learned_window_is_within_max_in_flight() -> None:
    """Never more requests are under way than max_in_flight, whatever the rate has come to."""
    limiter, now = taught(latency=0.5, max_in_flight=11)
    now = serve(limiter, now, 1000, latency=0.5)
    assert limiter.rate * 0.5 > 100
    assert limiter.limit == 11
    while limiter.in_flight < 11:
        now = max(now, limiter.next_send(now))
        let_one_out(limiter, now)
    assert limiter.next_send(now) == INF


def test_a_full_window_waits_for_an_answer() -> None:
    """With as many under way as the window holds, one more goes after four latencies, or as soon as one is answered."""
    limiter, now = taught()
    assert limiter.limit == 1
    sent_at = now + 1
    ticket = let_one_out(limiter, sent_at)
    assert limiter.next_send(sent_at) == sent_at + 4 * LATENCY
    limiter.answered(ticket, sent_at + LATENCY)
    assert limiter.next_send(sent_at + LATENCY) == sent_at + 1 / limiter.rate


def test_the_window_follows_the_latency() -> None:
    """A latency that has grown widens the window, a thirty-second of the way with each answer."""
    limiter, now = taught()
    rate = limiter.rate
    for _ in range(4):
        now = limiter.next_send(now) + 1
        answer(limiter, let_out(limiter, now, has_waited=False), now + 8.0)
        now += 8.0
    latency = 8.0 - (8.0 - LATENCY) * (31 / 32) ** 4
    assert limiter.rate == rate
    assert limiter.limit == math.ceil(rate * latency) == 7


# --- What is doubtful


@pytest.mark.parametrize(("good", "closes"), [(0, True), (19, True), (20, False), (100, False)])
def test_a_fault_among_good_answers(good: int, closes: bool) -> None:
    """After twenty good answers in a row, a rejection that may be a fault is an answer like others."""
    limiter = make()
    now = serve(limiter, 0.0, good)
    limiter.rejected(let_one_out(limiter, now), now + LATENCY, None, 0.0, is_doubtful=True)
    assert (limiter.closed_until is not None) is closes
    assert (limiter.rejections, limiter.accepted, limiter.in_flight) == (closes, good + (not closes), 0)


def test_two_faults_in_a_row_are_none() -> None:
    """After one rejection that was taken for a fault, the next one within twenty answers closes."""
    limiter = make()
    now = serve(limiter, 0.0, 20)
    limiter.rejected(let_one_out(limiter, now), now, None, 0.0, is_doubtful=True)
    now = serve(limiter, now, 19)
    limiter.rejected(let_one_out(limiter, now), now, None, 0.0, is_doubtful=True)
    assert limiter.closed_until == pytest.approx(now + 0.1)


def test_a_plain_rejection_is_never_a_fault() -> None:
    """What is a rejection beyond doubt closes after any number of good answers, and they are counted anew."""
    limiter = make()
    now = serve(limiter, 0.0, 100)
    limiter.rejected(let_one_out(limiter, now), now, None, 0.0)
    assert limiter.closed_until == pytest.approx(now + 0.1)
    now = serve(limiter, now, 19)
    limiter.rejected(let_one_out(limiter, limiter.next_send(now) + 1), now + 9, None, 0.0, is_doubtful=True)
    assert limiter.closed_until == pytest.approx(now + 9.1)


# --- A route's own problem


def reject_route(limiter: Limiter, now: float, *, others: bool) -> tuple[bool, float]:
    """Let route a be rejected, and then another be served; say whether that has closed the gate, and the time."""
    now = max(now, limiter.next_send(now))
    limiter.rejected(let_one_out(limiter, now, route="a"), now, 1.0, 0.0)
    is_closed = limiter.closed_until is not None
    if others:
        now = serve(limiter, now, route="b")
    return is_closed, now


def test_a_route_with_a_problem_of_its_own() -> None:
    """From its fourth rejection in a row on, a route does not close the gate, if others have been served."""
    limiter, now, closures = make(), 0.0, list[bool]()
    for _ in range(6):
        is_closed, now = reject_route(limiter, now, others=True)
        closures.append(is_closed)
    assert closures == [True, True, True, False, False, False]
    assert limiter.rejections == 6
    now = serve(limiter, now, route="a")
    assert reject_route(limiter, now, others=True)[0]


def test_a_limit_for_all_is_no_routes_own() -> None:
    """Without anything being served, a route's rejections close the gate each time."""
    limiter, now = make(), 0.0
    for _ in range(6):
        is_closed, now = reject_route(limiter, now, others=False)
        assert is_closed


def test_a_probe_of_a_route_with_a_problem() -> None:
    """The rejection of a probe that is its route's own keeps nobody waiting any longer."""
    limiter, now = make(), 0.0
    for _ in range(3):
        _, now = reject_route(limiter, now, others=True)
    now = limiter.next_send(now) + 1
    limiter.rejected(let_one_out(limiter, now, route="c"), now, 5.0, 0.0)
    limiter.rejected(let_one_out(limiter, now + 5, route="a"), now + 5.125, 60.0, 0.0)
    assert limiter.closed_until == now + 5
    assert let_one_out(limiter, now + 5.125).is_probe


# --- Early probes


def test_an_early_probe() -> None:
    """One request leaves before the server's wait has passed; its answer opens the gate."""
    limiter = closed(retry_after=10.0, early_probe=True)
    assert limiter.next_send(0.0) == pytest.approx(0.1)
    assert limiter.shut_until == -INF
    probe = let_one_out(limiter, 0.125)
    assert probe.is_probe
    assert limiter.next_send(0.125) == 10.0
    limiter.answered(probe, 0.25)
    assert limiter.closed_until is None


@pytest.mark.parametrize(("retry_after", "due"), [(None, 0.1), (0.125, 0.125), (0.2, 0.2), (0.25, 0.1), (1.0, 0.1)])
def test_a_short_wait_has_no_early_probe(retry_after: float | None, due: float) -> None:
    """Where the wait is not above twice the back-off, nothing is gained by an early probe."""
    limiter = closed(retry_after=retry_after, early_probe=True)
    assert limiter.next_send(0.0) == pytest.approx(due)
    assert (limiter.shut_until == -INF) is (due < (retry_after or 0.0))


def test_without_early_probes() -> None:
    """Where early probes are not wanted, nothing leaves before the wait has passed."""
    assert closed(retry_after=10.0).next_send(0.0) == 10.0


@pytest.mark.parametrize("ends", ["cancelled", "failed"])
def test_an_early_probe_without_an_answer(ends: str) -> None:
    """An early probe that ends without an answer has no second one follow it before the wait has passed."""
    limiter = closed(retry_after=10.0, early_probe=True)
    limiter.dropped(let_one_out(limiter, 0.125), 0.25, has_failed=ends == "failed")
    assert limiter.next_send(0.25) == limiter.shut_until == 10.0


def test_a_notice_gets_no_early_probe() -> None:
    """What the server says is left is not put to the test."""
    limiter = make(early_probe=True)
    advertise(limiter, 0.0, remaining=0, reset=10.0)
    assert limiter.next_send(0.0) == 10.0


def closures_with_early_probes(count: int, served: Callable[[int], bool]) -> list[bool]:
    """Say of each of so many closures whether it had an early probe; ``served`` says which of those are answered."""
    limiter, now, early = make(early_probe=True), 0.0, list[bool]()
    for number in range(count):
        now = max(now, limiter.next_send(now)) + 1
        limiter.rejected(let_one_out(limiter, now), now, 60.0, 0.0)
        due = limiter.next_send(now)
        early.append(due < now + 60.0)
        probe = let_one_out(limiter, due)
        if early[-1] and not served(number):
            limiter.rejected(probe, due, 60.0, 0.0)
            due = limiter.next_send(due)
            probe = let_one_out(limiter, due)
        now = due + LATENCY
        limiter.answered(probe, now)
        assert limiter.closed_until is None
    return early


def test_early_probes_that_are_rejected_become_rare() -> None:
    """After one early probe in vain the next closure has none, then the next three, then seven, then always fifteen."""
    early = closures_with_early_probes(64, lambda number: False)
    assert [number for number, is_early in enumerate(early) if is_early] == [0, 2, 6, 14, 30, 46, 62]


def test_early_probes_that_are_answered_stay() -> None:
    """As long as early probes are answered, each closure has one; an answer makes up for those in vain."""
    assert all(closures_with_early_probes(20, lambda number: True))
    early = closures_with_early_probes(16, lambda number: number == 6)
    assert [number for number, is_early in enumerate(early) if is_early] == [0, 2, 6, 7, 9, 13]


def test_a_probe_in_its_time_is_no_early_one() -> None:
    """A probe that is rejected although the wait had passed says nothing about early probes."""
    limiter = closed(retry_after=10.0, early_probe=True)
    limiter.dropped(let_one_out(limiter, 0.125), 0.25, has_failed=False)
    limiter.rejected(let_one_out(limiter, 10.0), 10.0, 10.0, 0.0)
    limiter.answered(let_one_out(limiter, 20.0), 20.5)
    limiter.rejected(let_one_out(limiter, 20.5), 20.5, 10.0, 0.0)
    assert limiter.next_send(20.5) == pytest.approx(20.6)


# --- What the server says of its limits


def test_no_more_under_way_than_are_left() -> None:
    """Requests under way may not be counted yet: no more of them than the server says it takes."""
    limiter = make()
    advertise(limiter, 0.0, remaining=3, reset=10.0)
    tickets = let_out(limiter, 0.0, 3)
    assert limiter.next_send(0.0) == 10.0
    limiter.answered(tickets[0], 1.0)
    assert may_leave(limiter, 1.0)
    let_one_out(limiter, 1.0)
    assert limiter.next_send(1.0) == 10.0
    let_out(limiter, 10.0, 2)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ((5, 10.0), (3, 9.5), 3),  # less in the same window
        ((3, 10.0), (5, 9.5), 3),  # more in the same window: overtaken
        ((3, 10.0), (5, 11.0), 3),  # reset moved by 1.5 s
        ((3, 10.0), (5, 11.0625), 5),  # by more
        ((3, 10.0), (5, 8.0), 3),  # by 1.5 s the other way
        ((3, 10.0), (5, 7.9375), 5),  # by more
        ((3, 0.25), (5, 0.25), 5),  # the first window has passed
        ((3, 0.5), (5, 1.0), 5),  # passed this moment
        ((3, None), (5, None), 5),  # no telling
        ((3, None), (5, 10.0), 5),
        ((3, 10.0), (5, None), 5),
        ((3, 10.0), (None, 9.5), 3),
        ((3, 10.0), (None, None), 3),
    ],
)
def test_what_is_left_in_a_window(
    first: tuple[int | None, float | None], second: tuple[int | None, float | None], left: int
) -> None:
    """Answers overtake one another: within one window, the least that is left holds."""
    limiter = make()
    advertise(limiter, 0.0, *first)
    advertise(limiter, 0.5, *second)
    let_out(limiter, 0.5, left)
    assert not may_leave(limiter, 0.5)


def test_what_is_left_for_a_time_unknown() -> None:
    """When the server does not say until when, what is left holds until it says more."""
    limiter = make()
    advertise(limiter, 0.0, remaining=1)
    ticket = let_one_out(limiter, 0.0)
    assert limiter.next_send(1e6) == INF
    limiter.answered(ticket, 1.0)
    advertise(limiter, 1.0, remaining=20)
    let_out(limiter, 1.0, 10)


def test_nothing_left_for_a_time_unknown() -> None:
    """That nothing is left, for a time that the server does not say, is no use."""
    limiter = make()
    advertise(limiter, 0.0, remaining=0)
    assert limiter.closed_until is None
    let_out(limiter, 0.0, 10)


def test_nothing_left() -> None:
    """When nothing is left, the gate closes until more is, opens to a probe, and nothing is learned."""
    changes: list[Change] = []
    limiter = make(changes=changes)
    now = serve(limiter, 0.0, 10)
    advertise(limiter, now, remaining=0, reset=5.0)
    assert limiter.closed_until == limiter.next_send(now) == limiter.shut_until == now + 5
    limiter.answered(let_one_out(limiter, now + 5), now + 6)
    assert (limiter.rate, limiter.limit, limiter.rejections) == (INF, 16, 0)
    let_out(limiter, now + 6, 16)
    assert changes == [Change.CLOSED, Change.OPENED]


def test_nothing_left_for_no_time() -> None:
    """When more is left at once, a probe goes at once."""
    limiter = make()
    advertise(limiter, 1.0, remaining=0, reset=0.0)
    assert let_one_out(limiter, 1.0).is_probe


@pytest.mark.parametrize(("reset", "closed_until"), [(0.5, 2.0), (10.0, 11.0)])
def test_nothing_left_while_closed(reset: float, closed_until: float) -> None:
    """That nothing is left moves an opening to later, never to sooner, and the rejection is still learned from."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    limiter.rejected(two, 1.0, 1.0, 0.0)
    advertise(limiter, 1.0, remaining=0, reset=reset)
    assert limiter.closed_until == closed_until
    limiter.answered(let_one_out(limiter, closed_until), closed_until + 0.5)
    assert limiter.rate < INF


def test_a_rejection_after_nothing_was_left() -> None:
    """A rejection while nothing is left moves the opening to later; there is nothing in it to learn."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    advertise(limiter, 0.5, remaining=0, reset=1.0)
    limiter.rejected(two, 1.0, 3.0, 0.0)
    assert limiter.closed_until == 4.0
    limiter.answered(let_one_out(limiter, 4.0), 4.5)
    assert limiter.rate == INF


def test_an_early_answer_does_not_bring_back_what_is_left() -> None:
    """When an early probe is answered although nothing is left, nothing more leaves until there is."""
    limiter = make(early_probe=True)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, 5.0, 0.0)
    advertise(limiter, 0.0, remaining=0, reset=5.0)
    limiter.answered(let_one_out(limiter, 0.125), 0.25)
    assert limiter.closed_until is None
    assert limiter.next_send(0.25) == 5.0


@pytest.mark.parametrize(("concurrency", "limit"), [(0, 1), (1, 1), (5, 5), (1000, 10)])
def test_how_many_at_a_time(concurrency: int, limit: int) -> None:
    """The server's number of requests at a time is kept, but for one, without which nothing would ever change."""
    limiter = make()
    advertise(limiter, 0.0, concurrency=concurrency)
    assert limiter.limit == limit
    let_out(limiter, 0.0, limit)
    assert not may_leave(limiter, 0.5)
    assert may_leave(limiter, 1e6) is (concurrency == 1000)


def test_how_many_at_a_time_may_change() -> None:
    """The last number holds, and silence changes nothing."""
    limiter = make()
    advertise(limiter, 0.0, concurrency=2)
    advertise(limiter, 1.0, remaining=50, reset=1.0)
    assert limiter.limit == 2
    advertise(limiter, 2.0, concurrency=7)
    assert limiter.limit == 7


# --- What is told


def test_changes() -> None:
    """A closure is told once, however often it is extended; an opening, and then a lesson."""
    changes: list[Change] = []
    limiter = make(changes=changes)
    one, two, three = let_out(limiter, 0.0, 3)
    limiter.rejected(one, 0.0, 1.0, 0.0)
    limiter.rejected(two, 0.5, 1.0, 0.0)
    assert changes == [Change.CLOSED]
    limiter.answered(three, 1.0)
    limiter.rejected(let_one_out(limiter, 1.5), 1.5, 1.0, 0.0)
    assert changes == [Change.CLOSED]
    limiter.answered(let_one_out(limiter, 2.5), 2.625)
    assert changes == [Change.CLOSED, Change.OPENED, Change.LEARNED]


def test_changes_are_told_when_they_are_made() -> None:
    """Whoever is told of a change sees the new state."""
    seen: list[tuple[Change, bool, bool]] = []

    def look(change: Change) -> None:
        seen.append((change, limiter.closed_until is None, limiter.rate < INF))

    limiter = Limiter(max_in_flight=MAX, on_change=look)
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    limiter.rejected(two, 1.0, None, 0.0)
    serve(limiter, 2.0)
    assert seen == [(Change.CLOSED, False, False), (Change.OPENED, True, True), (Change.LEARNED, True, True)]


def test_nobody_needs_to_listen() -> None:
    """A Limiter that is told to tell nobody works as well."""
    limiter = Limiter(max_in_flight=MAX)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, None, 0.0)
    serve(limiter, 1.0)
    assert limiter.closed_until is None


def test_idle() -> None:
    """Idle is what has nothing under way, and would let a request out."""
    limiter = make()
    ticket = let_one_out(limiter, 0.0)
    assert not limiter.is_idle(0.0)
    limiter.rejected(ticket, 0.0, None, 0.0)
    assert not limiter.is_idle(0.05)
    assert limiter.is_idle(1.0)
    probe = let_one_out(limiter, 1.0)
    assert not limiter.is_idle(1.0)
    limiter.answered(probe, 1.125)
    assert limiter.is_idle(1.125)
    assert not probe.is_out


def test_when_it_may_open_at_the_earliest() -> None:
    """While a probe is under way, the gate may open at any time; without one, not before the wait has passed."""
    limiter = closed(retry_after=5.0)
    assert limiter.shut_until == 5.0
    probe = let_one_out(limiter, 5.0)
    assert limiter.shut_until == -INF
    limiter.rejected(probe, 5.5, 5.0, 0.0)
    assert limiter.shut_until == 10.5
    limiter.answered(let_one_out(limiter, 10.5), 11.0)
    assert limiter.shut_until == -INF


# --- Whatever happens, in whatever order

QUEUED = 50
SHORTEST_LEASE = 1.0
LONGEST_BACKOFF = 10.0

seconds = st.sampled_from([0.0, 0.001, 0.02, 0.125, 0.5, 1.0, 2.5, 30.0]) | st.floats(0.0, 100.0)
waits = st.none() | st.sampled_from([0.5, 1.0, 5.0]) | st.floats(0.001, 60.0)
fractions = st.sampled_from([0.0, 0.5, 1.0])
positions = st.integers(0, 9)


class AnyOrder(RuleBasedStateMachine):
    """Requests that leave and end in any order, and a server that says anything; in the end, it answers everything.

    What the Limiter may do is told here in terms of what its caller sees, and of nothing inside it. There is one route,
    and so none that has a problem of its own, and there are no early probes.
    """

    early_probe = False
    routes = 1

    @initialize(max_in_flight=st.sampled_from([1, 2, 3, 100]), slow_start=st.booleans(), latency=fractions)
    def begin(self, max_in_flight: int, slow_start: bool, latency: float) -> None:
        """Make the Limiter."""
        self.max_in_flight = max_in_flight
        self.latency = latency  # in the end
        self.changes: list[Change] = []
        self.limiter = make(
            max_in_flight=max_in_flight, slow_start=slow_start, early_probe=self.early_probe, changes=self.changes
        )
        self.now = 0.0
        self.out: list[Ticket] = []
        self.probes: list[Ticket] = []  # of the closure
        self.not_before = -INF  # the end of the longest Retry-After
        self.ends = 0

    @rule(by=seconds)
    def wait(self, by: float) -> None:
        """Let time pass."""
        self.now += by

    @rule()
    def wait_for_the_next(self) -> None:
        """Let time pass until a request may leave, if time alone can tell."""
        due = self.limiter.next_send(self.now)
        if due < INF:
            self.now = max(self.now, due)

    @precondition(lambda self: may_leave(self.limiter, self.now))
    @rule(route=positions, has_waited=st.booleans())
    def send(self, route: int, has_waited: bool) -> None:
        """Let a request out, and see whether it is right that it may leave."""
        self.see_whether_one_may_leave()
        ticket = self.limiter.send(self.now, lambda: str(route % self.routes), has_waited=has_waited)
        assert ticket.is_probe is (self.limiter.closed_until is not None)
        self.out.append(ticket)
        if ticket.is_probe:
            self.probes.append(ticket)

    def see_whether_one_may_leave(self) -> None:
        """See that there is room, that the server's wait has passed, and that no other probe has just left."""
        assert self.now >= self.not_before
        self.see_whether_there_is_room()
        assert self.limiter.closed_until is None or self.now >= self.limiter.closed_until

    def see_whether_there_is_room(self) -> None:
        """See that not too many requests are under way, and no more than one probe within its lease."""
        assert self.limiter.in_flight < self.max_in_flight
        assert all(self.now >= probe.sent_at + SHORTEST_LEASE for probe in self.probes if probe.is_out)

    @precondition(lambda self: self.out)
    @rule(position=positions)
    def answered(self, position: int) -> None:
        """Answer a request."""
        self.limiter.answered(self.end(position), self.now)

    @precondition(lambda self: self.out)
    @rule(position=positions, retry_after=waits, jitter=fractions, is_doubtful=st.booleans())
    def rejected(self, position: int, retry_after: float | None, jitter: float, is_doubtful: bool) -> None:
        """Reject a request."""
        is_doubtful = is_doubtful and retry_after is None
        self.limiter.rejected(self.end(position), self.now, retry_after, jitter, is_doubtful=is_doubtful)
        self.not_before = max(self.not_before, self.now + (retry_after or 0.0))

    @precondition(lambda self: self.out)
    @rule(position=positions, has_failed=st.booleans())
    def dropped(self, position: int, has_failed: bool) -> None:
        """End a request without an answer."""
        self.limiter.dropped(self.end(position), self.now, has_failed=has_failed)
        self.ends -= 1

    @rule(remaining=st.none() | st.integers(0, 5), reset=st.none() | st.floats(0.0, 60.0))
    def advertised(self, remaining: int | None, reset: float | None) -> None:
        """Say how many requests are left."""
        advertise(self.limiter, self.now, remaining, reset)

    @rule(concurrency=st.integers(0, 5))
    def advertised_concurrency(self, concurrency: int) -> None:
        """Say how many are taken at a time."""
        advertise(self.limiter, self.now, concurrency=concurrency)

    def end(self, position: int) -> Ticket:
        """Take one of the requests that are under way."""
        self.ends += 1
        return self.out.pop(position % len(self.out))

    @invariant()
    def is_consistent(self) -> None:
        """See that the counts are right, and the numbers sensible."""
        limiter = self.limiter
        is_open = limiter.closed_until is None
        assert limiter.in_flight == len(self.out)
        assert limiter.accepted + limiter.rejections == self.ends
        assert limiter.rate > 0
        assert 1 <= limiter.limit <= self.max_in_flight
        assert limiter.closed_until is None or math.isfinite(limiter.closed_until)
        assert limiter.shut_until in {-INF, limiter.closed_until}
        assert limiter.is_idle(self.now) is (not self.out and (limiter.closed_until or 0.0) <= self.now)
        assert not math.isnan(limiter.next_send(self.now))
        assert self.changes.count(Change.CLOSED) - self.changes.count(Change.OPENED) == (not is_open)
        if is_open:
            self.probes.clear()

    def teardown(self) -> None:
        """See that as soon as all requests are answered, all that are queued get out, in a time that has a bound."""
        began = self.now
        wait = max(self.limiter.closed_until or began, began) - began
        # The latency is always the same, so the answers come in the order of the requests.
        answers = deque([began + self.latency] * len(self.out))
        queued = QUEUED
        while queued:
            due = max(self.now, self.limiter.next_send(self.now))
            if answers and answers[0] <= due:
                self.now = answers.popleft()
                self.answered(0)
            else:
                assert due < INF
                self.now = due
                self.send(0, has_waited=True)
                answers.append(due + self.latency)
                queued -= 1
            self.is_consistent()
        # The slowest rate that can be learned is one request in all the time that it took to learn it.
        slowest = began + wait + LONGEST_BACKOFF + 4 * self.latency
        assert self.now - began <= QUEUED * slowest


class AnyOrderWithEarlyProbes(AnyOrder):
    """The same, with early probes, and routes that may have problems of their own."""

    early_probe = True
    routes = 3

    def see_whether_one_may_leave(self) -> None:
        """See that there is room, and that a closure has no more than one early probe."""
        self.see_whether_there_is_room()
        if self.limiter.closed_until is not None and self.now < self.limiter.closed_until:
            assert not self.probes


@pytest.mark.parametrize("machine", [AnyOrder, AnyOrderWithEarlyProbes])
def test_any_order(machine: type[RuleBasedStateMachine]) -> None:
    """In whatever order requests leave and end, no rule is broken, and the gate opens again."""
    run_state_machine_as_test(machine, settings=settings(max_examples=150, stateful_step_count=40))


# --- Whole crowds, against servers in virtual time

CROWD = 300
HALF_TRIP, SERVICE, SLOW_SERVICE = 0.01, 0.005, 0.1
RETRIES = 5


class Server(Protocol):
    """A rate-limited server."""

    service: float

    def arrive(self, now: float) -> int | None:
        """Take a request in, or give its Retry-After."""


class Bucket:
    """Fifty per second, and ten at once."""

    service = SERVICE

    def __init__(self) -> None:
        self.tokens, self.filled_at = 10.0, 0.0

    def arrive(self, now: float) -> int | None:
        self.tokens = min(self.tokens + (now - self.filled_at) * 50, 10.0)
        self.filled_at = now
        if self.tokens < 1:
            return math.ceil((1 - self.tokens) / 50)
        self.tokens -= 1
        return None


class Window:
    """A hundred in each ten seconds; the first window has begun before."""

    service = SERVICE

    def __init__(self) -> None:
        self.ends_at, self.left = 3.5, 100

    def arrive(self, now: float) -> int | None:
        while now >= self.ends_at:
            self.ends_at, self.left = self.ends_at + 10, 100
        if not self.left:
            return math.ceil(self.ends_at - now)
        self.left -= 1
        return None


class Few:
    """Five at a time, each of which takes a while; a second to wait for all others."""

    service = SLOW_SERVICE

    def __init__(self) -> None:
        self.done_at: list[float] = []

    def arrive(self, now: float) -> int | None:
        self.done_at = [done_at for done_at in self.done_at if done_at > now]
        if len(self.done_at) >= 5:
            return 1
        self.done_at.append(now + SLOW_SERVICE)
        return None


class Crowd:
    """Requests that all come at once, each with its own retries behind the same gate.

    Attributes:
        rejected: how many rejections there were.
        most_rejections: how many of them met with the same request.
    """

    def __init__(self, limiter: Limiter, server: Server, seed: int) -> None:
        self.rejected = 0
        self.most_rejections = 0
        self._limiter = limiter
        self._server = server
        self._random = random.Random(seed)
        self._queue = deque([0] * CROWD)  # the rejections that each has met with
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = itertools.count()

    def run(self) -> float:
        """Go on until all are served; give the time."""
        now = 0.0
        while self._queue or self._events:
            due = max(now, self._limiter.next_send(now)) if self._queue else INF
            if self._events and self._events[0][0] <= due:
                now, _, happen = heapq.heappop(self._events)
                happen(now)
            else:
                assert due < INF
                now = due
                self._send(now, self._queue.popleft())
        return now

    def _send(self, now: float, rejections: int) -> None:
        ticket = self._limiter.send(now, has_waited=now > 0)
        self._at(now + self._half_trip(), lambda now: self._arrive(now, ticket, rejections))

    def _arrive(self, now: float, ticket: Ticket, rejections: int) -> None:
        retry_after = self._server.arrive(now)
        if retry_after is None:
            arrives = now + self._server.service + self._half_trip()
            self._at(arrives, lambda now: self._limiter.answered(ticket, now))
        else:
            self._at(now + self._half_trip(), lambda now: self._reject(now, ticket, retry_after, rejections + 1))

    def _reject(self, now: float, ticket: Ticket, retry_after: int, rejections: int) -> None:
        self.rejected += 1
        self.most_rejections = max(self.most_rejections, rejections)
        self._limiter.rejected(ticket, now, retry_after, self._random.random())
        self._at(now + retry_after, lambda now: self._queue.append(rejections))

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._count), happen))

    def _half_trip(self) -> float:
        return HALF_TRIP * self._random.uniform(0.9, 1.1)


@pytest.mark.parametrize("early_probe", [False, True])
@pytest.mark.parametrize(
    ("server", "ideal", "rejected"),
    [
        (Bucket, 5.825, 0.1),
        # All but one of these are under way when the first window is found to be used up, which is a matter of the slow
        # start alone: with more requests, the share is smaller.
        (Window, 13.525, 0.12),
        (Few, 7.2, 0.02),
    ],
)
def test_a_crowd(server: Callable[[], Server], ideal: float, rejected: float, early_probe: bool) -> None:
    """Of three hundred requests at once none fails, few are rejected, and it takes less than twice the least time."""
    limiter = make(early_probe=early_probe)
    crowd = Crowd(limiter, server(), seed=1)
    assert crowd.run() < 2 * ideal
    assert crowd.most_rejections <= RETRIES
    assert crowd.rejected == limiter.rejections <= CROWD * rejected
    assert (limiter.accepted, limiter.in_flight) == (CROWD, 0)


@pytest.mark.parametrize(("reset", "closes"), [(86_400.0, True), (86_401.0, False), (1e9, False)])
def test_resets_beyond_a_day_are_mistakes(reset: float, closes: bool) -> None:
    """No server says that nothing is left for years; an epoch in the place of seconds does."""
    limiter = make()
    advertise(limiter, 0.0, remaining=0, reset=reset)
    assert (limiter.closed_until is not None) is closes


def test_probe_that_is_answered_after_another_has_opened_the_gate() -> None:
    """Where a second probe was let out since the first stayed out, the first one's answer is one like any other."""
    limiter = make()
    advertise(limiter, 0.0, remaining=0, reset=1.0)
    first, second = let_one_out(limiter, 1.0), let_one_out(limiter, 2.0)
    limiter.answered(second, 2.125)
    assert limiter.closed_until is None
    limiter.answered(first, 2.25)
    assert (limiter.closed_until, limiter.in_flight, limiter.accepted) == (None, 0, 2)
