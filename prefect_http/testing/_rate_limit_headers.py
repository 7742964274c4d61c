"""The headers by which a server says what it admits. Pure.

    retry-after        Retry-After: 30                              RFC 9110, section 10.2.3; rejections only
    ratelimit          RateLimit-Policy: "default";q=100;w=60       draft-ietf-httpapi-ratelimit-headers, from 08 on
                       RateLimit: "default";r=0;t=30
    ratelimit-legacy   RateLimit-Limit: 100, RateLimit-Remaining: 0, RateLimit-Reset: 30     the same draft, up to 06
    x-ratelimit        X-RateLimit-Limit: 100, ...                  specified nowhere

All of them hold whole seconds from now, rounded up, since there is no wall clock in virtual time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, get_args

from prefect_http.testing._limits import ROUNDING, ConcurrencyLimit, FixedWindow, Limit, SlidingLog, TokenBucket

HeaderStyle: TypeAlias = Literal["retry-after", "ratelimit", "ratelimit-legacy", "x-ratelimit"]
_STYLES: tuple[HeaderStyle, ...] = get_args(HeaderStyle)
_PREFIXES = {"ratelimit-legacy": "RateLimit-", "x-ratelimit": "X-RateLimit-"}


def header_styles(headers: HeaderStyle | Sequence[HeaderStyle] | None) -> tuple[HeaderStyle, ...]:
    """Return the styles of headers that a user names: one, several, or none.

    Raises:
        ValueError: there is no such style, or one is named twice.
    """
    styles: list[HeaderStyle] = [] if headers is None else [headers] if isinstance(headers, str) else list(headers)
    for number, style in enumerate(styles):
        if style not in _STYLES:
            raise ValueError(f"there are no headers of the style {style!r}; the styles are {', '.join(_STYLES)}")
        if style in styles[:number]:
            raise ValueError(f"the style of headers {style!r} is named twice")
    return tuple(styles)


def limit_headers(
    styles: Sequence[HeaderStyle], limit: Limit, now: float, *, is_rejection: bool
) -> list[tuple[str, str]]:
    """Return the headers of a response that tell about a limit, in the order of their styles.

    Args:
        styles: from `header_styles`.
        limit: the server's; if it admits the request, that has been counted.
        now: the time.
        is_rejection: whether the response says that the request was rejected.
    """
    return [header for style in styles for header in _headers(style, limit, now, is_rejection)]


def _headers(style: HeaderStyle, limit: Limit, now: float, is_rejection: bool) -> Iterator[tuple[str, str]]:
    if style == "retry-after":
        if is_rejection:
            # A server that does not know when it will admit the request asks for the shortest wait.
            yield "Retry-After", str(_whole_seconds(limit.free_at(now) - now) or 1)
        return
    left, seconds_until_more = limit.left(now)
    reset = _whole_seconds(seconds_until_more)
    if style == "ratelimit":
        yield "RateLimit-Policy", f'"default";q={limit.quota}{_parameters(limit)}'
        yield "RateLimit", f'"default";r={left}' + ("" if reset is None else f";t={reset}")
    else:
        prefix = _PREFIXES[style]
        yield f"{prefix}Limit", str(limit.quota)
        yield f"{prefix}Remaining", str(left)
        if reset is not None:
            yield f"{prefix}Reset", str(reset)


def _parameters(limit: Limit) -> str:
    """Return the unit of a quota, unless it is requests, and its window, if that has whole seconds."""
    match limit:
        case ConcurrencyLimit():
            return ';qu="concurrent-requests"'
        case FixedWindow() | SlidingLog():
            window = limit.seconds
        case TokenBucket():
            window = limit.quota / limit.rate
        case _:
            return ""
    seconds = round(window)
    return f";w={seconds}" if seconds and abs(window - seconds) <= ROUNDING else ""


def _whole_seconds(seconds: float) -> int | None:
    """Round a number of seconds up; None if it is infinite."""
    return math.ceil(seconds - ROUNDING) if math.isfinite(seconds) else None
