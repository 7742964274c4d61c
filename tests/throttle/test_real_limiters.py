"""The throttle against real limiters: nginx, and the limits library in an app on hypercorn. It takes real time."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import httpx
import limits
import limits.storage
import limits.strategies
import pytest
from support.servers import free_port, hypercorn_on_trio

from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle
from prefect_http._types import Receive, Scope, Send

REQUESTS = 500
MAX_REJECTED = REQUESTS * 6 // 100

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
# All that it writes is relative to its prefix; as who is not root, it may not write to where it is built to.
CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    limit_req_zone $binary_remote_addr zone=all:1m rate=100r/s;
    limit_req_status 429;
    server {
        listen 127.0.0.1:PORT;
        root .;
        location / { limit_req zone=all burst=20 nodelay; }
    }
}
"""

Strategy = Callable[[limits.storage.MemoryStorage], limits.strategies.RateLimiter]


class LimitedApp:
    """An app that takes so many requests per second, and says in each answer how many are left.

    Args:
        strategy: of the limits library.
        quota: how many requests in one second, its window.
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
    """Run nginx, which takes 100 requests per second and bursts of 20; give the URL of what it serves."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (tmp_path / "nginx.conf").write_text(CONFIG.replace("PORT", str(port)), "ascii")
    (tmp_path / "hello.txt").write_text("hello", "ascii")
    with subprocess.Popen([NGINX, "-p", f"{tmp_path}/", "-c", "nginx.conf"]) as process:
        try:
            wait_until_it_listens(port, process)
            yield f"http://127.0.0.1:{port}/hello.txt"
        finally:
            process.terminate()
            process.wait(10)


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server that is starting, for 10 s at most."""
    give_up_at = time.monotonic() + 10
    while True:
        assert process.poll() is None, "the server has ended"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up_at, "the server does not start"
            time.sleep(0.01)
        else:
            return


async def statuses_at_once(url: str, requests: int) -> list[int]:
    """Send requests all at once, each of them once; give the statuses of their answers."""
    statuses = list[int]()

    async def get() -> None:
        response = await client.get(url)
        statuses.append(response.status_code)

    with anyio.fail_after(30):
        async with httpx.AsyncClient(trust_env=False) as client, anyio.create_task_group() as tasks:
            for _ in range(requests):
                tasks.start_soon(get)
    return statuses


async def check_crowd(url: str) -> None:
    """Send all requests at once through a throttle: each is answered in the end, and few are rejected on the way."""
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
            for _ in range(REQUESTS):
                tasks.start_soon(get)
    assert statuses == [200] * REQUESTS
    assert rejected == [429] * len(rejected)
    assert len(rejected) <= MAX_REJECTED
    where = httpx.URL(url)
    statistics = throttle.statistics((where.scheme, where.host, where.port))
    assert (statistics.accepted, statistics.rejected) == (REQUESTS, len(rejected))
    assert (statistics.in_flight, statistics.waiting) == (0, 0)


@pytest.mark.trio
async def test_nginx_rejects_a_crowd(nginx: str) -> None:
    """What is more than nginx takes is rejected, when it comes all at once."""
    statuses = await statuses_at_once(nginx, 50)
    assert set(statuses) == {200, 429}


@pytest.mark.trio
async def test_nginx_serves_a_polite_crowd(nginx: str) -> None:
    """Through a throttle, nginx serves everybody, and rejects few on the way, though it says nothing of its limit."""
    await check_crowd(nginx)


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_window_rejects_a_crowd(strategy: Strategy) -> None:
    """What is more than a window of the limits library takes is rejected, when it comes all at once."""
    with hypercorn_on_trio(LimitedApp(strategy, quota=5)) as url:
        statuses = await statuses_at_once(url, 30)
    assert set(statuses) == {200, 429}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "strategy"),
    [("trio", limits.strategies.FixedWindowRateLimiter), ("asyncio", limits.strategies.MovingWindowRateLimiter)],
)
async def test_window_serves_a_polite_crowd(strategy: Strategy) -> None:
    """Through a throttle, a server with windows serves everybody, and rejects few on the way."""
    with hypercorn_on_trio(LimitedApp(strategy, quota=200)) as url:
        await check_crowd(url)
