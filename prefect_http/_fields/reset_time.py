"""When a rate limit resets, in the forms that servers use. Pure: the wall clock is an argument.

30, 1.5                        seconds            the draft; Close
1700000000, 1700000000000      Unix time          GitHub, GitLab; some send milliseconds
6m0s, 12ms, 7.66s, 1d2h        a Go duration      OpenAI, Groq (https://pkg.go.dev/time#ParseDuration, and days)
2025-08-21T12:41:00Z           RFC 3339           Anthropic
Tue, 14 Nov 2023 22:13:20 GMT  HTTP-date          RFC 9110, section 5.6.7

A time is compared with the response's own ``Date``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from prefect_http._fields.epoch import epoch_seconds, is_epoch
from prefect_http._fields.http_date import parse_http_date

# Of a number, 15 digits before the point, as in Structured Fields (RFC 9651, section 3.3.1).
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]+)?")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(rf"({_NUMBER.pattern})({'|'.join(_UNITS)})")
_DURATION = re.compile(rf"(?:{_NUMBER.pattern}(?:{'|'.join(_UNITS)}))+")
_DATE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}[^ ]*")
_MAX_LENGTH = 64


def parse_count(value: str) -> int | None:
    """Parse a number that is not negative, without its fraction, which may be of any length; None if malformed."""
    return int(value.partition(".")[0]) if _NUMBER.fullmatch(value) else None


def parse_reset(value: str, *, date: str | None, now: float) -> float | None:
    """Parse a reset in any of the forms.

    Args:
        value: the value of the field.
        date: the response's own ``Date``, which a time is compared with, so that the two clocks need not agree; if it
            is None or malformed, ``now`` is used.
        now: the wall clock, in seconds since the epoch.

    Returns:
        Seconds until the reset, finite and 0 or more: 0 for a time that has passed. None if the field is malformed.
    """
    if _NUMBER.fullmatch(value):
        return seconds_until(float(value), date=date, now=now)
    if len(value) > _MAX_LENGTH:  # so that no form takes longer than microseconds
        return None
    if _DURATION.fullmatch(value):
        return sum(float(part) * _UNITS[unit] for part, unit in _PART.findall(value))
    at = _parse_date_time(value)
    if at is None:
        at = parse_http_date(value)
    return None if at is None else max(0.0, at - sent_at(date=date, now=now))


def seconds_until(reset: float, *, date: str | None, now: float) -> float:
    """Return the seconds until a reset, which may be a time since the epoch, in seconds or milliseconds."""
    return max(0.0, epoch_seconds(reset) - sent_at(date=date, now=now)) if is_epoch(reset) else reset


def sent_at(*, date: str | None, now: float) -> float:
    """Return when a response was sent by the server's clock; by the wall clock if it has no valid ``Date``."""
    sent = parse_http_date(date) if date is not None else None
    return now if sent is None else sent


def _parse_date_time(value: str) -> float | None:
    """Parse a date and time as in RFC 3339, section 5.6, or without an offset, which is then UTC; None if malformed."""
    value = value.upper()
    if not _DATE_TIME.fullmatch(value):
        return None  # fromisoformat accepts other forms of ISO 8601, as 20231114
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
