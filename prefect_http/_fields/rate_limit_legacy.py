"""``RateLimit`` as revision 07 of the draft had it: a Dictionary. Pure.

    RateLimit: limit=100, remaining=50, reset=30

A reset may be a time since the epoch, as in the three fields that came before (rate_limit_families.py).
"""

from __future__ import annotations

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.reset_time import seconds_until
from prefect_http._fields.structured_fields import as_number, parse_dictionary

_KEYS = ("limit", "remaining", "reset")


def parse_rate_limit_dictionary(value: str, *, date: str | None, now: float) -> RateLimit | None:
    """Parse the Dictionary. A known key whose value is not a number makes it malformed.

    Args:
        value: the value of ``RateLimit``.
        date: the response's ``Date``, see `parse_rate_limit`.
        now: the wall clock, in seconds since the epoch.

    Returns:
        None if the field is malformed or has none of the keys.
    """
    members = parse_dictionary(value)
    numbers = {key: as_number(members[key]) for key in _KEYS if key in members}
    if not numbers or None in numbers.values():
        return None
    limit, remaining, reset = map(numbers.get, _KEYS)
    return RateLimit(
        remaining=None if remaining is None else int(remaining),
        reset=None if reset is None else seconds_until(float(reset), date=date, now=now),
        limit=None if limit is None else int(limit),
    )
