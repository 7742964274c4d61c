"""is_throttled_by_github, and what it makes of GitHub's rejections."""

from __future__ import annotations

import inspect
from email.utils import formatdate

import httpx
import pytest
import trio
import trio.testing
from support.rows import each_row
from support.scripted_transport import Body

from prefect_http import (
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    RetryPolicy,
    Throttle,
    ThrottledTransport,
    is_throttled_by_github,
)

SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
ABUSE = "You have triggered an abuse detection mechanism. Please wait a few minutes before you try again."
NOW = 1_800_000_000
KEY = ("https", "api.github.com", 443)
QUOTA = {"X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "14", "X-RateLimit-Reset": str(NOW + 60)}
USED_UP = {**QUOTA, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(NOW + 90)}


@each_row(
    ("status", "headers", "body", "expected"),
    [
        (200, {}, "", False),
        (401, {"Retry-After": "60"}, SECONDARY, False),
        (429, {}, "", True),
        (503, {}, "", True),
        (403, {}, "", False),
        (403, USED_UP, "", True),
        (403, QUOTA, "", False),
        (403, {"Retry-After": "60"}, "", True),
        (403, QUOTA, "Resource not accessible by integration", False),
        (403, QUOTA, SECONDARY, True),
        (403, {}, ABUSE, True),
    ],
)
def test_a_response_that_has_been_read(status: int, headers: dict[str, str], body: str, expected: bool) -> None:
    """A 403 from GitHub is a rejection if its headers or its body say so; 429 and 503 are as elsewhere."""
    assert is_throttled_by_github(httpx.Response(status, headers=headers, json={"message": body})) is expected


@pytest.mark.anyio
async def test_a_response_that_has_not_been_read() -> None:
    """Only a 403 whose headers do not tell is read."""
    for status, headers in ((200, {}), (429, {}), (503, {}), (403, USED_UP), (403, {"Retry-After": "60"})):
        body = Body([SECONDARY.encode()])
        response = httpx.Response(status, headers=headers, stream=body)
        assert is_throttled_by_github(response) is (status != 200)
    for text, expected in ((SECONDARY, True), ("not accessible", False)):
        response = httpx.Response(403, headers=QUOTA, stream=(body := Body([text.encode()])))
        verdict = is_throttled_by_github(response)
        assert inspect.isawaitable(verdict)
        assert not body.is_started
        assert await verdict is expected


class Api(httpx.AsyncBaseTransport):
    """GitHub's API: rejects requests until a time.

    Attributes:
        sent: when each request arrived, in whole seconds.
    """

    def __init__(self, status: int, headers: dict[str, str], message: str, ok_after: float) -> None:
        self.sent = list[int]()
        self._answer = status, headers, message, ok_after

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now = trio.current_time()
        self.sent.append(round(now))
        status, headers, message, ok_after = self._answer
        if now >= ok_after:
            return httpx.Response(200)
        headers = {"Date": formatdate(NOW + now, usegmt=True), **headers}
        return httpx.Response(status, headers=headers, stream=Body([b'{"message": "', message.encode(), b'"}']))


@pytest.mark.trio
@pytest.mark.parametrize(
    ("status", "headers", "message", "ok_after", "sent"),
    [
        pytest.param(403, QUOTA, SECONDARY, 60, [0, 60], id="secondary"),
        pytest.param(403, {}, ABUSE, 60, [0, 60], id="no fields"),
        pytest.param(429, QUOTA, SECONDARY, 60, [0, 60], id="429"),
        pytest.param(403, QUOTA, SECONDARY, 1000, [0, 60, 180, 420, 900, 1860], id="for long"),
        pytest.param(403, {"Retry-After": "30"}, SECONDARY, 30, [0, 30], id="Retry-After"),
        pytest.param(403, USED_UP, "API rate limit exceeded", 90, [0, 90], id="primary"),
        pytest.param(403, {**USED_UP, "X-RateLimit-Reset": str(NOW - 9)}, "", 60, [0, 60], id="reset passed"),
    ],
)
async def test_the_wait(
    status: int,
    headers: dict[str, str],
    message: str,
    ok_after: float,
    sent: list[int],
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A rejection that does not say for how long holds all requests back for a minute, then twice as long each time."""
    api = Api(status, headers, message, ok_after)
    throttle = Throttle(is_throttled=is_throttled_by_github, max_wait=None)
    async with PrefectHttpxClient(
        throttle=throttle, transport=api, retry=RetryPolicy(jitter=0), base_url="https://api.github.com"
    ) as client:
        assert (await client.get("/search/issues")).status_code == 200
    assert api.sent == pytest.approx(sent, abs=2)
    assert throttle.statistics(KEY).rejected == len(sent) - 1


@pytest.mark.trio
async def test_many_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Several rejections at the same time are one, early probes do not break the rule, and all others wait."""
    api = Api(403, {}, SECONDARY, 60)
    throttle = Throttle(is_throttled=is_throttled_by_github, early_probe=True)
    transport = ThrottledTransport(api, throttle)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.github.com") as client:
        async with trio.open_nursery() as nursery:
            for _ in range(15):
                nursery.start_soon(client.get, "/")
    assert sorted(api.sent)[:10] == [0] * 10
    assert all(60 <= at <= 61 for at in sorted(api.sent)[10:])
    assert throttle.statistics(KEY).accepted == 5


@pytest.mark.trio
async def test_a_missing_permission(autojump_clock: trio.testing.MockClock) -> None:
    """A 403 for a missing permission is not retried, holds nobody back, and its error shows the message."""
    api, throttle = Api(403, QUOTA, "Resource not accessible", 60), Throttle(is_throttled=is_throttled_by_github)
    async with PrefectHttpxClient(throttle=throttle, transport=api, base_url="https://api.github.com") as client:
        with pytest.raises(PrefectHTTPStatusError, match=r"403 Forbidden .*Resource not accessible"):
            await client.get("/")
    assert api.sent == [0]
    assert (throttle.statistics(KEY).accepted, throttle.statistics(KEY).closed_until) == (1, None)
