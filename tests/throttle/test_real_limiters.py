"""The throttle against real limiters: nginx, and the limits library in an app on hypercorn.

These tests take real time: the limiters have clocks of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import limits
import limits.storage
import limits.strategies
import pytest
from support.nginx import nginx as running_nginx
from support.servers import hypercorn_on_trio

from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle
from prefect_http._types import Receive, Scope, Send

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

MAX_REJECTED = 0.06  # of the requests

LIMITS = """
    limit_req_zone $binary_remote_addr zone=fast:1m rate=300r/s;
    limit_req_zone $binary_remote_addr zone=slow:1m rate=10r/s;
    limit_req_status 429;
"""
LOCATIONS = """
        location = /fast.txt { limit_req zone=fast burst=20 nodelay; }
        location = /slow.txt { limit_req zone=slow burst=5 nodelay; }
"""

Strategy = Callable[[limits.storage.MemoryStorage], limits.strategies.RateLimiter]


class LimitedApp:
    """An app that accepts a number of requests per second, and says in each answer how many are left.

    Args:
        strategy: a strategy of the limits library.
        quota: how many requests are accepted in each window of one second.
    """

    def __init__(self, strategy: Strategy, quota: int) -> None:
        self._limiter = strategy(limits.storage.MemoryStorage())
        self._limit = limits.RateLimitItemPerSecond(quota)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        is_accepted = self._limiter.hit(self._limit)
        stats = self._limiter.get_window_stats(self._limit)
        seconds = b"%d" % max(math.ceil(stats.reset_time - time.time()), 1)
        headers = [
            (b"content-length", b"0"),
            (b"ratelimit-policy", b'"default";q=%d;w=1' % self._limit.amount),
            (b"ratelimit", b'"default";r=%d;t=%s' % (stats.remaining, seconds)),
        ]
        if not is_accepted:
            headers.append((b"retry-after", seconds))
        await send({"type": "http.response.start", "status": 200 if is_accepted else 429, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


STRATEGIES = [
    pytest.param(limits.strategies.FixedWindowRateLimiter, id="fixed_window"),
    pytest.param(limits.strategies.MovingWindowRateLimiter, id="moving_window"),
]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[str]:
    """Run nginx; yield the URL that it serves fast.txt and slow.txt under, each with a limit."""
    for name in ("fast.txt", "slow.txt"):
        (tmp_path / name).write_text("hello", "ascii")
    with running_nginx(tmp_path, http=LIMITS, server=LOCATIONS) as url:
        yield url


async def statuses_at_once(url: str, requests: int) -> list[int]:
    """Send many requests at once, each of them once; return the statuses of the responses."""
    statuses = list[int]()

    async def get() -> None:
        response = await client.get(url)
        statuses.append(response.status_code)

    with anyio.fail_after(30):
        async with httpx.AsyncClient(trust_env=False) as client, anyio.create_task_group() as tasks:
            for _ in range(requests):
                tasks.start_soon(get)
    return statuses


async def check_crowd(url: str, requests: int) -> None:
    """Send all requests at once through a throttle; check that each is accepted in the end, and few are rejected."""
    throttle = Throttle()
    statuses = list[int]()
    rejected = list[int | None]()

    async def get() -> None:
        response = await client.get(url)
        statuses.append(response.status_code)

    with anyio.fail_after(60):
        async with (
            PrefectHttpxClient(
                retry=RetryPolicy(),
                throttle=throttle,
                on_retry=lambda request, attempt: rejected.append(attempt.status_code),
                trust_env=False,
            ) as client,
            anyio.create_task_group() as tasks,
        ):
            for _ in range(requests):
                tasks.start_soon(get)
    assert statuses == [200] * requests
    assert rejected == [429] * len(rejected)
    assert len(rejected) <= MAX_REJECTED * requests
    where = httpx.URL(url)
    statistics = throttle.statistics((where.scheme, where.host, where.port))
    assert (statistics.accepted, statistics.rejected) == (requests, len(rejected))
    assert (statistics.in_flight, statistics.waiting) == (0, 0)


@pytest.mark.trio
async def test_nginx_rejects_a_crowd(nginx: str) -> None:
    """Many requests at once are more than nginx accepts, without a throttle."""
    statuses = await statuses_at_once(f"{nginx}/slow.txt", 30)
    assert set(statuses) == {200, 429}


@pytest.mark.trio
async def test_nginx_serves_a_polite_crowd(nginx: str) -> None:
    """Through a throttle, nginx accepts all requests and rejects few, although it does not say what its limit is."""
    await check_crowd(f"{nginx}/fast.txt", requests=400)


@pytest.mark.trio
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_window_rejects_a_crowd(strategy: Strategy) -> None:
    """Many requests at once are more than a window of the limits library accepts, without a throttle."""
    with hypercorn_on_trio(LimitedApp(strategy, quota=5)) as url:
        statuses = await statuses_at_once(url, 30)
    assert set(statuses) == {200, 429}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "strategy"),
    [("trio", limits.strategies.FixedWindowRateLimiter), ("asyncio", limits.strategies.MovingWindowRateLimiter)],
)
async def test_window_serves_a_polite_crowd(strategy: Strategy) -> None:
    """Through a throttle, a server with windows accepts all requests and rejects few."""
    with hypercorn_on_trio(LimitedApp(strategy, quota=100)) as url:
        await check_crowd(url, requests=150)
