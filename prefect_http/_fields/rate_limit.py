"""RateLimit: what an answer says about the server's rate limit. Pure."""

from __future__ import annotations

from dataclasses import dataclass


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
