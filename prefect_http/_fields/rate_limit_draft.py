"""``RateLimit`` and ``RateLimit-Policy`` as the current draft has them. Pure.

draft-ietf-httpapi-ratelimit-headers, since revision 08: two Lists, of Strings with parameters.

    RateLimit-Policy: "default";q=100;w=60      q: quota, qu: its unit, w: window, pk: partition key
    RateLimit: "default";r=50;t=30              r: what remains of the quota, t: seconds until there is more

They are parsed strictly: the draft says that a malformed field must be ignored, and RFC 9651 that all of it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.structured_fields import is_count, parse_list


class Policy(NamedTuple):
    """An item of ``RateLimit-Policy``. Its window and its partition key are ignored."""

    name: str
    quota: int
    unit: str


def parse_policies(value: str) -> list[Policy]:
    """Parse ``RateLimit-Policy``; an empty list if it is malformed."""
    policies: list[Policy] = []
    for name, parameters in parse_list(value):
        quota, unit = parameters.get("q"), parameters.get("qu", "requests")
        if not (isinstance(name, str) and is_count(quota) and isinstance(unit, str)):
            return []
        policies.append(Policy(name, quota, unit))
    return policies


def request_quotas(policies: Iterable[Policy]) -> dict[str, int]:
    """Return the quotas in requests, by the names of their policies; of two with the same name, the smaller."""
    quotas: dict[str, int] = {}
    for name, quota, unit in policies:
        if unit == "requests":
            quotas[name] = min(quota, quotas.get(name, quota))
    return quotas


def concurrency_limit(policies: Iterable[Policy]) -> int | None:
    """Return the smallest limit of concurrent requests, or None if there is none. A limit of 0 is ignored."""
    # No client could obey a limit that allows no request at all.
    return min((quota for _, quota, unit in policies if unit == "concurrent-requests" and quota > 0), default=None)


def parse_rate_limit_list(value: str, policies: Iterable[Policy]) -> RateLimit | None:
    """Parse ``RateLimit``, and return the tightest of its limits; None if it is malformed or has none in requests.

    A limit counts requests unless its policy has another unit.
    """
    quotas = request_quotas(policies)
    in_other_units = {policy.name for policy in policies} - quotas.keys()
    limits: list[RateLimit] = []
    for name, parameters in parse_list(value):
        remaining, reset = parameters.get("r"), parameters.get("t")
        if not (isinstance(name, str) and is_count(remaining) and (reset is None or is_count(reset))):
            return None
        if name not in in_other_units:
            seconds = None if reset is None else float(reset)
            limits.append(RateLimit(remaining=remaining, reset=seconds, limit=quotas.get(name)))
    # Of equal ones, that with the longest reset; one without a reset comes last.
    return min(limits, key=lambda limit: (limit.remaining, limit.reset is None, -(limit.reset or 0)), default=None)
