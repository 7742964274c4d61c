"""Trial: whether fewer requests per second are rejected less often. Pure.

If no more requests were rejected than accepted, the cause may be faults, or a limit that accepts at least half of what
the client sends. So the gate opens to seven tenths of the rate that was accepted. A limit accepts all of that; faults
keep to their share. A sequential test tells which (A. Wald, Sequential Tests of Statistical Hypotheses, Annals of
Mathematical Statistics 16, 1945). If half of the requests were rejected, two rejections in a row show faults, and eight
accepted requests a limit; if it was a tenth, five and 90.

Without a trial, a limit a little below what the client can send rejects up to 80 % of the requests: that looks like
faults.

A rejection that is not doubtful, or a response that says that no requests are left, closes the gate and ends the trial
without an outcome: there is a limit.
"""

from __future__ import annotations

import enum
import math

from prefect_http._throttle.evidence import Evidence

_SHARE_OF_THE_RATE = 0.7
_SHORTEST_TIME = 1e-3
# A server that has a limit may fail now and then as well.
_FAULTS_OF_A_LIMIT = 0.05
# The share of rejections if they are faults. If fewer were seen, this is assumed: a trial would take too long.
_SMALLEST_SHARE = 0.1
# How many bits are enough, as in evidence.py: those of faults count up, those of a limit down.
_BITS_FOR_FAULTS, _BITS_FOR_A_LIMIT = 5.0, -7.0


class Outcome(enum.Enum):
    """What a trial has shown."""

    FAULTS = enum.auto()
    LIMIT = enum.auto()


class Trial:
    """A trial, from the opening of the gate to its outcome.

    Args:
        evidence: of the closure. No more requests were rejected than accepted, the probe included.
        opened_at: when the probe was sent. Only requests that were sent later count.
        latency: seconds from a request to its response.

    Attributes:
        rate: requests per second meanwhile.
        all_rejected: how many requests were rejected until now, whenever they were sent, and those of the evidence.
    """

    def __init__(self, evidence: Evidence, *, opened_at: float, latency: float) -> None:
        self.rate: float = _SHARE_OF_THE_RATE * evidence.accepted_rate(max(latency, _SHORTEST_TIME))
        self.all_rejected: int = evidence.all_rejected
        self._opened_at = opened_at
        share = max(1 - evidence.accepted_share, _SMALLEST_SHARE)
        self._bits = 0.0
        self._bits_of_rejected = math.log2(share / _FAULTS_OF_A_LIMIT)
        self._bits_of_accepted = math.log2((1 - share) / (1 - _FAULTS_OF_A_LIMIT))

    def accepted(self, sent_at: float) -> Outcome | None:
        """Record that a request was accepted; return the outcome if it is clear now."""
        return self._count(sent_at, self._bits_of_accepted)

    def rejected(self, sent_at: float) -> Outcome | None:
        """Record a doubtful rejection; return the outcome if it is clear now."""
        self.all_rejected += 1
        return self._count(sent_at, self._bits_of_rejected)

    def _count(self, sent_at: float, bits: float) -> Outcome | None:
        if sent_at > self._opened_at:
            self._bits += bits
        if self._bits >= _BITS_FOR_FAULTS:
            return Outcome.FAULTS
        return Outcome.LIMIT if self._bits <= _BITS_FOR_A_LIMIT else None
