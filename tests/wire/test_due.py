"""A task that is cancelled, or whose deadline has passed, sends no request, and no connection is lost for it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import ByteStream
from support.cancelled_groups import run_in_cancelled_group
from support.h2_frames import HEADERS, frames_in, goaway, settings
from support.h2_peers import h2_server, serve_paths
from support.rows import each_row
from support.scripted_servers import settle
from support.servers import answer, raw_server
from support.wire import fetch, new_request, new_transport

from prefect_http import HTTPTransport
from prefect_http._wire import connections
from prefect_http.testing import FakeNetwork

pytestmark = pytest.mark.anyio

URL = "http://example.org/"

Send = Callable[[], Awaitable[object]]
Setting = tuple[HTTPTransport, str, Callable[[], int]]
"""A transport, a URL, and a function that returns how many requests have arrived there."""


@contextlib.asynccontextmanager
async def http1() -> AsyncGenerator[Setting]:
    """Run a server that speaks HTTP/1.1."""
    async with raw_server(answer()) as server, new_transport() as transport:
        yield transport, server.url, lambda: len(server.requests)


@contextlib.asynccontextmanager
async def http2() -> AsyncGenerator[Setting]:
    """Run a server that speaks HTTP/2."""
    async with h2_server(serve_paths) as server, HTTPTransport(http1=False, http2=True) as transport:
        yield transport, server.url, lambda: sum(peer.count(HEADERS) for peer in server.peers)


def compute() -> None:
    """Keep the event loop from running for a moment."""
    time.sleep(0.002)


async def whose_time_has_passed(send: Send) -> None:
    """Send after the deadline, which the event loop has not noticed yet."""
    with anyio.move_on_after(0.001) as scope:
        compute()
        await send()
    assert scope.cancelled_caught


async def who_has_no_time(send: Send) -> None:
    """Send at the deadline."""
    with anyio.move_on_after(0) as scope:
        await send()
    assert scope.cancelled_caught


async def who_is_cancelled(send: Send) -> None:
    """Send in a scope that is cancelled."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await send()
    assert scope.cancelled_caught


class Fickle(ByteStream):
    """A connection on which the server says something at once, and then nothing more.

    Args:
        first: what it says; None: it closes the connection.

    Attributes:
        sent: what it has been sent.
        on_quiet: called when that has been received, and more is waited for.
    """

    def __init__(self, *first: bytes | None) -> None:
        self._first = list(first)
        self._is_closed = anyio.Event()
        self.sent = b""
        self.on_quiet: Callable[[], object] = lambda: None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self._first:
            await anyio.lowlevel.checkpoint()
            if (data := self._first.pop()) is None:
                raise anyio.EndOfStream
            return data
        self.on_quiet()
        await self._is_closed.wait()
        raise anyio.ClosedResourceError

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent += item

    async def send_eof(self) -> None:
        raise AssertionError("not used")

    async def aclose(self) -> None:
        self._is_closed.set()

    @property
    def requests(self) -> int:
        """How many requests it has been sent over HTTP/2."""
        return sum(each.kind == HEADERS for each in frames_in(self.sent))


@each_row("protocol", [http1, http2])
@each_row("sender", [whose_time_has_passed, who_has_no_time, who_is_cancelled])
async def test_what_is_due_is_not_sent(
    protocol: Callable[[], contextlib.AbstractAsyncContextManager[Setting]], sender: Callable[[Send], Awaitable[None]]
) -> None:
    """Even if the connection is open, and the network would take the request without a wait."""
    async with protocol() as (transport, url, arrived):
        await fetch(transport, url)
        await sender(lambda: fetch(transport, new_request(url, "POST")))
        await settle()
        assert arrived() == 1
        statistics = transport.statistics()
        assert (statistics.connections, statistics.idle) == (1, 1)
        await fetch(transport, url)
        assert arrived() == 2


async def test_what_is_not_sent_does_not_keep_a_connection_alive() -> None:
    """It expires after the last request that was sent on it: the server may be about to close it."""
    limits = httpx.Limits(keepalive_expiry=0.05)
    async with raw_server(answer()) as server, HTTPTransport(limits=limits) as transport:

        async def address() -> object:
            response = await transport.handle_async_request(new_request(server.url))
            await response.aread()
            return response.extensions["network_stream"].get_extra_info("client_addr")

        first = await address()
        for _ in range(4):
            await anyio.sleep(0.02)
            await who_is_cancelled(lambda: fetch(transport, server.url))
        assert await address() != first


@each_row("protocol", [http1, http2])
async def test_a_shield_lets_it_through(
    protocol: Callable[[], contextlib.AbstractAsyncContextManager[Setting]],
) -> None:
    """A task that cleans up may still send requests."""
    async with protocol() as (transport, url, arrived):
        await fetch(transport, url)
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await fetch(transport, new_request(url, "DELETE"))
        assert arrived() == 2


async def test_a_task_that_is_started_in_a_cancelled_group() -> None:
    """It is cancelled at once, although anyio has told all tasks of the group that were there."""
    async with http1() as (transport, url, arrived):
        await fetch(transport, url)
        assert await run_in_cancelled_group(lambda: fetch(transport, new_request(url, "POST")))
        assert arrived() == 1


async def test_a_task_that_is_started_in_a_cancelled_group_and_waits() -> None:
    """Its wait for a connection ends with the pool timeout at the latest."""

    async def connect(host: str, port: int) -> ByteStream:
        return Fickle()

    async with HTTPTransport(limits=httpx.Limits(max_connections=1), connect=connect) as transport:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, URL)
            await settle()
            waits = new_request(URL, "GET", None, {"timeout": {"pool": 0.01}})
            assert await run_in_cancelled_group(lambda: fetch(transport, waits))
            tasks.cancel_scope.cancel()


async def test_cancelled_by_what_listens() -> None:
    """An event comes between the check and the request."""
    async with http1() as (transport, url, arrived):
        await fetch(transport, url)
        with anyio.CancelScope() as scope:

            async def cancel(event: str, _: object) -> None:
                if event == "http11.send_request_headers.started":
                    scope.cancel()

            await fetch(transport, new_request(url, "POST", None, {"trace": cancel}))
        assert scope.cancelled_caught
        await settle()
        assert arrived() == 1


@each_row("http2", [False, True])
async def test_cancelled_while_the_connection_was_opened(*, http2: bool) -> None:
    """At the last moment: the connection is kept for the next request."""
    network = FakeNetwork()
    network.serve(URL).get("/").reply(text="fine")

    async def connect(host: str, port: int) -> ByteStream:
        stream = await network.connect(host, port)
        scope.cancel()
        return stream

    async with HTTPTransport(http1=not http2, http2=http2, connect=connect) as transport:
        with anyio.CancelScope() as scope:
            await fetch(transport, URL)
        assert scope.cancelled_caught
        assert (transport.statistics().connections, transport.statistics().idle) == (1, 1)
        assert network.requests == []
        assert await fetch(transport, URL) == b"fine"


async def test_due_and_never_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some checkpoints, the request is sent all the same, or fails if the transport has been closed by then."""
    monkeypatch.setattr(connections, "effective_deadline_getter", lambda: lambda: -math.inf)
    async with http1() as (transport, url, arrived):
        await fetch(transport, url)
        await fetch(transport, url)
        assert arrived() == 2
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.aclose)
            with pytest.raises(httpx.ConnectError, match="the transport was closed"):
                await fetch(transport, url)
        assert arrived() == 2


@pytest.mark.parametrize("first", [settings() + goaway(0), settings(s3=0), None], ids=["goaway", "no streams", "end"])
async def test_what_happens_to_a_connection_while_a_cancellation_is_awaited(
    first: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If none arrives, as when a deadline has been extended, the request is sent on another connection."""
    monkeypatch.setattr(connections, "effective_deadline_getter", lambda: lambda: -math.inf)
    network = FakeNetwork()
    network.serve(URL).get("/").reply(text="fine")
    fickle = Fickle(first)
    opened: list[ByteStream] = []

    async def connect(host: str, port: int) -> ByteStream:
        opened.append(await network.connect(host, port) if opened else fickle)
        return opened[-1]

    async with HTTPTransport(http1=False, http2=True, connect=connect) as transport:
        with anyio.fail_after(5):
            assert await fetch(transport, URL) == b"fine"
    assert fickle.requests == 0


@each_row("http2", [False, True])
async def test_closed_while_a_cancellation_is_awaited(*, http2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request fails, and opens no other connection."""
    monkeypatch.setattr(connections, "effective_deadline_getter", lambda: lambda: -math.inf)
    network = FakeNetwork()
    network.serve(URL).get("/").reply(text="fine")

    async def connect(host: str, port: int) -> ByteStream:
        stream = await network.connect(host, port)
        tasks.start_soon(transport.aclose)
        return stream

    async with HTTPTransport(http1=not http2, http2=http2, connect=connect) as transport:
        async with anyio.create_task_group() as tasks:
            with pytest.raises(httpx.ConnectError, match="the transport was closed"):
                await fetch(transport, URL)
        assert transport.statistics().connections == 0
    assert (len(network.connections), network.requests) == (1, [])


async def test_cancelled_just_as_the_server_says_how_many_streams_it_accepts() -> None:
    """A body that can be sent only once waits for that, and must not be begun."""
    scope, fickle, has_begun = anyio.CancelScope(), Fickle(settings()), False
    fickle.on_quiet = scope.cancel

    async def body() -> AsyncGenerator[bytes]:
        nonlocal has_begun
        has_begun = True
        yield b"x"

    async def connect(host: str, port: int) -> ByteStream:
        return fickle

    async with HTTPTransport(http1=False, http2=True, connect=connect) as transport:
        with scope:
            await transport.handle_async_request(httpx.Request("POST", URL, content=body()))
        assert scope.cancelled_caught
        await settle()
        assert (has_begun, fickle.requests) == (False, 0)
        assert transport.statistics().idle == 1
