"""When a response asks for the next request: ``Retry-After`` and its relatives. Pure: the wall clock is an argument.

    Retry-After = HTTP-date / delay-seconds, delay-seconds = 1*DIGIT    RFC 9110, section 10.2.3
    Retry-After: 1700000000                                             against the RFC: a time since the epoch
    retry-after-ms: 1500                                                Azure, OpenAI: more exact, so it wins
    x-ms-retry-after-ms: 1500                                           Azure

The RFC allows one ``Retry-After``. Some responses have several nevertheless, one of the app and one of a proxy in front
of it. The longest one counts then, because the next request must satisfy both of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from prefect_http._fields.epoch import epoch_seconds, is_epoch
from prefect_http._fields.http_date import parse_http_date
from prefect_http._fields.reset_time import sent_at

# Some servers send fractions. If they counted as absent, the next attempt would come earlier than they asked for.
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WEEKDAY = re.compile(r"\s*(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\s*", re.IGNORECASE)
_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")


def parse_retry_after(value: str | None, *, date: str | None, now: float) -> float | None:
    """Parse a ``Retry-After`` field.

    Args:
        value: the field's value, repeated fields joined with commas; None if the response has none. A number above
            10^9 is a time since the epoch, above 10^12 in milliseconds.
        date: the response's own ``Date``, which an HTTP-date or a time since the epoch is compared with, so that the
            two clocks need not agree; if it is None or malformed, ``now`` is used.
        now: the wall clock, in seconds since the epoch.

    Returns:
        Seconds to wait, finite and not negative; of several valid values, the longest. None if the field is absent,
        or each value is malformed or names a time that has passed.
    """
    if value is None:
        return None
    waits = (_seconds(member.strip(), date, now) for member in _members(value))
    return max((wait for wait in waits if wait is not None), default=None)


def parse_retry_after_fields(headers: Mapping[str, str], *, now: float) -> float | None:
    """Parse all fields that ask to wait: those in milliseconds, if one of them is valid, otherwise ``Retry-After``.

    Args:
        headers: the response's header fields, by their names in any case, repeated ones joined with commas, as in
            ``httpx.Headers``.
        now: the wall clock, in seconds since the epoch.

    Returns:
        Seconds to wait, as from `parse_retry_after`.
    """
    exact = (_number(member.strip()) for name in _MILLISECONDS for member in headers.get(name, "").split(","))
    milliseconds = max((wait for wait in exact if wait is not None), default=None)
    if milliseconds is not None:
        return milliseconds / 1000
    return parse_retry_after(headers.get("retry-after"), date=headers.get("date"), now=now)


def _members(value: str) -> Iterator[str]:
    """Split a field at its commas, except for the comma behind the weekday of a date."""
    weekday = ""
    for part in value.split(","):
        if _WEEKDAY.fullmatch(part) and not weekday:
            weekday = part + ","
        else:
            yield weekday + part
            weekday = ""


def _seconds(value: str, date: str | None, now: float) -> float | None:
    number = _number(value)
    if number is None:
        at = parse_http_date(value)
    elif is_epoch(number):
        at = epoch_seconds(number)
    else:
        return number
    if at is None:
        return None
    seconds = at - sent_at(date=date, now=now)
    return seconds if seconds >= 0 else None


def _number(value: str) -> float | None:
    number = float(value) if _NUMBER.fullmatch(value) else math.inf
    return number if math.isfinite(number) else None
