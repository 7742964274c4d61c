"""The rate-limited servers that clients are measured with, and the best that a client could do. Pure: no clock.

A request takes 10 ms to the server, which decides at once, then 5 ms if it is accepted, and 10 ms back; a client has
100 connections. All times are arguments, in seconds since the client started.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

CONNECTIONS = 100
HALF_TRIP = 0.01
_SERVICE = 0.005
# Times that differ by no more than this are equal: sums of floats are rounded.
_ROUNDING = 1e-9


class Limit(Protocol):
    """What a server accepts. Times are passed in ascending order."""

    def free_at(self, now: float) -> float:
        """Return the earliest time from ``now`` on at which a request is accepted."""
        ...

    def accept(self, now: float) -> None:
        """Count an accepted request."""
        ...

    def left(self, now: float) -> tuple[int, float] | None:
        """Return how many more are accepted, and until when that holds; None if the server does not say."""
        ...


class Unlimited:
    """Accepts everything from ``begins_at`` on, and nothing before."""

    def __init__(self, begins_at: float = 0.0) -> None:
        self._begins_at = begins_at

    def free_at(self, now: float) -> float:
        return max(now, self._begins_at)

    def accept(self, now: float) -> None:
        pass

    def left(self, now: float) -> None:
        return None


class TokenBucket:
    """Accepts ``burst`` at once and ``rate`` per second, half of that from ``halves_at`` on."""

    def __init__(self, rate: float, burst: int, halves_at: float = math.inf) -> None:
        self._rate = rate
        self._burst = burst
        self._halves_at = halves_at
        self._tokens = float(burst)
        self._filled_at = 0.0

    def free_at(self, now: float) -> float:
        self._fill(now)
        missing = 1 - self._tokens
        if missing <= 0:
            return now
        before = max(self._halves_at - now, 0) * self._rate  # the tokens that are still added at the full rate
        return now + missing / self._rate + max(missing - before, 0) / self._rate

    def accept(self, now: float) -> None:
        self._fill(now)
        self._tokens -= 1

    def left(self, now: float) -> None:
        return None

    def _fill(self, now: float) -> None:
        late = max(now - max(self._halves_at, self._filled_at), 0)
        self._tokens = min(self._tokens + (now - self._filled_at - late / 2) * self._rate, self._burst)
        self._filled_at = now


class FixedWindow:
    """Accepts ``quota`` in each ``seconds``; the first window began ``phase`` seconds before the client did."""

    def __init__(self, quota: int, seconds: float, phase: float) -> None:
        self._quota = quota
        self._seconds = seconds
        self._ends_at = seconds - phase
        self._left = quota

    def free_at(self, now: float) -> float:
        return now if self.left(now)[0] else self._ends_at

    def accept(self, now: float) -> None:
        self.left(now)
        self._left -= 1

    def left(self, now: float) -> tuple[int, float]:
        while now >= self._ends_at - _ROUNDING:
            self._ends_at += self._seconds
            self._left = self._quota
        return self._left, self._ends_at


class SlidingLog:
    """Accepts ``quota`` in any ``seconds``."""

    def __init__(self, quota: int, seconds: float) -> None:
        self._quota = quota
        self._seconds = seconds
        self._leave_at: deque[float] = deque()

    def free_at(self, now: float) -> float:
        while self._leave_at and self._leave_at[0] <= now + _ROUNDING:
            self._leave_at.popleft()
        return now if len(self._leave_at) < self._quota else self._leave_at[0]

    def accept(self, now: float) -> None:
        self._leave_at.append(now + self._seconds)

    def left(self, now: float) -> None:
        return None


def concurrency(quota: int, service: float) -> SlidingLog:
    """Return a limit that accepts ``quota`` at a time, each of which takes ``service``: a log of that length."""
    return SlidingLog(quota, service)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A kind of server.

    Attributes:
        title: a description.
        make_limit: returns its limit; the argument is a number from 0 to 1, by which servers of this kind differ.
        status: the status of its rejections.
        says_when: whether a rejection has a Retry-After, in whole seconds.
        says_left: whether every answer has a RateLimit field.
        service: how many seconds an accepted request takes.
        at_once: how many requests a client that knows the server has under way at most.
        strikes: returns a function that says, for a time, whether a request fails for no fault of its own; the
            argument is a source of random numbers.
        fault_status: the status of such a failure, which says no more.
        true_rate: how many requests per second it accepts in the long run, by the time; None if that is not the limit.
    """

    title: str
    make_limit: Callable[[float], Limit]
    status: int = 429
    says_when: bool = False
    says_left: bool = False
    service: float = _SERVICE
    at_once: int = CONNECTIONS
    strikes: Callable[[random.Random], Callable[[float], bool]] = lambda chance: lambda now: False
    fault_status: int = 503
    true_rate: Callable[[float], float] | None = None

    def limit(self, seed: int) -> Limit:
        """Return the limit of one server."""
        return self.make_limit(random.Random(seed).random())

    def rejection_headers(self, limit: Limit, now: float) -> dict[str, str]:
        """Return the headers of a rejection."""
        when = {"Retry-After": str(max(math.ceil(limit.free_at(now) - now), 1))} if self.says_when else {}
        return {**when, **self.headers(limit, now)}

    def headers(self, limit: Limit, now: float) -> dict[str, str]:
        """Return the headers of any answer."""
        left = limit.left(now) if self.says_left else None
        return {} if left is None else {"RateLimit": f'"default";r={left[0]};t={math.ceil(left[1] - now)}'}


HEALTHY = "S0"
SERVERS = {
    "S0": Server(title="healthy", make_limit=lambda chance: Unlimited()),
    "S1": Server(
        title="bucket 50/s, burst 10",
        make_limit=lambda chance: TokenBucket(50, 10),
        says_when=True,
        true_rate=lambda now: 50,
    ),
    "S2": Server(title="the same, no Retry-After", make_limit=lambda chance: TokenBucket(50, 10)),
    "S3": Server(
        title="window 100 per 10 s", make_limit=lambda chance: FixedWindow(100, 10, 10 * chance), says_when=True
    ),
    "S4": Server(title="log 100 per 10 s", make_limit=lambda chance: SlidingLog(100, 10), says_when=True),
    "S5": Server(
        title="5 at a time, 100 ms each",
        make_limit=lambda chance: concurrency(5, 0.1),
        says_when=True,
        service=0.1,
        at_once=5,
    ),
    # Like nginx's limit_req with nodelay: its burst comes on top of the request that the rate allows.
    "S6": Server(title="503, 50/s, burst 20", make_limit=lambda chance: TokenBucket(50, 21), status=503),
    "S7": Server(
        title="window, RateLimit only", make_limit=lambda chance: FixedWindow(100, 10, 10 * chance), says_left=True
    ),
    "S8": Server(title="503 for 30 s", make_limit=lambda chance: Unlimited(begins_at=30), status=503),
    "S9": Server(
        title="S1, 25/s after 10 s",
        make_limit=lambda chance: TokenBucket(50, 10, halves_at=10),
        says_when=True,
        true_rate=lambda now: 50 if now < 10 else 25,
    ),
}


def _strewn(share: float) -> Callable[[random.Random], Callable[[float], bool]]:
    return lambda chance: lambda now: chance.random() < share


def _restarting(chance: random.Random) -> Callable[[float], bool]:
    return lambda now: now % 10 >= 9.5


FLAKY = {
    title: Server(title=title, make_limit=lambda chance: Unlimited(), strikes=strikes, fault_status=status)
    for title, strikes, status in (
        ("503s, 1 %", _strewn(0.01), 503),
        ("503s, 3 %", _strewn(0.03), 503),
        ("503s, 10 %", _strewn(0.1), 503),
        ("503s, 30 %", _strewn(0.3), 503),
        ("429s, 1 %", _strewn(0.01), 429),
        ("one of five backends", _strewn(0.2), 503),
        ("restarts, 0.5 of 10 s", _restarting, 503),
    )
}
FLAKY_SHARE = 0.03
FLAKY_AND_LIMITED = {
    f"{name} and 503s, 3 %": replace(SERVERS[name], strikes=_strewn(FLAKY_SHARE)) for name in ("S1", "S3", "S6")
}


def ideal(server: Server, requests: int, seed: int) -> float:
    """Return how long a client takes that knows when the server accepts a request, and sends each for that moment.

    No request is rejected, there are as many connections as the server's ``at_once``, and all trips take the same time.
    A concurrency limit accepts the next request before the answer to the last one is back at the client. This client
    does not make use of that: it has as many under way as the limit allows, so one that sends more may be faster.
    """
    limit = server.limit(seed)
    free = [0.0] * server.at_once  # when each connection is free, as a heap
    arrival = 0.0
    for _ in range(requests):
        arrival = limit.free_at(max(arrival, heapq.heappop(free) + HALF_TRIP))
        limit.accept(arrival)
        heapq.heappush(free, arrival + server.service + HALF_TRIP)
    return max(free)
