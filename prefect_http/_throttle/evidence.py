"""Whether doubtful rejections come from a limit, or are faults. Pure.

A rejection is doubtful if it says nothing for how long, or is a 503: a limit sends those, and so does a server that
fails now and then. What follows tells them apart: a limit rejects nearly all other requests as well, and faults keep to
their share.

How strongly the rejections speak for a limit is counted in bits, the binary logarithm of a likelihood ratio: how much
likelier they are if a fifth more than usual is rejected than if faults have their usual share. This is Page's test, a
cumulative sum (E. S. Page, Continuous Inspection Schemes, Biometrika 41, 1954). A rejection adds more bits the more it
surprises: 6 where one request in 400 fails, 2 where one in ten does. An accepted request takes away about a half, and
at 0 the count starts anew. At 12 bits the gate closes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ENOUGH_BITS = 12.0
_MORE_THAN_USUAL = 1 / 5
# What is believed at first: three faults in a thousand requests. It must not fall to 0, at which a fault is impossible.
_FEWEST_FAULTS, _FIRST_ANSWERS = 0.15, 50.0
# Older responses count for less and less: beyond so many, each further one scales down what was counted before.
_MOST_ANSWERS = 500.0
_SCALE = _MOST_ANSWERS / (_MOST_ANSWERS + 1)
# Where more than half of the requests fail, a rejection tells nothing.
_LARGEST_SHARE = 0.5


class FaultShare:
    """The share of requests that fail although no limit is exceeded, according to about the last 500 responses.

    Attributes:
        new_answers: how many responses there were since the share was last needed; to be increased by 1 for each,
            whatever it was. That is all that an accepted request costs.
    """

    def __init__(self) -> None:
        self.new_answers = 0
        self._faults = _FEWEST_FAULTS
        self._answers = _FIRST_ANSWERS

    @property
    def value(self) -> float:
        """The share, above 0, and at most a half."""
        self._count_answers()
        return min(self._faults / self._answers, _LARGEST_SHARE)

    def add_faults(self, number: float) -> None:
        """Count responses as faults; a negative number takes back what was counted."""
        self._count_answers()
        self._faults = max(self._faults + number, _FEWEST_FAULTS)

    def _count_answers(self) -> None:
        self._answers += self.new_answers
        self.new_answers = 0
        too_many = self._answers - _MOST_ANSWERS
        if too_many > 0:
            self._faults = max(self._faults * _SCALE**too_many, _FEWEST_FAULTS)
            self._answers = _MOST_ANSWERS


@dataclass(slots=True)
class Evidence:
    """The responses that have closed the gate, and those that were on their way when it closed.

    Attributes:
        rejected: how many requests were rejected until it closed.
        accepted: how many were accepted since the first of them.
        rejected_later: how many were rejected while it was closed.
        accepted_later: how many that had been sent after the first of all that were rejected were accepted then.
        first_sent_at: when the first of those that were rejected was sent.
        first_at: when its response came.
        last_at: when the last response came until the gate closed, or the last of those that were accepted later.
        retry_after_until: the end of the longest Retry-After; minus infinity if there was none.
    """

    rejected: int = 0
    accepted: int = 0
    rejected_later: int = 0
    accepted_later: int = 0
    first_sent_at: float = math.inf
    first_at: float = math.inf
    last_at: float = -math.inf
    retry_after_until: float = -math.inf

    @property
    def all_rejected(self) -> int:
        """How many requests were rejected."""
        return self.rejected + self.rejected_later

    @property
    def all_accepted(self) -> int:
        """How many requests were accepted."""
        return self.accepted + self.accepted_later

    @property
    def accepted_share(self) -> float:
        """Which share of them was accepted."""
        return self.all_accepted / (self.all_accepted + self.all_rejected)

    def accepted_rate(self, shortest: float) -> float:
        """Return how many requests per second were accepted.

        The probe counts, although it is answered after ``last_at``; to leave it out was tried, and gained nothing.

        Args:
            shortest: how many seconds there were at least.
        """
        return self.all_accepted / max(self.last_at - self.first_at, shortest)


class LimitTest:
    """Weighs doubtful rejections against accepted requests, while the gate is open.

    Args:
        share: the usual share of faults. It is updated, but not by rejections that close the gate.

    Attributes:
        has_doubts: whether there are rejections to weigh. Until then, an accepted request only counts for the share.
    """

    def __init__(self, share: FaultShare) -> None:
        self._share = share
        self._bits: float
        self._evidence: Evidence
        self._counted: int  # of the rejections in the evidence, how many were counted as faults
        self.has_doubts: bool
        self.begin()

    def accepted(self, now: float, *, counts: bool, number: int = 1) -> None:
        """Weigh an accepted request.

        Args:
            now: the time.
            counts: whether it counts for the share of faults.
            number: how many it stands for.
        """
        if counts:
            self._share.new_answers += number
        if self._evidence.rejected:
            usual = self._share.value
            self._evidence.accepted += number
            self._evidence.last_at = now
            self._bits += number * math.log2((1 - _limited(usual)) / (1 - usual))
            if self._bits <= 0:
                self.begin()

    def rejected(self, now: float, *, sent_at: float, retry_after_until: float, counts: bool) -> Evidence | None:
        """Weigh a doubtful rejection. If the gate is to be closed, return the evidence.

        Args:
            now: the time.
            sent_at: when the request was sent.
            retry_after_until: the end of its Retry-After; minus infinity if it has none.
            counts: whether it counts for the share of faults, unless it closes the gate.
        """
        usual, evidence = self._share.value, self._evidence
        self.has_doubts = True
        self._bits += math.log2(_limited(usual) / usual)
        evidence.rejected += 1
        evidence.first_at = min(evidence.first_at, now)
        evidence.last_at = now
        evidence.first_sent_at = min(evidence.first_sent_at, sent_at)
        evidence.retry_after_until = max(evidence.retry_after_until, retry_after_until)
        if counts:
            self._share.add_faults(1)
            self._share.new_answers += 1
            self._counted += 1
        if self._bits < _ENOUGH_BITS:
            return None
        self._share.add_faults(-self._counted)
        self.begin()
        return evidence

    def begin(self) -> None:
        """Forget the evidence."""
        self._bits, self._evidence, self._counted, self.has_doubts = 0.0, Evidence(), 0, False


def _limited(usual: float) -> float:
    """Return the share of rejections that speaks for a limit."""
    return usual + _MORE_THAN_USUAL
