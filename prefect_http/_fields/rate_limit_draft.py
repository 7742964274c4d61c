"""``RateLimit`` and ``RateLimit-Policy``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.structured_fields import is_count, parse_list


class Policy(NamedTuple):
    """An item of ``RateLimit-Policy``. Its window and its partition key are not looked at."""

    name: str
    quota: int
    unit: str


def parse_policies(value: str) -> list[Policy]:
    """Read ``RateLimit-Policy``; give none if it is malformed."""
    policies = list[Policy]()
    for name, parameters in parse_list(value):
        quota, unit = parameters.get("q"), parameters.get("qu", "requests")
        if not (isinstance(name, str) and is_count(quota) and isinstance(unit, str)):
            return []
        policies.append(Policy(name, quota, unit))
    return policies


def tightest(value: str, quotas: Mapping[str, int], others: set[str]) -> RateLimit | None:
    """Read the List that ``RateLimit`` is, without the policies in ``others``, which count something else."""
    limits = list[RateLimit]()
    for name, parameters in parse_list(value):
        remaining, reset = parameters.get("r"), parameters.get("t")
        if not (isinstance(name, str) and is_count(remaining) and (reset is None or is_count(reset))):
            return None
        if name not in others:
            seconds = None if reset is None else float(reset)
            limits.append(RateLimit(remaining=remaining, reset=seconds, limit=quotas.get(name)))
    # The longest of equals; one that does not say how long is the last of them.
    return min(limits, key=lambda limit: (limit.remaining, limit.reset is None, -(limit.reset or 0)), default=None)
