"""Leaving an event stream, and cancelling the wait for an event: what is closed, and what other tasks get."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
from support.asgi_apps import FakeApp, part, start, wait_until
from support.cancelling import WAYS, Way, When, run_cancelled
from support.event_streams import (
    API,
    EVENT_STREAM,
    NEVER,
    STEADY,
    URL,
    break_off,
    client_of,
    data_of,
    event,
    new_network,
    send_events,
)
from support.garbage import garbage_of
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import EventStream, PrefectHttpxClient, RetryPolicy
from prefect_http._types import Receive, Scope, Send
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def http2(request: pytest.FixtureRequest) -> bool:
    """Run a test over HTTP/1.1 and over HTTP/2."""
    return bool(request.param)


class Stop(Exception):
    """What a body raises."""


def ticking() -> FakeNetwork:
    """Return a network whose server sends an event every 10 s."""
    network, api = new_network()
    size = len(event(1000, 1000))
    content = b"".join(event(number, number).ljust(size, b"\n") for number in range(100))
    api.get("/events").drip(every=10, size=size, headers=EVENT_STREAM, content=content, times=None)
    return network


async def leave_by_break(events: EventStream) -> None:
    """Leave after the second event."""
    async for each in events:
        if each.data == "1":
            break


async def leave_by_exception(events: EventStream) -> None:
    """Leave by an exception."""
    async for _ in events:
        raise Stop


async def leave_by_cancellation(events: EventStream) -> None:
    """Leave by a timeout while there is no event."""
    with anyio.fail_after(15):
        await data_of(events)


async def leave_at_once(_: EventStream) -> None:
    """Leave before the first event."""


LEAVES = [leave_by_break, leave_by_exception, leave_by_cancellation, leave_at_once]
Leave = Callable[[EventStream], Awaitable[None]]


@each_row("leave", LEAVES)
async def test_leaving_ends_the_request(leave: Leave, http2: bool) -> None:
    """However a stream is left, its connection is closed, or its stream over HTTP/2; nothing is left open."""
    network = ticking()
    async with network, client_of(network, http2=http2) as client:
        events = client.sse("GET", URL)
        with contextlib.suppress(Stop, TimeoutError):
            async with events:
                await leave(events)
        assert events.response.is_closed
        (connection,) = network.connections
        assert connection.closed_by == (None if http2 else "client")
        async with client.sse("GET", URL) as again:  # the client is still of use
            assert (await anext(again)).data == "0"
    gc.collect()


@each_row("leave", LEAVES)
async def test_leaving_tells_the_app(leave: Leave) -> None:
    """However a stream is left, an app in this process gets ``http.disconnect``."""
    told: list[str] = []

    async def ticks(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                pass
            told.append(message["type"])
            tasks.cancel_scope.cancel()

        await send(start(headers=[(b"Content-Type", b"text/event-stream")]))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            for number in range(100):
                await send(part(event(number)))
                await anyio.sleep(10)

    app = FakeApp(ticks)
    async with PrefectHttpxClient(app=app) as client:
        with contextlib.suppress(Stop, TimeoutError):
            async with client.sse("GET", "/events") as events:
                await leave(events)
        await wait_until(lambda: not app.running)
        assert told == ["http.disconnect"]


@each_row("leave", LEAVES)
async def test_leaving_closes_generators(leave: Leave) -> None:
    """However a stream is left, the generators of a mock are closed, and not by the garbage collector."""
    log: list[str] = []

    async def ticks() -> AsyncIterator[bytes]:
        try:
            for number in range(100):
                yield event(number)
                await anyio.sleep(10)
        finally:
            log.append("closed")

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENT_STREAM, content=ticks())

    class Base(httpx.AsyncClient):
        """Its ``send()`` is called, which puts a generator of httpx's around that of the mock."""

        async def send(self, *args: Any, **arguments: Any) -> httpx.Response:
            return await super().send(*args, **arguments)

    class Client(PrefectHttpxClient, Base):
        pass

    for client_class in (PrefectHttpxClient, Client):
        log.clear()
        async with client_class(transport=httpx.MockTransport(respond)) as client:
            with contextlib.suppress(Stop, TimeoutError):
                async with client.sse("GET", URL) as events:
                    await leave(events)
            # A generator that was never begun has nothing to close.
            assert log == ["closed"] * (leave is not leave_at_once), client_class
    gc.collect()


async def test_leaving_twice_closes_once() -> None:
    """Leaving a stream that has ended, or failed, does nothing."""
    network, api = new_network()
    break_off(send_events(api.get("/events"), event("a")), event("b"))
    async with network, client_of(network, retry=NEVER) as client:
        async with client.sse("GET", URL) as events:
            assert await data_of(events) == ["a"]
        async with client.sse("GET", URL) as events:
            with pytest.raises(httpx.RemoteProtocolError):
                await data_of(events)


async def test_garbage() -> None:
    """Neither leaving a stream nor its errors leave anything to the garbage collector."""
    network, api = new_network()
    policy = RetryPolicy(max_retries=1, backoff_base=0)
    for path, content in (("/events", event("a")), ("/empty", b""), ("/large", b"data: " + b"x" * 100)):
        api.get(path).reply(headers=EVENT_STREAM, content=content, times=None)
    api.get("/type").reply(text="no event stream", times=None)

    async def leave() -> None:
        async with client.sse("GET", URL) as events:
            await anext(events)

    async def fail() -> None:
        for path in ("/empty", "/large", "/type"):
            with contextlib.suppress(httpx.RequestError):
                async with client.sse("GET", f"{API}{path}", max_event_bytes=50) as events:
                    await data_of(events)
                    raise AssertionError

    async with network, client_of(network, retry=policy) as client:
        assert [min(await garbage_of(leave)), min(await garbage_of(fail))] == [0, 0]


# --- The wait for an event is cancelled


async def test_cancelled_wait_connects_again(http2: bool) -> None:
    """A cancelled wait closes the connection, and the next one makes another, at once, behind the last event."""
    network = ticking()
    async with network, client_of(network, http2=http2) as client, client.sse("GET", URL) as events:
        assert (await anext(events)).id == "0"
        with anyio.move_on_after(5):
            await anext(events)
        assert anyio.current_time() == 15
        assert events.response.is_closed
        assert (await anext(events)).id == "0"
        assert anyio.current_time() == 25
    assert [request.headers.get("Last-Event-ID") for request in network.requests] == [None, "0"]


async def test_cancelled_wait_loses_no_event() -> None:
    """A cancellation takes no event that has arrived already, and leaves the connection as it is."""
    network, api = new_network()
    send_events(api.get("/events"), event("a"), event("b"))
    async with network, client_of(network) as client, client.sse("GET", URL, reconnect=False) as events:
        for data in ("a", "b"):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(events)
            assert scope.cancelled_caught
            assert (await anext(events)).data == data
        assert await data_of(events) == []


async def test_cancelled_wait_without_reconnection() -> None:
    """Without reconnection there is no other connection after a cancelled wait, and an error says so."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    each_way: list[Any] = [{"reconnect": False}, {"retry": NEVER}, {"reconnect": True, "content": body()}]
    for arguments in each_way:
        network = ticking()
        async with network, client_of(network) as client:
            async with client.sse("GET", URL, **arguments) as events:
                with anyio.move_on_after(5):
                    await anext(events)
                with pytest.raises(RuntimeError, match="does not reconnect, and a cancelled wait has closed"):
                    await anext(events)


async def test_cancelled_wait_between_connections() -> None:
    """The wait before a connection goes on where it was cancelled, so a short timeout does not shorten it."""
    network, api = new_network()
    send_events(send_events(api.get("/events"), event("a", retry=60_000)), event("b"))
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert (await anext(events)).data == "a"
        # Longer than the wait, or it would be given up at once.
        with anyio.CancelScope() as scope:
            scope.deadline = 1e6
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_after, 7, scope)
                await anext(events)
        for seconds in (10, 20):
            with anyio.move_on_after(seconds):
                await anext(events)
        assert anyio.current_time() == 37
        assert (await anext(events)).data == "b"
        assert anyio.current_time() == 60


async def _cancel_after(seconds: float, scope: anyio.CancelScope) -> None:
    await anyio.sleep(seconds)
    scope.cancel()


def reply_by_id(request: ReceivedRequest) -> Reply:
    """Return the event behind the last one, and 204 behind the second."""
    last = request.headers.get("Last-Event-ID")
    if last == "2":
        return Reply(204)
    body = event("a", 1, 0) if last is None else event("b", 2)
    return Reply(headers=EVENT_STREAM, stream=[body[:5], body[5:]])


@WAYS
async def test_cancelled_anywhere(way: Way, anyio_backend: object) -> None:
    """Wherever an iteration is cancelled, it is plainly cancelled, nothing is left open, and the client is of use."""
    network, api = new_network()
    api.get("/events").call(reply_by_id)
    api.get("/").reply(times=None)

    async def read() -> None:
        async with client.sse("GET", URL) as events:
            assert await data_of(events) == ["a", "b"]

    whens: tuple[When, ...] = ("waiting", "woken")
    async with network, client_of(network) as client:
        for when in whens:
            for number in itertools.count(1):
                if not await run_cancelled(number, way, when, read):
                    assert number > 10
                    break
                assert (await client.get(API)).status_code == 200
                assert len([each for each in network.connections if each.closed_at is None]) == 1


# --- Other tasks


async def test_two_tasks_cannot_wait_at_once() -> None:
    """A second task that iterates gets an error, and the first one its event."""
    network = ticking()
    got: list[str] = []

    async def wait() -> None:
        got.append((await anext(events)).data)

    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(1)
            with pytest.raises(
                RuntimeError, match=r"^another task is already waiting for the next event of this stream$"
            ):
                await anext(events)
        assert got == ["0"]


@each_row("script", ["quiet", "between connections"])
async def test_leaving_while_another_task_waits(script: str) -> None:
    """A task that waits when another one leaves the stream gets an error, and the connection is closed."""
    if script == "quiet":
        network = ticking()
    else:
        network, api = new_network()
        send_events(api.get("/events"), b"retry: 100000\n\n")
    began = anyio.current_time()

    async def wait() -> None:
        with pytest.raises(
            RuntimeError, match=r"^the event stream was left while a task was waiting for its next event$"
        ):
            await anext(events)

    async with network, client_of(network) as client:
        async with anyio.create_task_group() as tasks:
            async with client.sse("GET", URL) as events:
                tasks.start_soon(wait)
                await anyio.sleep(5)
            assert events.response.is_closed
        assert anyio.current_time() == began + 5
        if script == "quiet":
            assert [each.closed_by for each in network.connections] == ["client"]


@each_row("when, requests", [("request", 1), ("response", 2)])
async def test_leaving_while_a_waiting_task_is_stuck(when: str, requests: int) -> None:
    """Leaving waits for 10 s for a task that does not react to its cancellation. That leaves no connection open."""

    async def hook(_: object) -> None:
        if client_is_up.is_set():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1000)

    async def wait() -> None:
        with pytest.raises(RuntimeError, match=r"^the event stream (was|has been) left"):
            await anext(events)

    network, api = new_network()
    client_is_up = anyio.Event()
    route = send_events(api.get("/events"), b"retry: 0\n")
    if when == "response":
        route.drip(every=1, headers=EVENT_STREAM, content=event("a") * 9)
    began = anyio.current_time()
    async with network, client_of(network, event_hooks={when: [hook]}) as client:
        async with anyio.create_task_group() as tasks:
            async with client.sse("GET", URL) as events:
                client_is_up.set()
                tasks.start_soon(wait)
                await anyio.sleep(5)
            assert anyio.current_time() == began + 15
        assert events.response.is_closed
        assert len(route.requests) == requests


@pytest.mark.parametrize("anyio_backend", [virtual_time_backend("asyncio")], ids=["asyncio"])
async def test_leaving_is_cancelled_while_a_waiting_task_is_stuck(anyio_backend: object) -> None:
    """Closing the connection is not left out if the task that leaves is cancelled, as only asyncio's tasks can be."""

    class Stubborn(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            yield event("a")

        async def aclose(self) -> None:
            log.append("closed")

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENT_STREAM, stream=Stubborn())

    async def wait(events: EventStream) -> None:
        log.append((await anext(events)).data)

    async def leave() -> None:
        async with client.sse("GET", URL) as events:
            tasks.start_soon(wait, events)
            await anyio.sleep(1)

    log: list[str] = []
    async with PrefectHttpxClient(transport=httpx.MockTransport(respond)) as client:
        async with anyio.create_task_group() as tasks:
            leaving = asyncio.create_task(leave())
            await anyio.sleep(2)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert leaving.cancelled()
        assert log == ["a", "closed"]


async def test_entering_is_cancelled(http2: bool) -> None:
    """A first connection that is cancelled leaves nothing open."""
    network, api = new_network()
    api.get("/events").reply(headers=EVENT_STREAM, delay=60)
    async with network, client_of(network, http2=http2, retry=STEADY) as client:
        with anyio.move_on_after(5) as scope:
            await client.sse("GET", URL).__aenter__()
        assert scope.cancelled_caught
        if not http2:
            assert [each.closed_by for each in network.connections] == ["client"]
