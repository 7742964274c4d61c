"""Cancelling requests at every await: the cancellation is raised as such, and no connection is lost or left open.

A request is made again and again, and is cancelled at its first scheduling point, at its second, and so on, until it
runs through. Each point is hit in two ways: while the task waits there, and when what it waits for has just happened,
so that the two race. On asyncio, it is either one of anyio's scopes that is cancelled, or the task itself.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
from anyio.streams.tls import TLSListener
from support.cancelling import MOST, WAYS, Way, When, plain, run_cancelled
from support.scripted_servers import read_head, read_to_end
from support.servers import Act, answer, drop, raw_server, stay_silent
from support.sockets import open_sockets, sockets_closed
from support.tls_servers import server_context
from support.wire import fetch, figures, new_request, new_transport, until, until_readable

from prefect_http import HTTPTransport

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

# --- What is cancelled


@dataclass
class Scene:
    """A request, and what happens around it.

    Attributes:
        transport: what it is sent with.
        url: where it goes.
        around: runs what else goes on.
        sockets: those that are open without any connection.
        streams: the server's connections, in the order in which they were accepted.
        is_over: whether the request has ended, in whatever way.
    """

    transport: HTTPTransport
    url: str
    around: anyio.abc.TaskGroup
    sockets: frozenset[int]
    streams: list[anyio.abc.ByteStream] = field(default_factory=list[anyio.abc.ByteStream])
    is_over: bool = False


async def in_parts(stream: anyio.abc.ByteStream) -> None:
    """Respond in parts, one after the other."""
    for part in (
        b"HTTP/1.1 200 OK\r\nTransfer-",
        b"Encoding: chunked\r\n\r\n",
        b"2\r\nfi\r\n",
        b"2\r\nne\r\n0\r\n\r\n",
    ):
        await stream.send(part)
        for _ in range(4):
            await anyio.lowlevel.checkpoint()


async def chunks() -> AsyncIterator[bytes]:
    """Generate a body in parts, with a wait before each."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        yield b"x" * 10


async def long_chunks() -> AsyncIterator[bytes]:
    """Generate a body that the server does not read to its end."""
    while True:
        await anyio.lowlevel.checkpoint()
        yield b"x" * 100_000


async def small(scene: Scene) -> None:
    """Send a request, and read the response."""
    assert await fetch(scene.transport, scene.url) == b"fine"


async def streamed(scene: Scene) -> None:
    """Send a body while it is made."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", chunks())) == b"fine"


async def large(scene: Scene) -> None:
    """Send a body that is larger than the socket's buffer."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", b"x" * 300_000)) == b"fine"


async def refused(scene: Scene) -> None:
    """Send a body that the server refuses."""
    request = new_request(scene.url, "POST", long_chunks())
    response = await scene.transport.handle_async_request(request)
    assert response.status_code == 413
    await response.aclose()


async def left_early(scene: Scene) -> None:
    """Close the response before its end."""
    response = await scene.transport.handle_async_request(new_request(scene.url))
    await response.aclose()


async def traced(scene: Scene) -> None:
    """Send a request with an extension that takes its time."""

    async def listen(_: str, __: object) -> None:
        await anyio.lowlevel.checkpoint()

    assert await fetch(scene.transport, new_request(scene.url, "GET", None, {"trace": listen})) == b"fine"


async def traced_upload(scene: Scene) -> None:
    """Send a body while it is made, with an extension that takes its time."""

    async def listen(_: str, __: object) -> None:
        await anyio.lowlevel.checkpoint()

    request = new_request(scene.url, "POST", chunks(), {"trace": listen})
    assert await fetch(scene.transport, request) == b"fine"


async def by_name(scene: Scene) -> None:
    """Look up the host first."""
    assert await fetch(scene.transport, scene.url.replace("127.0.0.1", "localhost")) == b"fine"


async def close_transport(scene: Scene) -> None:
    """Close the transport."""
    await scene.transport.aclose()


async def fresh(_: Scene) -> None:
    """Start with nothing."""


async def one_idle(scene: Scene) -> None:
    """Start with an idle connection."""
    await fetch(scene.transport, scene.url)


async def stale(scene: Scene) -> None:
    """Start with three idle connections that the server has closed, and a good one below them."""
    responses = [await scene.transport.handle_async_request(new_request(scene.url)) for _ in range(4)]
    for response in responses:
        await response.aread()
    for stream in scene.streams[1:]:
        await stream.aclose()
    for response in responses[1:]:
        await until_readable(response)


async def full(scene: Scene) -> None:
    """Start with the only connection in use by another request, which ends once this one waits, or has ended."""
    response = await scene.transport.handle_async_request(new_request(scene.url))

    async def end() -> None:
        await until(lambda: scene.transport.statistics().waiting or scene.is_over)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await response.aread()

    scene.around.start_soon(end)


async def full_of_another_origin(scene: Scene) -> None:
    """Start with the only connection in use by such a request to another origin."""
    url, scene.url = scene.url, scene.url.replace("127.0.0.1", "localhost")
    try:
        await full(scene)
    finally:
        scene.url = url


async def full_elsewhere(scene: Scene) -> None:
    """Start with the only connection idle, and leading to another origin."""
    await fetch(scene.transport, scene.url.replace("127.0.0.1", "localhost"))


async def four_idle(scene: Scene) -> None:
    """Start with four idle connections."""
    for response in [await scene.transport.handle_async_request(new_request(scene.url)) for _ in range(4)]:
        await response.aread()


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        run: what is cancelled.
        script: what the server does.
        before: what comes first.
        is_secure: whether it is over TLS.
        limit: max_connections.
        least: the smallest plausible number of scheduling points; with fewer, not everything would be cancelled.
    """

    run: Callable[[Scene], Awaitable[None]]
    script: tuple[Act, ...] = (in_parts,)
    before: Callable[[Scene], Awaitable[None]] = fresh
    is_secure: bool = False
    limit: int = 10
    least: int = 3


FINE = answer(body=b"fine")
CASES = {
    "small": Case(small),
    "small-reused": Case(small, before=one_idle),
    "by-name": Case(by_name, (FINE,)),
    "tls": Case(small, is_secure=True, least=6),
    "tls-reused": Case(small, before=one_idle, is_secure=True),
    "streamed": Case(streamed, least=8),
    "streamed-tls": Case(streamed, is_secure=True, least=8),
    "large": Case(large, (FINE,)),
    "refused": Case(refused),
    "waiting": Case(small, before=full, limit=1),
    "waiting-behind-another-origin": Case(small, before=full_of_another_origin, limit=1),
    "another-origin": Case(small, before=full_elsewhere, limit=1),
    "stale": Case(small, before=stale),
    "sent-again": Case(small, (FINE, drop, FINE), before=one_idle),
    "left-early": Case(left_early),
    "traced": Case(traced, least=15),
    "traced-tls": Case(traced, is_secure=True, least=15),
    "traced-upload": Case(traced_upload, least=15),
    "closing": Case(close_transport, (FINE,), before=four_idle, least=2),
}


@contextlib.asynccontextmanager
async def scene(case: Case) -> AsyncGenerator[tuple[Scene, Server]]:
    """Set the scene for the tries of one case."""
    transport = new_transport(httpx.Limits(max_connections=case.limit))
    server = Server()
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    if case.is_secure:
        listener = TLSListener(listener, server_context(), standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        url = f"{'https' if case.is_secure else 'http'}://127.0.0.1:{port}/"
        yield Scene(transport, url, tasks, open_sockets(), server.streams), server
        tasks.cancel_scope.cancel()


@dataclass
class Server:
    """A server that answers its n-th request with the n-th act of a script, like RawServer, at less cost.

    Attributes:
        script: the acts; the last one is repeated.
        requests: the number of requests that it has read.
        refuses_uploads: whether it answers with a 413 in the middle of a request.
        streams: its connections, in the order in which they were accepted.
    """

    script: tuple[Act, ...] = ()
    requests: int = 0
    refuses_uploads: bool = False
    streams: list[anyio.abc.ByteStream] = field(default_factory=list[anyio.abc.ByteStream])

    def begin(self, *script: Act, refuses_uploads: bool = False) -> None:
        """Begin anew."""
        self.script, self.requests, self.refuses_uploads = script, 0, refuses_uploads
        self.streams.clear()

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until either side closes it."""
        self.streams.append(stream)
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                while True:
                    start = await read_head(stream)
                    if self.refuses_uploads:
                        await stream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                        await read_to_end(stream)
                    await read_rest(stream, start)
                    self.requests += 1
                    await self.script[min(self.requests, len(self.script)) - 1](stream)


async def read_rest(stream: anyio.abc.ByteStream, start: bytes) -> None:
    """Read the rest of a request."""
    head, _, body = start.partition(b"\r\n\r\n")
    if b"chunked" in head:
        while not body.endswith(b"0\r\n\r\n"):
            body += await stream.receive()
    elif length := re.search(rb"Content-Length: (\d+)", head):
        left = int(length[1]) - len(body)
        while left:
            left -= len(await stream.receive())


async def try_at(setting: Scene, server: Server, case: Case, number: int, way: Way, when: When) -> bool:
    """Cancel at one point, check what is left, and return whether there was such a point."""
    transport, before = setting.transport, setting.sockets
    server.begin(*case.script, refuses_uploads=case.run is refused)
    setting.is_over = False
    await case.before(setting)
    was_there = await run_cancelled(number, way, when, partial(case.run, setting))
    setting.is_over = True
    await until(lambda: transport.statistics().connections == transport.statistics().idle)
    connections, idle, waiting = figures(transport)
    assert (connections, waiting) == (idle, 0)
    await sockets_closed(before, but=2 * idle)  # both ends of a connection are in this process
    if idle:  # or else there is no connection that could be in a bad state
        server.begin(FINE)
        assert await fetch(transport, setting.url) == b"fine"
    await transport.aclose()
    assert figures(transport) == (0, 0, 0)
    await sockets_closed(before)
    return was_there


@pytest.mark.anyio
@WAYS
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("name", CASES)
async def test_cancelled_at_every_await(name: str, way: Way, when: When) -> None:
    """Wherever a request is cancelled, no connection is lost or left open, and the next request succeeds."""
    case, number, failure, before = CASES[name], 0, "", open_sockets()
    async with scene(case) as (setting, server):
        for number in itertools.count(1):
            assert number < MOST
            try:
                with anyio.fail_after(10):
                    if not await try_at(setting, server, case, number, way, when):
                        break
            except Exception as error:  # note where, whatever it is
                failure = f"{number}: {plain(error)!r}"[:300]
                break  # what is left behind here would count there
        server.begin(FINE)
        assert failure or await fetch(setting.transport, setting.url) == b"fine"
        await setting.transport.aclose()
    assert not failure
    assert number > case.least
    await sockets_closed(before)


@pytest.mark.anyio
async def test_silent_server_is_left(anyio_backend: str) -> None:
    """A request that waits for a response ends at once when it is cancelled."""
    async with raw_server(stay_silent) as server, new_transport() as transport:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch, transport, server.url)
                await until(lambda: server.requests)
                tasks.cancel_scope.cancel()
        assert figures(transport) == (0, 0, 0)
