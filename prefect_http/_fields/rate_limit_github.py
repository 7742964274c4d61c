"""How GitHub says that a rate limit was exceeded. Pure.

https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api

The status is 403 or 429, with ``X-RateLimit-Remaining: 0`` for the primary limit, and mostly with ``Retry-After`` for
the secondary ones. If there is neither, the body tells (https://github.com/hub4j/github-api/issues/2009):

    {"message": "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.", ...}
    {"message": "You have triggered an abuse detection mechanism. Please wait a few minutes before ...", ...}

The second one is from before 2021, and GitHub Enterprise Server may still send it.
"""

from __future__ import annotations

from collections.abc import Mapping

from prefect_http._fields.rate_limit import is_meaningful, short_fields
from prefect_http._fields.rate_limit_families import X_RATE_LIMIT, parse_family
from prefect_http._fields.retry_after import parse_retry_after

_SECONDARY = (b"secondary rate limit", b"abuse detection mechanism")
_MAX_BODY = 64 * 1024


def github_throttled(status_code: int, headers: Mapping[str, str]) -> bool:
    """Whether a response of GitHub's API says that a rate limit was exceeded.

    A 429 always does (RFC 6585, section 4). A 403 does with either of the two fields, and otherwise means that a
    permission is missing, unless its body says more.

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


def github_says_when(headers: Mapping[str, str], *, now: float) -> bool:
    """Whether a rejection says when requests are accepted again: by ``Retry-After``, or as nothing remains by a reset.

    Args:
        headers: its header fields, as for `parse_rate_limit`.
        now: the wall clock, in seconds since the epoch.
    """
    fields = short_fields(headers)
    date = fields.get("date")
    if parse_retry_after(fields.get("retry-after"), date=date, now=now) is not None:
        return True
    primary = parse_family(fields, X_RATE_LIMIT, date=date, now=now)
    return primary is not None and primary.remaining == 0 and is_meaningful(primary)


def is_secondary_limit(body: bytes) -> bool:
    """Whether the body of a 403 says that a secondary rate limit was exceeded."""
    beginning = body[:_MAX_BODY].lower()
    return any(text in beginning for text in _SECONDARY)
