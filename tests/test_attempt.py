"""Attempt, and how it is shown."""

from __future__ import annotations

import dataclasses
import pickle

import httpx
import pytest

from prefect_http import Attempt, PrefectHTTPStatusError
from prefect_http._attempt import format_attempts, format_outcome


def test_attempt_fields() -> None:
    """An attempt has the six documented fields, in their order."""
    assert [field.name for field in dataclasses.fields(Attempt)] == [
        "number",
        "status_code",
        "exception",
        "delay",
        "reason",
        "elapsed",
    ]


def test_an_attempt_cannot_be_changed() -> None:
    """An attempt is immutable."""
    attempt = Attempt(1, 503, None, 2.0, "backoff of 2 s", 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attempt.delay = 3.0  # type: ignore[misc]


def test_an_attempt_can_be_pickled() -> None:
    """An attempt is pickled with its exception."""
    attempt = Attempt(2, None, httpx.ReadTimeout("slow", request=httpx.Request("GET", "http://a/")), None, "why", 0.5)
    again = pickle.loads(pickle.dumps(attempt))
    assert (again.number, type(again.exception), str(again.exception)) == (2, httpx.ReadTimeout, "slow")


def test_format_attempts() -> None:
    """The note has a line for each attempt: its outcome, how long it took, what followed and why."""
    attempts = (
        Attempt(1, 503, None, 7.5, "Retry-After of 7 s", 0.25),
        Attempt(2, None, httpx.ReadTimeout("slow"), 4.0, "backoff of 4 s", 5.0),
        Attempt(3, 503, None, None, "all retries are used up", 0.5),
    )
    assert format_attempts(attempts, 3).splitlines() == [
        "prefect_http made 3 of at most 3 attempts:",
        "  1: 503 after 0.25 s; waited 7.5 s (Retry-After of 7 s)",
        "  2: ReadTimeout after 5 s: slow; waited 4 s (backoff of 4 s)",
        "  3: 503 after 0.5 s; all retries are used up",
    ]
    assert format_attempts(attempts[2:], 1).startswith("prefect_http made 1 of at most 1 attempt:\n")


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (httpx.ReadError("one\ntwo"), "ReadError: one two"),
    ],
)
def test_outcome_of_an_exception(exception: Exception, text: str) -> None:
    """An exception is shown as its class and its message, in one line."""
    assert format_outcome(Attempt(1, None, exception, None, "", 0)) == text


def test_a_status_error_takes_attempts() -> None:
    """PrefectHTTPStatusError.attempts holds attempts."""
    request = httpx.Request("GET", "http://a/")
    attempt = Attempt(1, 503, None, None, "why", 0.0)
    error = PrefectHTTPStatusError("oh", request=request, response=httpx.Response(503), attempts=(attempt,))
    assert error.attempts == (attempt,)
