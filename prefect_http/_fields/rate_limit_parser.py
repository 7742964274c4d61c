"""The rate limit of a response, from whichever of the deployed forms it has. Pure: the wall clock is an argument.

1. the List ``RateLimit`` of the current draft, with ``RateLimit-Policy``: rate_limit_draft.py;
2. the Dictionary ``RateLimit`` of an older one: rate_limit_legacy.py;
3. the fields that come in threes, in the order of the table in rate_limit_families.py.

Responses may have several, which may contradict each other: those of an app and of a proxy in front of it, or of limits
per second and per hour. The tightest one is taken, because a request must satisfy all of them: the one with the
smallest remainder, and of equal ones that with the longest reset, or else the first in this order. One that says
nothing that a client can act on does not hide one that does; see `is_meaningful`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from prefect_http._fields.rate_limit import RateLimit, is_meaningful, short_fields
from prefect_http._fields.rate_limit_draft import (
    Policy,
    concurrency_limit,
    parse_policies,
    parse_rate_limit_list,
    request_quotas,
)
from prefect_http._fields.rate_limit_families import FAMILY_NAMES, parse_families
from prefect_http._fields.rate_limit_legacy import parse_rate_limit_dictionary

_NAMES = {"ratelimit", "ratelimit-policy", *FAMILY_NAMES}
# To tell from the raw fields whether there is anything to parse.
RAW_NAMES = frozenset(name.encode("ascii") for name in _NAMES)


def parse_rate_limit(headers: Mapping[str, str], *, date: str | None, now: float) -> RateLimit | None:
    """Parse the fields that tell about the rate limit.

    A field that is malformed, or longer than 8 KiB, counts as absent. The items of ``RateLimit`` count requests unless
    ``RateLimit-Policy`` says otherwise.

    Args:
        headers: the response's header fields, by their names in any case, repeated ones joined with commas, as in
            ``httpx.Headers``.
        date: the response's own ``Date``, which a reset that is a time is compared with, so that the two clocks need
            not agree; if it is None or malformed, ``now`` is used.
        now: the wall clock, in seconds since the epoch, finite.

    Returns:
        What the response says; None if none of the fields says anything.
    """
    fields = short_fields(headers)
    if _NAMES.isdisjoint(fields):
        return None  # as for most responses
    policies = parse_policies(fields["ratelimit-policy"]) if "ratelimit-policy" in fields else []
    # min() returns the first of equals, so a form with nothing but a quota does not hide one with a reset.
    found = min(_forms(fields, policies, date, now), key=_looseness, default=None)
    concurrency = concurrency_limit(policies)
    return found if concurrency is None else replace(found or RateLimit(), concurrency=concurrency)


def _forms(fields: Mapping[str, str], policies: list[Policy], date: str | None, now: float) -> Iterator[RateLimit]:
    if "ratelimit" in fields:
        limit = parse_rate_limit_list(fields["ratelimit"], policies)
        if limit is None:
            limit = parse_rate_limit_dictionary(fields["ratelimit"], date=date, now=now)
        if limit is not None:
            yield limit
    yield from parse_families(fields, date=date, now=now)
    quotas = request_quotas(policies).values()
    if quotas:
        yield RateLimit(limit=min(quotas))


def _looseness(limit: RateLimit) -> tuple[int, int, float]:
    """Return what is smallest for the tightest limit."""
    if limit.remaining is None:
        return 2, 0, 0.0
    return int(not is_meaningful(limit)), limit.remaining, -(limit.reset or 0.0)
