"""Patience: which timeout holds at each stage of a request, until when, and with which error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import httpx
import pytest
from support.rows import each_row

from prefect_http._asgi.patience import Patience, Progress

NOW = 100.0
READ, WRITE, NONE = 3.0, 2.0, math.inf
TIMEOUTS: dict[str, float | None] = {"connect": 7.0, "read": READ, "write": WRITE, "pool": 9.0}

# Every combination of the flags in the order of Progress: "h" has a head, "c" is complete, "a" waits for the app, "o"
# waits for the caller, who owes content. Some of them do not occur.
TABLE = {
    # stage: timeout, and the error at its end
    "----": (READ, "ReadTimeout: the app did not start its response within 3 s"),
    "---o": (NONE, None),
    "--a-": (WRITE, "WriteTimeout: the app did not receive more of the request body within 2 s"),
    "--ao": (WRITE, "WriteTimeout: the app did not receive more of the request body within 2 s"),
    "h---": (READ, "ReadTimeout: the app sent no more of its response within 3 s"),
    "h--o": (READ, "ReadTimeout: the app sent no more of its response within 3 s"),
    "h-a-": (READ, "ReadTimeout: the app sent no more of its response within 3 s"),
    "h-ao": (READ, "ReadTimeout: the app sent no more of its response within 3 s"),
    "hc--": (NONE, None),
    "hc-o": (NONE, None),
    "hca-": (NONE, None),
    "hcao": (NONE, None),
}
STAGES = list(TABLE)


def progress(stage: str) -> Progress:
    """Return a stage of the table as a Progress."""
    return Progress(*(flag != "-" for flag in stage))


def test_table_is_complete() -> None:
    """The table has all combinations but those of a complete response without a head."""
    flags = ("".join(letters) for letters in itertools.product("-h", "-c", "-a", "-o"))
    assert [stage for stage in flags if not stage.startswith("-c")] == STAGES


@each_row("stage", STAGES)
def test_deadline(stage: str) -> None:
    """The deadline is the timeout of the stage after the last progress."""
    patience = Patience(TIMEOUTS)
    for now in (NOW, NOW + 50):
        assert patience.deadline(progress(stage), now) == now + TABLE[stage][0]


@each_row("stage", [stage for stage in STAGES if TABLE[stage][1] is not None])
def test_error(stage: str) -> None:
    """The error says what the app has not done, and for how long."""
    error = Patience(TIMEOUTS).error(progress(stage), NOW)
    assert f"{type(error).__name__}: {error}" == TABLE[stage][1]


@pytest.mark.parametrize("timeouts", [{}, {"read": None, "write": None}, {"connect": 1.0, "pool": 1.0}])
def test_no_timeouts(timeouts: Mapping[str, float | None]) -> None:
    """Timeouts that are None or missing never expire."""
    patience = Patience(timeouts)
    assert {patience.deadline(progress(stage), NOW) for stage in STAGES} == {math.inf}


@pytest.mark.parametrize(("kind", "stage"), [("read", "----"), ("write", "--a-"), ("read", "h---")])
def test_timeout_of_zero(kind: str, stage: str) -> None:
    """A timeout of 0 expires at once."""
    patience = Patience({kind: 0.0})
    assert patience.deadline(progress(stage), NOW) == NOW
    assert str(patience.error(progress(stage), NOW)).endswith(" within 0 s")


def test_fraction_of_a_second() -> None:
    """The message has the timeout as the user would write it."""
    error = Patience({"read": 0.25}).error(progress("----"), NOW)
    assert str(error) == "the app did not start its response within 0.25 s"


@each_row("stage", STAGES)
@each_row("ahead", [-1.0, 0.0, 1.0, 2.5, 10.0])
def test_limit(stage: str, ahead: float) -> None:
    """A limit bounds every wait for the response, whatever the timeouts; a complete response needs no more time."""
    patience = Patience(TIMEOUTS)
    patience.limit = NOW + ahead
    at = progress(stage)
    expected = math.inf if at.is_complete else min(NOW + TABLE[stage][0], NOW + ahead)
    assert patience.deadline(at, NOW) == expected


@each_row("stage", [stage for stage in STAGES if not progress(stage).is_complete])
def test_error_at_the_limit(stage: str) -> None:
    """A wait that ends at the limit, or later, has its own message; one that ends earlier had a timeout."""
    patience = Patience(TIMEOUTS)
    patience.limit = NOW
    for now in (NOW, NOW + 1):
        error = patience.error(progress(stage), now)
        assert type(error) is httpx.ReadTimeout
        assert str(error) == "the rest of the response did not arrive in time"
    assert "in time" not in str(patience.error(progress(stage), NOW - 0.001))
