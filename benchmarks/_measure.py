"""Ratios that hold on a busy machine: two contestants take turns in short blocks, and only neighbours are compared.

A machine's speed drifts by more than the differences that are measured here, but hardly within the milliseconds of one
round. The order changes from round to round. Processor time is measured: nothing here waits, except for the processor
while other programs use it. The garbage collector stays on because it is part of the cost, but the young generations
are collected before every block: otherwise a block that pays for its neighbour's garbage is several percent slower. If
blocks leave so many objects to the oldest generation that it is collected every few blocks, that goes for it as well.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A contestant's time divided by the baseline's: the median of all rounds, and the quartiles around it.

    Attributes:
        low: the lower quartile.
        median: the result.
        high: the upper quartile.
        seconds: the contestant's own time for one call, the median.
        base_seconds: the same for the baseline.
    """

    low: float
    median: float
    high: float
    seconds: float
    base_seconds: float


async def compare(
    base: Call, others: Mapping[str, Call], *, rounds: int, calls: int, generation: int = 1
) -> dict[str, Ratio]:
    """Run the baseline and each of the others in turns, for ``rounds`` rounds of ``calls`` calls each.

    Before each, garbage is collected up to a generation.
    """
    return {name: await _take_turns(base, other, rounds, calls, generation) for name, other in others.items()}


async def _take_turns(base: Call, other: Call, rounds: int, calls: int, generation: int) -> Ratio:
    base_seconds: list[float] = []
    other_seconds: list[float] = []
    pair = (base, base_seconds), (other, other_seconds)
    for number in range(-(rounds // 10), rounds):  # the first tenth warms up
        for call, seconds in pair if number % 2 else reversed(pair):
            gc.collect(generation)
            took = await _time_block(call, calls)
            if number >= 0:
                seconds.append(took)
    return ratio(base_seconds, other_seconds)


async def _time_block(call: Call, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        await call()
    return (time.process_time() - started) / calls


def ratio(base_seconds: Sequence[float], other_seconds: Sequence[float]) -> Ratio:
    """Return the ratio of two series of rounds."""
    quotients = [other / base for base, other in zip(base_seconds, other_seconds, strict=True)]
    low, median, high = statistics.quantiles(quotients, n=4)
    return Ratio(low, median, high, statistics.median(other_seconds), statistics.median(base_seconds))
