"""What an exchange costs: the calls of the test kit's own functions, so that it is never what makes a suite slow."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest
from support.calls import calls_of

from prefect_http import HTTPTransport
from prefect_http.testing import FakeNetwork

# A few more than today are let pass.
MOST = {"HTTP/1.1": 35, "HTTP/2": 42}


@pytest.mark.anyio
@pytest.mark.parametrize("version", MOST)
async def test_calls_of_an_exchange(version: str) -> None:
    """A small reply on a connection that is open takes few calls."""
    network = FakeNetwork()
    network.serve("http://a").get("/flows/{id}").reply(json={"name": "etl"}, times=None)
    is_http2 = version == "HTTP/2"
    async with HTTPTransport(connect=network.connect, http1=not is_http2, http2=is_http2) as transport:
        counts = [await calls_of(transport, httpx.Request("GET", "http://a/flows/1")) for _ in range(10)]
    assert len(network.connections) == 1
    own = [Counter({name: calls for name, calls in count.items() if "testing" in name}) for count in counts]
    least = min(own, key=Counter.total)
    assert 10 < least.total() <= MOST[version], least
