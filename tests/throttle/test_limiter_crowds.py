"""A Limiter in front of simulated servers, in virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.limiters import INF, make
from support.rows import each_row

from prefect_http._throttle.limiter import Limiter
from prefect_http._throttle.ticket import Ticket
from prefect_http.testing import ConcurrencyLimit, Fault, FixedWindow, Flaky, Limit, TokenBucket

CROWD = 300
HALF_TRIP, SERVICE, SLOW_SERVICE = 0.01, 0.005, 0.1
RETRIES = 5


class Server(NamedTuple):
    """A server, with a limit or a fault of the test kit.

    Attributes:
        limit: what it admits; None: everything.
        fault: what it rejects; None: nothing.
        service: how long it takes for a request, in seconds.
        is_doubtful: whether its rejections do not say for how long.
    """

    limit: Limit | None = None
    fault: Fault | None = None
    service: float = SERVICE
    is_doubtful: bool = False

    def arrive(self, now: float) -> int | None:
        """Take a request in and return None, or reject it and return its Retry-After."""
        if self.fault is not None and self.fault.strikes(now):
            return 0
        if self.limit is None or self.limit.admit(now):
            return None
        wait = self.limit.free_at(now) - now
        return 0 if self.is_doubtful else math.ceil(wait) if wait < INF else 1

    def finish(self, now: float) -> None:
        """Take note that a request has been served."""
        if self.limit is not None:
            self.limit.release(now)


def bucket(*, is_doubtful: bool = False) -> Server:
    """Return a server that accepts fifty requests per second, and ten at once."""
    return Server(TokenBucket(50, burst=10), is_doubtful=is_doubtful)


def window() -> Server:
    """Return a server that accepts a hundred requests in each ten seconds; the first window has begun before."""
    return Server(FixedWindow(100, 10, phase=6.5))


def few() -> Server:
    """Return a server that accepts five requests at a time, each of which takes 0.1 s."""
    return Server(ConcurrencyLimit(5), service=SLOW_SERVICE)


class Crowd:
    """Requests, each with its own retries, through the same Limiter.

    Args:
        limiter: lets them out.
        server: answers them.
        seed: of the lengths of trips and of the jitter.
        requests: how many there are.
        at_once: how many come at once; each of the others comes when one has been served.
        obeys: whether the Limiter is told of rejections.
        pace: how many requests per second the client can send.

    Attributes:
        rejected: how many rejections there were.
        most_rejections: the most that one request met with.
    """

    def __init__(
        self,
        limiter: Limiter,
        server: Server,
        seed: int,
        requests: int = CROWD,
        at_once: int = CROWD,
        *,
        obeys: bool = True,
        pace: float = math.inf,
    ) -> None:
        self.rejected = 0
        self.most_rejections = 0
        self._limiter = limiter
        self._server = server
        self._random = random.Random(seed)
        self._queue = deque([0] * at_once)  # for each request, how often it was rejected
        self._to_come = requests - at_once
        self._obeys = obeys
        self._interval, self._free_at = 1 / pace, 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._count = itertools.count()

    def run(self) -> float:
        """Run until all requests are served; return the time."""
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
        self._free_at = max(now, self._free_at) + self._interval
        self._at(self._free_at + self._half_trip(), lambda now: self._arrive(now, ticket, rejections))

    def _arrive(self, now: float, ticket: Ticket, rejections: int) -> None:
        retry_after = self._server.arrive(now)
        if retry_after is None:
            done = now + self._server.service
            self._at(done, self._server.finish)
            arrives = done + self._half_trip()
            self._at(arrives, lambda now: self._serve(now, ticket))
        else:
            self._at(now + self._half_trip(), lambda now: self._reject(now, ticket, retry_after, rejections + 1))

    def _serve(self, now: float, ticket: Ticket) -> None:
        self._limiter.answered(ticket, now)
        if self._to_come:
            self._to_come -= 1
            self._queue.append(0)

    def _reject(self, now: float, ticket: Ticket, retry_after: int, rejections: int) -> None:
        self.rejected += 1
        self.most_rejections = max(self.most_rejections, rejections)
        if self._obeys:
            jitter, is_doubtful = self._random.random(), self._server.is_doubtful
            self._limiter.rejected(ticket, now, retry_after or None, jitter, is_doubtful=is_doubtful)
        else:
            self._limiter.answered(ticket, now)
        self._at(now + (retry_after or 1), lambda now: self._queue.append(rejections))

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._count), happen))

    def _half_trip(self) -> float:
        return HALF_TRIP * self._random.uniform(0.9, 1.1)


@each_row("early_probe", [False, True])
@each_row(
    ("server", "ideal", "rejected"),
    [
        (bucket, 5.825, 0.1),
        # All but one of these are under way when the first window is used up. That is due to the slow start alone: with
        # more requests, the share is smaller.
        (window, 13.525, 0.12),
        (few, 7.2, 0.02),
    ],
)
def test_a_crowd(server: Callable[[], Server], ideal: float, rejected: float, early_probe: bool) -> None:
    """Of 300 requests at once none fails, few are rejected, and all take less than twice the least possible time."""
    limiter = make(early_probe=early_probe)
    crowd = Crowd(limiter, server(), seed=1)
    assert crowd.run() < 2 * ideal
    assert crowd.most_rejections <= RETRIES
    assert crowd.rejected == limiter.rejections <= CROWD * rejected
    assert (limiter.accepted, limiter.in_flight) == (CROWD, 0)


@settings(max_examples=20, derandomize=True)  # of 700 random cases, four took up to 1.9 times as long
@given(
    share=st.floats(0.005, 0.3),
    at_once=st.sampled_from([5, 20, 50]),
    slow_start=st.booleans(),
    seed=st.integers(0, 999),
)
@example(share=0.3, at_once=50, slow_start=True, seed=1)
@example(share=0.1, at_once=50, slow_start=True, seed=1)
def test_a_flaky_server(share: float, at_once: int, slow_start: bool, seed: int) -> None:
    """A server without a limit that fails now and then is not throttled."""
    times = list[float]()
    for obeys in (True, False):
        limiter = make(slow_start=slow_start)
        times.append(
            Crowd(
                limiter, Server(fault=Flaky(share, seed=seed), is_doubtful=True), seed, 500, at_once, obeys=obeys
            ).run()
        )
    assert times[0] < 1.5 * times[1]


@each_row("pace", [60, 75, 90, 110, 200, 1000])
def test_a_limit_that_is_hardly_exceeded(pace: float) -> None:
    """A limit a little below what the client can send rejects about as many as a server that fails; it is found."""
    limiter = make()
    crowd = Crowd(limiter, bucket(is_doubtful=True), 1, requests=500, at_once=500, pace=pace)
    crowd.run()
    assert crowd.rejected <= 0.12 * 500
    assert crowd.most_rejections <= RETRIES
    assert limiter.rate < 60
