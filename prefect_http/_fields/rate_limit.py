"""RateLimit, and the header fields that it may be read from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefect_http._fields.epoch import LONGEST_WAIT

# Servers send less than a hundredth of this. Longer fields are ignored, so that none takes more than milliseconds.
_MAX_FIELD_LENGTH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What a response says about the server's rate limit. It is a hint: the server may still reject the next request.

    Args:
        remaining: how many requests may still be made, 0 or more; if there are several limits, by the tightest. Also 0
            if the server counts tokens and none remain. None if the response does not say.
        reset: seconds from the response until more requests are allowed, finite and 0 or more, without an upper bound;
            None if the response does not say. ``Retry-After`` takes precedence.
        limit: the quota of that limit, in requests; if the response only names quotas, the smallest. 0 means that there
            is no limit. None if the response does not say.
        concurrency: how many requests may be in progress at the same time, 1 or more, from ``RateLimit-Policy``; None
            if the response does not say.
    """

    remaining: int | None = None
    reset: float | None = None
    limit: int | None = None
    concurrency: int | None = None


def short_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of at most 8 KiB, by their names in lower case."""
    return {name.lower(): value for name, value in headers.items() if len(value) <= _MAX_FIELD_LENGTH}


def is_meaningful(limit: RateLimit) -> bool:
    """Whether a client can act on what remains.

    It cannot if there is no limit (``limit`` is 0, and so ``remaining`` mostly is), if nothing remains, but no time is
    named, or one that has passed, and if the reset is more than a day away, which is considered a mistake.
    """
    if limit.remaining is None or limit.limit == 0:
        return False
    if limit.reset is None:
        return limit.remaining > 0
    return limit.reset <= LONGEST_WAIT and (limit.remaining > 0 or limit.reset > 0)
