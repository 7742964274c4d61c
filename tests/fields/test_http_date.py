"""HTTP dates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from support.http_dates import FORMS, SENT_AT, VALUES

from prefect_http._fields.http_date import parse_http_date


@pytest.mark.parametrize("form", FORMS)
def test_http_date(form: str) -> None:
    """The three forms of the same time give the same number."""
    assert parse_http_date(FORMS[form]) == SENT_AT + 30


def test_http_date_of_the_epoch() -> None:
    """The epoch is 0, and earlier times are negative."""
    assert parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT") == 0.0
    assert parse_http_date("Wed, 31 Dec 1969 23:59:59 GMT") == -1.0


@settings(max_examples=100)
@given(VALUES)
def test_any_input_gives_a_finite_time(value: str) -> None:
    """Whatever the text is, the parser does not raise, and a time is finite."""
    at = parse_http_date(value)
    assert at is None or math.isfinite(at)
