"""GitHub's responses."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rate_limits import DATE, DATE_AT, EARLIER, FIELDS, VALUES

from prefect_http._fields.rate_limit_github import github_throttled


@pytest.mark.parametrize("status_code", [403, 429])
@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
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


@pytest.mark.parametrize("status_code", [200, 304, 401, 404, 500, 503])
def test_github_other_answers(status_code: int) -> None:
    """No other status is a rate limit, not even with nothing remaining, as in the last response of a quota."""
    assert not github_throttled(status_code, {"X-RateLimit-Remaining": "0", "Retry-After": "5"})


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
