"""What doubtful rejections turn out to be once a probe is accepted. Pure.

- Unclear, if no rate was known, and no more requests were rejected than accepted. This must hold for the requests that
  were on their way when the gate closed, too, unless they are few: those that closed it are no fair sample. A trial
  follows: see trial.py. Without this rule, a server that fails a lot closes the gate again and again, and each closure
  lowers the rate.
- Not the rate's fault, if a rate that was lowered because of doubtful rejections is soon rejected again although the
  first probe is accepted, or if the rates that are rejected fall and fall. No limit is like that.
- A limit in all other cases.

A wrong result of a trial must not last: the faults that it has counted are forgotten if the next closure, still at an
unknown rate, turns out to be a limit.
"""

from __future__ import annotations

import enum
import math

from prefect_http._throttle.evidence import Evidence, FaultShare

# A rate below this share of the last one that was rejected has fallen.
_FALLEN = 0.8
# After how many falls in a row the rate is not the cause.
_FALLS = 2
# How many requests that were on their way are not few.
_ENOUGH_LATER = 8


class Diagnosis(enum.Enum):
    """What doubtful rejections are; see the top of the file."""

    UNCLEAR = enum.auto()
    NOT_THE_RATE = enum.auto()
    LIMIT = enum.auto()


class Diagnoses:
    """Diagnoses the closures of one gate, each in the light of the last ones.

    Args:
        share: the usual share of faults, which is updated.
    """

    def __init__(self, share: FaultShare) -> None:
        self._share = share
        # Whether the present rate was learned because a known rate met with doubtful rejections.
        self._is_lowered = False
        self._last_rate = 0.0
        self._falls = 0
        self._forgiven = 0

    def diagnose(self, evidence: Evidence, *, rate: float, is_low: bool, rejected_probes: int) -> Diagnosis:
        """Return what the rejections of a closure are.

        Args:
            evidence: of the closure.
            rate: requests per second when the gate closed; infinity if none was known.
            is_low: whether the rate was in the lower half of its climb.
            rejected_probes: how many probes were rejected before one was accepted.
        """
        if math.isinf(rate):
            return self._diagnose_without_rate(evidence)
        has_fallen = self._is_lowered and rejected_probes <= 1 and rate < _FALLEN * self._last_rate
        self._falls = self._falls + 1 if has_fallen else 0
        self._last_rate = rate
        is_too_soon = self._is_lowered and rejected_probes == 0 and is_low
        if is_too_soon or self._falls >= _FALLS:
            self._share.add_faults(evidence.all_rejected / 2)
            self._is_lowered, self._falls = False, 0
            return Diagnosis.NOT_THE_RATE
        self._is_lowered = True
        return Diagnosis.LIMIT

    def _diagnose_without_rate(self, evidence: Evidence) -> Diagnosis:
        if _may_be_faults(evidence):
            return Diagnosis.UNCLEAR
        self._share.add_faults(-self._forgiven)
        self._forgiven = 0
        return Diagnosis.LIMIT

    def found_faults(self, number: int) -> None:
        """Take note of a trial that has shown so many rejections to be faults."""
        self._share.add_faults(number)
        self._forgiven = number

    def limit_is_certain(self) -> None:
        """Take note of a closure whose rejections are not doubtful."""
        self._is_lowered, self._falls = False, 0


def _may_be_faults(evidence: Evidence) -> bool:
    if evidence.all_accepted < evidence.all_rejected:
        return False
    later = evidence.accepted_later, evidence.rejected_later
    return sum(later) < _ENOUGH_LATER or later[0] >= later[1]
