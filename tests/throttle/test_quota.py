"""What a server says about its limits: tables, and responses in any order."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.limiters import INF, make
from support.rows import each_row

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._throttle.quota import Quota

Word = tuple[int | None, float | None]


def update(
    quota: Quota, now: float, word: Word, *, sent_at: float | None = None, limit: int | None = None, cycle: float = -INF
) -> float | None:
    """Let the server say how many requests are left, and for how long, in the response to a request."""
    said = RateLimit(remaining=word[0], reset=word[1], limit=limit)
    return quota.update(now, said, sent_at=now if sent_at is None else sent_at, cycle_began=cycle)


def room(quota: Quota, now: float) -> int | None:
    """Return for how many requests there is room; None if for any number."""
    return next((number for number in range(1000) if quota.next_room_at(number, now) > now), None)


@each_row(
    ("first", "second", "sent_at", "left"),
    [
        # Newer: sent when the first had come.
        ((3, 10.0), (5, 9.5), 0.0, 5),
        ((3, 10.0), (2, 9.5), 0.25, 2),
        ((3, 10.0), (5, 1.0), 0.25, 5),
        ((3, None), (5, None), 0.0, 5),
        ((3, None), (5, 10.0), 0.0, 5),
        ((3, 10.0), (5, None), 0.0, 5),
        # Sent before that: one may have been overtaken by the other.
        ((3, 10.0), (5, 9.5), -0.25, 3),
        ((5, 10.0), (3, 9.5), -0.25, 3),
        ((3, 10.0), (5, 1.0), -0.25, 3),
        ((3, None), (5, 1.0), -0.25, 3),
        # Likewise, and the first window is over: all but one request have to wait until it is certain.
        ((3, 0.25), (5, 0.25), -0.25, 5),
        ((3, 0.5), (0, 1.0), -0.25, 1),
        # Nothing new.
        ((3, 10.0), (None, 9.5), 0.25, 3),
        ((3, 10.0), (0, None), 0.25, 3),
        ((3, 10.0), (0, 0.0), 0.25, 3),
        ((3, 10.0), (9, 86_401.0), 0.25, 3),
    ],
)
def test_two_words(first: Word, second: Word, sent_at: float, left: int) -> None:
    """A newer word replaces another; of two from the same time, the smaller number holds."""
    quota = Quota()
    update(quota, 0.0, first)
    update(quota, 0.5, second, sent_at=sent_at)
    assert room(quota, 0.5) == left


def test_the_latest_end_holds() -> None:
    """Of two words from the same time, the one that holds for longer says for how long."""
    for resets in ((10.0, 2.0), (2.0, 9.5)):
        quota = Quota()
        update(quota, 0.0, (3, resets[0]))
        update(quota, 0.5, (3, resets[1]), sent_at=-1.0)
        assert quota.next_room_at(3, 0.5) == 10.0


@pytest.mark.parametrize("words", [((0, 2.0), (5, None)), ((5, None), (0, 2.0))])
def test_an_end_is_not_forgotten(words: tuple[Word, Word]) -> None:
    """If only one of two words from the same time has a reset, that holds: otherwise no request would leave again."""
    quota = Quota()
    update(quota, 0.0, words[0])
    update(quota, 0.0, words[1], sent_at=-1.0)
    assert [room(quota, now) for now in (1.9, 2.0)] == [0, None]


def test_the_window_before() -> None:
    """A response to a request from before the window says nothing but that one more request has been counted."""
    quota = Quota()
    assert update(quota, 0.0, (0, 1.0)) == 1.0
    update(quota, 1.5, (9, 1.0), sent_at=1.0)
    assert update(quota, 1.6, (0, 1.0), sent_at=0.5) is None
    assert room(quota, 1.6) == 8
    for _ in range(9):
        update(quota, 1.7, (0, 1.0), sent_at=0.5)
    assert room(quota, 1.7) == 1, "its response will tell"
    assert update(quota, 1.8, (0, 0.7), sent_at=1.0) == 2.5
    update(quota, 1.9, (9, 1.0), sent_at=0.5)
    assert room(quota, 1.9) == 0


def test_the_cycle_before() -> None:
    """Likewise if the request was sent before the present cycle."""
    quota = Quota()
    update(quota, 0.0, (9, 100.0))
    assert update(quota, 0.5, (0, 100.0), sent_at=-0.5, cycle=-0.25) is None
    assert room(quota, 0.5) == 8


def test_room() -> None:
    """There is room again when requests have ended, or the window has passed."""
    quota = Quota()
    assert room(quota, 0.0) is None
    update(quota, 0.0, (3, 10.0))
    assert [quota.next_room_at(in_flight, 0.0) for in_flight in (2, 3, 4)] == [-INF, 10.0, 10.0]
    assert [quota.next_room_at(3, now) for now in (9.5, 10.0)] == [10.0, -INF]
    assert room(quota, 10.0) is None


def test_room_in_the_next_windows() -> None:
    """Nothing has been heard of the windows that follow: each has room for as many as the server's limit."""
    quota = Quota()
    update(quota, 0.0, (4, 10.0), limit=5)
    update(quota, 5.0, (3, 5.0), limit=5)
    assert [room(quota, now) for now in (9.5, 10.0, 19.5, 20.0, 30.0)] == [3, 5, 5, 10, 15]
    assert quota.next_room_at(5, 10.0) == 20.0
    update(quota, 40.0, (3, 2.0), limit=2)
    assert [room(quota, now) for now in (42.0, 43.5, 44.0)] == [2, 2, 4], "it is another window"
    update(quota, 60.0, (1, 0.125), limit=2)
    update(quota, 70.0, (1, None), limit=2)
    assert room(quota, 1e6) == 1
    quota = Quota()
    update(quota, 0.0, (1, 0.125), limit=2)
    assert [room(quota, now) for now in (1.0, 1.25)] == [2, 4], "only its end was seen: it is taken for 1 s"


@each_row(
    ("remaining", "reset", "limit", "until"),
    [
        (0, 5.0, 10, 7.0),
        (1, 5.0, 10, None),
        (None, 5.0, 10, None),
        (0, 0.0, 10, None),
        (0, None, 10, None),  # for an unknown time
        (0, 5.0, 0, None),  # there is no limit
        (0, 86_400.0, None, 86_402.0),
        (0, 86_401.0, None, None),  # more than a day: a Unix time that is taken for seconds
    ],
)
def test_nothing_left(remaining: int | None, reset: float | None, limit: int | None, until: float | None) -> None:
    """If nothing is left, and the server says until when within a day, that time is returned."""
    quota = Quota()
    assert update(quota, 2.0, (remaining, reset), limit=limit) == until
    assert (room(quota, 2.0) == 0) is (until is not None)


def test_concurrency() -> None:
    """The last number of requests at a time holds, and an answer without one changes nothing."""
    quota = Quota()
    assert quota.concurrency == math.inf
    for concurrency, expected in ((2, 2), (None, 2), (7, 7)):
        quota.update(0.0, RateLimit(concurrency=concurrency), sent_at=0.0, cycle_began=-INF)
        assert quota.concurrency == expected


# --- Fixed windows, and responses in any order


class Windows:
    """A server with fixed windows, workers that send one request after the other, and a network that shuffles.

    Attributes:
        counted: how many requests came in each window.
        now: the time.
    """

    def __init__(
        self, draw: random.Random, *, quota: int, seconds: float, latency: float, in_whole_seconds: bool
    ) -> None:
        self.counted: Counter[int] = Counter()
        self.now = 0.0
        self._draw = draw
        self._quota = quota
        self._seconds = seconds
        self._phase = draw.uniform(0, seconds)
        self._latency = latency
        self._in_whole_seconds = in_whole_seconds
        self._limiter = make()
        self._queue: deque[float] = deque()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def run(self, requests: int, workers: int, pause: float) -> None:
        """Send all requests, with pauses of up to so many seconds."""
        left = requests

        def ask() -> None:
            nonlocal left
            if left:
                left -= 1
                self._queue.append(self.now)

        def answered() -> None:
            self._after(pause, ask)

        for _ in range(workers):
            ask()
        while self._queue or self._events:
            due = max(self.now, self._limiter.next_send(self.now)) if self._queue else INF
            if self._events and self._events[0][0] <= due:
                self.now, _, happen = heapq.heappop(self._events)
                happen()
            else:
                self.now = due
                self._queue.popleft()
                self._send(answered)

    def _send(self, answered: Callable[[], None]) -> None:
        ticket = self._limiter.send(self.now, has_waited=True)

        def arrive() -> None:
            time = self.now + self._phase
            window = math.floor(time / self._seconds)
            self.counted[window] += 1
            end = (window + 1) * self._seconds
            reset = math.ceil(end) - math.floor(time) if self._in_whole_seconds else end - time
            said = RateLimit(
                limit=self._quota, remaining=max(0, self._quota - self.counted[window]), reset=float(reset)
            )

            def receive() -> None:
                self._limiter.answered(ticket, self.now)
                self._limiter.advertised(ticket, self.now, said)
                answered()

            self._after(self._latency, receive)

        self._after(self._latency, arrive)

    def _after(self, at_most: float, happen: Callable[[], None]) -> None:
        due = self.now + self._draw.uniform(at_most / 8, at_most)
        heapq.heappush(self._events, (due, next(self._number), happen))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    quota=st.sampled_from([10, 12, 50]),
    seconds=st.sampled_from([1.0, 2.0, 10.0]),
    latency=st.sampled_from([0.002, 0.02, 0.05]),
    in_whole_seconds=st.booleans(),
    workers=st.sampled_from([3, 20, 100]),
    pause=st.sampled_from([0.0, 0.0, 0.1, 2.0]),
)
def test_fixed_windows(
    seed: int,
    quota: int,
    seconds: float,
    latency: float,
    in_whole_seconds: bool,
    workers: int,
    pause: float,
) -> None:
    """In whatever order the responses come, no request is sent that the server has no room for, and no window is lost.

    In whole seconds, nobody can see when exactly a window ends: each is used later than the last by two round trips.
    """
    server = Windows(
        random.Random(seed), quota=quota, seconds=seconds, latency=latency, in_whole_seconds=in_whole_seconds
    )
    server.run(5 * quota, workers, pause)
    assert max(server.counted.values()) <= quota
    if workers >= quota and not pause:
        assert server.now <= 5 * seconds + (1 + 5 * 4 * latency if in_whole_seconds else 4 * latency)
        lost = [window for window in range(min(server.counted) + 1, max(server.counted)) if not server.counted[window]]
        assert in_whole_seconds or not lost
