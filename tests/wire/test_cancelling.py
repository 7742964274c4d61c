"""Cancellation of requests at every await: it comes out plain, and no place and no socket stays behind.

A request is run again and again, and is cancelled at its first scheduling point, at its second, and so on, until it
runs through. Each point is hit in two ways: while the task waits there, and when what it waits for has just come, so
that the two race. On asyncio, the cancellation is one of anyio's scopes, or the task's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import anyio
import anyio.abc
import httpx
import pytest
import trio
from support.servers import Act, RawServer, answer, drop, raw_server, stay_silent
from support.wire import (
    fetch,
    figures,
    is_readable,
    new_request,
    new_transport,
    open_sockets,
    sockets_closed,
    tls_listener,
    until,
)

from prefect_http import HTTPTransport

When = Literal["waiting", "woken"]
Way = Literal["scope", "task"]
MOST = 300
"""Scheduling points: what is run here has fewer."""


@pytest.fixture(scope="module", autouse=True)
def clean() -> None:
    """Close what other tests have left behind, so that it does not count."""
    gc.collect()


# --- Cancelling at the n-th scheduling point


class Steps(trio.abc.Instrument):
    """Cancels a trio task at one of its scheduling points, of which the first is number 1."""

    def __init__(self, number: int, when: When, cancel: Callable[[], object]) -> None:
        self.task = trio.lowlevel.current_task()
        self.number = number
        self.when = when
        self.cancel = cancel
        self.count = -1  # what is left of the step that sets this up

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.when == "woken" and self.count == self.number:
            self.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.count += 1
            if self.when == "waiting" and self.count == self.number:
                self.cancel()


class Stepped(Coroutine[Any, Any, bool]):
    """A coroutine for an asyncio task that cancels itself at one of its scheduling points."""

    def __init__(self, inner: Coroutine[Any, Any, bool], number: int, when: When, cancel: Callable[[], object]) -> None:
        self.inner = inner
        self.left = number
        self.when = when
        self.cancel = cancel

    def __await__(self) -> Generator[Any, Any, bool]:
        raise NotImplementedError

    def send(self, value: Any) -> Any:
        return self.stepped(self.inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self.stepped(self.inner.throw(*error))

    def close(self) -> None:
        self.inner.close()

    def stepped(self, future: asyncio.Future[Any] | None) -> asyncio.Future[Any] | None:
        """Cancel now, or as soon as what is waited for is there; the task's own callback comes after this one."""
        self.left -= 1
        if self.left == 0:
            if self.when == "waiting" or future is None:
                self.cancel()
            else:
                future.add_done_callback(lambda _: self.cancel())
        return future


async def run_cancelled(number: int, way: Way, when: When, run: Callable[[], Awaitable[None]]) -> bool:
    """Run something, cancel it at a scheduling point, and say whether it came so far; nothing else may come out of it.

    Who is cancelled by the task's own means sees it once only, so there it must not get lost either.
    """
    scope = anyio.CancelScope()
    calls: list[None] = []

    def cancel() -> None:
        calls.append(None)
        if way == "scope":
            scope.cancel()
        else:
            task.cancel()

    async def watched() -> bool:
        with scope:
            try:
                await run()
            except BaseException as error:
                if type(error) is not anyio.get_cancelled_exc_class():
                    raise AssertionError(f"not plainly cancelled: {error!r}") from error
                raise
        return True

    if asyncio_runs():
        task = asyncio.get_running_loop().create_task(Stepped(watched(), number, when, cancel))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        assert task.cancelled() == (way == "task" and bool(calls)), "the cancellation got lost"
    else:
        steps = Steps(number, when, cancel)
        trio.lowlevel.add_instrument(steps)
        try:
            await watched()
        finally:
            trio.lowlevel.remove_instrument(steps)
    return bool(calls)


def asyncio_runs() -> bool:
    """Say whether asyncio is what runs this."""
    return anyio.get_cancelled_exc_class() is asyncio.CancelledError


# --- What is cancelled


@dataclass
class Scene:
    """A request, and what happens around it.

    Attributes:
        transport: what it is sent with.
        url: where to.
        around: runs what else goes on.
        streams: those of the server, as they were accepted.
    """

    transport: HTTPTransport
    url: str
    around: anyio.abc.TaskGroup
    streams: list[anyio.abc.ByteStream] = field(default_factory=list[anyio.abc.ByteStream])


async def in_parts(stream: anyio.abc.ByteStream) -> None:
    """Answer in parts that come one after the other."""
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
    """Give a body in parts, with a wait before each."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
        yield b"x" * 10


async def long_chunks() -> AsyncIterator[bytes]:
    """Give a body that the server does not take whole."""
    while True:
        await anyio.lowlevel.checkpoint()
        yield b"x" * 100_000


async def small(scene: Scene) -> None:
    """Send a request, and read the answer."""
    assert await fetch(scene.transport, scene.url) == b"fine"


async def streamed(scene: Scene) -> None:
    """Send a body as it is made."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", chunks())) == b"fine"


async def large(scene: Scene) -> None:
    """Send a body that is longer than the socket's buffer."""
    assert await fetch(scene.transport, new_request(scene.url, "POST", b"x" * 1_000_000)) == b"fine"


async def refused(scene: Scene) -> None:
    """Send a body that the server does not want."""
    request = new_request(scene.url, "POST", long_chunks())
    response = await scene.transport.handle_async_request(request)
    assert response.status_code == 413
    await response.aclose()


async def left_early(scene: Scene) -> None:
    """Close the response before it is through."""
    response = await scene.transport.handle_async_request(new_request(scene.url))
    await response.aclose()


async def traced(scene: Scene) -> None:
    """Send a request to whose events somebody listens who takes their time."""

    async def listen(_: str, __: object) -> None:
        await anyio.lowlevel.checkpoint()

    assert await fetch(scene.transport, new_request(scene.url, "GET", None, {"trace": listen})) == b"fine"


async def traced_upload(scene: Scene) -> None:
    """Send a body as it is made, and listen to the events."""

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
    """Begin with nothing."""


async def one_idle(scene: Scene) -> None:
    """Begin with an idle connection."""
    await fetch(scene.transport, scene.url)


async def stale(scene: Scene) -> None:
    """Begin with three idle connections that the server has closed, and a good one under them."""
    responses = [await scene.transport.handle_async_request(new_request(scene.url)) for _ in range(4)]
    for response in responses:
        await response.aread()
    for stream in scene.streams[1:]:
        await stream.aclose()
    for response in responses[1:]:
        await is_readable(response)


async def full(scene: Scene) -> None:
    """Begin with the only connection in use, by another request that ends later on."""
    response = await scene.transport.handle_async_request(new_request(scene.url))

    async def end_later() -> None:
        await until(lambda: scene.transport.statistics().waiting)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        await response.aread()

    async def end() -> None:
        # Whoever waits may be cancelled before they do.
        with anyio.move_on_after(0.02) as scope:
            await end_later()
        if scope.cancelled_caught:
            await response.aread()

    scene.around.start_soon(end)


async def full_of_another_origin(scene: Scene) -> None:
    """Begin with the only connection in use, by a request to another origin that ends later on."""
    await full(replace(scene, url=scene.url.replace("127.0.0.1", "localhost")))


async def full_elsewhere(scene: Scene) -> None:
    """Begin with the only connection idle, and leading to another origin."""
    await fetch(scene.transport, scene.url.replace("127.0.0.1", "localhost"))


async def four_idle(scene: Scene) -> None:
    """Begin with four idle connections."""
    for response in [await scene.transport.handle_async_request(new_request(scene.url)) for _ in range(4)]:
        await response.aread()


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        run: what is cancelled.
        script: what the server does.
        before: what comes first.
        is_secure: over TLS.
        limit: max_connections.
        least: how many scheduling points there are at least; for otherwise not all is cancelled.
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
    "tls": Case(small, is_secure=True, least=8),
    "tls-reused": Case(small, before=one_idle, is_secure=True),
    "streamed": Case(streamed, least=8),
    "streamed-tls": Case(streamed, is_secure=True, least=10),
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
async def scene(case: Case) -> AsyncGenerator[tuple[Scene, NotingServer]]:
    """Set a scene."""
    limits = httpx.Limits(max_connections=case.limit)
    server = NotingServer(case.script, refuses=case.run is refused)
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon((tls_listener(listener) if case.is_secure else listener).serve, server.serve)
        url = server.url.replace("http:", "https:") if case.is_secure else server.url
        yield Scene(new_transport(limits), url, tasks, server.streams), server
        tasks.cancel_scope.cancel()


@dataclass
class NotingServer(RawServer):
    """Keeps its streams, and may refuse what is uploaded."""

    refuses: bool = False
    streams: list[anyio.abc.ByteStream] = field(default_factory=list[anyio.abc.ByteStream])

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        self.streams.append(stream)
        if not self.refuses:
            await super().serve(stream)
            return
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await stream.receive()
                await stream.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                while self.refuses:
                    await stream.receive()


async def try_at(case: Case, number: int, way: Way, when: When) -> bool:
    """Cancel at one point, look at what is left, and say whether there was such a point."""
    empty = open_sockets()
    async with scene(case) as (setting, server):
        transport = setting.transport
        listening = open_sockets()
        await case.before(setting)
        was_there = await run_cancelled(number, way, when, partial(case.run, setting))
        await until(lambda: transport.statistics().connections == transport.statistics().idle, 1)
        connections, idle, waiting = figures(transport)
        assert (connections, waiting) == (idle, 0)
        # Both ends of a connection are in this process.
        await sockets_closed(None if listening is None else listening + 2 * idle, 1)
        server.script, server.requests, server.refuses = (FINE,), [], False
        with anyio.fail_after(5):
            assert await fetch(transport, setting.url) == b"fine"
            await transport.aclose()
        assert figures(transport) == (0, 0, 0)
        await sockets_closed(listening, 1)
    await sockets_closed(empty, 1)
    return was_there


def plain(error: Exception) -> Exception:
    """Take an error out of the groups around it."""
    if isinstance(error, ExceptionGroup):
        return plain(cast("ExceptionGroup[Exception]", error).exceptions[0])
    return error


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("way", "anyio_backend"),
    [("scope", "asyncio"), ("scope", "trio"), ("task", "asyncio")],
    ids=["asyncio-scope", "trio-scope", "asyncio-task"],
)
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("name", CASES)
async def test_cancelled_at_every_await(name: str, way: Way, when: When) -> None:
    """Wherever a request is cancelled, no place is held, no socket is open, and the next request works."""
    failures: list[str] = []
    case, number = CASES[name], 0
    for number in itertools.count(1):
        assert number < MOST
        with anyio.fail_after(10):
            try:
                if not await try_at(case, number, way, when):
                    break
            except Exception as error:  # say where, whatever it is
                failures.append(f"{number}: {plain(error)!r}"[:300])
                break  # what leaks here would count there
    assert not failures
    assert number > case.least


@pytest.mark.anyio
async def test_silent_server_is_left(anyio_backend: str) -> None:
    """A request that waits for an answer which does not come ends at once, when it is cancelled."""
    async with raw_server(stay_silent) as server, new_transport() as transport:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fetch, transport, server.url)
                await until(lambda: server.requests)
                tasks.cancel_scope.cancel()
        assert figures(transport) == (0, 0, 0)
