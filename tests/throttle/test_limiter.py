"""What a Limiter lets through, and what it learns: no clock, no event loop.

Most times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import math

import pytest
from support.limiters import INF, LATENCY, MAX, advertise, answer, fill, let_one_out, let_out, make, may_leave, serve
from support.rows import each_row

from prefect_http._throttle.curve import Curve
from prefect_http._throttle.limiter import Change, Limiter
from prefect_http._throttle.ticket import Ticket


def closed(*, retry_after: float | None = 1.0, early_probe: bool = False) -> Limiter:
    """Return a Limiter whose first request was rejected at 0."""
    limiter = make(early_probe=early_probe)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, retry_after, 0.0)
    return limiter


# The history in taught(): ten requests are sent at 0 and answered, the next one is sent at 1 and rejected with a
# Retry-After of two seconds, and the probe leaves when they have passed.
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
) -> tuple[Limiter, float]:
    """Return a Limiter that has been through a closure, and the time at which the gate opened."""
    limiter = make(max_in_flight=max_in_flight, slow_start=False)
    first = let_out(limiter, 0.0, accepted)
    if hit:
        answer(limiter, first, latency)
        rejected = let_one_out(limiter, hit)
    else:
        rejected = let_one_out(limiter, hit)
        answer(limiter, first, latency)
    limiter.rejected(rejected, hit + latency, retry_after, 0.0)
    opens_at = limiter.closed_until
    assert opens_at is not None
    probe = let_one_out(limiter, opens_at)
    limiter.answered(probe, opens_at + latency)
    return limiter, opens_at + latency


# --- Before the first rejection


def test_a_new_limiter() -> None:
    """A new Limiter knows no rate, allows ten requests at a time, and its gate is open."""
    limiter = make()
    assert (limiter.rate, limiter.limit, limiter.closed_until, limiter.in_flight) == (INF, 10, None, 0)
    assert (limiter.accepted, limiter.rejections, limiter.is_idle(0.0), limiter.shut_until) == (0, 0, True, -INF)


def test_the_first_ten_leave_at_once() -> None:
    """Ten requests leave at once; the eleventh waits for an answer, or for a second if none comes."""
    limiter = make()
    tickets = let_out(limiter, 5.0, 10)
    assert limiter.next_send(5.0) == 6.0
    assert limiter.in_flight == 10
    limiter.answered(tickets[3], 5.0)
    assert may_leave(limiter, 5.0)


@each_row(
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


def test_sure_room() -> None:
    """While nothing is known, so many may leave without a question; what a response says ends that at once."""
    limiter = make()
    assert limiter.sure_room == 0
    limiter.next_send(0.0)
    assert limiter.sure_room == 10
    advertise(limiter, 0.0, concurrency=1)
    assert limiter.sure_room == 0
    limiter.next_send(0.0)
    assert limiter.sure_room == 1
    ticket = let_one_out(limiter, 0.0)
    limiter.rejected(ticket, 0.0, 5.0, 0.0)
    assert (limiter.sure_room, may_leave(limiter, 4.0), limiter.sure_room) == (0, False, 0)
    limiter = make()
    advertise(limiter, 0.0, remaining=3, reset=5.0)
    assert (may_leave(limiter, 0.0), limiter.sure_room) == (True, 0)


@each_row("slow_start", [True, False])
@each_row("max_in_flight", [1, 3])
def test_max_in_flight(max_in_flight: int, slow_start: bool) -> None:
    """No more than max_in_flight requests are under way, however long ago the last one left."""
    limiter = make(max_in_flight=max_in_flight, slow_start=slow_start)
    assert limiter.limit == max_in_flight
    now = serve(limiter, 0.0, 50)
    let_out(limiter, now, max_in_flight)
    assert limiter.next_send(now + 1e6) == INF


def test_one_more_goes_after_four_latencies() -> None:
    """If the window is full, one more request leaves each time that nothing has left for four latencies."""
    limiter = make()
    now = serve(limiter, 0.0, 2)
    fill(limiter, now)
    assert limiter.next_send(now) == now + 4 * LATENCY
    let_one_out(limiter, now + 4 * LATENCY)
    assert limiter.next_send(now + 4 * LATENCY) == now + 8 * LATENCY


@pytest.mark.parametrize("count", [1, 10])
def test_a_latency_of_zero(count: int) -> None:
    """If answers take no time at all, no latency is known, and a full window lets out one more request each second."""
    limiter = make()
    answer(limiter, let_out(limiter, 0.0, count), 0.0)
    fill(limiter, 0.0)
    assert limiter.next_send(0.0) == 1.0


# --- A rejection


@each_row(
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
    """The gate closes for Retry-After or the backoff, whichever is longer, plus jitter: a tenth, at most 0.25 s."""
    limiter = make()
    limiter.rejected(let_one_out(limiter, 7.0), 8.0, retry_after, jitter)
    assert limiter.closed_until == pytest.approx(8.0 + wait)
    assert limiter.next_send(8.0) == limiter.closed_until == limiter.shut_until
    assert (limiter.in_flight, limiter.rejections, limiter.accepted, limiter.is_idle(8.0)) == (0, 1, 0, False)


@each_row(("second", "closed_until"), [(5.0, 6.0), (1.0, 2.0), (0.5, 1.5), (None, 1.5)])
def test_later_rejections_only_extend(second: float | None, closed_until: float) -> None:
    """While the gate is closed, a rejection may move its opening to later, never to sooner."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.5, 1.0, 0.0)
    limiter.rejected(two, 1.0, second, 0.0)
    assert limiter.closed_until == closed_until


def test_the_first_rejection_of_a_closure_teaches() -> None:
    """What is learned is what was accepted before the first of the rejected requests was sent."""
    limiter, _ = taught()
    other = make(slow_start=False)
    answer(other, let_out(other, 0.0, 10), LATENCY)
    first, second = let_one_out(other, 1.0), let_one_out(other, REJECTED_AT)
    other.rejected(first, REJECTED_AT, 2.0, 0.0)
    other.rejected(second, REJECTED_AT + LATENCY, 0.5, 0.0)
    other.answered(let_one_out(other, PROBED_AT), TAUGHT_AT)
    assert other.rate == limiter.rate


@pytest.mark.parametrize(("polls", "seconds"), [(1, 3600.0), (60, 60.0), (600, 0.5)])
def test_pauses_teach_nothing(polls: int, seconds: float) -> None:
    """A request now and then, for a while before the others, does not lower the rate that these teach."""
    limiter = make(slow_start=False)
    for number in range(polls):
        now = (number - polls) * seconds
        answer(limiter, [let_one_out(limiter, now, has_waited=False)], now + LATENCY)
    first = let_one_out(limiter, 0.0, has_waited=False)
    answer(limiter, [first, *let_out(limiter, 0.0, 9)], LATENCY)
    limiter.rejected(let_one_out(limiter, 1.0), REJECTED_AT, 2.0, 0.0)
    limiter.answered(let_one_out(limiter, PROBED_AT), TAUGHT_AT)
    assert limiter.rate == pytest.approx(TAUGHT.rate(0))


@pytest.mark.parametrize("after_pause", [0, 1])
def test_a_pause_teaches_no_lower_rate(after_pause: int) -> None:
    """What came after a pause only counts if more requests were accepted per second than in the whole cycle."""
    limiter = make(slow_start=False)
    answer(limiter, let_out(limiter, 0.0, 10 - after_pause), LATENCY)
    requests = let_out(limiter, 1.0, 1 + after_pause, has_waited=False)
    answer(limiter, requests[1:], REJECTED_AT)
    limiter.rejected(requests[0], REJECTED_AT, 2.0, 0.0)
    limiter.answered(let_one_out(limiter, PROBED_AT), TAUGHT_AT)
    assert limiter.rate == pytest.approx(TAUGHT.rate(0))


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


def test_a_rejected_probe_doubles_the_backoff() -> None:
    """Each rejected probe doubles the backoff, up to ten seconds; an answer resets it."""
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
    """A probe that fails on the network doubles the backoff, up to ten seconds."""
    limiter = closed(retry_after=None)
    now, waits = 0.125, list[float]()
    for _ in range(8):
        limiter.dropped(let_one_out(limiter, now), now, has_failed=True)
        assert limiter.closed_until is not None
        waits.append(limiter.closed_until - now)
        now = limiter.closed_until
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    assert limiter.rejections == 1


def test_after_a_cancelled_probe_the_next_request_leaves() -> None:
    """If the probe is cancelled, the next request is the probe at once, and the backoff stays as it was."""
    limiter = closed(retry_after=None)
    for now in (0.125, 0.25, 0.375):
        limiter.dropped(let_one_out(limiter, now), now + 0.0625, has_failed=False)
    assert may_leave(limiter, 0.4375)
    limiter.rejected(let_one_out(limiter, 0.5), 0.5, None, 0.0)
    assert limiter.closed_until == pytest.approx(0.7)


@pytest.mark.parametrize("has_failed", [True, False])
def test_other_requests_without_an_answer_change_nothing(has_failed: bool) -> None:
    """A request that ends without an answer, and is not a probe, only ceases to be under way."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.dropped(one, 0.5, has_failed=has_failed)
    assert (limiter.in_flight, limiter.closed_until, limiter.limit, limiter.accepted) == (1, None, 10, 0)
    limiter.rejected(let_one_out(limiter, 0.5), 0.5, None, 0.0)
    limiter.dropped(two, 0.5, has_failed=has_failed)
    assert limiter.closed_until == pytest.approx(0.6)
    assert limiter.in_flight == 0


@each_row(("latency", "lease"), [(None, 1.0), (0.0, 1.0), (0.125, 1.0), (0.25, 1.0), (0.5, 2.0)])
def test_a_probe_without_an_answer(latency: float | None, lease: float) -> None:
    """If a probe is not answered within a second or four latencies, another one follows it."""
    limiter = make()
    if latency is not None:
        answer(limiter, let_out(limiter, 0.0), latency)
    limiter.rejected(let_one_out(limiter, 1.0), 1.0, 1.0, 0.0)
    let_one_out(limiter, 2.0)
    assert limiter.next_send(2.0) == 2.0 + lease
    let_one_out(limiter, 2.0 + lease)
    assert limiter.next_send(2.0 + lease) == 2.0 + 2 * lease


@pytest.mark.parametrize("which", [0, 1])
def test_the_answer_to_any_probe_opens_the_gate(which: int) -> None:
    """If a second probe has followed the first, the answer to either opens the gate."""
    limiter = closed()
    probes = [let_one_out(limiter, 1.0), let_one_out(limiter, 2.0)]
    limiter.answered(probes[which], 2.5)
    assert limiter.closed_until is None
    limiter.answered(probes[1 - which], 2.75)
    assert limiter.closed_until is None
    assert limiter.in_flight == 0


def test_a_probe_that_is_answered_after_the_gate_has_opened() -> None:
    """If the answer to a second probe has opened the gate, the answer to the first one counts like any other."""
    limiter = make()
    advertise(limiter, 0.0, remaining=0, reset=1.0)
    first, second = let_one_out(limiter, 1.0), let_one_out(limiter, 2.0)
    limiter.answered(second, 2.125)
    assert limiter.closed_until is None
    limiter.answered(first, 2.25)
    assert (limiter.closed_until, limiter.in_flight, limiter.accepted) == (None, 0, 2)


def test_only_the_last_probe_doubles_the_backoff() -> None:
    """The late rejection of a probe that another one has followed does not double the backoff."""
    limiter = closed(retry_after=None)
    first, second = let_one_out(limiter, 0.125), let_one_out(limiter, 1.125)
    limiter.rejected(first, 1.25, None, 0.0)
    assert limiter.closed_until == pytest.approx(1.35)
    assert limiter.next_send(1.25) == 2.125
    limiter.rejected(second, 1.25, None, 0.0)
    assert limiter.closed_until == pytest.approx(1.45)


def test_an_answer_to_an_earlier_request_opens_nothing() -> None:
    """While the gate is closed, answers to requests that left before count, but do not open it."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.5, 1.0, 0.0)
    limiter.answered(two, 0.75)
    assert limiter.closed_until == 1.5
    assert limiter.accepted == 1


# --- Late rejections


def with_a_late_one() -> tuple[Limiter, Ticket]:
    """Return an open Limiter, and a request that was sent before the closure that it has been through."""
    limiter = make()
    one, late = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 0.0, 1.0, 0.0)
    limiter.answered(let_one_out(limiter, 1.0), 1.125)
    return limiter, late


def test_a_late_rejection_closes_nothing() -> None:
    """If a request of an earlier cycle is rejected when the gate is open again, it stays open."""
    limiter, late = with_a_late_one()
    limiter.rejected(late, 1.25, None, 0.0)
    assert limiter.closed_until is None
    assert (limiter.rejections, limiter.in_flight) == (2, 0)


def test_a_late_rejection_with_retry_after() -> None:
    """The Retry-After of a late rejection is obeyed, but nothing is learned from it."""
    limiter, late = with_a_late_one()
    limiter.rejected(late, 1.25, 5.0, 0.0)
    assert limiter.closed_until == 6.25
    limiter.answered(let_one_out(limiter, 6.25), 6.375)
    assert limiter.rate == INF
    assert may_leave(limiter, 6.375)


@each_row(
    ("now", "retry_after", "closed_until"), [(1.5, None, 3.0), (1.5, 0.5, 3.0), (1.5, 5.0, 6.5), (2.9375, None, 3.0375)]
)
def test_a_late_rejection_while_closed(now: float, retry_after: float | None, closed_until: float) -> None:
    """If the gate is closed again, a late rejection may move its opening to later, never to sooner."""
    limiter, late = with_a_late_one()
    limiter.rejected(let_one_out(limiter, 1.25), 1.25, 1.75, 0.0)
    limiter.rejected(late, now, retry_after, 0.0)
    assert limiter.closed_until == pytest.approx(closed_until)


def test_a_late_answer_belongs_to_no_cycle() -> None:
    """The answer to a request of an earlier cycle moves the curve, but does not count as accepted in this cycle."""
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


@each_row(
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
    """The first rejection teaches a curve from what was accepted before, and from the time that it took in all."""
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


@pytest.mark.parametrize("accepted", [1, 10])
def test_a_server_without_any_latency(accepted: int) -> None:
    """Even if everything happens at the same moment, a rate is learned."""
    limiter, _ = taught(accepted=accepted, hit=0.0, retry_after=None, latency=0.0)
    assert limiter.rate == pytest.approx(math.sqrt(accepted / 0.001 * accepted / 0.1))
    assert limiter.limit == 1


@pytest.mark.parametrize(("slow_start", "limit"), [(True, 10), (False, MAX)])
def test_an_outage_at_the_beginning(slow_start: bool, limit: int) -> None:
    """If nothing was accepted before the gate opens, nothing is learned, and the window is as at the beginning."""
    limiter = make(slow_start=slow_start)
    for ticket in let_out(limiter, 0.0, 10):
        limiter.rejected(ticket, 0.125, 30.0, 0.0)
    limiter.answered(let_one_out(limiter, 30.125), 30.25)
    assert (limiter.rate, limiter.limit, limiter.closed_until) == (INF, limit, None)
    assert len(fill(limiter, 30.25)) == limit


def test_an_outage_later_on() -> None:
    """If only the probe was accepted in a cycle, the rate falls, but the ceiling stays near."""
    limiter, now = taught()
    sent_at = limiter.next_send(now)
    limiter.rejected(let_one_out(limiter, sent_at), sent_at, 300.0, 0.0)
    limiter.answered(let_one_out(limiter, sent_at + 300.0), sent_at + 300.125)
    high, low = 0.95 * TAUGHT.base, 1 / (sent_at + 300.0 - PROBED_AT)
    base = math.sqrt(low * high)
    assert limiter.rate == pytest.approx(base)
    serve(limiter, sent_at + 301.0, 5)
    assert limiter.rate == pytest.approx(Curve(base, high, max(60 * base, 10.0)).rate(5))


@pytest.mark.parametrize(("has_waited", "done"), [(True, 10), (False, 0)])
def test_only_requests_that_waited_raise_the_rate(has_waited: bool, done: int) -> None:
    """Answers to requests that did not have to wait do not show that the server accepts more than now."""
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


@each_row(
    ("latency", "limit"),
    [
        (0.125, 1),
        (0.5, math.ceil(0.5 * math.sqrt(10 * 10 / 3.5))),
        (2.0, math.ceil(2 * math.sqrt(5 * 10 / 6))),
        (8.0, math.ceil(8 * math.sqrt(1.25 * 10 / 18))),
        (256.0, 8),
    ],
)
def test_the_window_is_rate_times_latency(latency: float, limit: int) -> None:
    """No more requests are under way than leave within one latency, but at least one."""
    limiter, now = taught(hit=max(1.0, latency), latency=latency)
    assert limiter.limit == limit
    now = max(now, limiter.next_send(now))
    for _ in range(limit):
        let_one_out(limiter, now)
        now += 1 / limiter.rate
    assert limiter.next_send(now) == now - 1 / limiter.rate + 4 * latency


def test_a_learned_window_is_within_max_in_flight() -> None:
    """No more than max_in_flight requests are under way, however high the rate."""
    limiter, now = taught(latency=0.5, max_in_flight=11)
    now = serve(limiter, now, 1000, latency=0.5)
    assert limiter.rate * 0.5 > 100
    assert limiter.limit == 11
    while limiter.in_flight < 11:
        now = max(now, limiter.next_send(now))
        let_one_out(limiter, now)
    assert limiter.next_send(now) == INF


def test_a_full_window_waits_for_an_answer() -> None:
    """If the window is full, one more request leaves after four latencies, or as soon as one is answered."""
    limiter, now = taught()
    assert limiter.limit == 1
    sent_at = now + 1
    ticket = let_one_out(limiter, sent_at)
    assert limiter.next_send(sent_at) == sent_at + 4 * LATENCY
    limiter.answered(ticket, sent_at + LATENCY)
    assert limiter.next_send(sent_at + LATENCY) == sent_at + 1 / limiter.rate


def test_the_window_follows_the_latency() -> None:
    """A latency that has grown widens the window, by a thirty-second of the difference with each answer."""
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


def doubt(limiter: Limiter, now: float, *, retry_after: float | None = None) -> Ticket:
    """Send a request, as soon as it may leave, and reject it as a fault may be rejected."""
    ticket = let_one_out(limiter, max(now, limiter.next_send(now)))
    limiter.rejected(ticket, ticket.sent_at, retry_after, 0.0, is_doubtful=True)
    return ticket


@each_row("retry_after", [None, 60.0])
@each_row("good", [0, 1, 100])
def test_a_lone_fault(good: int, retry_after: float | None) -> None:
    """One rejection that may be a fault holds back no other request, whatever its Retry-After."""
    limiter = make()
    now = serve(limiter, 0.0, good)
    doubt(limiter, now, retry_after=retry_after)
    assert (limiter.closed_until, limiter.limit) == (None, make_and_serve(good).limit)
    assert (limiter.rejections, limiter.accepted, limiter.in_flight) == (1, good, 0)


def make_and_serve(count: int) -> Limiter:
    """Return a Limiter that has served requests."""
    limiter = make()
    serve(limiter, 0.0, count)
    return limiter


@pytest.mark.parametrize(("good", "closes"), [(0, True), (4, False), (20, False)])
def test_four_faults(good: int, closes: bool) -> None:
    """Four of them in a row close a new gate, but not if requests are accepted in between."""
    limiter, now = make(), 0.0
    for _ in range(4):
        assert limiter.closed_until is None
        now = doubt(limiter, serve(limiter, now, good)).sent_at
    assert limiter.closed_until == (pytest.approx(now + 0.1) if closes else None)


def test_the_longest_retry_after_of_all_suspects() -> None:
    """When they close the gate, it stays closed until the longest Retry-After of all of them has passed."""
    limiter = make()
    for now, retry_after in ((0.0, None), (1.0, 29.0), (2.0, 1.0), (3.0, None)):
        doubt(limiter, now, retry_after=retry_after)
    assert limiter.closed_until == 30.0


def test_a_plain_rejection_is_never_a_fault() -> None:
    """A rejection that is not doubtful closes the gate after any number of good answers."""
    limiter = make()
    now = serve(limiter, 0.0, 100)
    limiter.rejected(let_one_out(limiter, now), now, None, 0.0)
    assert limiter.closed_until == pytest.approx(now + 0.1)


def test_a_late_doubtful_rejection() -> None:
    """A doubtful rejection of an earlier cycle's request closes nothing, and is no evidence."""
    limiter, late = with_a_late_one()
    limiter.rejected(late, 1.25, 60.0, 0.0, is_doubtful=True)
    doubt(limiter, 1.25)
    assert limiter.closed_until is None


def test_suspects_of_the_last_cycle() -> None:
    """What was doubtful before the gate closed for another reason is no evidence afterwards."""
    limiter, now = make(), 0.0
    for _ in range(3):
        now = doubt(limiter, now).sent_at
    limiter.rejected(let_one_out(limiter, now), now, 1.0, 0.0)
    now = serve(limiter, now)
    doubt(limiter, now)
    assert limiter.closed_until is None


def suspicious(*, accepted: int, changes: list[Change] | None = None) -> tuple[Limiter, float]:
    """Return a Limiter that four doubtful rejections have closed, with requests that were accepted afterwards."""
    limiter = make(changes=changes)
    others = let_out(limiter, 0.0, accepted)
    for _ in range(4):
        doubt(limiter, 0.0)
    answer(limiter, others, LATENCY)
    return limiter, limiter.next_send(LATENCY)


def on_trial(changes: list[Change] | None = None) -> tuple[Limiter, float]:
    """Return a Limiter on trial: as many requests were accepted as rejected."""
    limiter, now = suspicious(accepted=3, changes=changes)
    limiter.answered(let_one_out(limiter, now), now + LATENCY)
    assert limiter.closed_until is None
    assert limiter.rate == pytest.approx(0.7 * 4 / LATENCY)
    return limiter, now + LATENCY


def test_faults_teach_nothing() -> None:
    """If a trial shows faults, no rate is learned, and such faults are no surprise any more."""
    changes: list[Change] = []
    limiter, now = on_trial(changes)
    limit = make_and_serve(4).limit
    for _ in range(2):
        now = doubt(limiter, now).sent_at
    assert (limiter.closed_until, limiter.rate, limiter.limit) == (None, INF, limit)
    assert changes == [Change.CLOSED, Change.OPENED]
    for _ in range(4):
        doubt(limiter, now)
    assert limiter.closed_until is None


def test_a_trial_that_shows_a_limit() -> None:
    """If a trial shows a limit, what was learned from the closure holds."""
    changes: list[Change] = []
    limiter, now = on_trial(changes)
    serve(limiter, now, 8)
    assert limiter.rate < INF
    assert limiter.rate != pytest.approx(0.7 * 4 / LATENCY)
    assert changes == [Change.CLOSED, Change.OPENED, Change.LEARNED]


def test_a_plain_rejection_ends_a_trial() -> None:
    """A rejection that is not doubtful ends the trial: there is a limit, a little below the trial's rate at most."""
    limiter, now = on_trial()
    sent_at = max(now, limiter.next_send(now))
    tried = limiter.rate
    limiter.rejected(let_one_out(limiter, sent_at), sent_at, 1.0, 0.0)
    now = serve(limiter, sent_at)
    assert limiter.rate < 0.5 * tried
    serve(limiter, now, 87)
    assert limiter.rate == pytest.approx(0.95 * tried, rel=1e-4)


def test_suspects_during_a_trial_close_nothing() -> None:
    """While a trial is on, no doubtful rejection closes the gate."""
    limiter, now = on_trial()
    late = let_out(limiter, limiter.next_send(now))
    limiter.rejected(late[0], now, None, 0.0, is_doubtful=True)
    assert limiter.closed_until is None
    assert limiter.rate == pytest.approx(0.7 * 4 / LATENCY)


@pytest.mark.parametrize(("accepted", "rejects_surely"), [(2, False), (4, True)])
def test_a_limit_teaches(accepted: int, rejects_surely: bool) -> None:
    """If fewer were accepted, or a rejection that is not doubtful has followed, a rate is learned."""
    limiter, now = suspicious(accepted=accepted)
    probe = let_one_out(limiter, now)
    if rejects_surely:
        limiter.rejected(probe, now, 1.0, 0.0)
        now = limiter.next_send(now)
        probe = let_one_out(limiter, now)
    limiter.answered(probe, now + LATENCY)
    assert limiter.closed_until is None
    assert limiter.rate < INF


@pytest.mark.parametrize("slow_start", [True, False])
def test_a_rate_that_is_not_the_cause(slow_start: bool) -> None:
    """If doubtful rejections go on although the rate was lowered because of them, it is forgotten."""
    limiter = make(slow_start=slow_start)
    now = serve(limiter, 0.0, 20)
    rates = list[float]()
    for _ in range(4):
        while limiter.closed_until is None:
            now = doubt(limiter, now).sent_at
        now = serve(limiter, now, 2)
        rates.append(limiter.rate)
    assert rates[0] > rates[1]
    assert rates[2] == INF
    assert rates[3] < INF


# --- A route's own problem


def reject_route(limiter: Limiter, now: float, *, others: bool) -> tuple[bool, float]:
    """Reject a request of route a, and then serve one of route b; return whether the gate was closed, and the time."""
    now = max(now, limiter.next_send(now))
    limiter.rejected(let_one_out(limiter, now, route="a"), now, 1.0, 0.0)
    is_closed = limiter.closed_until is not None
    if others:
        now = serve(limiter, now, route="b")
    return is_closed, now


def test_a_route_with_a_problem_of_its_own() -> None:
    """From its fourth rejection in a row on, a route does not close the gate if others have been served."""
    limiter, now, closures = make(), 0.0, list[bool]()
    for _ in range(6):
        is_closed, now = reject_route(limiter, now, others=True)
        closures.append(is_closed)
    assert closures == [True, True, True, False, False, False]
    assert limiter.rejections == 6
    now = serve(limiter, now, route="a")
    assert reject_route(limiter, now, others=True)[0]


def test_a_limit_for_all_routes_is_not_one_routes_problem() -> None:
    """If nothing else is served, a route's rejections close the gate each time."""
    limiter, now = make(), 0.0
    for _ in range(6):
        is_closed, now = reject_route(limiter, now, others=False)
        assert is_closed


def test_a_probe_of_a_route_with_a_problem() -> None:
    """If a probe is rejected because of its route's own problem, the gate does not stay closed for longer."""
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


@each_row(("retry_after", "due"), [(None, 0.1), (0.125, 0.125), (0.2, 0.2), (0.25, 0.1), (1.0, 0.1)])
def test_a_short_wait_has_no_early_probe(retry_after: float | None, due: float) -> None:
    """If the wait is at most twice the backoff, there is no early probe."""
    limiter = closed(retry_after=retry_after, early_probe=True)
    assert limiter.next_send(0.0) == pytest.approx(due)
    assert (limiter.shut_until == -INF) is (due < (retry_after or 0.0))


@pytest.mark.parametrize("has_failed", [False, True])
def test_an_early_probe_without_an_answer(has_failed: bool) -> None:
    """If an early probe is cancelled or fails, the next probe leaves only when the server's wait has passed."""
    limiter = closed(retry_after=10.0, early_probe=True)
    limiter.dropped(let_one_out(limiter, 0.125), 0.25, has_failed=has_failed)
    assert limiter.next_send(0.25) == limiter.shut_until == limiter.closed_until == 10.0


def test_no_early_probe_when_nothing_is_left() -> None:
    """If the server says that nothing is left, there is no early probe."""
    limiter = make(early_probe=True)
    advertise(limiter, 0.0, remaining=0, reset=10.0)
    assert limiter.next_send(0.0) == 10.0


@pytest.mark.parametrize(("is_answered", "next_is_early"), [(True, True), (False, False)])
def test_what_early_probes_teach(is_answered: bool, next_is_early: bool) -> None:
    """After an early probe that was rejected the next closure has none; after one that was answered it has one."""
    limiter = closed(retry_after=60.0, early_probe=True)
    probe, now = let_one_out(limiter, 0.125), 0.25
    if not is_answered:
        limiter.rejected(probe, now, 60.0, 0.0)
        now = limiter.next_send(now)
        assert now == 60.25
        probe = let_one_out(limiter, now)
    limiter.answered(probe, now)
    limiter.rejected(let_one_out(limiter, now + 1), now + 1, 60.0, 0.0)
    assert limiter.next_send(now + 1) == pytest.approx(now + 1.1 if next_is_early else now + 61)


def test_a_probe_that_is_not_early() -> None:
    """If a probe is rejected that left after the wait, this says nothing about early probes."""
    limiter = closed(retry_after=10.0, early_probe=True)
    limiter.dropped(let_one_out(limiter, 0.125), 0.25, has_failed=False)
    limiter.rejected(let_one_out(limiter, 10.0), 10.0, 10.0, 0.0)
    limiter.answered(let_one_out(limiter, 20.0), 20.5)
    limiter.rejected(let_one_out(limiter, 20.5), 20.5, 10.0, 0.0)
    assert limiter.next_send(20.5) == pytest.approx(20.6)


# --- A longer backoff


def test_a_backoff_of_its_own() -> None:
    """A rejection may bring its own first backoff, which doubles with each probe that is rejected."""
    limiter = make(early_probe=True)
    one, two, three = let_out(limiter, 0.0, 3)
    limiter.rejected(one, 1.0, None, 0.0)
    assert limiter.closed_until == pytest.approx(1.1)
    limiter.rejected(two, 1.0, None, 0.0, backoff=60.0)
    assert limiter.closed_until == limiter.next_send(1.0) == 61.0, "there is no early probe"
    limiter.rejected(three, 2.0, None, 0.0, backoff=60.0)
    assert limiter.closed_until == 62.0
    limiter.rejected(let_one_out(limiter, 62.0), 62.0, None, 0.0, backoff=60.0)
    assert limiter.closed_until == 62.0 + 120.0
    limiter.rejected(let_one_out(limiter, 182.0), 182.0, 5.0, 0.0)
    assert limiter.closed_until == 182.0 + 240.0


def test_a_backoff_of_its_own_and_a_retry_after() -> None:
    """The longer one of the two holds, also after a late rejection of an earlier cycle's request."""
    limiter = make()
    old, new = let_out(limiter, 0.0, 2)
    limiter.answered(new, 0.5)
    limiter.rejected(let_one_out(limiter, 1.0), 1.0, 90.0, 0.0, backoff=60.0)
    assert limiter.closed_until == 91.0
    limiter.answered(let_one_out(limiter, 91.0), 91.5)
    limiter.rejected(old, 92.0, None, 0.0)
    assert limiter.closed_until is None
    old = let_one_out(limiter, 200.0)
    limiter.rejected(let_one_out(limiter, 300.0), 300.0, None, 0.0, backoff=60.0)
    limiter.answered(let_one_out(limiter, 360.0), 360.5)
    limiter.rejected(old, 361.0, None, 0.0, backoff=60.0)
    assert limiter.closed_until == 421.0


# --- What the server says of its limits


def test_no_more_under_way_than_are_left() -> None:
    """Requests under way may not be counted yet, so no more of them are under way than the server says are left."""
    limiter = make()
    advertise(limiter, 0.0, remaining=3, reset=10.0)
    tickets = let_out(limiter, 0.0, 3)
    assert limiter.next_send(0.0) == 10.0
    limiter.answered(tickets[0], 1.0)
    assert may_leave(limiter, 1.0)
    let_one_out(limiter, 1.0)
    assert limiter.next_send(1.0) == 10.0
    let_out(limiter, 10.0, 2)


def test_requests_left_until_an_unknown_time() -> None:
    """If the server does not say until when, what is left holds until it says more."""
    limiter = make()
    advertise(limiter, 0.0, remaining=1)
    ticket = let_one_out(limiter, 0.0)
    assert limiter.next_send(1e6) == INF
    limiter.answered(ticket, 1.0)
    advertise(limiter, 1.0, remaining=20)
    let_out(limiter, 1.0, 10)


@pytest.mark.parametrize("reset", [None, 0.0])
def test_nothing_left_until_an_unknown_time(reset: float | None) -> None:
    """If the server says that nothing is left but not until when, or until now, this is ignored."""
    limiter = make()
    advertise(limiter, 0.0, remaining=0, reset=reset)
    assert limiter.closed_until is None
    let_out(limiter, 0.0, 10)


def test_nothing_left() -> None:
    """If nothing is left, the gate closes until more is, opens to a probe, and nothing is learned."""
    changes: list[Change] = []
    limiter = make(changes=changes)
    now = serve(limiter, 0.0, 10)
    advertise(limiter, now, remaining=0, reset=5.0)
    assert limiter.closed_until == limiter.next_send(now) == limiter.shut_until == now + 5
    limiter.answered(let_one_out(limiter, now + 5), now + 6)
    assert (limiter.rate, limiter.limit, limiter.rejections) == (INF, 16, 0)
    let_out(limiter, now + 6, 16)
    assert changes == [Change.CLOSED, Change.OPENED]


@pytest.mark.parametrize(("reset", "closed_until"), [(0.5, 2.0), (10.0, 11.0)])
def test_nothing_left_while_closed(reset: float, closed_until: float) -> None:
    """That nothing is left may move the opening to later, never to sooner, and the rejection still teaches."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    limiter.rejected(two, 1.0, 1.0, 0.0)
    advertise(limiter, 1.0, remaining=0, reset=reset)
    assert limiter.closed_until == closed_until
    limiter.answered(let_one_out(limiter, closed_until), closed_until + 0.5)
    assert limiter.rate < INF


def test_a_rejection_after_nothing_was_left() -> None:
    """A rejection while nothing is left moves the opening to later, but teaches nothing."""
    limiter = make()
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    advertise(limiter, 0.5, remaining=0, reset=1.0)
    limiter.rejected(two, 1.0, 3.0, 0.0)
    assert limiter.closed_until == 4.0
    limiter.answered(let_one_out(limiter, 4.0), 4.5)
    assert limiter.rate == INF


def test_an_early_answer_does_not_reset_what_is_left() -> None:
    """If an early probe is answered although nothing is left, nothing more leaves until something is."""
    limiter = make(early_probe=True)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, 5.0, 0.0)
    advertise(limiter, 0.0, remaining=0, reset=5.0)
    limiter.answered(let_one_out(limiter, 0.125), 0.25)
    assert limiter.closed_until is None
    assert limiter.next_send(0.25) == 5.0


@each_row(("concurrency", "limit"), [(0, 1), (1, 1), (5, 5), (1000, 10)])
def test_how_many_at_a_time(concurrency: int, limit: int) -> None:
    """The server's limit of requests at a time is kept, but one is always allowed, or nothing would change."""
    limiter = make()
    advertise(limiter, 0.0, concurrency=concurrency)
    assert limiter.limit == limit
    let_out(limiter, 0.0, limit)
    assert not may_leave(limiter, 0.5)
    assert may_leave(limiter, 1e6) is (concurrency == 1000)


def test_how_many_at_a_time_may_change() -> None:
    """The last number holds, and an answer without one changes nothing."""
    limiter = make()
    advertise(limiter, 0.0, concurrency=2)
    advertise(limiter, 1.0, remaining=50, reset=1.0)
    assert limiter.limit == 2
    advertise(limiter, 2.0, concurrency=7)
    assert limiter.limit == 7


# --- Changes


def test_changes() -> None:
    """A closure is reported once, however often it is extended; then the opening, then what was learned."""
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


def test_changes_are_reported_when_they_are_made() -> None:
    """on_change sees the new state."""
    seen: list[tuple[Change, bool, bool]] = []

    def look(change: Change) -> None:
        seen.append((change, limiter.closed_until is None, limiter.rate < INF))

    limiter = Limiter(max_in_flight=MAX, on_change=look)
    one, two = let_out(limiter, 0.0, 2)
    limiter.answered(one, 0.5)
    limiter.rejected(two, 1.0, None, 0.0)
    serve(limiter, 2.0)
    assert seen == [(Change.CLOSED, False, False), (Change.OPENED, True, True), (Change.LEARNED, True, True)]


def test_on_change_is_optional() -> None:
    """A Limiter works without on_change."""
    limiter = Limiter(max_in_flight=MAX)
    limiter.rejected(let_one_out(limiter, 0.0), 0.0, None, 0.0)
    serve(limiter, 1.0)
    assert limiter.closed_until is None


def test_idle() -> None:
    """A Limiter is idle if no request is under way, and the next one would not have to wait."""
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


def test_shut_until() -> None:
    """While a probe is under way the gate may open at any time; otherwise not before the wait has passed."""
    limiter = closed(retry_after=5.0)
    assert limiter.shut_until == 5.0
    probe = let_one_out(limiter, 5.0)
    assert limiter.shut_until == -INF
    limiter.rejected(probe, 5.5, 5.0, 0.0)
    assert limiter.shut_until == 10.5
    limiter.answered(let_one_out(limiter, 10.5), 11.0)
    assert limiter.shut_until == -INF
