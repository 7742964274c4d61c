"""HTTP dates (RFC 9110, section 5.6.7). Pure.

HTTP-date = IMF-fixdate / obs-date, obs-date = rfc850-date / asctime-date:

    IMF-fixdate    Sun, 06 Nov 1994 08:49:37 GMT
    rfc850-date    Sunday, 06-Nov-94 08:49:37 GMT
    asctime-date   Sun Nov  6 08:49:37 1994
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_HTTP_DATE = re.compile(
    f"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{{2}} {_MONTH} [0-9]{{4}} {_TIME} GMT"
    f"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [0-9]{{2}}-{_MONTH}-[0-9]{{2}} {_TIME} GMT"
    f"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} [0-9 ][0-9] {_TIME} [0-9]{{4}}"
)


def parse_http_date(value: str) -> float | None:
    """Parse an HTTP-date in any of its three forms.

    Returns:
        Seconds since the epoch; None if malformed.
    """
    if not _HTTP_DATE.fullmatch(value):
        return None  # parsedate_to_datetime accepts many other formats, and ignores what follows the date
    try:
        return parsedate_to_datetime(value).replace(tzinfo=UTC).timestamp()
    except ValueError:  # the 31st of June
        return None
