"""A trial: tables, without a clock."""

from __future__ import annotations

import pytest
from support.rows import each_row

from prefect_http._throttle.evidence import Evidence
from prefect_http._throttle.trial import Outcome, Trial

FAULTS, LIMIT = Outcome.FAULTS, Outcome.LIMIT


def evidence(rejected: int, accepted: int) -> Evidence:
    """Return evidence of responses that came within half a second."""
    return Evidence(rejected, accepted, first_at=1.0, last_at=1.5)


def outcome(trial: Trial, responses: str, sent_at: float = 3.0) -> tuple[int, Outcome | None]:
    """Return after how many responses ("+" or "-") the outcome was clear."""
    result = None
    for number, response in enumerate(responses, start=1):
        result = trial.accepted(sent_at) if response == "+" else trial.rejected(sent_at)
        if result is not None:
            return number, result
    return len(responses), result


@pytest.mark.parametrize(("accepted", "latency", "rate"), [(10, 0.02, 14.0), (10, 1.0, 7.0), (1, 0.0, 1.4)])
def test_rate(accepted: int, latency: float, rate: float) -> None:
    """The rate is seven tenths of what was accepted per second, in one latency at least."""
    assert Trial(evidence(1, accepted), opened_at=2.0, latency=latency).rate == pytest.approx(rate)


def test_rate_of_a_server_without_any_latency() -> None:
    """If all responses came at once, the rate is finite."""
    at_once = Evidence(1, 1, first_at=1.0, last_at=1.0)
    assert Trial(at_once, opened_at=2.0, latency=0.0).rate == pytest.approx(700)


@each_row(
    ("rejected", "accepted", "responses", "expected"),
    [
        # Half of the requests: two rejections in a row are faults, eight accepted requests a limit.
        (10, 10, "--", (2, FAULTS)),
        (10, 10, "+" * 8, (8, LIMIT)),
        (10, 10, "+--", (3, FAULTS)),
        (10, 10, "+" * 7 + "-" + "+" * 5, (13, LIMIT)),
        (10, 10, "+++++", (5, None)),
        # A third, a tenth, or less: it takes longer.
        (10, 20, "--", (2, FAULTS)),
        (10, 20, "+" * 14, (14, LIMIT)),
        (10, 90, "-" * 5, (5, FAULTS)),
        (10, 90, "+" * 90, (90, LIMIT)),
        (1, 99, "-" * 5, (5, FAULTS)),
    ],
)
def test_outcome(rejected: int, accepted: int, responses: str, expected: tuple[int, Outcome | None]) -> None:
    """Rejections that go on are faults, and a long enough run of accepted requests a limit."""
    trial = Trial(evidence(rejected, accepted), opened_at=2.0, latency=0.02)
    assert outcome(trial, responses) == expected
    assert trial.all_rejected == rejected + responses.count("-")


def test_requests_that_were_sent_before() -> None:
    """Requests that were sent before the gate opened, and the probe, show nothing."""
    trial = Trial(evidence(10, 10), opened_at=2.0, latency=0.02)
    assert outcome(trial, "--------++++++++++++", sent_at=2.0) == (20, None)
