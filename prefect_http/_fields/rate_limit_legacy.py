"""The forms that came before the current draft's, and beside it. Pure.

    RateLimit: limit=100, remaining=50, reset=30        a Dictionary, in revision 07 of the draft
    RateLimit-Limit: 100, 100;w=60                      three fields, up to revision 06
    RateLimit-Remaining: 50
    RateLimit-Reset: 30
    X-RateLimit-Limit: 100                              specified nowhere; also as X-Rate-Limit-*
    X-RateLimit-Remaining: 50
    X-RateLimit-Reset: 1700000000

They are parsed as servers send them: with fractions (Close's reset, Reddit's remaining), with parameters
(``76;w=21600``, Docker Hub), and with a reset that is a time since the epoch (GitHub, GitLab).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from prefect_http._fields.epoch import epoch_seconds, is_epoch
from prefect_http._fields.http_date import parse_http_date
from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.structured_fields import Member, Number, is_count, parse_dictionary, parse_list

KEYS = ("limit", "remaining", "reset")


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
    numbers = {key: _number(members[key]) for key in KEYS if key in members}
    return None if None in numbers.values() else _rate_limit(numbers, date, now)


def parse_rate_limit_fields(
    fields: Mapping[str, str], prefix: str, *, date: str | None, now: float
) -> RateLimit | None:
    """Parse the three fields, each on its own.

    Args:
        fields: header fields, by their names in lower case.
        prefix: what their names begin with.
        date: the response's ``Date``, see `parse_rate_limit`.
        now: the wall clock, in seconds since the epoch.

    Returns:
        None if all three are absent or malformed.
    """
    numbers = dict[str, Number | None]()
    for key in KEYS:
        members = parse_list(fields.get(prefix + key, ""))
        # RateLimit-Limit = expiring-limit [, 1#quota-policy ] (revision 01, section 3.1), where the policies are
        # informative. The others are single Items, and malformed if there are two.
        if members and (key == "limit" or len(members) == 1):
            numbers[key] = _number(members[0])
    return _rate_limit(numbers, date, now)


def _rate_limit(numbers: Mapping[str, Number | None], date: str | None, now: float) -> RateLimit | None:
    limit, remaining, reset = map(numbers.get, KEYS)
    if limit is remaining is reset is None:
        return None
    return RateLimit(
        remaining=None if remaining is None else int(remaining),  # half a request cannot be made
        reset=None if reset is None else _seconds_until(float(reset), date, now),
        limit=None if limit is None else int(limit),
    )


def _seconds_until(reset: float, date: str | None, now: float) -> float:
    """Return the seconds until a reset, which may be a time since the epoch, in seconds or milliseconds."""
    if not is_epoch(reset):
        return reset
    sent = parse_http_date(date) if date is not None else None
    return max(0.0, epoch_seconds(reset) - (now if sent is None else sent))


def _number(member: Member) -> Number | None:
    """Return a member's value if it is a non-negative number, and None otherwise. Its parameters are ignored."""
    value, _ = member
    return value if is_count(value) or (isinstance(value, Decimal) and value >= 0) else None
