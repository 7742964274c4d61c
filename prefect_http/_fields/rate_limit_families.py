"""The fields that come in threes: a limit, what remains of it, and when it resets. Pure.

    RateLimit-Limit: 100, 100;w=60           up to revision 06 of the draft
    RateLimit-Remaining: 50
    RateLimit-Reset: 30

    X-RateLimit-*, X-Rate-Limit-*            specified nowhere
    X-RateLimit-Reset-After: 1.25            Discord, more exact than its X-RateLimit-Reset
                                             https://docs.discord.com/developers/topics/rate-limits
    X-RateLimit-Limit-Minute: 10             Kong, for -Second, -Minute, -Hour, -Day, -Month and -Year, without a reset;
    X-RateLimit-Remaining-Minute: 9          beside them RateLimit-* for the tightest
                                             https://docs.konghq.com/hub/kong-inc/rate-limiting/
    x-ratelimit-remaining-req-minute: 717    Mistral, and -tokens-minute
                                             https://github.com/mistralai/client-ts/issues/169
    x-ratelimit-limit-requests: 60           OpenAI, Azure OpenAI, Groq; and -tokens
    x-ratelimit-remaining-requests: 59       https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
    x-ratelimit-reset-requests: 1s           https://console.groq.com/docs/rate-limits
    anthropic-ratelimit-requests-limit       Anthropic; and -tokens-, -input-tokens-, -output-tokens-
    anthropic-ratelimit-requests-remaining   https://platform.claude.com/docs/en/api/rate-limits
    anthropic-ratelimit-requests-reset

They are parsed as servers send them: with fractions (Close's reset, Reddit's remaining), with parameters
(``76;w=21600``, Docker Hub), and with a reset in any form of reset_time.py.

Nobody knows how many tokens a request will take. So tokens matter only if none remain: then no request is accepted
until their reset. Azure OpenAI sends -1 where it has no limit, which is malformed and counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._fields.reset_time import parse_count, parse_reset, sent_at
from prefect_http._fields.structured_fields import as_number, parse_list


class Family(NamedTuple):
    """The names of the fields that belong together, in lower case.

    Attributes:
        limit: of the limit.
        remaining: of what remains.
        resets: of the reset; the first that is valid counts.
        is_in_tokens: whether tokens are counted, not requests.
        period: the length of the time window in seconds, if that begins anew with each minute, hour or day of UTC.
    """

    limit: str
    remaining: str
    resets: tuple[str, ...]
    is_in_tokens: bool = False
    period: float | None = None


def _three_fields(prefix: str, suffix: str = "", *, is_in_tokens: bool = False, period: float | None = None) -> Family:
    """Return the family whose names are ``limit``, ``remaining`` and ``reset`` between a prefix and a suffix."""
    limit, remaining, reset = (f"{prefix}{key}{suffix}" for key in ("limit", "remaining", "reset"))
    return Family(limit, remaining, (reset,), is_in_tokens, period)


X_RATE_LIMIT = Family("x-ratelimit-limit", "x-ratelimit-remaining", ("x-ratelimit-reset-after", "x-ratelimit-reset"))
# Kong's windows are periods of UTC: get_timestamps() in kong/tools/timestamp.lua. A month has no fixed length.
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": None, "year": None}
FAMILIES = (
    _three_fields("ratelimit-"),
    X_RATE_LIMIT,
    _three_fields("x-rate-limit-"),
    _three_fields("x-ratelimit-", "-requests"),
    _three_fields("x-ratelimit-", "-tokens", is_in_tokens=True),
    _three_fields("anthropic-ratelimit-requests-"),
    *(
        _three_fields(f"anthropic-ratelimit-{unit}-", is_in_tokens=True)
        for unit in ("tokens", "input-tokens", "output-tokens")
    ),
    *(_three_fields("x-ratelimit-", f"-{name}", period=period) for name, period in _PERIODS.items()),
    _three_fields("x-ratelimit-", "-req-minute", period=60.0),
    _three_fields("x-ratelimit-", "-tokens-minute", is_in_tokens=True, period=60.0),
)
_FAMILY_OF = {
    name: number for number, family in enumerate(FAMILIES) for name in (family.limit, family.remaining, *family.resets)
}
FAMILY_NAMES = frozenset(_FAMILY_OF)
# There may be many fields, so that what is more than a number must be short.
_MAX_LENGTH = 1024


def parse_families(fields: Mapping[str, str], *, date: str | None, now: float) -> Iterator[RateLimit]:
    """Yield what each family of the fields says, in the order of `FAMILIES`.

    Args:
        fields: header fields, by their names in lower case.
        date: the response's ``Date``, see `parse_rate_limit`.
        now: the wall clock, in seconds since the epoch.
    """
    for number in sorted({_FAMILY_OF[name] for name in FAMILY_NAMES.intersection(fields)}):
        limit = parse_family(fields, FAMILIES[number], date=date, now=now)
        if limit is not None:
            yield limit


def parse_family(fields: Mapping[str, str], family: Family, *, date: str | None, now: float) -> RateLimit | None:
    """Parse the fields of a family, each on its own; None if they say nothing, or all are malformed."""
    limit = _count(fields.get(family.limit, ""), is_list=True)
    remaining = _count(fields.get(family.remaining, ""))
    reset = _reset(fields, family, date, now)
    if reset is None and remaining is not None and family.period is not None:
        reset = family.period - sent_at(date=date, now=now) % family.period
    if family.is_in_tokens:
        return RateLimit(remaining=0, reset=reset) if remaining == 0 and limit != 0 and reset else None
    if limit is remaining is reset is None:
        return None
    return RateLimit(remaining=remaining, reset=reset, limit=limit)


def _count(value: str, *, is_list: bool = False) -> int | None:
    """Return a number without its fraction, since half a request cannot be made; None if it is absent or malformed."""
    count = parse_count(value.strip(" \t"))
    if count is None and (number := _first_member(value, is_list=is_list)) is not None:
        count = int(number)
    return count


def _reset(fields: Mapping[str, str], family: Family, date: str | None, now: float) -> float | None:
    for name in family.resets:
        value = fields.get(name, "").strip(" \t")
        number = _first_member(value, is_list=False) if ";" in value else None
        reset = parse_reset(value if number is None else str(number), date=date, now=now)
        if reset is not None:
            return reset
    return None


def _first_member(value: str, *, is_list: bool) -> float | None:
    """Return the number of a member with parameters, which are ignored.

    RateLimit-Limit = expiring-limit [, 1#quota-policy ] (revision 01, section 3.1), where the policies are informative.
    The others are single Items, and malformed if there are two.
    """
    members = parse_list(value) if len(value) <= _MAX_LENGTH else []
    number = as_number(members[0]) if members and (is_list or len(members) == 1) else None
    return None if number is None else float(number)
