"""Attempt: what has become of one, and how it is told to people. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect_http._redact import safe_exception


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a request that did not succeed.

    Attributes:
        number: 1 for the first.
        status_code: the response's status; exactly one of this and ``exception`` is set.
        exception: the httpx exception that ended the attempt.
        delay: seconds until the next attempt; None if there is none.
        reason: why that delay, or why no further attempt.
        elapsed: seconds the attempt took.
    """

    number: int
    status_code: int | None
    exception: Exception | None
    delay: float | None
    reason: str
    elapsed: float


def format_attempts(attempts: Sequence[Attempt], max_retries: int) -> str:
    """Write the attempts as a note for the error that ends them."""
    lines = [f"prefect_http made {len(attempts)} of at most {max_retries + 1} attempts:"]
    for attempt in attempts:
        then = attempt.reason if attempt.delay is None else f"waited {seconds(attempt.delay)} s ({attempt.reason})"
        lines.append(f"  {attempt.number}: {outcome(attempt)} after {seconds(attempt.elapsed)} s; {then}")
    return "\n".join(lines)


def outcome(attempt: Attempt) -> str:
    """Write how an attempt ended, for people."""
    return str(attempt.status_code) if attempt.exception is None else safe_exception(attempt.exception)


def seconds(value: float) -> str:
    """Write a number of seconds, for people."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
