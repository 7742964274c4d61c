"""Cycle: what was accepted from one opening of the gate to the next. Pure.

While a client wants no requests, nothing shows how many would be accepted. So if more were accepted per second after
the client's last pause than in the whole cycle, only what came after it counts. Without this, a client that had one
request a minute for an hour took 1,900 s for the next 1,000, on a server that accepts 50 per second.
"""

from __future__ import annotations

import math


class Cycle:
    """The present cycle of a limiter.

    Attributes:
        number: of the cycle.
        accepted: how many of its requests have been accepted.
        has_begun: whether a request has been sent.
    """

    def __init__(self) -> None:
        self.number = 0
        self.accepted = 0
        self.has_begun = False
        self._began = math.inf
        # When requests were wanted again after the last pause, and what had been accepted until then.
        self._resumed_at = -math.inf
        self._accepted_before = 0

    @property
    def began_at(self) -> float:
        """When its first request was sent; minus infinity if none was."""
        return -math.inf if self._began == math.inf else self._began

    def sent(self, now: float) -> None:
        """Record that a request is sent."""
        self.has_begun = True
        self._began = min(self._began, now)

    def resumed(self, now: float) -> None:
        """Record the end of a pause in which no request was wanted."""
        self._resumed_at, self._accepted_before = now, self.accepted

    def begin(self, probed_at: float) -> None:
        """Begin the next one with a probe that was accepted, and when it was sent."""
        self.number += 1
        self.accepted = 1
        self._began = probed_at

    def busiest_part(self, hit_at: float, until: float) -> tuple[float, int]:
        """Return since when the requests count that were accepted, and how many these are.

        Args:
            hit_at: when the first request that was rejected was sent.
            until: the end of the cycle.
        """
        since_pause = self.accepted - self._accepted_before
        if self._began < self._resumed_at <= hit_at and self._resumed_at < until:
            rate, rate_of_all = since_pause / (until - self._resumed_at), self.accepted / (until - self._began)
            if rate > rate_of_all:
                return self._resumed_at, since_pause
        return self._began, self.accepted
