"""PrefectHttpxClient(throttle=...): the throttle between the retries and the connections."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import httpx
import pytest
import trio
import trio.testing
from support.asgi_apps import FakeApp, hello
from support.timed_transport import KEY, Server, busy

from prefect_http import (
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    RateLimit,
    RetryPolicy,
    Throttle,
    ThrottledTransport,
    ThrottleTimeout,
    is_throttled_by_github,
)
from prefect_http.testing import TokenBucket

pytestmark = pytest.mark.trio

PATIENT = RetryPolicy(backoff_base=1, jitter=0)


class Host(httpx.AsyncBaseTransport):
    """A host with a token bucket: 50 requests per second, ten at once; 20 ms away.

    Attributes:
        accepted: how many requests it has accepted.
        rejected: how many it has rejected.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected = 0
        self._limit = TokenBucket(50, burst=10)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(0.01)
        is_admitted = self._limit.admit(trio.current_time())
        self.accepted += is_admitted
        self.rejected += not is_admitted
        await trio.sleep(0.01)
        return httpx.Response(200) if is_admitted else busy(1)


async def send_at_once(client: PrefectHttpxClient, tasks: int) -> int:
    """Send a request from each of many tasks at once; return how many failed."""
    failed = 0

    async def one() -> None:
        nonlocal failed
        try:
            await client.get("http://host/")
        except PrefectHTTPStatusError:
            failed += 1

    async with client, trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(one)
    return failed


async def test_crowd(autojump_clock: trio.testing.MockClock) -> None:
    """Of 1,000 tasks that share a throttle, none fails, few requests are rejected, and little time is lost."""
    host = Host()
    client = PrefectHttpxClient(transport=host, throttle=Throttle(), retry=PATIENT)
    assert await send_at_once(client, tasks=1000) == 0
    assert host.rejected <= 0.05 * host.accepted
    assert trio.current_time() <= 1.25 * (1000 - 10) / 50


async def test_crowd_without_a_throttle(autojump_clock: trio.testing.MockClock) -> None:
    """Of 200 tasks that each retry on their own, most fail, and most requests are rejected."""
    host = Host()
    assert await send_at_once(PrefectHttpxClient(transport=host, retry=PATIENT), tasks=200) > 100
    assert host.rejected > host.accepted


async def test_rejected_attempt_counts_and_waiting_does_not(autojump_clock: trio.testing.MockClock) -> None:
    """A rejection counts as one of the request's retries; waiting in the queue does not."""
    server = Server(*[busy(1) for _ in range(3)])
    async with PrefectHttpxClient(
        transport=server, throttle=Throttle(), retry=RetryPolicy(max_retries=2, jitter=0)
    ) as client:
        with pytest.raises(PrefectHTTPStatusError) as raised:
            await client.get("http://host/")
        assert [attempt.status_code for attempt in raised.value.attempts] == [429] * 3
        await client.get("http://host/")
    assert len(server.sent) == 4


async def test_throttle_timeout_is_not_retried(autojump_clock: trio.testing.MockClock) -> None:
    """A request that cannot leave in time fails at once, with a note, and is not tried again."""
    throttle = Throttle()
    async with PrefectHttpxClient(transport=Server(busy(200)), throttle=throttle, retry=PATIENT) as client:
        with trio.fail_after(150):
            with pytest.raises(PrefectHTTPStatusError):
                await client.get("http://host/")
            with pytest.raises(ThrottleTimeout, match=r"the deadline is in 149\.9 s") as raised:
                await client.get("http://host/")
    assert isinstance(raised.value, httpx.PoolTimeout)
    assert raised.value.request.url == "http://host/"
    assert "ThrottleTimeout is not retried" in str(raised.value.__notes__)
    assert trio.current_time() == pytest.approx(0.1)


async def test_total_timeout_is_a_deadline_too(autojump_clock: trio.testing.MockClock) -> None:
    """The throttle knows total_timeout, and fails at once a request that cannot leave before it."""
    async with PrefectHttpxClient(
        transport=Server(busy(200)), throttle=Throttle(), retry=RetryPolicy(total_timeout=30, max_retries=0)
    ) as client:
        with pytest.raises(PrefectHTTPStatusError):
            await client.get("http://host/")
        with pytest.raises(ThrottleTimeout):
            await client.get("http://host/")
    assert trio.current_time() == pytest.approx(0.1)


async def test_redirects_and_authentication_are_throttled(autojump_clock: trio.testing.MockClock) -> None:
    """Each request that is sent waits for its own turn, even one that follows a redirect or authenticates."""

    class Challenged(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            yield request
            yield request

    throttle = Throttle(max_in_flight=1)
    server = Server(httpx.Response(401), httpx.Response(302, headers={"Location": "/next"}))
    async with PrefectHttpxClient(transport=server, throttle=throttle, follow_redirects=True) as client:
        await client.get("http://host/", auth=Challenged())
    assert throttle.statistics(KEY).accepted == len(server.sent) == 3


async def test_clients_share_a_throttle(autojump_clock: trio.testing.MockClock) -> None:
    """What one client learns holds for all clients that share the throttle, httpx's own as well."""
    throttle = Throttle()
    first, second, third = Server(busy(10)), Server(), Server()
    async with (
        PrefectHttpxClient(transport=first, throttle=throttle, retry=RetryPolicy(max_retries=0)) as one,
        PrefectHttpxClient(transport=second, throttle=throttle) as two,
        httpx.AsyncClient(transport=ThrottledTransport(third, throttle)) as three,
    ):
        with pytest.raises(PrefectHTTPStatusError):
            await one.get("http://host/")
        await two.get("http://host/")
        await three.get("http://host/")
    assert second.sent[0] >= 10.1


async def test_app_behind_a_throttle(autojump_clock: trio.testing.MockClock) -> None:
    """An app in this process can be throttled like any other host; its lifespan runs as usual."""
    app = FakeApp(hello)
    throttle = Throttle()
    async with PrefectHttpxClient(app=app, throttle=throttle) as client:
        assert (await client.get("/")).text == "hello"
        async with client.stream("GET", "/") as response:
            assert await response.aread() == b"hello"
    assert throttle.statistics(("http", "localhost", 80)).accepted == 2
    assert app.log == ["startup", "returned", "returned", "shutdown"]


async def test_mounts_are_throttled(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that go through a mount are throttled, too."""
    throttle = Throttle()
    mounts = {"http://host": Server()}
    async with PrefectHttpxClient(transport=Server(), mounts=mounts, throttle=throttle) as client:
        await client.get("http://host/")
        await client.get("http://other/")
    assert throttle.statistics(KEY).accepted == 1
    assert throttle.statistics(("http", "other", 80)).accepted == 1


async def test_throttle_must_be_one() -> None:
    """A client only accepts a Throttle."""
    with pytest.raises(TypeError, match="throttle must be a Throttle, not 50"):
        PrefectHttpxClient(throttle=cast(Any, 50))


async def test_rate_limit_of_a_response(autojump_clock: trio.testing.MockClock) -> None:
    """A response has the rate limit of its headers; None if they say nothing about one."""
    headers = {"RateLimit": '"default";r=50;t=30', "RateLimit-Policy": '"default";q=100;w=60'}
    async with PrefectHttpxClient(transport=Server(httpx.Response(200, headers=headers))) as client:
        for expected in (RateLimit(remaining=50, reset=30, limit=100), None):
            response = await client.get("http://host/")
            assert isinstance(response, PrefectResponse)
            assert response.rate_limit == expected


async def test_rejection_of_any_status_is_retried(autojump_clock: trio.testing.MockClock) -> None:
    """A response that the throttle takes for a rejection is retried like a 429; any other 403 is not."""
    limited = httpx.Response(403, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "60"})
    server = Server(limited, httpx.Response(200), httpx.Response(403))
    throttle = Throttle(is_throttled=is_throttled_by_github)
    async with PrefectHttpxClient(transport=server, throttle=throttle, retry=PATIENT) as client:
        assert (await client.get("http://host/")).status_code == 200
        assert trio.current_time() == pytest.approx(60.2, abs=0.3)
        with pytest.raises(PrefectHTTPStatusError, match="403"):
            await client.get("http://host/")
    assert len(server.sent) == 3


@pytest.mark.trio
@pytest.mark.parametrize(("answer", "place"), [(busy(None, 503), 3), (busy(2), 6)])
async def test_place_in_the_queue(answer: httpx.Response, place: int, autojump_clock: trio.testing.MockClock) -> None:
    """A request that a fault has struck goes first when it is sent again; one that was rejected queues at the end."""
    paths = list[str]()

    async def serve(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        await trio.sleep(1.1)
        return answer if len(paths) == 1 else httpx.Response(200)

    throttle = Throttle(max_in_flight=1)
    policy = RetryPolicy(jitter=0)
    async with (
        PrefectHttpxClient(throttle=throttle, retry=policy, transport=httpx.MockTransport(serve)) as client,
        trio.open_nursery() as nursery,
    ):
        for number in range(6):
            nursery.start_soon(client.get, f"http://host/{number}")
            await trio.testing.wait_all_tasks_blocked()
    assert paths.index("/0", 1) == place
    assert [path for path in paths if path != "/0"] == [f"/{number}" for number in range(1, 6)]
