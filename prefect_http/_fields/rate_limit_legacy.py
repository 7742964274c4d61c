"""``RateLimit-Limit`` and kin. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from prefect_http._fields.http_date import parse_http_date
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.structured_fields import Member, Number, is_count, parse_dictionary, parse_list

KEYS = ("limit", "remaining", "reset")
# A reset above these is no number of seconds to wait, which would be decades, but a moment since the epoch: of
# September 2001 or later in either unit.
_EPOCH_SECONDS = 10**9
_EPOCH_MILLISECONDS = 10**12


def from_dictionary(value: str, date: str | None, now: float) -> RateLimit | None:
    """Read the Dictionary that ``RateLimit`` is; a known key with something else than a number makes it malformed."""
    members = parse_dictionary(value)
    numbers = {key: _number(members[key]) for key in KEYS if key in members}
    return None if None in numbers.values() else _from_numbers(numbers, date, now)


def from_fields(fields: Mapping[str, str], prefix: str, date: str | None, now: float) -> RateLimit | None:
    """Read the three fields whose names begin with ``prefix``, each of them on its own."""
    numbers = dict[str, Number | None]()
    for key in KEYS:
        members = parse_list(fields.get(prefix + key, ""))
        # RateLimit-Limit = expiring-limit [, 1#quota-policy ] (revision 01, section 3.1), the policies being
        # for information. The others are Items; two of them tell nothing.
        if members and (key == "limit" or len(members) == 1):
            numbers[key] = _number(members[0])
    return _from_numbers(numbers, date, now)


def _from_numbers(numbers: Mapping[str, Number | None], date: str | None, now: float) -> RateLimit | None:
    limit, remaining, reset = map(numbers.get, KEYS)
    if limit is remaining is reset is None:
        return None
    return RateLimit(
        remaining=None if remaining is None else int(remaining),  # half a request cannot be made
        reset=None if reset is None else _until(float(reset), date, now),
        limit=None if limit is None else int(limit),
    )


def _until(reset: float, date: str | None, now: float) -> float:
    """Give the seconds until a reset, which may be a moment since the epoch, in seconds or in milliseconds."""
    if reset <= _EPOCH_SECONDS:
        return reset
    if reset > _EPOCH_MILLISECONDS:
        reset /= 1000
    sent = parse_http_date(date) if date is not None else None
    return max(0.0, reset - (now if sent is None else sent))


def _number(member: Member) -> Number | None:
    """Give the non-negative number that a member is, whatever its parameters; None if it is none."""
    value, _ = member
    return value if is_count(value) or (isinstance(value, Decimal) and value >= 0) else None
