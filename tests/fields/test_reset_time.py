"""The forms of a reset: tables."""

from __future__ import annotations

import math
import time

import pytest
from support.rate_limits import DATE, DATE_AT
from support.rows import each_row

from prefect_http._fields.reset_time import parse_reset

SOON = DATE_AT + 30


@each_row(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("30", 30.0),
        ("7.123456789", 7.123456789),
        ("0s", 0.0),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("1d2h", 93_600.0),
        ("1m", 60.0),
        ("500us", 0.0005),
        ("500µs", 0.0005),
        ("20ns", 2e-8),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("2023-11-14T22:13:50Z", 30.0),
        ("2023-11-14t22:13:50z", 30.0),
        ("2023-11-14 22:13:50", 30.0),
        ("2023-11-14T22:13:50.5+00:00", 30.5),
        ("2023-11-14T22:13:50.123456789Z", 30.123456),
        ("2023-11-15T00:13:50+02:00", 30.0),
        ("2023-11-14T17:43:50-04:30", 30.0),
        ("2023-11-14T22:14Z", 40.0),
        ("2023-11-14T22:13:19Z", 0.0),
        ("0001-01-01T00:00:00+23:59", 0.0),
        (f"{SOON}", 30.0),
        (f"{SOON}.25", 30.25),
        (f"{SOON}000", 30.0),
    ],
)
def test_forms(value: str, seconds: float) -> None:
    """Each form gives seconds; a time counts from the response's Date, and is 0 if it has passed."""
    assert parse_reset(value, date=DATE, now=math.nan) == pytest.approx(seconds)


def test_without_a_date() -> None:
    """Without a Date, a time counts from the wall clock."""
    for value in (f"{SOON}", "30s", "2023-11-14T22:13:50Z", "Tue, 14 Nov 2023 22:13:50 GMT"):
        assert parse_reset(value, date=None, now=DATE_AT) == 30.0


@each_row(
    "value",
    [
        *(
            "",
            " ",
            "-1",
            "-1s",
            "s",
            "1 s",
            "1x",
            "1.s",
            ".5s",
            "1S",
            "1s ",
            "1s,2s",
            "1h2",
            "٣s",
            "1e3s",
            "infs",
            "nan",
            "+1s",
        ),
        *("2023-11-14", "2023-W46-2T22:13:50Z", "20231114T221350Z", "2023-02-30T00:00:00Z", "2023-11-14T25:00:00Z"),
        *("2023-11-14T22:13:50 Z", "2023-11-14T22:13:50+25:00", "２023-11-14T22:13:50Z", "2023-11-14T22:13:50Zulu"),
        *("Tue, 14 Nov 2023 22:13:50 CET", "14 Nov 2023", "tomorrow", "9" * 16, "9" * 16 + "s", "1s" * 33),
    ],
)
def test_malformed(value: str) -> None:
    """Anything else counts as absent."""
    assert parse_reset(value, date=DATE, now=0.0) is None


@each_row("value", ["1s" * 4096, "1" * 8192, "1m" * 4095 + "x", f"0.{'1' * 8190}", "2023-11-14T22:13" * 512])
def test_time_is_bounded(value: str) -> None:
    """The longest field takes less than a tenth of a second."""
    began = time.process_time()
    parse_reset(value, date=DATE, now=0.0)
    assert time.process_time() - began < 0.1
