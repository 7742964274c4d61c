"""Tests of a small library's client on a network in memory. Run ``pytest testing_a_client.py``.

Look at what is real: retries, waits, the throttle, the connection pool and the broken connection are those of
production. Only the servers are made up, and the clock is virtual: each test takes some milliseconds.
"""

from __future__ import annotations

import hashlib

import pytest
import trio
from trio.testing import MockClock

from prefect_http import PrefectHttpxClient, RetryPolicy, Throttle
from prefect_http.testing import FakeNetwork, TokenBucket

URL = "https://api.example.com"


class FlowsClient(PrefectHttpxClient):
    """What the library offers."""

    async def flow(self, name: str) -> str:
        return str((await self.get(f"{URL}/flows/{name}")).json()["state"])

    async def digest(self, name: str) -> str:
        return hashlib.sha256((await self.get(f"{URL}/files/{name}")).content).hexdigest()


@pytest.mark.trio
async def test_waits_as_long_as_the_server_asks(fake_network: FakeNetwork, autojump_clock: MockClock) -> None:
    api = fake_network.serve(URL)
    api.get("/flows/etl").reply(503, headers={"Retry-After": "3600"}).hang().reply(json={"state": "done"})
    async with fake_network.client(FlowsClient, retry=RetryPolicy(jitter=0, max_retry_after=3600)) as client:
        assert await client.flow("etl") == "done"
    fake_network.assert_waits([3600, 4])


@pytest.mark.trio
async def test_broken_download(fake_network: FakeNetwork, autojump_clock: MockClock) -> None:
    api = fake_network.serve(URL)
    api.get("/files/a").drop(after=50_000, content=bytes(100_000)).reply(content=bytes(100_000))
    async with fake_network.client(FlowsClient, http2=True) as client:
        assert await client.digest("a") == hashlib.sha256(bytes(100_000)).hexdigest()


@pytest.mark.trio
async def test_crowd_is_polite(fake_network: FakeNetwork, autojump_clock: MockClock) -> None:
    api = fake_network.serve(URL).limit(TokenBucket(10))
    api.get("/flows/{name}").reply(json={"state": "done"}, times=None)
    async with fake_network.client(FlowsClient, throttle=Throttle(rate=10)) as client, trio.open_nursery() as nursery:
        for name in range(100):
            nursery.start_soon(client.flow, str(name))
    assert len(fake_network.requests) == 100
    assert trio.current_time() == pytest.approx(9.9)
