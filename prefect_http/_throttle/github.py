"""``is_throttled`` for GitHub."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import httpx

from prefect_http._fields.rate_limit_github import github_says_when, github_throttled, is_secondary_limit
from prefect_http._throttle.verdict import BACKOFF

_A_MINUTE = 60.0


def is_throttled_by_github(response: httpx.Response) -> bool | Awaitable[bool]:
    """Whether GitHub rejected a request because of a rate limit: with a 429, a 503, or a 403 that says so.

    For ``Throttle(is_throttled=...)``. The status and the headers are enough, except for a 403 because of a secondary
    rate limit that has no ``Retry-After``: only its body tells it from a missing permission. If a rejection does not
    say how long to wait, all requests wait for a minute, and then twice as long each time that the next one is rejected
    too.
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit

    Returns:
        Whether it did. For a 403 whose headers are not enough and whose body has not been read, an awaitable of that,
        which reads the response.
    """
    status = response.status_code
    if status == 503:
        return True
    if github_throttled(status, response.headers):
        if not github_says_when(response.headers, now=time.time()):
            response.extensions[BACKOFF] = _A_MINUTE
        return True
    if status != 403:
        return False
    try:
        return _is_secondary(response, response.content)
    except RuntimeError:  # httpx.ResponseNotRead, or httpx2's
        return _read(response)


async def _read(response: httpx.Response) -> bool:
    return _is_secondary(response, await response.aread())


def _is_secondary(response: httpx.Response, content: bytes) -> bool:
    is_secondary = is_secondary_limit(content)
    if is_secondary:
        response.extensions[BACKOFF] = _A_MINUTE
    return is_secondary
