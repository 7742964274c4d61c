"""A crowd of requests to a rate-limited server, simulated in trio's virtual time."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx
import httpx_retries
import tenacity
import trio
import trio.testing

from benchmarks._limited_servers import (
    CONNECTIONS,
    FLAKY,
    FLAKY_AND_LIMITED,
    HALF_TRIP,
    SERVERS,
    Server,
    ideal,
)
from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle

T = TypeVar("T")

_URL = "http://example.org/"
_KEY = "the server"
_SPREAD = 0.1  # of the length of a trip, either way
_POLICY = RetryPolicy(max_retries=5)
_PATIENT = RetryPolicy(max_retries=8, max_backoff=1)
_SAMPLE = 0.1

Get = Callable[[], Awaitable[httpx.Response]]
OpenClient = Callable[[httpx.AsyncBaseTransport], AbstractAsyncContextManager[Get]]
Load = Callable[[Get, int], Awaitable[int]]
# Pairs of a time and a number of requests per second.
Rates = list[tuple[float, float]]


class LimitedTransport(httpx.AsyncBaseTransport):
    """A transport to a server, with as many connections as httpx has.

    Attributes:
        arrivals: when each request arrived at the server, and whether it was accepted.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.arrivals: list[tuple[float, bool]] = []
        self._server = server
        self._limit = server.limit(seed)
        self._random = random.Random(seed)
        self._fault = server.fault(seed)
        self._connections = trio.Semaphore(CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and wait for the answer."""
        async with self._connections:
            await trio.sleep(self._half_trip())
            now = trio.current_time()
            is_struck = self._fault.strikes(now)
            is_accepted = not is_struck and self._limit.admit(now)
            self.arrivals.append((now, is_accepted))
            if is_struck:
                assert self._fault.status is not None
                response = httpx.Response(self._fault.status)
            else:
                headers = self._server.headers_of(self._limit, now, is_rejection=not is_accepted)
                response = httpx.Response(200 if is_accepted else self._server.status, headers=headers)
            await trio.sleep(self._half_trip() + (self._server.service if is_accepted else 0))
            return response

    def _half_trip(self) -> float:
        return HALF_TRIP * self._random.uniform(1 - _SPREAD, 1 + _SPREAD)


# --- The clients


def _ours(throttle: Callable[[], Throttle | None], retry: RetryPolicy = _POLICY) -> OpenClient:
    @asynccontextmanager
    async def open_client(transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Get, None]:
        async with PrefectHttpxClient(transport=transport, retry=retry, throttle=throttle()) as client:
            yield lambda: client.get(_URL)

    return open_client


class _TrioRetry(httpx_retries.Retry):
    """Sleeps on trio; the original sleeps on asyncio."""

    async def asleep(self, response: httpx.Response | Exception) -> None:
        seconds = self._calculate_sleep(response.headers if isinstance(response, httpx.Response) else {})
        await trio.sleep(seconds)
        self.elapsed_sleep += seconds


@asynccontextmanager
async def _httpx_retries(transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Get, None]:
    retrying = httpx_retries.RetryTransport(transport, retry=_TrioRetry(total=_POLICY.max_retries, backoff_factor=0.5))
    async with httpx.AsyncClient(transport=retrying) as client:
        yield lambda: client.get(_URL)


@asynccontextmanager
async def _tenacity(transport: httpx.AsyncBaseTransport) -> AsyncGenerator[Get, None]:
    async with httpx.AsyncClient(transport=transport) as client:

        async def get() -> httpx.Response:
            return (await client.get(_URL)).raise_for_status()

        yield tenacity.retry(
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            stop=tenacity.stop_after_attempt(1 + _POLICY.max_retries),
            wait=tenacity.wait_random_exponential(),
            sleep=trio.sleep,
            reraise=True,
        )(get)


STRICT, EARLY, UNTHROTTLED = "throttle", "early_probe", "no throttle"
FAST_START = "slow_start=False"
PATIENT, PATIENT_UNTHROTTLED = "throttle, 8 retries", "no throttle, 8 retries"
CLIENTS: dict[str, OpenClient] = {
    STRICT: _ours(Throttle),
    EARLY: _ours(lambda: Throttle(early_probe=True)),
    FAST_START: _ours(lambda: Throttle(slow_start=False)),
    UNTHROTTLED: _ours(lambda: None),
    PATIENT: _ours(Throttle, _PATIENT),
    PATIENT_UNTHROTTLED: _ours(lambda: None, _PATIENT),
    "httpx-retries": _httpx_retries,
    "tenacity": _tenacity,
}


# --- The loads


async def _at_once(get: Get, requests: int) -> int:
    """Send each request from a task of its own; return how many failed."""
    return await _by_tasks(requests, get, requests)


def _by_workers(workers: int) -> Load:
    """Let workers send the requests one after the other; return how many failed."""
    return lambda get, requests: _by_tasks(workers, get, requests)


async def _by_tasks(tasks: int, get: Get, requests: int) -> int:
    failed = 0
    todo = iter(range(requests))

    async def work() -> None:
        nonlocal failed
        for _ in todo:
            try:
                response = await get()
            except httpx.HTTPError:
                failed += 1
            else:
                failed += not response.is_success

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(work)
    return failed


FEW_WORKERS = "50 workers"
LOADS: dict[str, Load] = {
    "1,000 tasks at once": _at_once,
    "100 workers": _by_workers(100),
    FEW_WORKERS: _by_workers(50),
}


# --- The runs

_ALL_SERVERS = SERVERS | FLAKY | FLAKY_AND_LIMITED


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        ratio: ``seconds`` over the ideal time for the number of requests that did not fail; NaN if all failed.
        seconds: how long it took until the last request was answered or given up.
        rejected: rejections for each request that was accepted; infinity if all failed.
        failed: how many requests were given up.
        arrivals: when each request arrived at the server, and whether it was accepted.
    """

    ratio: float
    seconds: float
    rejected: float
    failed: int
    arrivals: list[tuple[float, bool]]


def simulate(server: str, client: str, load: str, requests: int, seed: int) -> Outcome:
    """Run a client against a server, each by its name."""
    return _in_virtual_time(seed, lambda: _run(_ALL_SERVERS[server], CLIENTS[client], LOADS[load], requests, seed))


async def _run(server: Server, open_client: OpenClient, load: Load, requests: int, seed: int) -> Outcome:
    transport = LimitedTransport(server, seed)
    async with open_client(transport) as get:
        failed = await load(get, requests)
        seconds = trio.current_time()
    succeeded = requests - failed
    assert succeeded == sum(is_accepted for _, is_accepted in transport.arrivals)
    rejected = len(transport.arrivals) - succeeded
    return Outcome(
        ratio=seconds / ideal(server, succeeded, seed) if succeeded else math.nan,
        seconds=seconds,
        rejected=rejected / succeeded if succeeded else math.inf,
        failed=failed,
        arrivals=transport.arrivals,
    )


def learned_rates(server: str, requests: int, seed: int) -> Rates:
    """Return the rate that a throttle has learned, every tenth of a second; infinity at first."""
    return _in_virtual_time(seed, lambda: _sample(SERVERS[server], requests, seed))


async def _sample(server: Server, requests: int, seed: int) -> Rates:
    throttle = Throttle(key=lambda request: _KEY)
    rates: Rates = []

    async def sample() -> None:
        while True:
            await trio.sleep(_SAMPLE)
            rates.append((trio.current_time(), throttle.statistics(_KEY).rate))

    async with _ours(lambda: throttle)(LimitedTransport(server, seed)) as get, trio.open_nursery() as nursery:
        nursery.start_soon(sample)
        await _at_once(get, requests)
        nursery.cancel_scope.cancel()
    return rates


def _in_virtual_time(seed: int, run: Callable[[], Awaitable[T]]) -> T:
    # So that the clients' jitter, and the order in which trio runs tasks that are ready, are the same on every run.
    random.seed(seed)
    importlib.import_module("trio._core._run")._r.seed(seed)

    async def main() -> T:
        return await run()

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
