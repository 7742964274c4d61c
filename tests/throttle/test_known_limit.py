"""KnownLimit: a limit that the user knows, exact in floating point."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.limiters import answer, fill, let_one_out, may_leave
from support.rows import each_row

from prefect_http._throttle.known_limit import KnownLimit
from prefect_http._throttle.limiter import Limiter
from prefect_http._throttle.ticket import Ticket


def sent_at(known: KnownLimit, now: float, count: int) -> list[float]:
    """Return when so many requests are sent that all want to be sent now."""
    times = list[float]()
    for _ in range(count):
        now = max(now, known.due)
        known.reserve()
        known.book(now)
        times.append(now)
    return times


@each_row(
    ("rate", "per", "burst", "times"),
    [
        (2, 1.0, 1, [0, 0.5, 1, 1.5, 2]),
        (1, 4.0, 1, [0, 4, 8, 12, 16]),
        (0.5, 1.0, 1, [0, 2, 4, 6, 8]),
        (2, 1.0, 3, [0, 0, 0, 0.5, 1]),
        (100, 60.0, 2, [0, 0, 0.6, 1.2, 1.8]),
        (10, 1.0, 100, [0, 0, 0, 0, 0]),
    ],
)
def test_burst_first_then_evenly_spaced(rate: float, per: float, burst: int, times: list[float]) -> None:
    """The burst is sent at once, and then one request after the other, an interval apart."""
    assert sent_at(KnownLimit(rate, per, burst), 0.0, 5) == pytest.approx(times)


def test_pause_saves_up_one_burst() -> None:
    """After a pause, however long, there is one burst again; after a shorter one, a part of it."""
    known = KnownLimit(2, 1.0, 3)
    sent_at(known, 0.0, 5)
    assert sent_at(known, 100.0, 4) == pytest.approx([100, 100, 100, 100.5])
    assert sent_at(known, 101.5, 3) == pytest.approx([101.5, 101.5, 102])


def test_turn_is_reserved_until_the_request_is_sent() -> None:
    """A turn takes a place in the burst until it is clear when the request is sent, and gives it back if it is not."""
    known = KnownLimit(1, 1.0, 2)
    known.reserve()
    assert known.due < 0
    known.reserve()
    assert known.due == math.inf
    known.book(0.5)
    assert known.due == pytest.approx(1.5)
    known.release()
    assert known.due == pytest.approx(0.5)


@each_row(
    ("ahead", "start", "time"),
    [(0, 0.0, 0.5), (1, 0.0, 1.0), (5, 0.0, 3.0), (0, 4.0, 4.0), (1, 4.0, 4.0), (3, 4.0, 5.0)],
)
def test_earliest(ahead: int, start: float, time: float) -> None:
    """A request is sent no earlier than those ahead of it allow, and no earlier than the first of them may start."""
    known = KnownLimit(2, 1.0, 2)
    sent_at(known, 0.0, 2)
    assert known.earliest(ahead, start) == pytest.approx(time)
    known.reserve()
    assert known.earliest(ahead - 1, start) == pytest.approx(time), "a turn that is reserved is one request ahead"
    known.release()
    assert known.earliest(ahead, start) <= sent_at(known, start, ahead + 1)[-1]


def test_unused() -> None:
    """Once all that was booked is over, it makes no difference that it was."""
    known = KnownLimit(2, 1.0, 3)
    assert known.is_unused(0.0)
    sent_at(known, 0.0, 3)
    assert not known.is_unused(1.4)
    assert known.is_unused(1.6)


def most_in_any_window(times: list[float], rate: float, per: float, burst: int) -> int:
    """Return by how many requests the fullest window exceeds the limit, in exact arithmetic; 0 or less: by none."""
    pace = Fraction(rate) / Fraction(per)
    # A window from one request to another is as short as it can be: (j - i + 1) - burst - pace * (t[j] - t[i]).
    marks = [number - pace * Fraction(time) for number, time in enumerate(times)] or [Fraction(-1)]
    lowest = itertools.accumulate(marks, min)
    return math.ceil(max(mark - low for mark, low in zip(marks, lowest, strict=True)) + 1 - burst)


pauses = st.sampled_from([0.0, 0.0, 0.0, 1e-9, 0.01, 0.5]) | st.floats(0.0, 100.0)
numbers = st.sampled_from([0.1, 0.3, 1.0, 3.0, 7.0, 60.0, 1000.0]) | st.floats(1e-3, 1e5)


# What happens, so many times, after a pause: it is a request's turn, or one whose turn it was is sent or withdrawn.
steps = st.lists(
    st.tuples(pauses, st.sampled_from(["turn", "turn", "send", "withdraw"]), st.integers(1, 9)), max_size=20
)


@settings(max_examples=100)
@given(
    clock=st.sampled_from([0.0, 1.1, 1e6, 123456.789, 1.7e9]) | st.floats(0.0, 1e7),
    rate=numbers,
    per=numbers,
    burst=st.sampled_from([1, 2, 10]) | st.integers(1, 10**6),
    steps=steps,
)
@example(clock=1e6, rate=3, per=0.1, burst=1, steps=[(0.0, "turn", 9), (0.0, "send", 9)] * 40)
@example(clock=1.7e9, rate=1e5, per=1.0, burst=7, steps=[(0.0, "turn", 5), (0.0, "turn", 5), (1e-9, "send", 9)] * 30)
@example(clock=0.0, rate=1.0, per=1.0, burst=2, steps=[(1.0, "turn", 1)] * 3 + [(0.0, "send", 9), (0.0, "turn", 9)] * 2)
def test_no_window_ever_sees_more(
    clock: float, rate: float, per: float, burst: int, steps: list[tuple[float, str, int]]
) -> None:
    """Whenever requests come and are sent, no period of any length has more of them than the limit, exactly."""
    known = KnownLimit(rate, per, burst)
    times, now, reserved = list[float](), clock, 0
    for pause, action, count in steps:
        now += pause
        for _ in range(count):
            if action == "turn":
                if known.due < math.inf:
                    now = max(now, known.due)
                    known.reserve()
                    reserved += 1
            elif reserved:
                reserved -= 1
                if action == "send":
                    known.book(now)
                    times.append(now)
                else:
                    known.release()
    assert most_in_any_window(times, rate, per, burst) <= 0


@each_row("clock", [0.0, 1.1, 1e6, 1.7e9])
@each_row("rate", [3, 0.7, 1e4])
def test_no_rounding_at_the_end_of_what_is_booked(clock: float, rate: float) -> None:
    """A request at the very time at which all that was booked is over, or nearly, allows no request too many."""
    now = clock + 1 / rate
    for _ in range(8):
        now = math.nextafter(now, -math.inf)
    for _ in range(16):
        known = KnownLimit(rate, 1.0, 2)
        times = [*sent_at(known, clock, 1), *sent_at(known, now, 4)]
        assert most_in_any_window(times, rate, 1.0, 2) <= 0
        now = math.nextafter(now, math.inf)


# --- In a Limiter


def limited(rate: float = 2, burst: int = 1, *, early_probe: bool = False) -> Limiter:
    """Return a Limiter for which a limit is known."""
    return Limiter(max_in_flight=100, early_probe=early_probe, known=KnownLimit(rate, 1.0, burst))


def send_one(limiter: Limiter, now: float) -> Ticket:
    """Send a request at once, which must be allowed."""
    ticket = let_one_out(limiter, now)
    assert limiter.known is not None
    limiter.known.book(now)
    return ticket


def test_no_slow_start() -> None:
    """A known rate needs no slow start, but max_in_flight holds."""
    assert len(fill(limited(rate=1000, burst=60), 0.0)) == 60
    assert len(fill(limited(rate=1000, burst=200), 0.0)) == 100


def test_probe_waits_as_well() -> None:
    """The probe waits for the limit, even an early one."""
    for early_probe in (False, True):
        limiter = limited(rate=0.1, early_probe=early_probe)
        limiter.rejected(send_one(limiter, 0.0), 0.0, 5.0, 0.0)
        assert limiter.next_send(0.0) == pytest.approx(10)
        assert send_one(limiter, limiter.next_send(0.0)).is_probe


@pytest.mark.parametrize(("rate", "expected"), [(100, 2.5), (1, 1.0)])
def test_lower_of_both_rates_holds(rate: float, expected: float) -> None:
    """A rate that is learned holds if it is lower than the known one, and else the known one."""
    limiter = limited(rate=rate)
    first = send_one(limiter, 0.0)
    answer(limiter, [first], 0.2)
    second = send_one(limiter, limiter.next_send(1.0))
    limiter.rejected(second, second.sent_at, 1.0, 0.0)
    probe = send_one(limiter, limiter.next_send(second.sent_at + 1.0))
    answer(limiter, [probe], probe.sent_at + 0.2)
    now = probe.sent_at + 0.2
    assert limiter.rate <= rate
    interval = limiter.next_send(now) - probe.sent_at
    assert interval == pytest.approx(1 / min(limiter.rate, rate))
    assert interval >= 1 / rate


def test_climb_beyond_the_known_rate_is_not_believed() -> None:
    """However far the learned rate has climbed, a rejection is one at the known rate."""
    limiter = limited(rate=4)
    now = 0.0
    for _ in range(2):
        for _ in range(100):
            now = max(now, limiter.next_send(now))
            answer(limiter, [send_one(limiter, now)], now + 0.01)
        assert limiter.rate in {4, math.inf}
        now = limiter.next_send(now)
        limiter.rejected(send_one(limiter, now), now, 1.0, 0.0)
        now = max(limiter.next_send(now), now + 1.0)
        answer(limiter, [send_one(limiter, now)], now + 0.01)
    assert limiter.rate < 4


def test_withdrawn_request_was_not_sent() -> None:
    """A request that was cancelled before it was sent takes nothing of the limit; one that was sent does."""
    limiter = limited()
    ticket = let_one_out(limiter, 0.0)
    assert limiter.next_send(0.0) == math.inf
    limiter.withdrawn(ticket, 0.0)
    assert may_leave(limiter, 0.0)
    limiter.dropped(send_one(limiter, 0.0), 0.0, has_failed=False)
    assert limiter.next_send(0.0) == pytest.approx(0.5)
    assert limiter.in_flight == 0
    assert not limiter.is_idle(0.4), "to forget it would allow another request at once"
    assert limiter.is_idle(0.6)
