"""How GitHub says that a rate limit was exceeded. Pure.

https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api

The status is 403 or 429, with ``X-RateLimit-Remaining: 0`` for the primary limit, and mostly with ``Retry-After`` for
the secondary ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefect_http._fields.rate_limit import short_fields
from prefect_http._fields.rate_limit_families import X_RATE_LIMIT, parse_family
from prefect_http._fields.retry_after import parse_retry_after


def github_throttled(status_code: int, headers: Mapping[str, str]) -> bool:
    """Whether a response of GitHub's API says that a rate limit was exceeded.

    A 429 always does (RFC 6585, section 4). A 403 does with either of the two fields, and otherwise means that a
    permission is missing.

    Args:
        status_code: the response's status.
        headers: its header fields, as for `parse_rate_limit`.
    """
    if status_code != 403:
        return status_code == 429
    fields = short_fields(headers)
    # It matters whether there is a valid field, not what it says: without a Date, any date counts as a future one.
    retry_after = parse_retry_after(fields.get("retry-after"), date=fields.get("date"), now=0.0)
    primary = parse_family(fields, X_RATE_LIMIT, date=None, now=0.0)
    return retry_after is not None or (primary is not None and primary.remaining == 0)
