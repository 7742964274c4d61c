"""``Retry-After``."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.http_dates import FORMS, SENT, SENT_AT, VALUES
from support.rows import each_row

from prefect_http._fields.retry_after import parse_retry_after, parse_retry_after_fields
from prefect_http._fields.should_retry import parse_should_retry

# Neither delay-seconds nor an HTTP-date, or not a time that can be waited for.
MALFORMED = [
    "",
    " ",
    "soon",
    "-1",
    "-0",
    "+5",
    "--5",
    "nan",
    "NaN",
    "inf",
    "Infinity",
    "-inf",
    "1e3",
    "1_000",
    "0x10",
    "5s",
    "5 seconds",
    "5 5",
    "1.",
    ".5",
    "1.2.3",
    "soon, later",
    ",",
    "Sun,",
    "５",
    "٣",
    "9" * 400,
    "9" * 5000,
    "\x00",
    "5\x00",
    "Sun, 06 Nov 1994",
    "Sun, 06 Nov 1994 25:50:07 GMT",
    "Sun, 06 Nov 1994 08:61:07 GMT",
    "Sun, 31 Feb 1994 08:50:07 GMT",
    "Sun, 06 Foo 1994 08:50:07 GMT",
    "Sun, 06 Nov 99999 08:50:07 GMT",
    "Sun, 06 Nov 1994 08:50:07 +99999999999999999999",
    f"{FORMS['imf-fixdate']} or so",
]


@each_row(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("00", 0.0),
        ("5", 5.0),
        ("007", 7.0),
        (" 5 ", 5.0),
        ("\t5", 5.0),
        ("300", 300.0),
        ("86401", 86401.0),
        ("1000000000", 1e9),
        ("1994", 1994.0),
    ],
)
def test_seconds(value: str, seconds: float) -> None:
    """Digits are a number of seconds, however many, and never a date."""
    assert parse_retry_after(value, date=None, now=SENT_AT) == seconds


def test_a_fraction_counts() -> None:
    """A fraction, which servers send against the RFC, counts; otherwise the next attempt would come earlier."""
    assert parse_retry_after("1.5", date=None, now=SENT_AT) == 1.5


@each_row(
    ("value", "date", "now", "seconds"),
    [
        ("1700000030", "Tue, 14 Nov 2023 22:13:20 GMT", 0.0, 30.0),
        ("1700000030.5", "Tue, 14 Nov 2023 22:13:20 GMT", 0.0, 30.5),
        ("1700000030", None, 1.7e9, 30.0),
        ("1700000030", "yesterday", 1.7e9, 30.0),
        ("1700000030500", "Tue, 14 Nov 2023 22:13:20 GMT", 0.0, 30.5),
        ("1700000000", None, 1.7e9, 0.0),
        ("1699999999", None, 1.7e9, None),
        ("5, 1700000030", None, 1.7e9, 30.0),
        ("1000000001", None, 1e9, 1.0),
        ("1000000000001", None, 1e9, 0.001),
    ],
)
def test_a_large_number_is_a_time(value: str, date: str | None, now: float, seconds: float | None) -> None:
    """A number above 10^9 is a time since the epoch, above 10^12 in milliseconds; it counts as an HTTP-date does."""
    found = parse_retry_after(value, date=date, now=now)
    assert found == (seconds if seconds is None else pytest.approx(seconds, abs=1e-6))


@pytest.mark.parametrize("form", FORMS)
def test_a_date_is_compared_with_the_response_date(form: str) -> None:
    """Each form of HTTP-date counts from the response's Date, whatever this machine's clock says."""
    assert parse_retry_after(FORMS[form], date=SENT, now=SENT_AT - 1e6) == 30.0


@each_row("form", FORMS)
@each_row("date", [None, "", "yesterday", f"{SENT[:-13]}99:49:37 GMT"], ids=["absent", "empty", "word", "hour"])
def test_a_date_is_compared_with_the_wall_clock(form: str, date: str | None) -> None:
    """Without a Date, or with a malformed one, each form counts from the wall clock."""
    assert parse_retry_after(FORMS[form], date=date, now=SENT_AT + 10) == 20.0


@pytest.mark.parametrize("form", FORMS)
def test_the_date_may_have_any_form(form: str) -> None:
    """The response's Date is parsed in all three forms, too."""
    assert parse_retry_after("Sun, 06 Nov 1994 08:51:07 GMT", date=FORMS[form], now=0.0) == 60.0


def test_seconds_ignore_the_date() -> None:
    """Seconds count from the arrival of the response."""
    assert parse_retry_after("5", date="nonsense", now=math.nan) == 5.0


def test_a_date_that_is_now() -> None:
    """A date equal to the response's Date is a wait of 0 seconds, not an absent field."""
    assert parse_retry_after(SENT, date=SENT, now=0.0) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_a_date_that_has_passed_counts_as_absent(form: str) -> None:
    """A time in the past is not a wait of 0 seconds."""
    assert parse_retry_after(FORMS[form], date="Sun, 06 Nov 1994 08:50:08 GMT", now=0.0) is None


def test_absent() -> None:
    """Without the field there is no wait."""
    assert parse_retry_after(None, date=SENT, now=SENT_AT) is None


@each_row("value", MALFORMED)
def test_malformed_counts_as_absent(value: str) -> None:
    """Anything malformed, negative, NaN or infinite counts as absent."""
    assert parse_retry_after(value, date=SENT, now=SENT_AT) is None


# --- Repeated fields


@each_row(
    ("value", "seconds"),
    [
        ("59, 59", 59.0),
        ("5, 10", 10.0),
        ("10,5,7", 10.0),
        ("5,", 5.0),
        ("5, soon, -3", 5.0),
        ("soon, 5", 5.0),
        ("0, 0", 0.0),
        (f"{FORMS['imf-fixdate']}, {FORMS['imf-fixdate']}", 30.0),
        (f"{FORMS['imf-fixdate']}, 5", 30.0),
        (f"5, {FORMS['rfc850']}", 30.0),
        (f"{FORMS['asctime']}, 31, {FORMS['rfc850']}", 31.0),
        (f"{SENT}, {FORMS['imf-fixdate']} or so", 0.0),
    ],
)
def test_of_several_values_the_longest_counts(value: str, seconds: float) -> None:
    """Of several valid values the longest counts, and the others do not matter."""
    assert parse_retry_after(value, date=SENT, now=0.0) == seconds


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_the_longest_of_any_number(waits: list[int]) -> None:
    """The longest of any number of valid values counts."""
    assert parse_retry_after(", ".join(map(str, waits)), date=None, now=0.0) == max(waits)


# --- Milliseconds


@each_row(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"x-ms-retry-after-ms": "20"}, 0.02),
        ({"retry-after-ms": "0.5"}, 0.0005),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5),
        ({"retry-after-ms": "1500", "Retry-After": "1"}, 1.5),
        ({"retry-after-ms": "0", "Retry-After": "1"}, 0.0),
        ({"retry-after-ms": "100", "x-ms-retry-after-ms": "200"}, 0.2),
        ({"retry-after-ms": "100, 300"}, 0.3),
        ({"retry-after-ms": "soon", "x-ms-retry-after-ms": "200"}, 0.2),
        ({"retry-after-ms": "-1", "Retry-After": "2"}, 2.0),
        ({"retry-after-ms": "nan", "x-ms-retry-after-ms": "9" * 400, "Retry-After": "2"}, 2.0),
        ({"retry-after-ms": FORMS["imf-fixdate"]}, None),
        ({"Retry-After": FORMS["imf-fixdate"], "Date": SENT}, 30.0),
    ],
)
def test_milliseconds_win(fields: dict[str, str], seconds: float | None) -> None:
    """A valid field in milliseconds wins over Retry-After, because it is exact; an invalid one counts as absent."""
    assert parse_retry_after_fields(httpx.Headers(fields), now=0.0) == seconds


# --- Whether to retry


@each_row(
    ("value", "said"),
    [
        (None, None),
        ("", None),
        ("true", True),
        (" TRUE ", True),
        ("false", False),
        ("False", False),
        ("true, false", False),
        ("true, true", True),
        ("yes", None),
        ("true, maybe", None),
        ("0", None),
    ],
)
def test_should_retry(value: str | None, said: bool | None) -> None:
    """x-should-retry is true or false, in any case; anything else counts as absent."""
    assert parse_should_retry(value) is said


# --- Any input

clocks = st.floats(min_value=-1e12, max_value=1e12)


@settings(max_examples=100)
@given(VALUES, st.one_of(st.none(), VALUES), clocks)
@example(SENT, "Fri, 31 Dec 9999 23:59:59 -2359", 0.0)
@example("Fri, 31 Dec 9999 23:59:59 -2359", "Sat, 01 Jan 0001 00:00:00 +2359", 0.0)
def test_any_input_gives_a_finite_wait(value: str, date: str | None, now: float) -> None:
    """Whatever the fields are, the parser does not raise, and a wait is finite and not negative."""
    seconds = parse_retry_after(value, date=date, now=now)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@settings(max_examples=50)
@given(st.integers(0, 10**9))
def test_seconds_round_trip(seconds: int) -> None:
    """Every number of seconds that is not too large is parsed as itself."""
    assert parse_retry_after(str(seconds), date=None, now=0.0) == seconds


@settings(max_examples=50)
@given(st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1)), st.integers(0, 10**6))
def test_date_round_trip(sent: datetime, seconds: int) -> None:
    """A date some seconds after the response's Date is a wait of that many seconds."""
    sent = sent.replace(microsecond=0, tzinfo=UTC)
    at = sent + timedelta(seconds=seconds)
    wait = parse_retry_after(format_datetime(at, usegmt=True), date=format_datetime(sent, usegmt=True), now=0.0)
    assert wait == seconds
