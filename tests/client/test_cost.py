"""What a request costs in the client, as a number of calls, which is the same on every machine."""

from __future__ import annotations

import gc
import sys
from collections.abc import Coroutine
from pathlib import Path
from types import CoroutineType, FrameType

import anyio
import httpx
import pytest
from support.servers import raw_server, stay_silent

import prefect_http
from prefect_http import PrefectHttpxClient, PrefectResponse, Throttle
from prefect_http._httpx_details import NO_HEADERS, hold_whole

PACKAGE = str(Path(prefect_http.__file__).parent)

# A good request makes so many calls of Python functions between `get()` and the transport, and back. Each takes 0.1 to
# 0.3 us. If a change needs more of them, measure what it costs before you raise this.
MAX_CALLS = 75
# So many coroutines wait for one another while a request waits for a connection. Each takes 0.3 KiB, which counts when
# 10,000 tasks wait: 8 KiB each is the aim, and a task that sleeps takes 5.
MAX_FRAMES = 9
# So many more if there is a throttle, and its gate is open: 5 to 6 % of the cost of a request to an app.
MAX_CALLS_OF_THROTTLE = 13


class AtHand(httpx.AsyncBaseTransport):
    """A transport whose responses are there at once, as those of the wire are."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = httpx.ByteStream(b"ok")
        response = PrefectResponse(200, headers=NO_HEADERS, stream=body, extensions={"network_stream": None})
        hold_whole(response, [(b"Content-Length", b"2")], [b"content-length"], b"ok")
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


def frames_of(coroutine: Coroutine[object, object, object]) -> list[str]:
    """Return the names of the coroutines of the package that a coroutine waits through, itself included."""
    names: list[str] = []
    each: object = coroutine
    while isinstance(each, CoroutineType):
        if each.cr_code.co_filename.startswith(PACKAGE):
            names.append(each.__qualname__)
        each = each.cr_await
    return names


@pytest.mark.anyio
async def test_frames_of_a_request_that_waits_for_a_connection() -> None:
    """A request that waits in the pool is a short chain of coroutines."""
    limits, frames = httpx.Limits(max_connections=1), list[str]()
    async with raw_server(stay_silent) as server, PrefectHttpxClient(limits=limits, trust_env=False) as client:
        coroutines = [client.get(server.url), client.get(server.url)]
        async with anyio.create_task_group() as tasks:

            async def wait_for(coroutine: Coroutine[object, object, object]) -> None:
                await coroutine

            for each in coroutines:  # the first one has the connection
                tasks.start_soon(wait_for, each)
                await anyio.wait_all_tasks_blocked()
            frames += frames_of(coroutines[1])
            tasks.cancel_scope.cancel()
    assert any("handle_async_request" in name for name in frames)
    assert len(frames) <= MAX_FRAMES, frames
