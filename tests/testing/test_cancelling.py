"""Requests through a FakeNetwork that are cancelled at each of their scheduling points, and what is left of them."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.cancelling import MOST, Way, When, run_cancelled
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, RetryPolicy
from prefect_http._types import Receive, Scope, Send
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply, Route

URL = "https://api.example.com"
STEADY = RetryPolicy(jitter=0)


class Opened:
    """Counts what user code has opened and not closed."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def one(self) -> Generator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    async def answer(self, request: ReceivedRequest) -> Reply:
        """Answer after a second, in a task."""
        with self.one():
            await anyio.sleep(1)
            return Reply(content=request.body)

    def parts(self, _: ReceivedRequest) -> Reply:
        """Answer with a body that goes on."""

        def body() -> Iterator[bytes]:
            with self.one():
                for _ in range(3):
                    yield b"x" * 70_000

        return Reply(stream=body())

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the answer, a part a second."""
        if scope["type"] != "http":
            return
        with self.one():
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"part", "more_body": True})
                await anyio.sleep(1)
            await send({"type": "http.response.body", "body": b""})


def by_app(at: Route, _: Opened) -> None:
    """Leave all to the app."""


async def upload() -> AsyncIterator[bytes]:
    """Return a body in parts."""
    for _ in range(2):
        yield b"part"
        await anyio.sleep(1)


Script = Callable[[Route, Opened], object]
CASES: dict[str, tuple[Script, dict[str, Any]]] = {
    "delay": (lambda at, _: at.reply(times=None, delay=5, content=bytes(200_000)), {}),
    "retry": (lambda at, _: at.reply(503).drop().reply(times=None), {}),
    "hang": (lambda at, _: at.hang().reply(times=None), {"timeout": 2}),
    "async function": (lambda at, opened: at.call(opened.answer), {"content": b"abc"}),
    "stream": (lambda at, opened: at.call(opened.parts), {}),
    "app": (by_app, {}),
    "upload": (lambda at, opened: at.call(opened.answer), {"content": upload}),
    "early answer": (lambda at, _: at.early_answer(times=None, status=200), {"content": upload}),
}


async def cancel_at(number: int, when: When, script: Script, arguments: dict[str, Any], way: Way, http2: bool) -> bool:
    """Cancel a request at one of its scheduling points, and return whether it has so many."""
    opened = Opened()
    network = FakeNetwork()
    script(network.serve(URL, opened.app).any("/"), opened)
    network.serve("https://other").get("/").reply(text="fine")
    async with network, network.client(PrefectHttpxClient, retry=STEADY, http2=http2) as client:

        async def send() -> None:
            request = arguments.copy()
            if request.get("content") is upload:
                request["content"] = upload()
            await client.put(URL, **request)

        was_there = await run_cancelled(number, way, when, send)
        await client.put(URL, timeout=9)
        assert (await client.get("https://other")).text == "fine"
    await anyio.lowlevel.checkpoint()
    assert not opened.count, "something was not closed"
    assert all(each.closed_by for each in network.connections)
    assert all(each.ended_at is not None for each in network.requests)
    return was_there


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", ["trio", "scope", "task"])
def test_cancelled_anywhere(way: str, name: str) -> None:
    """A request that is cancelled, wherever, leaves nothing open, and the client and the network go on."""
    backend, options = virtual_time_backend("trio" if way == "trio" else "asyncio")
    script, arguments = CASES[name]
    moments: tuple[When, ...] = ("waiting", "woken")

    async def main() -> None:
        for http2 in (False, True):
            was_there, number = True, 0
            while was_there:
                number += 1
                when = moments[(number + http2 + (way == "task")) % 2]
                try:
                    was_there = await cancel_at(
                        number, when, script, arguments, "task" if way == "task" else "scope", http2
                    )
                except BaseException as error:
                    error.add_note(f"at point {number}, {when}, {http2=}")
                    raise
            assert 3 < number < MOST

    anyio.run(main, backend=backend, backend_options=options)


# --- What is left


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def http2(request: pytest.FixtureRequest) -> bool:
    """Run a test over HTTP/1.1 and over HTTP/2."""
    return bool(request.param)


@pytest.mark.anyio
async def test_timeout_cancels_an_async_function(http2: bool) -> None:
    """If the client does not wait for it, a function is cancelled at once, and its ``finally`` may await."""
    told: list[float] = []

    async def answer(_: ReceivedRequest) -> Reply:
        try:
            await anyio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1)
            told.append(anyio.current_time())
        raise AssertionError("it was not cancelled")

    network = FakeNetwork()
    network.serve(URL).get("/").call(answer, times=1).reply(times=None)
    async with network.client(httpx.AsyncClient, http2=http2) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(URL, timeout=5)
        await client.get(URL)
        await anyio.sleep(10)
    assert told == [6]
    network.check()


@pytest.mark.anyio
async def test_leaving_closes_a_generator(http2: bool) -> None:
    """The generator of a body is closed when the client leaves, though the script still has it."""
    told: list[str] = []

    def body() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(70_000)
        finally:
            told.append("closed")

    network = FakeNetwork()
    network.serve(URL).get("/").reply(stream=body())
    async with network.client(PrefectHttpxClient, http2=http2) as client:
        async with client.stream("GET", URL) as response:
            await anext(aiter(response.aiter_raw()))
            assert not told
        await anyio.sleep(1)
        assert told == ["closed"]


@pytest.mark.anyio
async def test_generators_that_fail(http2: bool) -> None:
    """What a generator raises, in the middle of a body or when it is closed, is a mistake in the test."""

    def failing() -> Iterator[bytes]:
        yield b"part"
        raise KeyError("in the middle")

    def failing_at_the_end() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(70_000)
        finally:
            raise KeyError("at the end")

    network = FakeNetwork()
    network.serve(URL).get("/").reply(stream=failing()).reply(stream=failing_at_the_end())
    async with network.client(PrefectHttpxClient, http2=http2) as client:
        with pytest.raises(KeyError, match="in the middle"):
            await client.get(URL)
        async with client.stream("GET", URL):
            pass
        await anyio.sleep(1)
    with pytest.raises(AssertionError, match=r"(?s)in the middle.*at the end"):
        network.check()


@pytest.mark.anyio
async def test_endless_app(http2: bool) -> None:
    """An app that streams without end is told that the client has left, and ends; it is never far ahead."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
            sent += 1

    network = FakeNetwork()
    network.serve(URL, app)
    async with network, network.client(PrefectHttpxClient, http2=http2) as client:
        async with client.stream("GET", URL) as response:
            async with contextlib.aclosing(cast("AsyncGenerator[bytes]", response.aiter_raw())) as parts:
                await anext(parts)
            await anyio.sleep(60)
            ahead = sent
            await anyio.sleep(60)
            assert sent == ahead < 300
        await anyio.sleep(60)
        ended = sent
        await anyio.sleep(60)
        assert sent == ended
    assert network.connections[0].closed_by == "client"


@pytest.mark.anyio
async def test_windows_hold_an_answer() -> None:
    """Over HTTP/2, an answer has ended when the client's window has let all of it pass; a GOAWAY waits for it."""
    network = FakeNetwork()
    body = bytes(3_000_000)
    network.serve(URL).get("/").reply(content=body).goaway().reply()
    async with network.client(PrefectHttpxClient, http2=True) as client:
        async with client.stream("GET", URL) as response:
            await anyio.sleep(1)
            first = network.requests[0]
            assert (first.status, first.ended_at) == (200, None)
            await client.get(URL)
            await anyio.sleep(1)
            assert await response.aread() == body
        assert (first.is_answered, first.ended_at) == (True, 2)
    assert [each.closed_by for each in network.connections] == ["server", "client"]
    network.check()


@pytest.mark.filterwarnings("ignore:unclosed response:ResourceWarning")  # the program's, and nothing else's
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_loop_that_ends(backend: str) -> None:
    """A program may end with connections and answers open: nothing is left, and nothing is warned of."""
    told: list[str] = []

    async def answer(_: ReceivedRequest) -> Reply:
        try:
            await anyio.sleep(math.inf)
        finally:
            told.append("cancelled")
        raise AssertionError("it was not cancelled")

    async def main() -> None:
        network = FakeNetwork()
        network.serve(URL).get("/").reply().drip(every=9, text="abc").reply().drip(every=9, text="abc").call(answer)
        for http2 in (False, True):
            client = network.client(PrefectHttpxClient, http2=http2)
            await client.get(URL)
            response = await client.send(client.build_request("GET", URL), stream=True)
            assert response.status_code == 200
        client = network.client(PrefectHttpxClient)
        with anyio.move_on_after(1):
            await client.get(URL)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.get, URL)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()

    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    gc.collect()
    assert told == ["cancelled"] * 2
