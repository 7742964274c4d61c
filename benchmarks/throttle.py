"""What a throttle does for a crowd of requests, and what it costs.

The crowds run against simulated servers in virtual time, with the same random numbers each time, so it makes no
difference how busy the machine is. The cost is measured with an app in this process and a throttle that never holds
anything back, and with queues of several lengths.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import httpx

from benchmarks._apps import hello
from benchmarks._limited_servers import HEALTHY, SERVERS
from benchmarks._measure import compare
from benchmarks._pictures import draw_throttle
from benchmarks._simulation import (
    CLIENTS,
    EARLY,
    FAST_START,
    FEW_WORKERS,
    LOADS,
    PATIENT,
    PATIENT_UNTHROTTLED,
    STRICT,
    UNTHROTTLED,
    Outcome,
    learned_rates,
    simulate,
)
from benchmarks._table import print_checked, print_table
from prefect_http import PrefectHttpxClient, Throttle, ThrottledTransport

_REQUESTS = 1_000
# The other clients take many times as long to simulate, because so many of their requests are rejected.
_SEEDS, _SEEDS_OF_OTHERS = 3, 1
_COMPARED = [client for client in CLIENTS if client not in (FAST_START, PATIENT, PATIENT_UNTHROTTLED)]
_CROWDS = [load for load in LOADS if load != FEW_WORKERS]
_OURS = STRICT, EARLY, FAST_START, UNTHROTTLED
_DRAWN, _LEARNED_OF = "S1", ("S1", "S9")
_LONG_JOB = 3_000  # requests, so that the picture shows what is learned late

_MAX_REJECTED = 0.05
_MANY = 10  # rejections for each accepted request, above which they are not printed as a percentage
_MAX_RATIO = {STRICT: dict.fromkeys(SERVERS, 1.25) | {"S9": 1.35}, EARLY: dict.fromkeys(SERVERS, 1.2)}
_MAX_SLOWDOWN = {STRICT: 1.5, FAST_START: 1.05}

_URL = "http://localhost/"
_TASKS, _EACH = 100, 5
_BASE, _THROTTLED = "PrefectHttpxClient(app=...)", "with a throttle that never closes"
_MAX_COST = {_THROTTLED: 1.10}
_QUEUES = {100: 20, 1_000: 4, 10_000: 2}  # the number of requests: the number of rounds
_MAX_GROWTH = 1.25


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean outcome of all seeds; see Outcome."""

    ratio: float
    seconds: float
    rejected: float
    failed: float

    def __str__(self) -> str:
        ratio = "-" if math.isnan(self.ratio) else f"{self.ratio:.2f}"
        rejected = f"{self.rejected:.1%}" if self.rejected < _MANY else f"{self.rejected:,.0f} x"
        return f"{ratio:>5} {rejected:>7} {self.failed:4.0f}"

    def verdict(self, max_ratio: float) -> str:
        """Return whether the targets are met, as it is printed."""
        is_met = self.ratio <= max_ratio and self.rejected <= _MAX_REJECTED and not self.failed
        return "ok" if is_met else "MISSED"


def run_crowds() -> None:
    """Simulate the crowds, print the results and draw them."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        # All are submitted at once, so that no process is idle.
        runs = {
            load: {
                (server, client): _start(pool, server, client, load)
                for server in SERVERS
                for client in (*_COMPARED, *([FAST_START] if server == HEALTHY else []))
            }
            for load in _CROWDS
        }
        rates = {server: pool.submit(learned_rates, server, _LONG_JOB, seed=0) for server in _LEARNED_OF}
        for load in _CROWDS:
            _print_crowd(load, {key: _mean(outcomes) for key, outcomes in runs[load].items()})
    print()
    at_once = runs[_CROWDS[0]]
    draw_throttle(
        {_title(client): at_once[_DRAWN, client][0].result() for client in _COMPARED},
        {server: run.result() for server, run in rates.items()},
    )


def _title(client: str) -> str:
    return f"prefect_http,\n{client}" if client in _OURS else client


def _start(pool: ProcessPoolExecutor, server: str, client: str, load: str) -> list[Future[Outcome]]:
    seeds = _SEEDS if client in _MAX_RATIO else _SEEDS_OF_OTHERS
    return [pool.submit(simulate, server, client, load, _REQUESTS, seed) for seed in range(seeds)]


def _mean(runs: Sequence[Future[Outcome]]) -> _Mean:
    outcomes = [run.result() for run in runs]
    return _Mean(
        ratio=statistics.fmean(outcome.ratio for outcome in outcomes),
        seconds=statistics.fmean(outcome.seconds for outcome in outcomes),
        rejected=statistics.fmean(outcome.rejected for outcome in outcomes),
        failed=statistics.fmean(outcome.failed for outcome in outcomes),
    )


def _print_crowd(load: str, means: Mapping[tuple[str, str], _Mean]) -> None:
    print(f"\n{_REQUESTS:,} requests, {load}: time over ideal, rejected for each accepted, failed")
    print(f"  {'':29}" + "".join(f"{client:>{_width(client)}}" for client in _COMPARED))
    for name, server in SERVERS.items():
        cells = (_cell(name, client, means[name, client]) for client in _COMPARED)
        print(f"  {name} {server.title:26}{''.join(cells)}".rstrip())
    print(f"  targets: time 1.25 (S9: 1.35), with {EARLY} 1.2; rejected 5 %; failed 0")
    unthrottled = means[HEALTHY, UNTHROTTLED].seconds
    for client, target in _MAX_SLOWDOWN.items():
        slowdown = means[HEALTHY, client].seconds / unthrottled
        print_checked(f"S0 healthy, {client}", f"{slowdown:.3f} x the time with {UNTHROTTLED}", slowdown, target)


def _width(client: str) -> int:
    return 26 if client in _MAX_RATIO else 18


def _cell(server: str, client: str, mean: _Mean) -> str:
    text = str(mean)
    if client in _MAX_RATIO:
        text += f" {'' if server == HEALTHY else mean.verdict(_MAX_RATIO[client][server]):6}"
    return f"{text:>{_width(client)}}"


async def run(backend: str) -> None:
    """Measure the cost of a throttle, and print it."""
    async with (
        PrefectHttpxClient(app=hello) as bare,
        PrefectHttpxClient(app=hello, throttle=Throttle(max_in_flight=2 * _TASKS, slow_start=False)) as throttled,
    ):
        others = {_THROTTLED: lambda: _crowd(throttled)}
        results = await compare(lambda: _crowd(bare), others, rounds=40, calls=1)
    print_table(f"{_TASKS} tasks with {_EACH} requests each, {backend}", _BASE, results, _MAX_COST)
    print(f"\nRequests that queue, {backend}: the time for each, and its ratio to the first row's")
    await _measure_growth()


async def _crowd(client: httpx.AsyncClient) -> None:
    async def work() -> None:
        for _ in range(_EACH):
            await client.get(_URL)

    async with anyio.create_task_group() as tasks:
        for _ in range(_TASKS):
            tasks.start_soon(work)


async def _measure_growth() -> None:
    """Measure whether a request takes longer if there are others in the queue.

    The garbage collector is disabled: it takes longer the more objects there are, whatever they are.
    """
    first = math.nan
    for requests, rounds in _QUEUES.items():
        each = statistics.median([await _queue_up(requests) for _ in range(rounds)])
        first = each if math.isnan(first) else first
        name, result = f"{requests:,}, gc.disable()", f"{each * 1e6:.1f} us   {each / first:.3f}"
        print_checked(name, result, each / first, _MAX_GROWTH)


async def _queue_up(requests: int) -> float:
    """Send requests through a throttle that lets one out at a time; return the seconds per request."""
    # Without a client, which would add the same time to each request.
    transport = ThrottledTransport(_Instant(), Throttle(max_in_flight=1))
    gc.collect()
    gc.disable()
    started = time.process_time()
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(requests):
                tasks.start_soon(transport.handle_async_request, httpx.Request("GET", _URL))
        return (time.process_time() - started) / requests
    finally:
        gc.enable()


class _Instant(httpx.AsyncBaseTransport):
    """Answers at once, after other tasks have run."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        return httpx.Response(200)


if __name__ == "__main__":
    run_crowds()
    for name in ("trio", "asyncio"):
        anyio.run(run, name, backend=name)
