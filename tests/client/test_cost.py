"""What a request costs in the client, as a number of calls, which is the same on every machine."""

from __future__ import annotations

import sys
from types import FrameType

import anyio
import httpx
import pytest

from prefect_http import PrefectHttpxClient, PrefectResponse
from prefect_http._httpx_details import hold_body

# A good request makes so many calls of Python functions between `get()` and the transport, and back. Each takes 0.1 to
# 0.3 us. If a change needs more of them, measure what it costs before you raise this.
MAX_CALLS = 80


class AtHand(httpx.AsyncBaseTransport):
    """A transport whose responses are there at once, as those of the wire are."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = PrefectResponse(200, stream=httpx.ByteStream(b"ok"), extensions={"network_stream": None})
        hold_body(response, b"ok")
        return response


@pytest.mark.anyio
async def test_calls_of_a_request() -> None:
    """A request that needs nothing special goes to the transport and back in a bounded number of calls."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=AtHand()) as client:
            for _ in range(3):
                await client.get("http://server/path")
            before = sys.getprofile()
            sys.setprofile(count)
            try:
                response = await client.get("http://server/path")
            finally:
                sys.setprofile(before)
    assert response.text == "ok"
    assert calls <= MAX_CALLS
