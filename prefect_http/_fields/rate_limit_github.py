"""How GitHub says that a rate limit was exceeded. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from prefect_http._fields.rate_limit_legacy import from_fields
from prefect_http._fields.rate_limit_parser import short_fields
from prefect_http._fields.retry_after import parse_retry_after


def github_throttled(status_code: int, headers: Mapping[str, str]) -> bool:
    """Tell whether an answer of GitHub's API says that a rate limit was exceeded.

    GitHub answers 403 or 429, with ``X-RateLimit-Remaining: 0`` for its primary limit and mostly with ``Retry-After``
    for its secondary ones. A 429 is a rejection by its own meaning (RFC 6585, section 4); a 403 is one with either
    of the two fields, and else a lack of permission.

    Args:
        status_code: the answer's status.
        headers: its header fields, as for `parse_rate_limit`.
    """
    if status_code != 403:
        return status_code == 429
    fields = short_fields(headers)
    # Whether, not when: with no Date beside it, any date counts as one to come.
    retry_after = parse_retry_after(fields.get("retry-after"), date=fields.get("date"), now=0.0)
    primary = from_fields(fields, "x-ratelimit-", None, 0.0)
    return retry_after is not None or (primary is not None and primary.remaining == 0)
