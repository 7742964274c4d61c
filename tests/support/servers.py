"""Servers on real sockets: raw ones that follow a script, and real ones that run in a thread. Loopback only."""

from __future__ import annotations

import atexit
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import anyio
import anyio.abc
import h11
import hypercorn.config
import hypercorn.trio
import hypercorn.typing
import trio
import uvicorn

from prefect_http import ASGIApp, RetryPolicy


@dataclass(frozen=True)
class Received:
    """A request as the server read it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Act = Callable[[anyio.abc.ByteStream], Awaitable[None]]
"""What a server does with a request; it keeps the connection unless the act has closed it."""


@dataclass
class RawServer:
    """A server that handles its n-th request, on whatever connection, with the n-th act of a script.

    Attributes:
        script: the acts; the last one is repeated.
        port: where it listens.
        connections: how many connections it has accepted.
        requests: what it has read, whole, in order.
    """

    script: tuple[Act, ...]
    port: int = 0
    connections: int = 0
    requests: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where to send requests."""
        return f"http://127.0.0.1:{self.port}/"

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until either side closes it."""
        self.connections += 1
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                while (received := await _read_request(stream)) is not None:
                    self.requests.append(received)
                    await self.script[min(len(self.requests), len(self.script)) - 1](stream)


@contextlib.asynccontextmanager
async def raw_server(*script: Act, port: int = 0) -> AsyncIterator[RawServer]:
    """Run a RawServer during the block, for at most 10 s; its connections are closed at the end."""
    server = RawServer(script)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


def retrying_at_once(max_retries: int = 5) -> RetryPolicy:
    """Return a policy that waits only for a Retry-After."""
    return RetryPolicy(max_retries=max_retries, backoff_base=0, jitter=0)


async def _read_request(stream: anyio.abc.ByteStream) -> Received | None:
    """Read a whole request; None where the client closes the connection first."""
    connection, request, body = h11.Connection(h11.SERVER), None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive())
            except anyio.EndOfStream:
                return None
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert request is not None
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Received(request.method.decode(), request.target.decode(), headers, body)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Act:
    """Send a response, and keep the connection. ``retry_after="0"`` is a ``Retry-After`` header."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(_head(status, content_length=str(len(body)), **headers) + body)

    return act


def half_answer(status: int = 200, **headers: str) -> Act:
    """Promise a body of 100 bytes, send ten, and close the connection."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(_head(status, content_length="100", **headers) + b"0123456789")
        await stream.aclose()

    return act


async def drop(stream: anyio.abc.ByteStream) -> None:
    """Close the connection without a response."""
    await stream.aclose()


async def stay_silent(stream: anyio.abc.ByteStream) -> None:
    """Do nothing until the client gives up."""
    with contextlib.suppress(anyio.EndOfStream):
        await stream.receive()
    await stream.aclose()


async def stall(stream: anyio.abc.ByteStream) -> None:
    """Promise a body of 100 bytes, send ten, and do nothing until the client gives up."""
    await stream.send(_head(200, content_length="100") + b"0123456789")
    await stay_silent(stream)


async def talk_nonsense(stream: anyio.abc.ByteStream) -> None:
    """Send something that is not HTTP."""
    await stream.send(b"220 smtp.example.org ESMTP\r\n")
    await stream.aclose()


@dataclass
class Flood:
    """An act: a body of some size, or an endless one, sent as long as the client receives it.

    Attributes:
        status: of the answer.
        size: in bytes; None: chunked, without an end.
        sent: how many bytes the client's side has taken so far, the socket buffers included.
        refused: set once the client has closed the connection.
    """

    status: int
    size: int | None = None
    sent: int = 0
    refused: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        block = b"x" * 0x4000
        if self.size is None:
            head, block = _head(self.status, transfer_encoding="chunked"), b"4000\r\n" + block + b"\r\n"
        else:
            head = _head(self.status, content_length=str(self.size))
        try:
            await stream.send(head)
            while self.size is None or self.sent < self.size:
                await stream.send(block)
                self.sent += len(block)
        except anyio.BrokenResourceError:
            self.refused.set()
            raise


async def upgrade_to_echo(stream: anyio.abc.ByteStream) -> None:
    """Switch to a protocol that sends everything back."""
    await stream.send(_head(101, connection="upgrade", upgrade="echo"))
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            await stream.send(await stream.receive())
    await stream.aclose()


def _head(status: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def free_port() -> int:
    """Return a port for a server that is about to listen there; another one may be faster."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# Open from the beginning, so that no test that counts open sockets sees it appear.
_refusing = socket.socket()
_refusing.bind(("127.0.0.1", 0))
atexit.register(_refusing.close)


def refusing_port() -> int:
    """Return a port that refuses connections; it is kept as long as the tests run, so that no server can get it."""
    port: int = _refusing.getsockname()[1]
    return port


@contextlib.contextmanager
def hypercorn_on_trio(app: ASGIApp, certfile: str | None = None, keyfile: str | None = None) -> Iterator[str]:
    """Run an app under hypercorn, on trio, in a thread; yield its URL."""
    config = hypercorn.config.Config()
    config.certfile, config.keyfile = certfile, keyfile
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.1  # for connections that a client has left in the middle of a request
    addresses: list[str] = []
    is_up, stop = threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        async with trio.open_nursery() as nursery:
            # Its own type for apps has TypedDicts, which do not match apps in general.
            framework = cast("hypercorn.typing.ASGIFramework", app)
            main = partial(hypercorn.trio.serve, framework, config, shutdown_trigger=stop.wait, mode="asgi")
            addresses.extend(await nursery.start(main))
            is_up.set()

    with _thread(partial(trio.run, serve)):
        assert is_up.wait(10)
        try:
            yield addresses[0]
        finally:
            token[0].run_sync_soon(stop.set)


@contextlib.contextmanager
def uvicorn_on_asyncio(app: ASGIApp) -> Iterator[str]:
    """Run an app under uvicorn, on asyncio, in a thread; yield its URL."""
    config = uvicorn.Config(app, loop="asyncio", http="h11", ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The socket is listening already, so a request that comes too early just waits.
        with _thread(partial(server.run, sockets=[listener])):
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


@contextlib.contextmanager
def _thread(main: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(10)
        assert not thread.is_alive(), "the server does not stop"
