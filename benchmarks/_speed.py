"""How long small requests take that many tasks make at once, and how much of that is processor time.

Contestants take turns, and ratios are of neighbours, as in _measure.py. Wall-clock time alone would not do: on a
machine with other work it is disturbed, and with a slow server it is the server's. Processor time alone would not do
either, since a client may wait without need.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio

from benchmarks._http_clients import Contestant, Get, open_client
from benchmarks._loopback import Server
from benchmarks._measure import ratio
from benchmarks._table import print_speedup, print_speedup_header


class Sample(NamedTuple):
    """What one request took, in seconds.

    Attributes:
        elapsed: wall-clock time, divided by the number of requests; so many are under way at once.
        processor: processor time of the client, with all its threads.
        server: processor time of the server.
    """

    elapsed: float
    processor: float
    server: float


class Target(NamedTuple):
    """A client must be so many times as fast as another one; None if it need not."""

    ours: Contestant
    theirs: Contestant
    at_least: float | None = None


def measure(contestant: Contestant, server: Server, tasks: int, each: int) -> Sample:
    """Let so many tasks make so many requests each, one after the other."""
    sample = contestant.run(_measure, contestant.client, server, tasks, each)
    assert isinstance(sample, Sample)
    return sample


async def _measure(client: str, server: Server, tasks: int, each: int) -> Sample:
    async with open_client(client, server, tasks) as get:
        await get()  # with HTTP/2, clients have to find out that one connection will do
        await get_at_once(get, tasks, 1)  # opens the connections
        gc.collect()
        before = time.perf_counter(), time.process_time(), server.processor_time()
        await get_at_once(get, tasks, each)
        after = time.perf_counter(), time.process_time(), server.processor_time()
    return Sample(*((end - start) / (tasks * each) for start, end in zip(before, after, strict=True)))


async def get_at_once(get: Get, tasks: int, each: int) -> None:
    """Let so many tasks make so many requests each, one after the other."""

    async def repeat() -> None:
        for _ in range(each):
            await get()

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(repeat)


def median(samples: Sequence[Sample]) -> Sample:
    """Return the medians of all rounds."""
    return Sample(*map(statistics.median, zip(*samples, strict=True)))


def print_speeds(title: str, samples: Mapping[Contestant, Sequence[Sample]], targets: Sequence[Target]) -> None:
    """Print the medians of all contestants, and how many times as fast some of them are as others."""
    print(f"\n{title}")
    print(f"  {'':36}{'requests/s':>12}{'client':>12}{'server':>12}")
    for contestant, each in samples.items():
        elapsed, processor, server = median(each)
        times = f"{processor * 1e6:>9.0f} us{server * 1e6:>9.0f} us"
        print(f"  {contestant!s:36}{1 / elapsed:12,.0f}{times}", flush=True)
    pairs = [target for target in targets if target.ours in samples and target.theirs in samples]
    if pairs:
        print_speedup_header()
    for ours, theirs, at_least in pairs:
        print_faster(f"{ours} / {theirs}", samples[ours], samples[theirs], at_least)


def print_faster(name: str, ours: Sequence[Sample], theirs: Sequence[Sample], at_least: float | None) -> None:
    """Print how many times as fast the first ones are, in wall-clock and in processor time."""
    rounds = min(len(ours), len(theirs))  # slow contestants have fewer
    ours, theirs = ours[:rounds], theirs[:rounds]
    elapsed = ratio([sample.elapsed for sample in ours], [sample.elapsed for sample in theirs])
    processor = ratio([sample.processor for sample in ours], [sample.processor for sample in theirs])
    print_speedup(name, elapsed, processor, at_least)
