"""Curve: the rate of requests, and what is learned about it from each closure. Pure.

Each closure is one step of a bisection. A concurrency limit accepts `high` = accepted / time the gate was open; a fixed
window accepts `low` = accepted / time from one opening to the next; the rate of a token bucket lies between them. The
rate starts at their geometric mean, which halves the error (in log space) in each cycle, whatever the kind of limit.
From there it climbs along a cubic curve: slowly near the rate that was rejected last, then faster, beyond it. The climb
takes longer the longer the gate was closed, so that about a twentieth of the time is spent being rejected.

No rate is below one request a minute. A server that accepts fewer says for how long it wants none, or rejects more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# How far the next ceiling is below the rate that was rejected, and the base at least below the ceiling.
_BELOW_THE_LAST = 0.95
_BASE_BELOW_CEILING = 0.9
# Times the seconds that the gate was closed: so about a twentieth of the time goes into probing the limit.
_PAYBACK, _SHORTEST_CLIMB, _LONGEST_CLIMB = 20.0, 5.0, 60.0
_FEWEST_ANSWERS = 10.0
# Requests per second. After an outage in which little was accepted, the climb must not take hours.
_LOWEST_RATE = 1 / 60
_SHORTEST_TIME = 1e-3


@dataclass(frozen=True, slots=True)
class Curve:
    """A rate that climbs with the number of answers.

    Attributes:
        base: the rate at first, in requests per second.
        ceiling: the rate after ``span`` answers; there it climbs most slowly, and then goes on.
        span: a number of answers.
    """

    base: float
    ceiling: float
    span: float

    def rate(self, done: float) -> float:
        """Return the rate after ``done`` answers."""
        return self.ceiling - (self.ceiling - self.base) * (1 - done / self.span) ** 3

    def is_low(self, done: float) -> bool:
        """Return whether less than half of the way to the ceiling lies behind after ``done`` answers."""
        return done < self.span / 2


def learn_curve(
    *, accepted: float, busy: float, whole: float, closed_for: float, last_rate: float, accepted_share: float = 1.0
) -> Curve:
    """Return the curve that the end of a closure teaches.

    Args:
        accepted: how many requests of the cycle were accepted, at least 1.
        busy: seconds from the cycle's first request to the first that was rejected; 0 or more.
        whole: seconds from the cycle's first request to the probe that opened the gate; above 0.
        closed_for: seconds from the rejection to the probe.
        last_rate: requests per second at the rejection; infinity if none was known.
        accepted_share: which share of the requests was accepted at that rate, above 0; 1 if this is not known.
    """
    low = accepted / whole
    if math.isinf(last_rate):
        high = accepted / max(busy, _SHORTEST_TIME)
    else:
        # What a saturated bucket accepts of a rate is its own rate.
        high = min(_BELOW_THE_LAST * last_rate, max(low, accepted_share * last_rate))
    high = max(high, _LOWEST_RATE / _BASE_BELOW_CEILING)
    base = max(min(math.sqrt(low * high), _BASE_BELOW_CEILING * high), _LOWEST_RATE)
    climb = min(max(_PAYBACK * closed_for, _SHORTEST_CLIMB), _LONGEST_CLIMB)
    return Curve(base, high, max(base * climb, _FEWEST_ANSWERS))
