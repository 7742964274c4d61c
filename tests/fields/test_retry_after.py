"""Retry-After and HTTP dates, parsed."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefect_http._fields.http_date import parse_http_date
from prefect_http._fields.retry_after import parse_retry_after

SENT = "Sun, 06 Nov 1994 08:49:37 GMT"
SENT_AT = 784111777.0
# One moment in the three forms of RFC 9110, section 5.6.7.
FORMS = {
    "imf-fixdate": "Sun, 06 Nov 1994 08:50:07 GMT",
    "rfc850": "Sunday, 06-Nov-94 08:50:07 GMT",
    "asctime": "Sun Nov  6 08:50:07 1994",
}
# Each of them is no delta-seconds and no HTTP-date, or names no time that can be waited for.
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
    "1,5",
    "5, 10",
    "5,",
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
    f"{FORMS['imf-fixdate']}, {FORMS['imf-fixdate']}",
    f"{FORMS['imf-fixdate']} or so",
    f"{FORMS['imf-fixdate']}, 5",
]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("00", 0.0),
        ("5", 5.0),
        ("007", 7.0),
        (" 5 ", 5.0),
        ("\t5", 5.0),
        ("300", 300.0),
        ("99999999999", 99999999999.0),
        ("1994", 1994.0),
    ],
)
def test_seconds(value: str, seconds: float) -> None:
    """Delta-seconds are that many seconds, however many, and no dates."""
    assert parse_retry_after(value, date=None, now=SENT_AT) == seconds


def test_a_fraction_is_honoured() -> None:
    """A fraction, which servers send against the RFC, is not dropped: that would bring the next attempt earlier."""
    assert parse_retry_after("1.5", date=None, now=SENT_AT) == 1.5


@pytest.mark.parametrize("form", FORMS)
def test_a_date_is_measured_against_the_answers_date(form: str) -> None:
    """Each form of HTTP-date counts from the answer's Date, whatever this machine's clock says."""
    assert parse_retry_after(FORMS[form], date=SENT, now=SENT_AT - 1e6) == 30.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "date", [None, "", "yesterday", f"{SENT[:-13]}99:49:37 GMT"], ids=["absent", "empty", "word", "hour"]
)
def test_a_date_is_measured_against_the_wall_clock(form: str, date: str | None) -> None:
    """Without a Date, or with a malformed one, each form counts from the wall clock."""
    assert parse_retry_after(FORMS[form], date=date, now=SENT_AT + 10) == 20.0


@pytest.mark.parametrize("form", FORMS)
def test_the_date_may_have_any_form(form: str) -> None:
    """The answer's Date, too, is read in all three forms."""
    assert parse_retry_after("Sun, 06 Nov 1994 08:51:07 GMT", date=FORMS[form], now=0.0) == 60.0


def test_seconds_do_not_look_at_the_date() -> None:
    """Delta-seconds count from the answer's arrival."""
    assert parse_retry_after("5", date="nonsense", now=math.nan) == 5.0


def test_a_date_that_is_now_is_no_wait() -> None:
    """A date equal to the answer's Date is a wait of 0 seconds, not an absent one."""
    assert parse_retry_after(SENT, date=SENT, now=0.0) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_a_date_that_has_passed_counts_as_absent(form: str) -> None:
    """A negative wait is none."""
    assert parse_retry_after(FORMS[form], date="Sun, 06 Nov 1994 08:50:08 GMT", now=0.0) is None


def test_absent() -> None:
    """No field, no wait."""
    assert parse_retry_after(None, date=SENT, now=SENT_AT) is None


@pytest.mark.parametrize("value", MALFORMED, ids=lambda value: ascii(value)[:40])
def test_malformed_counts_as_absent(value: str) -> None:
    """Anything malformed, negative, NaN, infinite or sent twice is no Retry-After."""
    assert parse_retry_after(value, date=SENT, now=SENT_AT) is None


@pytest.mark.parametrize("form", FORMS)
def test_http_date(form: str) -> None:
    """The three forms of one moment are the same seconds since the epoch."""
    assert parse_http_date(FORMS[form]) == SENT_AT + 30


def test_http_date_of_the_epoch() -> None:
    """The epoch is 0, and what came before it is negative."""
    assert parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert parse_http_date("Wed, 31 Dec 1969 23:59:59 GMT") == -1.0


# --- The same as properties

# Texts that get further into a parser of dates than random ones do.
pieces = st.lists(
    st.sampled_from(
        "Sun, Sunday, Sun 06 6 - -06 Nov Nov-94 Feb 1994 94 0 00 99999 10000 08:49:37 8:49 24:00:00 23:59:60 08.49.37 "
        'GMT EST +0000 -0000 -9999 +99999999999 ( ) " : , / nan inf 1e5 é ５ \x00'.split(" ")
    ),
    max_size=9,
).map(" ".join)
numbers = st.one_of(st.integers(), st.floats(), st.decimals()).map(str)
values = st.one_of(st.text(), pieces, numbers)
clocks = st.floats(min_value=-1e12, max_value=1e12)
thorough = settings(max_examples=500)


@thorough
@given(values, st.one_of(st.none(), values), clocks)
@example(SENT, "Fri, 31 Dec 9999 23:59:59 -2359", 0.0)
@example("Fri, 31 Dec 9999 23:59:59 -2359", "Sat, 01 Jan 0001 00:00:00 +2359", 0.0)
def test_whatever_comes_the_wait_can_be_waited(value: str, date: str | None, now: float) -> None:
    """No field makes the parser raise, or gives a wait that is negative, NaN or infinite."""
    seconds = parse_retry_after(value, date=date, now=now)
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@thorough
@given(values)
def test_whatever_comes_a_date_is_finite(value: str) -> None:
    """No text makes the date parser raise or give something that is no moment."""
    at = parse_http_date(value)
    assert at is None or math.isfinite(at)


@thorough
@given(st.integers(0, 10**12))
def test_seconds_round_trip(seconds: int) -> None:
    """Every delta-seconds is read as itself."""
    assert parse_retry_after(str(seconds), date=None, now=0.0) == seconds


@thorough
@given(st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1)), st.integers(0, 10**6))
def test_date_round_trip(sent: datetime, seconds: int) -> None:
    """A date so many seconds after the answer's Date is a wait of so many seconds."""
    sent = sent.replace(microsecond=0, tzinfo=UTC)
    at = sent + timedelta(seconds=seconds)
    wait = parse_retry_after(format_datetime(at, usegmt=True), date=format_datetime(sent, usegmt=True), now=0.0)
    assert wait == seconds
