"""Raw servers that see a connection as bytes: for tests that need more than a server which reads whole requests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc
import anyio.lowlevel
import httpx

from prefect_http import HTTPTransport
from support.servers import Act, RawServer, raw_server
from support.wire import new_transport

Serve = Callable[[anyio.abc.SocketStream], Awaitable[None]]


@dataclass
class ByteServer:
    """A server that runs the n-th of its scripts on its n-th connection, repeating the last one; then closes it.

    Attributes:
        scripts: what it does.
        port: where it listens.
        connections: the number of connections that it has accepted.
        closed: how many of them it has closed.
        all_closed: set when it has closed all of them.
    """

    scripts: tuple[Serve, ...]
    port: int = 0
    connections: int = 0
    closed: int = 0
    all_closed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        """Where to send requests."""
        return f"http://127.0.0.1:{self.port}/"

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        async with stream:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                await self.scripts[min(self.connections, len(self.scripts)) - 1](stream)
        self.closed += 1
        if self.closed == self.connections:
            self.all_closed.set()


@contextlib.asynccontextmanager
async def byte_server(*scripts: Serve) -> AsyncGenerator[ByteServer, None]:
    """Run a ByteServer during the block, which may take 10 s."""
    server = ByteServer(scripts)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


def one_connection() -> HTTPTransport:
    """Make a transport whose pool holds one connection."""
    return new_transport(httpx.Limits(max_connections=1))


def new_client(transport: HTTPTransport, timeout: httpx.Timeout | float = 5) -> httpx.AsyncClient:
    """Make an httpx.AsyncClient with a transport."""
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


@contextlib.asynccontextmanager
async def wired(*script: Act) -> AsyncGenerator[tuple[RawServer, httpx.AsyncClient, HTTPTransport], None]:
    """Run a RawServer, and a client whose pool holds one connection."""
    transport = one_connection()
    async with raw_server(*script) as server, new_client(transport) as client:
        yield server, client, transport


def send(*packets: bytes) -> Act:
    """Make an act that sends these bytes, and keeps the connection open."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        for packet in packets:
            await stream.send(packet)

    return act


def send_and_close(*packets: bytes) -> Act:
    """Make an act that sends these bytes, and closes the connection."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await send(*packets)(stream)
        await stream.aclose()

    return act


async def read_head(stream: anyio.abc.ByteStream) -> bytes:
    """Read until a request's head is complete, and return all that has arrived."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    return data


async def read_to_end(stream: anyio.abc.ByteStream) -> bytes:
    """Read until the client closes the connection, or breaks it."""
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            data += await stream.receive()
    return bytes(data)


async def settle() -> None:
    """Let other tasks run for a while; anyio.wait_all_tasks_blocked() ignores sockets, and takes 0.1 s."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()
