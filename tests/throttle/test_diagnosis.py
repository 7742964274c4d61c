"""What doubtful rejections turn out to be: tables."""

from __future__ import annotations

import math

import pytest
from support.rows import each_row

from prefect_http._throttle.diagnosis import Diagnoses, Diagnosis
from prefect_http._throttle.evidence import Evidence, FaultShare

UNCLEAR, NOT_THE_RATE, LIMIT = Diagnosis.UNCLEAR, Diagnosis.NOT_THE_RATE, Diagnosis.LIMIT
# A closure: rejected, accepted, the rate, whether that is low, and how many probes were rejected.
Row = tuple[int, int, float, bool, int]


def diagnose(diagnoses: Diagnoses, row: Row) -> Diagnosis:
    """Diagnose a closure."""
    rejected, accepted, rate, is_low, probes = row
    return diagnoses.diagnose(Evidence(rejected, accepted), rate=rate, is_low=is_low, rejected_probes=probes)


@each_row(("rejected", "accepted", "expected"), [(5, 5, UNCLEAR), (5, 9, UNCLEAR), (5, 4, LIMIT), (2, 0, LIMIT)])
def test_without_a_rate(rejected: int, accepted: int, expected: Diagnosis) -> None:
    """At an unknown rate they are a limit if more were rejected than accepted."""
    share = FaultShare()
    assert diagnose(Diagnoses(share), (rejected, accepted, math.inf, True, 0)) is expected
    assert share.value == pytest.approx(0.003)


@each_row(
    ("rejected", "accepted", "expected"),
    [(4, 4, UNCLEAR), (5, 3, LIMIT), (4, 3, UNCLEAR), (0, 0, UNCLEAR), (20, 30, UNCLEAR), (30, 25, LIMIT)],
)
def test_those_that_were_on_their_way(rejected: int, accepted: int, expected: Diagnosis) -> None:
    """Where eight or more requests were on their way, as many of these must have been accepted as rejected."""
    evidence = Evidence(2, 50, rejected_later=rejected, accepted_later=accepted)
    diagnoses = Diagnoses(FaultShare())
    assert diagnoses.diagnose(evidence, rate=math.inf, is_low=True, rejected_probes=0) is expected


def test_faults_that_were_a_limit_after_all() -> None:
    """If the next closure at an unknown rate is a limit, the faults that the last trial has found are forgotten."""
    share = FaultShare()
    diagnoses = Diagnoses(share)
    for found, faults in ((6, 6), (3, 9)):
        assert diagnose(diagnoses, (6, 6, math.inf, True, 0)) is UNCLEAR
        diagnoses.found_faults(found)
        assert share.value == pytest.approx((0.15 + faults) / 50)
    for _ in range(2):
        assert diagnose(diagnoses, (20, 4, math.inf, True, 0)) is LIMIT
        assert share.value == pytest.approx((0.15 + 6) / 50)


@each_row(
    ("rows", "expected"),
    [
        pytest.param([(5, 9, 50.0, True, 0)], LIMIT, id="the rate was not lowered yet"),
        pytest.param([(5, 0, 50.0, True, 0), (5, 9, 45.0, True, 0)], NOT_THE_RATE, id="soon after it was lowered"),
        pytest.param([(5, 0, 50.0, True, 0), (5, 9, 45.0, False, 0)], LIMIT, id="near the ceiling"),
        pytest.param([(5, 0, 50.0, True, 0), (5, 9, 45.0, True, 1)], LIMIT, id="the first probe was rejected"),
        pytest.param(
            [(5, 0, 50.0, True, 0), (5, 9, 39.0, False, 1), (5, 9, 31.0, False, 1)], NOT_THE_RATE, id="it falls twice"
        ),
        pytest.param(
            [(5, 0, 50.0, True, 0), (5, 9, 39.0, False, 1), (5, 9, 32.0, False, 1)], LIMIT, id="it falls once"
        ),
        pytest.param(
            [(5, 0, 50.0, True, 0), (5, 9, 39.0, False, 1), (5, 9, 31.0, False, 2)], LIMIT, id="two probes rejected"
        ),
        pytest.param([(5, 0, 50.0, True, 0), (5, 9, 45.0, True, 0), (5, 9, 40.0, True, 0)], LIMIT, id="lowered anew"),
    ],
)
def test_with_a_rate(rows: list[Row], expected: Diagnosis) -> None:
    """At a known rate they are a limit, unless a rate that was lowered already is rejected soon, or falls and falls."""
    share = FaultShare()
    diagnoses = Diagnoses(share)
    before = [diagnose(diagnoses, row) for row in rows[:-1]]
    known = share.value
    assert diagnose(diagnoses, rows[-1]) is expected
    assert share.value == pytest.approx(known + (rows[-1][0] / 2 / 50 if expected is NOT_THE_RATE else 0))
    assert before.count(LIMIT) + before.count(NOT_THE_RATE) == len(before)


def test_a_certain_limit_in_between() -> None:
    """After a rejection that is not doubtful, the rate does not count as lowered because of doubtful ones."""
    diagnoses = Diagnoses(FaultShare())
    diagnose(diagnoses, (5, 0, 50.0, True, 0))
    diagnoses.limit_is_certain()
    assert diagnose(diagnoses, (5, 9, 45.0, True, 0)) is LIMIT
