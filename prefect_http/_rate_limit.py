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
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import NamedTuple, TypeGuard, cast

import http_sf

from prefect_http._headers import parse_http_date, parse_retry_after

# Some hundred times what servers send. What is longer is not looked at, so that no field costs more than milliseconds.
_LONGEST_FIELD = 8192
_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
_KEYS = ("limit", "remaining", "reset")
_NAMES = {"ratelimit", "ratelimit-policy", *(prefix + key for prefix in _PREFIXES for key in _KEYS)}
# A reset above these is no number of seconds to wait, which would be decades, but a moment since the epoch: of
# September 2001 or later in either unit.
_EPOCH_SECONDS = 10**9
_EPOCH_MILLISECONDS = 10**12

# What http_sf makes of an Item, or of an Inner List: its value, which is a list for the latter, and its parameters.
_Member = tuple[object, Mapping[str, object]]
_Number = int | Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What an answer says about the server's rate limit. A hint: the server may reject the next request all the same.

    Args:
        remaining: the requests that may still be made, 0 or more; of several limits the tightest counts. None if the
            answer does not say.
        reset: seconds from the answer until there is more quota, finite and 0 or more, and as long as the server
            says, be it a thousand years; None if the answer does not say. ``Retry-After`` takes precedence.
        limit: the quota of that limit, in requests, 0 or more; where the answer says only what the limits are,
            the smallest quota. None if the answer does not say.
        concurrency: the most requests that may be under way at a time, 1 or more, from ``RateLimit-Policy``; None if
            the answer does not say.
    """

    remaining: int | None = None
    reset: float | None = None
    limit: int | None = None
    concurrency: int | None = None


class _Policy(NamedTuple):
    """An item of ``RateLimit-Policy``. Its window and its partition key are not looked at."""

    name: str
    quota: int
    unit: str


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
    fields = _fields(headers)
    if _NAMES.isdisjoint(fields):
        return None  # most answers, of which each is looked at
    policies = _policies(fields.get("ratelimit-policy", ""))
    quotas: dict[str, int] = {}  # in requests, by policy
    for policy in policies:
        if policy.unit == "requests":
            quotas[policy.name] = min(policy.quota, quotas.get(policy.name, policy.quota))
    forms = [
        _tightest(fields.get("ratelimit", ""), quotas, {policy.name for policy in policies} - quotas.keys()),
        _from_dictionary(fields.get("ratelimit", ""), date, now),
        *(_from_fields(fields, prefix, date, now) for prefix in _PREFIXES),
        RateLimit(limit=min(quotas.values())) if quotas else None,
    ]
    # min() takes the first of equals. A form that gives the quota alone does not hide one that says what remains.
    said = min((form for form in forms if form), key=lambda form: form.remaining is None, default=None)
    # One that allows no request at all says nothing that a client could act on.
    concurrency = [policy.quota for policy in policies if policy.unit == "concurrent-requests" and policy.quota > 0]
    return replace(said or RateLimit(), concurrency=min(concurrency)) if concurrency else said


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
    fields = _fields(headers)
    # Whether, not when: with no Date beside it, any date counts as one to come.
    retry_after = parse_retry_after(fields.get("retry-after"), date=fields.get("date"), now=0.0)
    primary = _from_fields(fields, "x-ratelimit-", None, 0.0)
    return retry_after is not None or (primary is not None and primary.remaining == 0)


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Give the fields that are not too long, by their names in lower case."""
    return {name.lower(): value for name, value in headers.items() if len(value) <= _LONGEST_FIELD}


# --- The draft's Lists


def _policies(value: str) -> list[_Policy]:
    """Read ``RateLimit-Policy``; give none if it is malformed."""
    policies = list[_Policy]()
    for name, parameters in _parse_list(value):
        quota, unit = parameters.get("q"), parameters.get("qu", "requests")
        if not (isinstance(name, str) and _is_count(quota) and isinstance(unit, str)):
            return []
        policies.append(_Policy(name, quota, unit))
    return policies


def _tightest(value: str, quotas: Mapping[str, int], others: set[str]) -> RateLimit | None:
    """Read the List that ``RateLimit`` is, without the policies in ``others``, which count something else."""
    limits = list[RateLimit]()
    for name, parameters in _parse_list(value):
        remaining, reset = parameters.get("r"), parameters.get("t")
        if not (isinstance(name, str) and _is_count(remaining) and (reset is None or _is_count(reset))):
            return None
        if name not in others:
            seconds = None if reset is None else float(reset)
            limits.append(RateLimit(remaining=remaining, reset=seconds, limit=quotas.get(name)))
    # The longest of equals; one that does not say how long is the last of them.
    return min(limits, key=lambda limit: (limit.remaining, limit.reset is None, -(limit.reset or 0)), default=None)


def _is_count(value: object) -> TypeGuard[int]:
    """Tell whether a parameter is a non-negative Integer: no Boolean, no Decimal, no Token."""
    return type(value) is int and value >= 0


# --- The forms that came before, and beside it


def _from_dictionary(value: str, date: str | None, now: float) -> RateLimit | None:
    """Read the Dictionary that ``RateLimit`` is; a known key with something else than a number makes it malformed."""
    members = _parse_dictionary(value)
    numbers = {key: _number(members[key]) for key in _KEYS if key in members}
    return None if None in numbers.values() else _from_numbers(numbers, date, now)


def _from_fields(fields: Mapping[str, str], prefix: str, date: str | None, now: float) -> RateLimit | None:
    """Read the three fields whose names begin with ``prefix``, each of them on its own."""
    numbers = dict[str, _Number | None]()
    for key in _KEYS:
        members = _parse_list(fields.get(prefix + key, ""))
        # RateLimit-Limit = expiring-limit [, 1#quota-policy ] (revision 01, section 3.1), the policies being
        # for information. The others are Items; two of them tell nothing.
        if members and (key == "limit" or len(members) == 1):
            numbers[key] = _number(members[0])
    return _from_numbers(numbers, date, now)


def _from_numbers(numbers: Mapping[str, _Number | None], date: str | None, now: float) -> RateLimit | None:
    limit, remaining, reset = map(numbers.get, _KEYS)
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


def _number(member: _Member) -> _Number | None:
    """Give the non-negative number that a member is, whatever its parameters; None if it is none."""
    value, _ = member
    return value if _is_count(value) or (isinstance(value, Decimal) and value >= 0) else None


# --- Structured Fields (RFC 9651), in which a missing field and an empty one are the same


def _parse_list(value: str) -> list[_Member]:
    """Give a List's members; none if it is malformed."""
    try:
        return cast("list[_Member]", http_sf.parse(value.encode("ascii"), tltype="list"))
    except ValueError:  # a StructuredFieldError or, from other characters than ASCII, a UnicodeEncodeError
        return []


def _parse_dictionary(value: str) -> dict[str, _Member]:
    """Give a Dictionary's members; none if it is malformed."""
    try:
        return cast("dict[str, _Member]", http_sf.parse(value.encode("ascii"), tltype="dictionary"))
    except ValueError:
        return {}
