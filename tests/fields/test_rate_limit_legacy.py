"""The forms of rate limits that are older than the current draft's."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rate_limits import DATE, DATE_AT, EARLIER, EARLIER_AT, counts, parse
from support.rows import each_row

from prefect_http._fields.rate_limit import RateLimit

# --- The Dictionary and the three fields


@each_row(
    ("field", "expected"),
    [
        ("limit=100, remaining=50, reset=30", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("reset=30,remaining=50,limit=100", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("limit=100, remaining=0, reset=0.25", RateLimit(limit=100, remaining=0, reset=0.25)),
        ("limit=10;w=1, remaining=5;x, reset=3", RateLimit(limit=10, remaining=5, reset=3.0)),
        ("remaining=5, policy=(1 2), name=burst", RateLimit(remaining=5)),
        ("remaining=5, remaining=4", RateLimit(remaining=4)),
        ("reset=7", RateLimit(reset=7.0)),
        ("limit=7", RateLimit(limit=7)),
    ],
)
def test_dictionary(field: str, expected: RateLimit) -> None:
    """A Dictionary has all three numbers, or some of them; other keys and parameters are ignored."""
    assert parse({"RateLimit": field}) == expected


@each_row(
    "field",
    [
        "limit=100, remaining=50, reset=-1",
        "limit=100, remaining=x, reset=30",
        'limit=100, remaining="50", reset=30',
        "limit=100, remaining, reset=30",
        "limit=100, remaining=(50), reset=30",
        "limit=100, remaining=nan, reset=30",
        "limit=100, remaining=50, reset=9999999999999999",
        "limit=100 remaining=50 reset=30",
        "limit=100, remaining=50, reset=30,",
        "limit=100, remaining=, reset=30",
        "Limit=100, Remaining=50, Reset=30",
        "other=1",
    ],
)
def test_malformed_dictionary_counts_as_absent(field: str) -> None:
    """If the value of a known key is malformed, all of the Dictionary is ignored."""
    assert parse({"RateLimit": field}) is None


PREFIXES = ["RateLimit-", "ratelimit-", "X-RateLimit-", "x-ratelimit-", "X-Rate-Limit-", "X-RATE-LIMIT-"]


@each_row(
    ("limit", "remaining", "reset", "expected"),
    [
        ("100", "50", "30", RateLimit(limit=100, remaining=50, reset=30.0)),
        ("100, 100;w=60", "0", "0", RateLimit(limit=100, remaining=0, reset=0.0)),
        ("10, 10;w=1;burst=1000, 1000;w=3600", "9", "1", RateLimit(limit=10, remaining=9, reset=1.0)),
        ('12, 12;w=1;comment="fixed window"', "9", "1", RateLimit(limit=12, remaining=9, reset=1.0)),
        ("100;w=21600", "76;w=21600", None, RateLimit(limit=100, remaining=76)),
        (None, "599.0", "280", RateLimit(remaining=599, reset=280.0)),
        ("10.9", "0.9", "1.5", RateLimit(limit=10, remaining=0, reset=1.5)),
        ("10.123456789", f"0.{'9' * 8000}", "1.00048828125", RateLimit(limit=10, remaining=0, reset=1.00048828125)),
        ("5", "4", "30;w=60", RateLimit(limit=5, remaining=4, reset=30.0)),
        (" 100 ", " 007", "30 ", RateLimit(limit=100, remaining=7, reset=30.0)),
        (None, "5", None, RateLimit(remaining=5)),
        (None, None, "5", RateLimit(reset=5.0)),
        ("5", None, None, RateLimit(limit=5)),
        ("5", "x", "5", RateLimit(limit=5, reset=5.0)),
        ("5", "4, 3", "5, 5", RateLimit(limit=5)),
        (None, None, None, None),
    ],
)
def test_three_fields(limit: str | None, remaining: str | None, reset: str | None, expected: RateLimit | None) -> None:
    """There are three fields, or some of them, in each spelling; each one is ignored if it is malformed."""
    for prefix in PREFIXES:
        headers = {f"{prefix}Limit": limit, f"{prefix}Remaining": remaining, f"{prefix}Reset": reset}
        assert parse({name: value for name, value in headers.items() if value is not None}) == expected


MALFORMED_NUMBERS = (
    '- -1 -0.5 +5 x "5" ?1 @5 :NQ==: (5) nan NaN inf Infinity -inf 1e3 0x10 1_000 1. .5 5/s 5! 5,'.split()
)


@each_row("value", ["", " ", "５", "5 5", "9" * 16, "9" * 5000, *MALFORMED_NUMBERS])
def test_malformed_field_counts_as_absent(value: str) -> None:
    """What is negative, too long, or not a number is ignored."""
    for prefix in PREFIXES:
        assert parse({f"{prefix}Limit": value, f"{prefix}Remaining": value, f"{prefix}Reset": value}) is None


@pytest.mark.parametrize("value", ["5s", EARLIER, "1994-11-06T08:49:37Z"])
def test_a_time_is_no_number(value: str) -> None:
    """A duration or a date is a reset, and neither a limit nor a remainder."""
    for prefix in PREFIXES:
        assert parse({f"{prefix}Limit": value, f"{prefix}Remaining": value}) is None


# --- A reset that is a time since the epoch


@each_row(
    ("reset", "seconds"),
    [
        ("1000000000", 1e9),
        ("1000000001", 0.0),
        (f"{DATE_AT + 90}", 90.0),
        (f"{DATE_AT + 90}.125", 90.125),
        (f"{DATE_AT}", 0.0),
        (f"{DATE_AT - 90}", 0.0),
        (f"{(DATE_AT + 90) * 1000}", 90.0),
        (f"{(DATE_AT - 90) * 1000}", 0.0),
        ("1000000000000", 1e12 - DATE_AT),
        ("1000000000001", 0.0),
        ("999999999999999", 999999999999.999 - DATE_AT),
    ],
)
def test_a_time_is_compared_with_the_date(reset: str, seconds: float) -> None:
    """A reset above 10**9 is a time, which counts from the response's Date; one that has passed is 0."""
    for prefix in PREFIXES:
        assert parse({f"{prefix}Reset": reset}, date=DATE, now=math.nan) == RateLimit(reset=seconds)


@each_row("date", [None, "", "yesterday", "Tue, 14 Nov 2023 99:13:20 GMT"])
def test_a_time_is_compared_with_the_wall_clock(date: str | None) -> None:
    """Without a Date, or with a malformed one, a time counts from the wall clock."""
    assert parse({"X-RateLimit-Reset": f"{DATE_AT + 90}"}, date=date, now=DATE_AT + 60.5) == RateLimit(reset=29.5)


def test_seconds_ignore_the_date() -> None:
    """Seconds count from the arrival of the response, in each form."""
    for headers in ({"RateLimit": '"a";r=1;t=5'}, {"RateLimit": "remaining=1, reset=5"}):
        assert parse(headers, date=EARLIER, now=math.nan) == RateLimit(remaining=1, reset=5.0)
    assert parse({"X-RateLimit-Reset": "5"}, date=EARLIER, now=math.nan) == RateLimit(reset=5.0)


def test_seconds_of_the_draft_are_never_a_time() -> None:
    """The draft has only seconds, so even a large number is seconds."""
    assert parse({"RateLimit": f'"a";r=1;t={DATE_AT}'}, date=EARLIER) == RateLimit(remaining=1, reset=float(DATE_AT))


def test_a_time_in_a_dictionary() -> None:
    """A Dictionary's reset is treated like that of the three fields."""
    found = parse({"RateLimit": f"remaining=1, reset={EARLIER_AT + 10**9}"}, date=EARLIER)
    assert found == RateLimit(remaining=1, reset=1e9)


# --- Any input


@settings(max_examples=100)
@given(counts, st.integers(0, 10**9), st.integers(10**9 + 1, 10**10))
def test_seconds_and_times_round_trip(remaining: int, seconds: int, sent: int) -> None:
    """A number of seconds, and the time that many seconds after the response's Date, are the same reset."""
    expected = RateLimit(remaining=remaining, reset=float(seconds))
    for reset in (seconds, sent + seconds, (sent + seconds) * 1000):
        headers = {"X-RateLimit-Remaining": f"{remaining}", "X-RateLimit-Reset": f"{reset}"}
        assert parse(headers, date=formatdate(sent, usegmt=True)) == expected
