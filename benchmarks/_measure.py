"""Ratios that hold on a busy machine: contestants take turns in short blocks, and only neighbours are compared.

A machine's speed drifts by more than what is measured here, but hardly within the milliseconds of one round. The
first contestant is what the others are divided by, and the order turns from round to round. The garbage collector
stays on, for its share is part of the cost, but everyone starts with the young generations swept: else a block that
pays for its neighbour's garbage is several percent slower than one that does not.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A contestant's time over the first one's: the median of all rounds, and the quartiles around it.

    Attributes:
        low: a quarter of the rounds are below it.
        median: the result.
        high: a quarter of the rounds are above it.
        seconds: the contestant's own time for one call, the median.
    """

    low: float
    median: float
    high: float
    seconds: float


async def take_turns(contestants: Mapping[str, Call], *, rounds: int, calls: int) -> dict[str, Ratio]:
    """Run the contestants by turns, ``rounds`` times ``calls`` calls each."""
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-(rounds // 10), rounds):  # the first tenth warms up
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        for name in order if number % 2 else reversed(order):
            took = await _time_block(contestants[name], calls)
            if number >= 0:
                seconds[name].append(took)
    return ratios(seconds)


async def _time_block(call: Call, calls: int) -> float:
    gc.collect(1)
    started = time.perf_counter()
    for _ in range(calls):
        await call()
    return (time.perf_counter() - started) / calls


def ratios(seconds: Mapping[str, list[float]]) -> dict[str, Ratio]:
    """Divide by the first contestant's time, round by round."""
    first = next(iter(seconds.values()))
    return {name: _ratio(own, first) for name, own in seconds.items()}


def _ratio(own: list[float], first: list[float]) -> Ratio:
    quotients = [ours / base for ours, base in zip(own, first, strict=True)]
    low, median, high = statistics.quantiles(quotients, n=4)
    return Ratio(low, median, high, statistics.median(own))
