"""How long small requests take that many tasks make at once, and how much of that is processor time.

Contestants take turns, each in a process of its own, and ratios are of neighbours, as in _measure.py. Wall-clock time
alone would not do: on a machine with other work it is disturbed, and with a slow server it is the server's. Processor
time alone would not do either, since a client may wait without need.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks._contestant import arguments
from benchmarks._http_clients import Contestant
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


Measure = Callable[[Contestant, Server, int, int], Sample]
"""Measures a contestant: with a server, with so many tasks, each of which makes so many requests one after another."""


@contextlib.contextmanager
def own_processes() -> Generator[Measure]:
    """Yield a function that measures contestants, each with each number of tasks in a process of its own.

    In one process for all, they change each other's speed. asyncio allocates 256 KiB for each read, which takes three
    system calls, unless the C library has seen large pieces of memory come and go: then it takes none. So the others,
    and its own 1,000 tasks, made aiohttp with 100 tasks a fifth faster than it is in a program that does only that.
    """
    processes: dict[tuple[str, ...], subprocess.Popen[str]] = {}

    def measure(contestant: Contestant, server: Server, tasks: int, each: int) -> Sample:
        key = tuple(arguments(contestant, server, tasks, each))
        process = processes.get(key)
        if process is None:
            command = [sys.executable, "-m", "benchmarks._contestant", *key]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes[key] = process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=process.stdin, flush=True)
        times = process.stdout.readline().split()
        if not times:
            raise RuntimeError(f"{contestant} has ended with {process.wait()}")
        return Sample(*map(float, times))

    try:
        yield measure
    finally:
        for process in processes.values():
            with process:
                process.kill()


def measure_in_turns(
    contestants: Iterable[Contestant], server: Server, tasks: int, each: int, rounds: int
) -> dict[Contestant, list[Sample]]:
    """Measure the contestants that are available, with so many tasks, which make so many requests each in a round."""
    samples: dict[Contestant, list[Sample]] = {one: [] for one in contestants if one.is_available}
    with own_processes() as measure:
        for number in range(rounds):
            for contestant in list(samples) if number % 2 else reversed(samples):
                samples[contestant].append(measure(contestant, server, tasks, each))
    return samples


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
