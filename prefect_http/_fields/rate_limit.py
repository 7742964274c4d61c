"""RateLimit, and the header fields that it may be read from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Servers send less than a hundredth of this. Longer fields are ignored, so that none takes more than milliseconds.
_MAX_FIELD_LENGTH = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What a response says about the server's rate limit. A hint: the server may reject the next request nevertheless.

    Args:
        remaining: how many requests may still be made, 0 or more; if there are several limits, of the tightest. None
            if the response does not say.
        reset: seconds from the response until there is more quota, finite and 0 or more, without an upper bound; None
            if the response does not say. ``Retry-After`` takes precedence.
        limit: the quota of that limit, in requests, 0 or more; if the response only names quotas, the smallest. None
            if the response does not say.
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
