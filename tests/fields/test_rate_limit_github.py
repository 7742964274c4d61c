"""GitHub's responses."""

from __future__ import annotations

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rate_limits import DATE, DATE_AT, EARLIER, FIELDS, VALUES
from support.rows import each_row

from prefect_http._fields.rate_limit_github import github_says_when, github_throttled, is_secondary_limit


@each_row("status_code", [403, 429])
@each_row(
    "headers",
    [
        {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{DATE_AT}"},
        {"x-ratelimit-remaining": "0"},
        {"Retry-After": "60"},
        {"retry-after": "60", "x-ratelimit-remaining": "4000"},
        {"Retry-After": DATE},
        {"Retry-After": DATE, "Date": EARLIER},
        {"Retry-After": "0"},
    ],
)
def test_github_throttled(status_code: int, headers: dict[str, str]) -> None:
    """A 403 or 429 with nothing remaining, or with a Retry-After, is a rate limit."""
    assert github_throttled(status_code, headers)
    assert github_throttled(status_code, httpx.Headers(headers))


def test_github_too_many_requests() -> None:
    """A 429 is a rate limit even without any field, as for some of the secondary limits."""
    assert github_throttled(429, {})


@each_row(
    "headers",
    [
        {},
        {"X-RateLimit-Limit": "60"},
        {"X-RateLimit-Remaining": "59"},
        {"X-RateLimit-Remaining": "none"},
        {"X-RateLimit-Remaining": "-0.5"},
        {"Retry-After": "soon"},
        {"Retry-After": EARLIER, "Date": DATE},
        {"Retry-After": "9" * 8193},
    ],
)
def test_github_forbidden(headers: dict[str, str]) -> None:
    """A 403 with requests remaining, or without any valid field, means a missing permission."""
    assert not github_throttled(403, headers)


@each_row("status_code", [200, 304, 401, 404, 500, 503])
def test_github_other_answers(status_code: int) -> None:
    """No other status is a rate limit, not even with nothing remaining, as in the last response of a quota."""
    assert not github_throttled(status_code, {"X-RateLimit-Remaining": "0", "Retry-After": "5"})


@each_row(
    ("headers", "expected"),
    [
        ({"Retry-After": "60"}, True),
        ({"Retry-After": DATE, "Date": EARLIER}, True),
        ({"Retry-After": EARLIER, "Date": DATE}, False),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{DATE_AT + 9}", "Date": DATE}, True),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{DATE_AT}", "Date": DATE}, False),
        ({"X-RateLimit-Remaining": "14", "X-RateLimit-Reset": f"{DATE_AT + 9}", "Date": DATE}, False),
        ({"X-RateLimit-Remaining": "0"}, False),
        ({}, False),
    ],
)
def test_github_says_when(headers: dict[str, str], expected: bool) -> None:
    """A Retry-After says when to come back, and so does a reset ahead, if nothing remains until then."""
    assert github_says_when(headers, now=float(DATE_AT)) is expected


@each_row(
    ("body", "expected"),
    [
        (b'{"message": "You have exceeded a secondary rate limit. Please wait a few minutes.", "status": "403"}', True),
        (b'{"message": "You have triggered an abuse detection mechanism. Please wait a few minutes."}', True),
        (b"<p>You have exceeded a Secondary Rate Limit</p>", True),
        (b" " * 70_000 + b"secondary rate limit", False),
        (b'{"message": "Resource not accessible by integration"}', False),
        (b"", False),
    ],
)
def test_github_secondary_limit(body: bytes, expected: bool) -> None:
    """The message of a secondary limit tells it, in either of its wordings."""
    assert is_secondary_limit(body) is expected


# --- Any input


@settings(max_examples=100)
@given(
    st.sampled_from([200, 403, 429]),
    st.dictionaries(st.sampled_from([*FIELDS, "Retry-After", "Date"]), VALUES, max_size=4),
)
def test_any_input_is_classified(status_code: int, headers: dict[str, str]) -> None:
    """Whatever the fields are, the predicate does not raise, and they matter only for a 403."""
    throttled = github_throttled(status_code, headers)
    assert throttled == (status_code == 429) or status_code == 403
