"""Which of the forms is taken, and what none of them does."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.rate_limits import DATE, EARLIER, FIELDS, VALUES, parse
from support.rows import each_row

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_parser import parse_rate_limit

# --- Which form is taken

FORMS = [
    ({"RateLimit": '"a";r=1'}, 1),
    ({"RateLimit-Limit": "9", "RateLimit-Remaining": "3"}, 3),
    ({"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "4"}, 4),
    ({"X-Rate-Limit-Limit": "9", "X-Rate-Limit-Remaining": "5"}, 5),
]


@each_row("first", range(len(FORMS)))
def test_precedence(first: int) -> None:
    """The newest form that is present is taken, all of it, in whatever order the fields come."""
    headers: dict[str, str] = {}
    for fields, _ in reversed(FORMS[first:]):
        headers |= fields
    found = parse(headers)
    assert found
    assert found.remaining == FORMS[first][1]
    assert found.limit == (9 if first else None)


def test_dictionary_precedes_the_three_fields() -> None:
    """A Dictionary precedes the three fields."""
    assert parse({"RateLimit": "remaining=2", "RateLimit-Remaining": "3"}) == RateLimit(remaining=2)


@each_row(
    "headers",
    [
        {"RateLimit": "limit=100; remaining=100; reset=1"},
        {"RateLimit": "limit=100, reset=1"},
        {"RateLimit-Limit": "100"},
        {"RateLimit-Reset": "100", "RateLimit-Remaining": "?"},
        {"RateLimit-Policy": '"a";q=1'},
    ],
)
def test_what_remains_is_preferred(headers: dict[str, str]) -> None:
    """A form that does not say what remains, as with Close's semicolons, does not hide one that does."""
    assert parse({**headers, "X-RateLimit-Remaining": "99"}) == RateLimit(remaining=99)


def test_the_first_that_says_anything() -> None:
    """If no form says what remains, the newest one that says anything is taken."""
    headers = {"RateLimit": "reset=2", "RateLimit-Reset": "3", "X-RateLimit-Reset": "4", "RateLimit-Policy": '"a";q=1'}
    assert parse(headers) == RateLimit(reset=2.0)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain", "Retry-After": "5"},
        {"X-RateLimit-Used": "5", "X-RateLimit": "5", "RateLimit-Name": "5", "X-RateLimit-Policy": '"a";q=1'},
    ],
)
def test_no_rate_limit(headers: dict[str, str]) -> None:
    """Without any of the fields there is no rate limit."""
    assert parse(headers) is None


def test_frozen() -> None:
    """A RateLimit is immutable."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RateLimit(remaining=1).remaining = 2  # type: ignore[misc]


# --- Hostile input


@pytest.mark.parametrize("name", ["RateLimit", "RateLimit-Policy"])
def test_length_is_limited(name: str) -> None:
    """A field of 8 KiB is parsed, and a longer one counts as absent."""
    start = '"a";r=5;q=5;x="'
    assert parse({name: f'{start}{"x" * (8191 - len(start))}"'})
    assert parse({name: f'{start}{"x" * (8192 - len(start))}"'}) is None


@pytest.mark.parametrize("name", ["RateLimit-Remaining", "X-RateLimit-Reset", "X-Rate-Limit-Limit"])
def test_length_of_numbers_is_limited(name: str) -> None:
    """So it is with the other fields."""
    assert parse({name: "5" + " " * 8191})
    assert parse({name: "5" + " " * 8192}) is None


# --- Any input


@settings(max_examples=100)
@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=4),
    st.sampled_from([None, EARLIER, DATE, "yesterday"]),
    st.floats(min_value=-1e12, max_value=1e12),
)
@example({"X-RateLimit-Reset": "-0.0"}, None, 0.0)
@example({"RateLimit": '"a";r=-0;t=-0'}, None, 0.0)
@example({"X-RateLimit-Reset": "999999999999999"}, "Sat, 01 Jan 0001 00:00:00 GMT", 0.0)
def test_any_input_gives_values_in_range(headers: dict[str, str], date: str | None, now: float) -> None:
    """Whatever the fields are, the parser does not raise, and every value is in its range."""
    found = parse_rate_limit(headers, date=date, now=now)
    assert found != RateLimit()
    if found:
        assert found.remaining is None or (type(found.remaining) is int and found.remaining >= 0)
        assert found.limit is None or (type(found.limit) is int and found.limit >= 0)
        assert found.concurrency is None or (type(found.concurrency) is int and found.concurrency >= 1)
        assert found.reset is None or (type(found.reset) is float and math.isfinite(found.reset) and found.reset >= 0)
