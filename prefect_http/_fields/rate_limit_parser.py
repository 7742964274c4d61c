"""What an answer says about the rate limit, in each form that is deployed. Pure: the wall clock is an argument.

The forms, the first that tells what remains being taken:

1. ``RateLimit: "default";r=50;t=30``, a List, with ``RateLimit-Policy: "default";q=100;w=60`` beside it
   (draft-ietf-httpapi-ratelimit-headers, since revision 08). Read strictly: the draft says that a malformed field
   must be ignored, and RFC 9651 that it is ignored whole.
2. ``RateLimit: limit=100, remaining=50, reset=30``, a Dictionary (revision 07).
3. ``RateLimit-Limit: 100, 100;w=60``, ``RateLimit-Remaining: 50``, ``RateLimit-Reset: 30`` (up to revision 06).
4. ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset``, also spelled ``X-Rate-Limit-*``, which nothing specifies.

All but the first are read as servers send them: fractions too (Close's reset, Reddit's remaining), parameters
(``76;w=21600``, Docker Hub), and moments in place of seconds (GitHub, GitLab).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.rate_limit_draft import parse_policies, tightest
from prefect_http._fields.rate_limit_legacy import KEYS, from_dictionary, from_fields

# Some hundred times what servers send. What is longer is not looked at, so that no field costs more than milliseconds.
_LONGEST_FIELD = 8192
_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_NAMES = {"ratelimit", "ratelimit-policy", *(prefix + key for prefix in _PREFIXES for key in KEYS)}


def parse_rate_limit(headers: Mapping[str, str], *, date: str | None, now: float) -> RateLimit | None:
    """Read the fields that tell about the rate limit.

    A field that is malformed, or longer than 8 KiB, counts as absent, whole; the next form then has its turn. A
    ``RateLimit`` item counts unless ``RateLimit-Policy`` gives its name another unit than ``requests``.

    Args:
        headers: the answer's header fields, by their names in any case, repeated ones joined with commas, as
            ``httpx.Headers`` gives them.
        date: the answer's own ``Date``, which a reset that is a moment is measured against, so that the two clocks
            need not agree; None or malformed: ``now`` takes its place.
        now: the wall clock, in seconds since the epoch, finite.

    Returns:
        What the answer says; None if none of the fields says anything.
    """
    fields = short_fields(headers)
    if _NAMES.isdisjoint(fields):
        return None  # most answers, of which each is looked at
    policies = parse_policies(fields.get("ratelimit-policy", ""))
    quotas: dict[str, int] = {}  # in requests, by policy
    for policy in policies:
        if policy.unit == "requests":
            quotas[policy.name] = min(policy.quota, quotas.get(policy.name, policy.quota))
    forms = [
        tightest(fields.get("ratelimit", ""), quotas, {policy.name for policy in policies} - quotas.keys()),
        from_dictionary(fields.get("ratelimit", ""), date, now),
        *(from_fields(fields, prefix, date, now) for prefix in _PREFIXES),
        RateLimit(limit=min(quotas.values())) if quotas else None,
    ]
    # min() takes the first of equals. A form that gives the quota alone does not hide one that says what remains.
    said = min((form for form in forms if form), key=lambda form: form.remaining is None, default=None)
    # One that allows no request at all says nothing that a client could act on.
    concurrency = [policy.quota for policy in policies if policy.unit == "concurrent-requests" and policy.quota > 0]
    return replace(said or RateLimit(), concurrency=min(concurrency)) if concurrency else said


def short_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the fields that are not too long, by their names in lower case."""
    return {name.lower(): value for name, value in headers.items() if len(value) <= _LONGEST_FIELD}


# --- The draft's Lists


# --- The forms that came before, and beside it


# --- Structured Fields (RFC 9651), in which a missing field and an empty one are the same
