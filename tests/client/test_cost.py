"""What a request costs in the client, as a number of calls, which is the same on every machine."""

from __future__ import annotations

import gc
import sys
from types import FrameType

import anyio
import httpx
import pytest

from prefect_http import PrefectHttpxClient, PrefectResponse, Throttle
from prefect_http._httpx_details import hold_body

# A good request makes so many calls of Python functions between `get()` and the transport, and back. Each takes 0.1 to
# 0.3 us. If a change needs more of them, measure what it costs before you raise this.
MAX_CALLS = 80
# So many more if there is a throttle, and its gate is open: a tenth of the cost of a request to an app.
MAX_CALLS_OF_THROTTLE = 14


class AtHand(httpx.AsyncBaseTransport):
    """A transport whose responses are there at once, as those of the wire are."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = PrefectResponse(200, stream=httpx.ByteStream(b"ok"), extensions={"network_stream": None})
        hold_body(response, b"ok")
        return response


async def calls_of_request(client: PrefectHttpxClient) -> int:
    """Return how many Python functions are called for a request, after a few like it."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    with anyio.fail_after(5):
        async with client:
            for _ in range(3):
                await client.get("http://server/path")
            before = sys.getprofile()
            gc.disable()  # hypothesis has a function called at each collection
            sys.setprofile(count)
            try:
                response = await client.get("http://server/path")
            finally:
                sys.setprofile(before)
                gc.enable()
    assert response.text == "ok"
    return calls


@pytest.mark.anyio
async def test_calls_of_a_request() -> None:
    """A request that needs nothing special goes to the transport and back in a bounded number of calls."""
    assert await calls_of_request(PrefectHttpxClient(transport=AtHand())) <= MAX_CALLS


@pytest.mark.anyio
@pytest.mark.parametrize("slow_start", [False, True])
async def test_calls_of_an_open_throttle(slow_start: bool) -> None:
    """A throttle that holds nothing back adds a bounded number of calls."""
    without = await calls_of_request(PrefectHttpxClient(transport=AtHand()))
    throttle = Throttle(slow_start=slow_start)
    assert await calls_of_request(PrefectHttpxClient(transport=AtHand(), throttle=throttle)) - without <= (
        MAX_CALLS_OF_THROTTLE
    )
