"""Response header fields, parsed. Pure: the wall clock comes in as an argument."""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

# delay-seconds = 1*DIGIT (RFC 9110, section 10.2.3). Servers send fractions all the same; read as no header at
# all, a fraction would bring the next attempt earlier than it was asked for.
_DELAY_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")

# HTTP-date = IMF-fixdate / obs-date; obs-date = rfc850-date / asctime-date (RFC 9110, section 5.6.7)
#   Sun, 06 Nov 1994 08:49:37 GMT / Sunday, 06-Nov-94 08:49:37 GMT / Sun Nov  6 08:49:37 1994
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_HTTP_DATE = re.compile(
    f"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{{2}} {_MONTH} [0-9]{{4}} {_TIME} GMT"
    f"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [0-9]{{2}}-{_MONTH}-[0-9]{{2}} {_TIME} GMT"
    f"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} [0-9 ][0-9] {_TIME} [0-9]{{4}}"
)


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


def parse_http_date(value: str) -> float | None:
    """Read an HTTP-date in any of its three forms (RFC 9110, section 5.6.7).

    Returns:
        Seconds since the epoch; None if malformed.
    """
    if not _HTTP_DATE.fullmatch(value):
        return None  # parsedate_to_datetime reads much that is no HTTP-date, and overlooks what follows one
    try:
        return parsedate_to_datetime(value).replace(tzinfo=UTC).timestamp()
    except ValueError:  # the 31st of June
        return None
