"""The rate limits of servers: what they admit, exact in floating point."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http.testing._limits import ConcurrencyLimit, FixedWindow, Limit, SlidingLog, TokenBucket

INF = math.inf
ROUNDING = 2e-9  # twice what the limits allow for


def admitted(limit: Limit, times: Sequence[float]) -> list[float]:
    """Return the times at which a request is admitted."""
    return [now for now in times if limit.admit(now)]


def as_they_can(limit: Limit, now: float, count: int) -> list[float]:
    """Return when requests are admitted that each arrive as early as they can."""
    times = list[float]()
    for _ in range(count):
        now = limit.free_at(now)
        assert limit.admit(now), now
        times.append(now)
    return times


# --- Each kind


@each_row(
    ("limit", "times"),
    [
        (TokenBucket(2), [0, 0.5, 1, 1.5, 2]),
        (TokenBucket(2, burst=3), [0, 0, 0, 0.5, 1]),
        (TokenBucket(0.5, 2), [0, 0, 2, 4, 6]),
        (FixedWindow(2, 10), [0, 0, 10, 10, 20]),
        (FixedWindow(2, 10, phase=7.5), [0, 0, 2.5, 2.5, 12.5]),
        (FixedWindow(1, 10, phase=10), [0, 10, 20, 30, 40]),
        (SlidingLog(2, 10), [0, 0, 10, 10, 20]),
        (SlidingLog(10, 10), [0, 0, 0, 0, 0]),
        (ConcurrencyLimit(5), [0, 0, 0, 0, 0]),
    ],
)
def test_requests_as_early_as_they_can(limit: Limit, times: list[float]) -> None:
    """Each limit admits as many requests as its quota at once, and then more at its own times."""
    assert as_they_can(limit, 0.0, 5) == times


@each_row(
    ("limit", "first", "then"),
    [
        # A pause fills the bucket, or a part of it.
        (TokenBucket(2, burst=3), (100.0, 3), [100.5, 101.0]),
        (TokenBucket(2, burst=3), (0.5, 1), [1.0, 1.5]),
        # Windows do not depend on when requests come.
        (FixedWindow(2, 10), (19.0, 1), [20.0, 20.0]),
        (FixedWindow(2, 10), (39.0, 2), [40.0, 40.0]),
        (SlidingLog(3, 10), (4.0, 0), [10.0, 10.0]),
        (SlidingLog(3, 10), (19.0, 3), [29.0, 29.0]),
    ],
)
def test_requests_after_a_pause(limit: Limit, first: tuple[float, int], then: list[float]) -> None:
    """After a pause, a limit admits so many requests at once, and then more at its own times."""
    as_they_can(limit, 0.0, 3)
    now, count = first
    assert limit.left(now)[0] == count
    assert as_they_can(limit, now, count) == [now] * count
    assert as_they_can(limit, now, 2) == then


@each_row(
    ("limit", "now", "left"),
    [
        (TokenBucket(2, burst=3), 0.0, (3, 0.0)),
        (FixedWindow(2, 10, phase=4), 0.0, (2, 6.0)),
        (FixedWindow(2, 10, phase=4), 17.0, (2, 9.0)),
        (SlidingLog(2, 10), 0.0, (2, 0.0)),
        (ConcurrencyLimit(2), 0.0, (2, INF)),
    ],
)
def test_whole_quota_is_left_at_first(limit: Limit, now: float, left: tuple[int, float]) -> None:
    """Before the first request the whole quota is left; a window ends nevertheless."""
    assert limit.left(now) == left
    assert limit.quota == left[0]


@each_row(
    ("limit", "left"),
    [
        (TokenBucket(0.5, burst=3), (1, 0.75)),
        (FixedWindow(3, 10), (1, 8.75)),
        (SlidingLog(3, 10), (1, 8.75)),
        (ConcurrencyLimit(3), (1, INF)),
    ],
)
def test_what_is_left_after_two_requests(limit: Limit, left: tuple[int, float]) -> None:
    """What is left, and in how many seconds it will be more, 1.25 s after two requests at once."""
    as_they_can(limit, 0.0, 2)
    assert limit.left(1.25) == left


def test_twice_the_quota_where_two_windows_meet() -> None:
    """A window's quota may be used at its end, and that of the next one at its beginning; a log does not allow that."""
    times = [9.75, 9.875, 10.0, 10.125, 10.25]
    assert admitted(FixedWindow(2, 10), times) == times[:4]
    assert admitted(SlidingLog(2, 10), times) == times[:2]


def test_concurrency_counts_requests_in_progress() -> None:
    """A request counts until it is released, and a rejected one never does."""
    limit = ConcurrencyLimit(2)
    assert [limit.admit(0.0), limit.admit(0.0), limit.admit(0.0)] == [True, True, False]
    assert limit.free_at(5.0) == INF
    assert limit.left(5.0) == (0, INF)
    limit.release(5.0)
    assert limit.free_at(5.0) == 5.0
    assert [limit.admit(5.0), limit.admit(5.0)] == [True, False]
    limit.release(6.0)
    limit.release(6.0)
    with pytest.raises(RuntimeError, match=r"ConcurrencyLimit\(2\): more requests were released than admitted"):
        limit.release(6.0)


@each_row("limit", [TokenBucket(1), FixedWindow(1, 1), SlidingLog(1, 1)])
def test_others_do_not_care_when_a_response_ends(limit: Limit) -> None:
    """Limits by time count a request the same, however long it takes."""
    assert limit.admit(0.0)
    limit.release(0.25)
    assert not limit.admit(0.25)


class Maintenance(Limit):
    """A user's own: admits nothing in the first hour."""

    quota = 1

    def admit(self, now: float) -> bool:
        return now >= 3600

    def free_at(self, now: float) -> float:
        return max(now, 3600)

    def left(self, now: float) -> tuple[int, float]:
        return int(self.admit(now)), self.free_at(now) - now


def test_limit_of_a_users_own() -> None:
    """A subclass need not define release()."""
    limit: Limit = Maintenance()
    assert as_they_can(limit, 0.0, 3) == [3600] * 3
    limit.release(3600.0)
    assert limit.left(0.0) == (0, 3600.0)


# --- Floating point


@each_row(
    ("limit", "start"),
    [
        (limit, start)
        for start in (0.0, 123.456, 54_321.987)
        for limit in (TokenBucket(10), FixedWindow(1, 0.1, phase=0.1), SlidingLog(1, 0.1))
    ],
)
def test_client_whose_sleeps_are_rounded(limit: Limit, start: float) -> None:
    """A client that waits 0.1 s between requests is never rejected, though its clock adds up rounded numbers."""
    now = math.ceil(start * 10) / 10
    for number in range(50):
        assert limit.admit(now), (number, now)
        now += 0.1


@each_row("burst", [1, 2])
def test_arriving_early_gains_nothing(burst: int) -> None:
    """A client that always arrives a little early, but within the rounding, is not admitted more often for that."""
    limit, now = TokenBucket(10, burst), 0.0
    for _ in range(burst):
        assert limit.admit(now)
    for _ in range(1_000):
        now = limit.free_at(now) - ROUNDING * 0.45
        assert limit.admit(now)
    assert now == pytest.approx(100, abs=ROUNDING)


STARTS = st.sampled_from([0.0, 0.1, 1000 / 3, 86_400.1, 1e6 / 3])
GAPS = st.one_of(
    st.none(),  # wait until a request is admitted
    st.just(0.0),
    st.floats(0.0, 0.5),
    st.floats(0.0, 30.0),
)
RATES = st.sampled_from([0.1, 1 / 3, 1.0, 7.0, 50.0, 999.0])
SECONDS = st.sampled_from([0.01, 0.1, 1 / 3, 1.0, 7.7, 60.0])
FEW = st.integers(1, 5)
BUCKETS = st.builds(TokenBucket, RATES, FEW)
WINDOWS = st.builds(FixedWindow, FEW, SECONDS, phase=st.floats(0, 0.01))
LOGS = st.builds(SlidingLog, FEW, SECONDS)


def times_of(limit: Limit, start: float, gaps: Sequence[float | None]) -> list[float]:
    """Return when requests are admitted that come after these gaps."""
    now, times = start, list[float]()
    for gap in gaps:
        now = limit.free_at(now) if gap is None else now + gap
        if limit.admit(now):
            times.append(now)
    return times


@given(BUCKETS, STARTS, st.lists(GAPS, max_size=25))
@settings(max_examples=50)
def test_bucket_keeps_its_promise(limit: TokenBucket, start: float, gaps: list[float | None]) -> None:
    """In any period, no more requests are admitted than the burst and what the rate adds in that time."""
    times = times_of(limit, start, gaps)
    for first, one in enumerate(times):
        for count, other in enumerate(times[first:], 1):
            assert count <= limit.quota + limit.rate * (other - one + ROUNDING)


@given(WINDOWS, STARTS, st.lists(GAPS, max_size=25))
@settings(max_examples=50)
def test_window_keeps_its_promise(limit: FixedWindow, start: float, gaps: list[float | None]) -> None:
    """In each window, no more requests are admitted than the quota."""
    times = times_of(limit, start, gaps)
    for one, other in zip(times, times[limit.quota :], strict=False):
        window = math.floor((one + limit.phase + ROUNDING / 2) / limit.seconds)
        assert other >= (window + 1) * limit.seconds - limit.phase - ROUNDING


@given(LOGS, STARTS, st.lists(GAPS, max_size=25))
@settings(max_examples=50)
def test_log_keeps_its_promise(limit: SlidingLog, start: float, gaps: list[float | None]) -> None:
    """In any period of its length, no more requests are admitted than the quota."""
    times = times_of(limit, start, gaps)
    assert all(other - one >= limit.seconds - ROUNDING for one, other in zip(times, times[limit.quota :], strict=False))


@given(BUCKETS | WINDOWS | LOGS, STARTS, st.lists(GAPS, max_size=10), st.floats(0.0, 30.0))
@settings(max_examples=50)
def test_what_a_limit_says_is_exact(limit: Limit, start: float, gaps: list[float | None], gap: float) -> None:
    """A request is admitted when ``free_at()`` says so, and not just before; ``left()`` is right about how many are."""
    now = (times_of(limit, start, gaps) or [start])[-1] + gap
    free_at = limit.free_at(now)
    left, seconds = limit.left(now)
    assert 0 <= left <= limit.quota
    assert (free_at == now) is (left > 0)
    assert copy.deepcopy(limit).admit(free_at)
    if free_at > now:
        assert free_at == pytest.approx(now + seconds, abs=ROUNDING)
        assert not copy.deepcopy(limit).admit(max(now, free_at - ROUNDING))
    others = copy.deepcopy(limit)
    assert admitted(others, [now] * (left + 1)) == [now] * left
    if left < limit.quota:
        assert copy.deepcopy(limit).left(now + seconds)[0] > left
        assert copy.deepcopy(limit).left(max(now, now + seconds - ROUNDING))[0] == left


def exact_bucket(rate: int, burst: int) -> Callable[[Fraction], bool]:
    """Return a bucket in exact arithmetic."""
    tokens, filled_at = Fraction(burst), Fraction(0)

    def admit(now: Fraction) -> bool:
        nonlocal tokens, filled_at
        tokens, filled_at = min(tokens + (now - filled_at) * rate, Fraction(burst)), now
        is_admitted = tokens >= 1
        tokens -= is_admitted
        return is_admitted

    return admit


@given(st.integers(1, 60), FEW, st.lists(st.integers(0, 90), max_size=25))
@settings(max_examples=50)
def test_bucket_is_one_in_exact_arithmetic(rate: int, burst: int, gaps: list[int]) -> None:
    """A bucket admits exactly what one in exact arithmetic admits, tokens that are added just now included."""
    limit, exact = TokenBucket(rate, burst), exact_bucket(rate, burst)
    now = Fraction(0)
    for gap in gaps:
        now += Fraction(gap, 64)
        assert limit.admit(float(now)) is exact(now)


# --- Arguments

RATE = "rate must be a number of requests per second from 1e-06 to 1e+06"
LENGTH = "seconds must be a number of seconds from 1e-06 to 1e+09"
UNTYPED: Any = TokenBucket


@each_row(
    ("make", "message"),
    [
        (partial(TokenBucket, 0), f"{RATE}, not 0"),
        (partial(TokenBucket, INF), f"{RATE}, not inf"),
        (partial(TokenBucket, math.nan), f"{RATE}, not nan"),
        (partial(UNTYPED, "5"), f"{RATE}, not '5'"),
        (partial(TokenBucket, True), f"{RATE}, not True"),
        (partial(TokenBucket, 1, 0), "burst must be an integer of at least 1, not 0"),
        (partial(UNTYPED, 1, 1.5), "burst must be an integer of at least 1, not 1.5"),
        (partial(TokenBucket, 1, True), "burst must be an integer of at least 1, not True"),
        (partial(FixedWindow, 0, 1), "quota must be an integer of at least 1, not 0"),
        (partial(FixedWindow, 1, 0), f"{LENGTH}, not 0"),
        (partial(FixedWindow, 1, 60, phase=61), "phase must be a number of seconds from 0 to 60, not 61"),
        (partial(FixedWindow, 1, 60, phase=-1), "phase must be a number of seconds from 0 to 60, not -1"),
        (partial(SlidingLog, -1, 1), "quota must be an integer of at least 1, not -1"),
        (partial(SlidingLog, 1, -1), f"{LENGTH}, not -1"),
        (partial(ConcurrencyLimit, 0), "quota must be an integer of at least 1, not 0"),
    ],
)
def test_bad_arguments(make: partial[object], message: str) -> None:
    """An argument that is out of range raises a ValueError that names it."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@each_row(
    ("limit", "text"),
    [
        (TokenBucket(0.5, 3), "TokenBucket(0.5, burst=3)"),
        (FixedWindow(100, 60), "FixedWindow(100, 60, phase=0.0)"),
        (SlidingLog(100, 1.5), "SlidingLog(100, 1.5)"),
        (ConcurrencyLimit(5), "ConcurrencyLimit(5)"),
    ],
)
def test_repr(limit: Limit, text: str) -> None:
    """A limit shows how it was made."""
    assert repr(limit) == text


def test_clock_of_another_event_loop() -> None:
    """A limit that is used once more, on a clock that begins anew, says so."""
    for limit in (TokenBucket(1), FixedWindow(1, 60), SlidingLog(1, 60)):
        assert limit.admit(10)
        with pytest.raises(RuntimeError, match=r"\) was used at 10 s and then at 0 s, .* make a new limit for each"):
            limit.admit(0)
