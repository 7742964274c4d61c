"""``Retry-After`` (RFC 9110, section 10.2.3). Pure: the wall clock is an argument.

Retry-After = HTTP-date / delay-seconds, delay-seconds = 1*DIGIT
"""

from __future__ import annotations

import math
import re

from prefect_http._fields.http_date import parse_http_date

# Some servers send fractions. If they counted as absent, the next attempt would come earlier than they asked for.
_DELAY_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def parse_retry_after(value: str | None, *, date: str | None, now: float) -> float | None:
    """Parse a ``Retry-After`` field.

    Args:
        value: the field's value; None if the response has none.
        date: the response's own ``Date``, which an HTTP-date is compared with, so that the two clocks need not agree;
            if it is None or malformed, ``now`` is used.
        now: the wall clock, in seconds since the epoch.

    Returns:
        Seconds to wait, finite and not negative; None if the field is absent, malformed, or names a time that
        has passed.
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
