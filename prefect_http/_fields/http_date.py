"""HTTP dates. Pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

# HTTP-date = IMF-fixdate / obs-date; obs-date = rfc850-date / asctime-date (RFC 9110, section 5.6.7)
#   Sun, 06 Nov 1994 08:49:37 GMT / Sunday, 06-Nov-94 08:49:37 GMT / Sun Nov  6 08:49:37 1994
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_HTTP_DATE = re.compile(
    f"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{{2}} {_MONTH} [0-9]{{4}} {_TIME} GMT"
    f"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [0-9]{{2}}-{_MONTH}-[0-9]{{2}} {_TIME} GMT"
    f"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} [0-9 ][0-9] {_TIME} [0-9]{{4}}"
)


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
