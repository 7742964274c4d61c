"""Several processes that share a throttle, against the kinds of servers that one is measured with.

They are Throttles in one event loop, in virtual time. They share nothing but a store, and differ in nothing else from
those of several processes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest
import trio
import trio.testing
from support.memory_store import MemoryStore, memory_backend

from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle
from prefect_http.testing._faults import Flaky
from prefect_http.testing._limits import FixedWindow, Limit, SlidingLog, TokenBucket

_HALF_TRIP, _SERVICE = 0.01, 0.005


@dataclass(frozen=True)
class Kind:
    """A kind of server.

    Attributes:
        limit: makes its limit.
        ideal: how many seconds it takes at least for a number of requests.
        status: of its rejections.
        has_retry_after: whether they say for how long.
        service: how many seconds an accepted request takes.
        faults: which share of the requests fails for no reason.
    """

    limit: Callable[[], Limit]
    ideal: Callable[[int], float]
    status: int = 429
    has_retry_after: bool = True
    service: float = _SERVICE
    faults: float = 0.0


KINDS = {
    "bucket": Kind(lambda: TokenBucket(50, 10), lambda number: (number - 10) / 50),
    "window": Kind(lambda: FixedWindow(100, 10), lambda number: (number - 1) // 100 * 10 + 0.025),
    "concurrency": Kind(lambda: SlidingLog(5, 0.1), lambda number: number / 5 * 0.12, service=0.1),
    "bare 503": Kind(lambda: TokenBucket(50, 21), lambda number: (number - 21) / 50, status=503, has_retry_after=False),
    "faults": Kind(lambda: TokenBucket(1e6, 10_000), lambda number: 1.0, faults=0.1),
}


class Host:
    """A server, to which several transports lead.

    Attributes:
        accepted: how many requests it has accepted.
        rejected: how many it has rejected.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._limit = kind.limit()
        self._fault = Flaky(kind.faults, seed="fleets")
        self.accepted = self.rejected = 0

    async def answer(self) -> httpx.Response:
        await trio.sleep(_HALF_TRIP * random.uniform(0.9, 1.1))
        now, kind = trio.current_time(), self._kind
        if self._fault.strikes(now):
            return httpx.Response(503)
        is_accepted = self._limit.admit(now)
        self.accepted += is_accepted
        self.rejected += not is_accepted
        wait = max(1, round(self._limit.free_at(now) - now + 0.5))
        await trio.sleep(_HALF_TRIP * random.uniform(0.9, 1.1) + (kind.service if is_accepted else 0))
        if is_accepted:
            return httpx.Response(200)
        return httpx.Response(kind.status, headers={"Retry-After": str(wait)} if kind.has_retry_after else {})


class Way(httpx.AsyncBaseTransport):
    """The way of one process to a server."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._host.answer()


@dataclass(frozen=True)
class Outcome:
    """How it went: times of the ideal, the share of rejections, slowest to fastest process, calls of the store."""

    ratio: float
    rejected: float
    spread: float
    calls: float


def run(kind: Kind, processes: int, requests: int, store: MemoryStore) -> Outcome:
    """Let each process send its part of so many requests at once; none may fail."""
    random.seed(7)
    host, ends = Host(kind), list[float]()

    async def process(number: int) -> None:
        await trio.sleep(0.05 * number / processes)
        throttle = Throttle(shared=memory_backend(store))
        retry = RetryPolicy(max_retries=8, max_backoff=1)
        async with PrefectHttpxClient(transport=Way(host), throttle=throttle, retry=retry) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(requests // processes):
                    nursery.start_soon(client.get, "http://example.org/")
            ends.append(trio.current_time())

    async def main() -> None:
        with trio.fail_after(600):
            async with trio.open_nursery() as nursery:
                for number in range(processes):
                    nursery.start_soon(process, number)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert host.accepted == requests // processes * processes
    return Outcome(
        ratio=max(ends) / kind.ideal(host.accepted),
        rejected=host.rejected / host.accepted,
        spread=max(ends) / min(ends),
        calls=store.calls / host.accepted,
    )


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize(
    ("name", "ratio", "rejected", "spread"),
    [
        ("bucket", 1.35, 0.06, 1.35),
        ("window", 1.35, 0.1, 1.8),
        ("concurrency", 1.6, 0.06, 1.35),
        ("bare 503", 1.3, 0.25, 2.2),
    ],
)
def test_processes_are_one_client(name: str, ratio: float, rejected: float, spread: float, *, processes: int) -> None:
    """However many they are, they take about as long as one process does, and are rejected about as often."""
    outcome = run(KINDS[name], processes, 600, MemoryStore(delay=0.0005))
    assert outcome.ratio <= ratio
    assert outcome.rejected <= rejected
    assert outcome.spread <= spread


@pytest.mark.parametrize("processes", [1, 4])
def test_faults_are_no_limit(processes: int) -> None:
    """A server without a limit that fails now and then does not hold the processes back for long."""
    run(KINDS["faults"], processes, 600, MemoryStore(delay=0.0005))


def test_one_process_is_as_fast_as_without() -> None:
    """A process that is alone keeps to the rate by itself: it calls the store now and then."""
    outcome = run(KINDS["bucket"], 1, 600, MemoryStore(delay=0.0005))
    assert outcome.ratio <= 1.35
    assert outcome.calls <= 0.1


def test_calls_at_a_high_rate() -> None:
    """At 500 requests per second, there is a call for about every tenth, most of them at the beginning."""
    kind = Kind(lambda: TokenBucket(500, 50), lambda number: (number - 50) / 500)
    outcome = run(kind, 8, 8_000, MemoryStore(delay=0.0002))
    assert outcome.calls <= 0.12


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_hundred_processes_and_lost_messages() -> None:
    """A fiftieth of the calls have no answer, and of the news do not arrive: no request fails."""
    outcome = run(KINDS["bucket"], 100, 2_000, MemoryStore(delay=0.0005, loss=0.02))
    assert outcome.ratio <= 3.5
    assert outcome.rejected <= 0.15
