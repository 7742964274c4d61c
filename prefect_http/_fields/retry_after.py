"""Response header fields, parsed. Pure: the wall clock comes in as an argument."""

from __future__ import annotations

import math
import re

from prefect_http._fields.http_date import parse_http_date

# delay-seconds = 1*DIGIT (RFC 9110, section 10.2.3). Servers send fractions all the same; read as no header at
# all, a fraction would bring the next attempt earlier than it was asked for.
_DELAY_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def parse_retry_after(value: str | None, *, date: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` field.

    Args:
        value: the field's value; None if the response has none.
        date: the response's own ``Date``, which an HTTP-date is measured against, so that the two clocks need
            not agree; None or malformed: ``now`` takes its place.
        now: the wall clock, in seconds since the epoch.

    Returns:
        Seconds to wait, finite and not negative; None if the field is absent, malformed, or names a time that
        has passed (RFC 9110, section 10.2.3).
    """
    if value is None:
        return None
    value = value.strip()
    if _DELAY_SECONDS.fullmatch(value):
        seconds = float(value)
        return seconds if math.isfinite(seconds) else None
    at = parse_http_date(value)
    if at is None:
        return None
    sent = parse_http_date(date) if date is not None else None
    seconds = at - (now if sent is None else sent)
    return seconds if seconds >= 0 else None
