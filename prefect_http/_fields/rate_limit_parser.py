"""The rate limit of a response, from whichever of the deployed forms it has. Pure: the wall clock is an argument.

The first of these that says how many requests remain is taken:

1. the List ``RateLimit`` of the current draft, with ``RateLimit-Policy``: rate_limit_draft.py;
2. the Dictionary ``RateLimit`` of an older one: rate_limit_legacy.py, as are the next three;
3. ``RateLimit-Limit``, ``-Remaining`` and ``-Reset``;
4. ``X-RateLimit-*``;
5. ``X-Rate-Limit-*``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prefect_http._fields.rate_limit import RateLimit, short_fields
from prefect_http._fields.rate_limit_draft import (
    concurrency_limit,
    parse_policies,
    parse_rate_limit_list,
    request_quotas,
)
from prefect_http._fields.rate_limit_legacy import KEYS, parse_rate_limit_dictionary, parse_rate_limit_fields

_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_NAMES = {"ratelimit", "ratelimit-policy", *(prefix + key for prefix in _PREFIXES for key in KEYS)}


def parse_rate_limit(headers: Mapping[str, str], *, date: str | None, now: float) -> RateLimit | None:
    """Parse the fields that tell about the rate limit.

    A field that is malformed, or longer than 8 KiB, counts as absent, and the next form is tried. The items of
    ``RateLimit`` count requests unless ``RateLimit-Policy`` says otherwise.

    Args:
        headers: the response's header fields, by their names in any case, repeated ones joined with commas, as in
            ``httpx.Headers``.
        date: the response's own ``Date``, which a reset that is a time since the epoch is compared with, so that the
            two clocks need not agree; if it is None or malformed, ``now`` is used.
        now: the wall clock, in seconds since the epoch, finite.

    Returns:
        What the response says; None if none of the fields says anything.
    """
    fields = short_fields(headers)
    if _NAMES.isdisjoint(fields):
        return None  # as for most responses
    current = fields.get("ratelimit", "")
    policies = parse_policies(fields.get("ratelimit-policy", ""))
    quotas = request_quotas(policies).values()
    forms = [
        parse_rate_limit_list(current, policies),
        parse_rate_limit_dictionary(current, date=date, now=now),
        *(parse_rate_limit_fields(fields, prefix, date=date, now=now) for prefix in _PREFIXES),
        RateLimit(limit=min(quotas)) if quotas else None,
    ]
    # min() returns the first of equals, so a form with nothing but a quota does not hide one that says what remains.
    found = min((form for form in forms if form), key=lambda form: form.remaining is None, default=None)
    concurrency = concurrency_limit(policies)
    return found if concurrency is None else replace(found or RateLimit(), concurrency=concurrency)
