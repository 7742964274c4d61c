"""The headers by which a server says what it admits."""

from __future__ import annotations

import math
import re
from typing import Any

import httpx
import pytest
from support.rows import each_row

from prefect_http import PrefectResponse, RateLimit
from prefect_http._fields.retry_after import parse_retry_after_fields
from prefect_http.testing._limits import ConcurrencyLimit, FixedWindow, Limit, SlidingLog, TokenBucket
from prefect_http.testing._rate_limit_headers import HeaderStyle, header_styles, limit_headers

ALL: tuple[HeaderStyle, ...] = ("retry-after", "ratelimit", "ratelimit-legacy", "x-ratelimit")


class Daily:
    """A limit of a user's own."""

    quota = 5

    def admit(self, now: float) -> bool:
        return False

    def release(self, now: float) -> None:
        pass

    def free_at(self, now: float) -> float:
        return 86_400.0

    def left(self, now: float) -> tuple[int, float]:
        return 0, 86_400.0 - now


def used_up(limit: Limit, now: float) -> Limit:
    """Return a limit that has nothing left."""
    while limit.admit(now):
        pass
    return limit


def headers_of(style: HeaderStyle, limit: Limit, now: float, *, is_rejection: bool = True) -> dict[str, str]:
    """Return the headers of one style."""
    return dict(limit_headers([style], limit, now, is_rejection=is_rejection))


def what_our_client_reads(headers: dict[str, str]) -> RateLimit | None:
    """Return what a response's rate limit is."""
    return PrefectResponse.from_httpx_response(httpx.Response(429, headers=headers)).rate_limit


@each_row(
    ("limit", "now", "seconds"),
    [
        (TokenBucket(50), 0.0, "1"),
        (TokenBucket(0.1, burst=3), 0.0, "10"),
        (TokenBucket(0.1, burst=3), 7.5, "10"),
        (FixedWindow(100, 60, phase=15), 0.0, "45"),
        (FixedWindow(100, 60, phase=15), 0.25, "45"),
        (SlidingLog(2, 3600), 100.1, "3600"),  # though 3700.1 - 100.1 is 3600.0000000000005 in floating point
        (ConcurrencyLimit(5), 0.0, "1"),
        (Daily(), 0.0, "86400"),
    ],
)
def test_retry_after(limit: Limit, now: float, seconds: str) -> None:
    """A rejection asks for the whole seconds after which the request is admitted; for 1 if that is not known."""
    headers = headers_of("retry-after", used_up(limit, now), now)
    assert headers == {"Retry-After": seconds}
    assert parse_retry_after_fields({"retry-after": seconds}, now=0.0) == float(seconds)
    if math.isfinite(limit.free_at(now)):
        assert limit.admit(now + float(seconds)) or isinstance(limit, Daily)


def test_only_rejections_have_a_retry_after() -> None:
    """A response to a request that was admitted has the other headers, but no Retry-After."""
    limit = FixedWindow(100, 60)
    names = [name for name, _ in limit_headers(ALL, limit, 0.0, is_rejection=False)]
    assert names == [name for name, _ in limit_headers(ALL, limit, 0.0, is_rejection=True)][1:]


@each_row(
    ("limit", "policy", "fresh", "used"),
    [
        (FixedWindow(100, 60, phase=14.5), '"default";q=100;w=60', '"default";r=100;t=46', '"default";r=0;t=46'),
        (FixedWindow(100, 0.5), '"default";q=100', '"default";r=100;t=1', '"default";r=0;t=1'),
        (SlidingLog(3, 10), '"default";q=3;w=10', '"default";r=3;t=0', '"default";r=0;t=10'),
        (TokenBucket(50, burst=10), '"default";q=10', '"default";r=10;t=0', '"default";r=0;t=1'),
        (TokenBucket(5 / 3, burst=100), '"default";q=100;w=60', '"default";r=100;t=0', '"default";r=0;t=1'),
        (TokenBucket(0.1), '"default";q=1;w=10', '"default";r=1;t=0', '"default";r=0;t=10'),
        (ConcurrencyLimit(5), '"default";q=5;qu="concurrent-requests"', '"default";r=5', '"default";r=0'),
    ],
)
def test_rate_limit_of_the_current_draft(limit: Limit, policy: str, fresh: str, used: str) -> None:
    """The policy has the quota and its window, if that has whole seconds; then comes what is left, and for how long."""
    assert headers_of("ratelimit", limit, 0.0) == {"RateLimit-Policy": policy, "RateLimit": fresh}
    assert headers_of("ratelimit", used_up(limit, 0.0), 0.0) == {"RateLimit-Policy": policy, "RateLimit": used}


def test_limit_of_a_users_own() -> None:
    """A limit that the kit does not know has a quota, but no window."""
    assert headers_of("ratelimit", Daily(), 400.0) == {
        "RateLimit-Policy": '"default";q=5',
        "RateLimit": '"default";r=0;t=86000',
    }


@each_row(("style", "prefix"), [("ratelimit-legacy", "RateLimit"), ("x-ratelimit", "X-RateLimit")])
def test_fields_that_come_in_threes(style: HeaderStyle, prefix: str) -> None:
    """A limit, what is left of it, and the seconds until there is more, if they are known."""
    window, concurrency = FixedWindow(100, 60), ConcurrencyLimit(5)
    assert window.admit(0.0)
    assert concurrency.admit(0.0)
    expected = {f"{prefix}-Limit": "100", f"{prefix}-Remaining": "99", f"{prefix}-Reset": "60"}
    assert headers_of(style, window, 0.0) == expected
    assert headers_of(style, concurrency, 0.0) == {f"{prefix}-Limit": "5", f"{prefix}-Remaining": "4"}


@each_row("style", ALL[1:])
def test_our_client_reads_what_was_written(style: HeaderStyle) -> None:
    """``response.rate_limit`` is what the limit says."""
    limits: list[Limit] = [FixedWindow(100, 60), SlidingLog(3, 10), TokenBucket(0.125, 4), Daily()]
    for now, limit in enumerate(limits):
        limit.admit(0.0)
        left, seconds = limit.left(now)
        expected = RateLimit(remaining=left, reset=math.ceil(seconds), limit=limit.quota)
        assert what_our_client_reads(headers_of(style, limit, now)) == expected, limit


def test_our_client_reads_a_concurrency_limit() -> None:
    """The current draft has a unit for it, the others have not."""
    limit = ConcurrencyLimit(5)
    assert limit.admit(0.0)
    assert what_our_client_reads(headers_of("ratelimit", limit, 0.0)) == RateLimit(concurrency=5)
    assert what_our_client_reads(headers_of("x-ratelimit", limit, 0.0)) == RateLimit(remaining=4, limit=5)


def test_several_styles_at_once() -> None:
    """Headers come in the order of their styles, and agree with each other."""
    limit = used_up(FixedWindow(2, 60), 0.0)
    styles = header_styles(("x-ratelimit", "retry-after"))
    assert limit_headers(styles, limit, 20.0, is_rejection=True) == [
        ("X-RateLimit-Limit", "2"),
        ("X-RateLimit-Remaining", "0"),
        ("X-RateLimit-Reset", "40"),
        ("Retry-After", "40"),
    ]
    assert limit_headers((), limit, 20.0, is_rejection=True) == []


@each_row(
    ("headers", "styles"),
    [
        (None, ()),
        ((), ()),
        ("ratelimit", ("ratelimit",)),
        (["ratelimit", "retry-after"], ("ratelimit", "retry-after")),
        (ALL, ALL),
    ],
)
def test_styles(headers: Any, styles: tuple[str, ...]) -> None:
    """A user names one style, several or none."""
    assert header_styles(headers) == styles


@each_row(
    ("headers", "message"),
    [
        ("Retry-After", "there are no headers of the style 'Retry-After'; the styles are retry-after, ratelimit, "),
        (("ratelimit", 5), "there are no headers of the style 5; the styles are "),
        (("ratelimit", "ratelimit"), "the style of headers 'ratelimit' is named twice"),
    ],
)
def test_bad_styles(headers: Any, message: str) -> None:
    """A style that does not exist is an error that names those that do."""
    with pytest.raises(ValueError, match=re.escape(message)):
        header_styles(headers)
