"""Attempt: how one attempt of a request ended, and how that is shown to people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_http._redact import safe_exception
from prefect_http._wording import counted


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a request.

    Attributes:
        number: the number of the attempt, counted from 1.
        status_code: the response's status; exactly one of this and ``exception`` is set.
        exception: the httpx exception that ended the attempt.
        delay: seconds until the next attempt; None if there is none.
        reason: the reason for that delay, or for making no further attempt.
        elapsed: the seconds that the attempt took.
    """

    number: int
    status_code: int | None
    exception: Exception | None
    delay: float | None
    reason: str
    elapsed: float


def drop_tracebacks(exception: BaseException) -> None:
    """Take the tracebacks off an exception that will not be raised again, and off those that led to it.

    They hold the frames of the attempt, and from Python 3.12 on also those of its callers, with all that is in them.
    """
    error: BaseException | None = exception
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def format_attempts(attempts: Sequence[Attempt], max_attempts: int) -> str:
    """Return the attempts as a note for the error that ends them."""
    lines = [f"prefect_http made {len(attempts)} of at most {counted(max_attempts, 'attempt')}:"]
    for attempt in attempts:
        wait = "" if attempt.delay is None else f"waited {format_seconds(attempt.delay)} s "
        reason = f"({attempt.reason})" if wait else attempt.reason
        ended, colon, message = format_outcome(attempt).partition(":")
        took = f"after {format_seconds(attempt.elapsed)} s"
        lines.append(f"  {attempt.number}: {ended} {took}{colon}{message}; {wait}{reason}")
    return "\n".join(lines)


def format_outcome(attempt: Attempt) -> str:
    """Return how an attempt ended: its status, or its exception in one line."""
    return str(attempt.status_code) if attempt.exception is None else safe_exception(attempt.exception)


def format_seconds(value: float) -> str:
    """Return a number of seconds with at most two decimals; in scientific notation if it has more than 15 digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value < 1e15 else f"{value:g}"
