"""The rate-limited servers that clients are measured with, and the best that a client could do. Pure: no clock.

A request takes 10 ms to the server, which decides at once, then 5 ms if it is accepted, and 10 ms back; a client has
100 connections. All times are arguments, in seconds since the client started.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from prefect_http.testing._faults import Fault, Flaky, Restarts
from prefect_http.testing._limits import FixedWindow, Limit, SlidingLog, TokenBucket
from prefect_http.testing._rate_limit_headers import HeaderStyle, header_styles, limit_headers

CONNECTIONS = 100
HALF_TRIP = 0.01
_SERVICE = 0.005


class Unlimited(Limit):
    """Admits everything from ``begins_at`` on, and nothing before."""

    quota = 1

    def __init__(self, begins_at: float = 0.0) -> None:
        self._begins_at = begins_at

    def admit(self, now: float) -> bool:
        """Return whether it has begun."""
        return now >= self._begins_at

    def free_at(self, now: float) -> float:
        """Return when a request is admitted."""
        return max(now, self._begins_at)

    def left(self, now: float) -> tuple[int, float]:
        """Return that one more request is admitted, or when that will be."""
        return int(self.admit(now)), self.free_at(now) - now


class HalvingBucket(Limit):
    """A bucket that fills at half of the rate from ``halves_at`` on: its clock runs at half the speed then."""

    def __init__(self, rate: float, burst: int, halves_at: float) -> None:
        self.quota = burst
        self._bucket = TokenBucket(rate, burst)
        self._halves_at = halves_at

    def admit(self, now: float) -> bool:
        """Take a token, if there is one."""
        return self._bucket.admit(self._bucket_time(now))

    def free_at(self, now: float) -> float:
        """Return when there is a token."""
        at, free_at = self._bucket_time(now), self._bucket.free_at(self._bucket_time(now))
        return now if free_at == at else free_at + max(free_at - self._halves_at, 0)

    def left(self, now: float) -> tuple[int, float]:
        """Return how many tokens there are, and when there is another one."""
        count, seconds = self._bucket.left(self._bucket_time(now))
        at = self._bucket_time(now) + seconds
        return count, at + max(at - self._halves_at, 0) - now

    def _bucket_time(self, now: float) -> float:
        return now - max(now - self._halves_at, 0) / 2


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
        headers: the style of the headers by which it tells of its limit; None: it has none.
        service: how many seconds an accepted request takes.
        at_once: how many requests a client that knows the server has under way at most.
        make_fault: returns when requests fail for no fault of their own, for a seed; such a failure says no more.
        true_rate: how many requests per second it accepts in the long run, by the time; None if that is not the limit.
    """

    title: str
    make_limit: Callable[[float], Limit]
    status: int = 429
    headers: HeaderStyle | None = None
    service: float = _SERVICE
    at_once: int = CONNECTIONS
    make_fault: Callable[[str], Fault] = lambda seed: Flaky(0.0)
    true_rate: Callable[[float], float] | None = None

    def limit(self, seed: int) -> Limit:
        """Return the limit of one server."""
        return self.make_limit(random.Random(seed).random())

    def fault(self, seed: int) -> Fault:
        """Return the fault of one server."""
        return self.make_fault(f"faults {seed}")

    def headers_of(self, limit: Limit, now: float, *, is_rejection: bool) -> list[tuple[str, str]]:
        """Return the headers of an answer. They say what is left, but not how much there was."""
        headers = limit_headers(header_styles(self.headers), limit, now, is_rejection=is_rejection)
        return [(name, value) for name, value in headers if name != "RateLimit-Policy"]


HEALTHY = "S0"
SERVERS = {
    "S0": Server(title="healthy", make_limit=lambda chance: Unlimited()),
    "S1": Server(
        title="bucket 50/s, burst 10",
        make_limit=lambda chance: TokenBucket(50, 10),
        headers="retry-after",
        true_rate=lambda now: 50,
    ),
    "S2": Server(title="the same, no Retry-After", make_limit=lambda chance: TokenBucket(50, 10)),
    "S3": Server(
        title="window 100 per 10 s",
        make_limit=lambda chance: FixedWindow(100, 10, phase=10 * chance),
        headers="retry-after",
    ),
    "S4": Server(title="log 100 per 10 s", make_limit=lambda chance: SlidingLog(100, 10), headers="retry-after"),
    "S5": Server(
        title="5 at a time, 100 ms each",
        make_limit=lambda chance: concurrency(5, 0.1),
        headers="retry-after",
        service=0.1,
        at_once=5,
    ),
    # Like nginx's limit_req with nodelay: its burst comes on top of the request that the rate allows.
    "S6": Server(title="503, 50/s, burst 20", make_limit=lambda chance: TokenBucket(50, 21), status=503),
    "S7": Server(
        title="window, RateLimit only",
        make_limit=lambda chance: FixedWindow(100, 10, phase=10 * chance),
        headers="ratelimit",
    ),
    "S8": Server(title="503 for 30 s", make_limit=lambda chance: Unlimited(begins_at=30), status=503),
    "S9": Server(
        title="S1, 25/s after 10 s",
        make_limit=lambda chance: HalvingBucket(50, 10, halves_at=10),
        headers="retry-after",
        true_rate=lambda now: 50 if now < 10 else 25,
    ),
}


def _flaky(share: float, status: int = 503) -> Callable[[str], Fault]:
    return lambda seed: Flaky(share, status, seed=seed)


def _restarting(seed: str) -> Fault:
    return Restarts(10, 0.5)


FLAKY = {
    title: Server(title=title, make_limit=lambda chance: Unlimited(), make_fault=make_fault)
    for title, make_fault in (
        ("503s, 1 %", _flaky(0.01)),
        ("503s, 3 %", _flaky(0.03)),
        ("503s, 10 %", _flaky(0.1)),
        ("503s, 30 %", _flaky(0.3)),
        ("429s, 1 %", _flaky(0.01, 429)),
        ("one of five backends", _flaky(0.2)),
        ("restarts, 0.5 of 10 s", _restarting),
    )
}
FLAKY_SHARE = 0.03
FLAKY_AND_LIMITED = {
    f"{name} and 503s, 3 %": replace(SERVERS[name], make_fault=_flaky(FLAKY_SHARE)) for name in ("S1", "S3", "S6")
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
        assert limit.admit(arrival)
        heapq.heappush(free, arrival + server.service + HALF_TRIP)
    return max(free)
