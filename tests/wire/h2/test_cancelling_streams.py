"""Cancelling requests over HTTP/2 at every await: no stream and no place is lost, and the connection goes on.

As in tests/wire/test_cancelling.py: a request is made again and again, and is cancelled at its first scheduling point,
at its second, and so on, until it runs through.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from anyio.streams.tls import TLSListener
from support.cancelling import MOST, WAYS, Way, When, plain, run_cancelled
from support.h2_frames import data, goaway, headers, reset, settings
from support.h2_peers import Peer, Script, respond, serve_paths
from support.sockets import open_sockets, sockets_closed
from support.tls_servers import server_context
from support.wire import fetch, figures, new_request, trusting_context, until

from prefect_http import HTTPTransport

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover


@dataclass
class Server:
    """A server whose n-th connection follows the n-th script, like that of h2_server(), at less cost.

    Attributes:
        scripts: the scripts; the last one is repeated.
        peers: its connections.
        first: its SETTINGS.
    """

    scripts: tuple[Script, ...] = (serve_paths,)
    peers: list[Peer] = field(default_factory=list[Peer])
    first: bytes = b""

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until either side closes it."""
        peer = Peer(stream)
        self.peers.append(peer)
        script = self.scripts[min(len(self.peers), len(self.scripts)) - 1]
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                await peer.begin(self.first)
                await script(peer)


@dataclass
class Scene:
    """A request, and what happens around it.

    Attributes:
        transport: what it is sent with.
        url: where it goes.
        around: runs what else goes on.
        is_over: whether the request has ended, in whatever way.
    """

    transport: HTTPTransport
    url: str
    around: anyio.abc.TaskGroup
    is_over: bool = False


async def in_parts(peer: Peer) -> None:
    """Respond to each request in parts, one after the other."""
    while True:
        request = await peer.request()
        number = request.stream_id
        for part in (headers(number), data(number, b"fi"), data(number, b"ne"), data(number, b"", end=True)):
            await peer.send(part)
            for _ in range(4):
                await anyio.lowlevel.checkpoint()


async def refuse_once(peer: Peer) -> None:
    """Refuse the first request, and answer the others."""
    await peer.send(reset((await peer.request()).stream_id, 7))
    await serve_paths(peer)


async def say_goodbye(peer: Peer) -> None:
    """End the connection with the first request."""
    await peer.request()
    await peer.send(goaway(0))
    await peer.wait_closed()


async def refuse_uploads(peer: Peer) -> None:
    """Answer in the middle of a request."""
    while True:
        number = await peer.head()
        await peer.send(respond(number, b"no", status="413"))


async def chunks() -> AsyncIterator[bytes]:
    """Generate a body in parts, with a wait before each."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        yield b"x" * 10


async def long_chunks() -> AsyncIterator[bytes]:
    """Generate a body that the server does not read to its end."""
    while True:
        await anyio.lowlevel.checkpoint()
        yield b"x" * 1000


async def small(scene: Scene) -> None:
    """Send a request, and read the response."""
    assert await fetch(scene.transport, scene.url) in {b"fine", b"/"}


async def streamed(scene: Scene) -> None:
    """Send a body while it is made."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", chunks())) in {b"fine", b"x" * 30}


async def large(scene: Scene) -> None:
    """Send a body that is as large as the window of the connection, and read it."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", b"x" * 40_000)) in {b"fine", b"x" * 40_000}


async def refused(scene: Scene) -> None:
    """Send a body that the server refuses."""
    response = await scene.transport.handle_async_request(new_request(scene.url, "POST", long_chunks()))
    assert (response.status_code, await response.aread()) == (413, b"no")
    await response.aclose()


async def left_early(scene: Scene) -> None:
    """Close the response before its end."""
    response = await scene.transport.handle_async_request(new_request(scene.url))
    await response.aclose()


async def traced(scene: Scene) -> None:
    """Send a request with an extension that takes its time."""

    async def listen(_: str, __: object) -> None:
        await anyio.lowlevel.checkpoint()

    request = new_request(scene.url, "POST", chunks(), {"trace": listen})
    assert await fetch(scene.transport, request) == b"fine"


async def close_transport(scene: Scene) -> None:
    """Close the transport."""
    await scene.transport.aclose()


async def fresh(_: Scene) -> None:
    """Start with nothing."""


async def one_idle(scene: Scene) -> None:
    """Start with an idle connection."""
    await fetch(scene.transport, scene.url)


async def full(scene: Scene) -> None:
    """Start with the only stream in use by another request, which ends once this one waits, or has ended."""
    await one_idle(scene)
    response = await scene.transport.handle_async_request(new_request(scene.url))

    async def end() -> None:
        await until(lambda: scene.transport.statistics().waiting or scene.is_over)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await response.aread()

    scene.around.start_soon(end)


async def opening(scene: Scene) -> None:
    """Start with another request that is opening the connection."""
    scene.around.start_soon(fetch, scene.transport, scene.url)
    await until(lambda: scene.transport.statistics().connections)


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        run: what is cancelled.
        scripts: what the server does.
        before: what comes first.
        is_secure: whether it is over TLS.
        first: the server's SETTINGS.
        least: the smallest plausible number of scheduling points; with fewer, not everything would be cancelled.
    """

    run: Callable[[Scene], Awaitable[None]]
    scripts: tuple[Script, ...] = (in_parts,)
    before: Callable[[Scene], Awaitable[None]] = fresh
    is_secure: bool = False
    first: bytes = settings()
    least: int = 1


CASES = {
    "small": Case(small, least=4),
    "small-reused": Case(small, before=one_idle),
    "tls": Case(small, is_secure=True, least=5),
    "streamed": Case(streamed, before=one_idle, least=6),
    "large": Case(large, (serve_paths,), before=one_idle),
    "refused-upload": Case(refused, (refuse_uploads,)),
    "left-early": Case(left_early, before=one_idle),
    "traced": Case(traced, least=15),
    "waiting": Case(small, before=full, first=settings(s3=1)),
    "waiting-for-the-handshake": Case(small, before=opening, is_secure=True),
    "sent-again": Case(small, (refuse_once,)),
    "moved": Case(small, (say_goodbye, serve_paths)),
    "closing": Case(close_transport, before=one_idle, least=1),
}


@contextlib.asynccontextmanager
async def scene(case: Case) -> AsyncGenerator[tuple[Scene, Server]]:
    """Set the scene for the tries of one case."""
    limits = httpx.Limits(max_connections=1)
    transport = HTTPTransport(verify=trusting_context(), http1=False, http2=True, limits=limits)
    server = Server()
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    if case.is_secure:
        context = server_context()
        context.set_alpn_protocols(["h2"])
        listener = TLSListener(listener, context, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        yield Scene(transport, f"{'https' if case.is_secure else 'http'}://127.0.0.1:{port}/", tasks), server
        tasks.cancel_scope.cancel()


async def try_at(setting: Scene, server: Server, case: Case, number: int, way: Way, when: When) -> bool:
    """Cancel at one point, check what is left, and return whether there was such a point."""
    transport, before = setting.transport, open_sockets()
    server.peers.clear()
    server.scripts, server.first = case.scripts, case.first
    setting.is_over = False
    await case.before(setting)
    was_there = await run_cancelled(number, way, when, partial(case.run, setting))
    setting.is_over = True
    await until(lambda: transport.statistics().connections == transport.statistics().idle)
    assert (transport.statistics().waiting, transport.statistics().streams) == (0, 0)
    server.scripts = (serve_paths,)
    if case.scripts != (refuse_uploads,):
        assert await fetch(transport, setting.url) in {b"fine", b"/"}
    for peer in server.peers:
        assert max(Counter(number for number, _ in peer.resets()).values(), default=1) == 1
    await transport.aclose()
    assert figures(transport) == (0, 0, 0)
    await sockets_closed(before)
    return was_there


@pytest.mark.anyio
@WAYS
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("name", CASES)
async def test_cancelled_at_every_await(name: str, way: Way, when: When) -> None:
    """Wherever a request is cancelled, no stream or place is lost, and the next request succeeds."""
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
        await setting.transport.aclose()
    assert not failure
    assert number > case.least
    await sockets_closed(before)
