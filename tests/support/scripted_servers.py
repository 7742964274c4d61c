"""Raw servers that see each connection as bytes: for what a server that reads whole requests first cannot do."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import httpx

from prefect_http import HTTPTransport
from prefect_http._wire.transport import TransportStatistics
from support.servers import Act, RawServer, raw_server

Serve = Callable[[anyio.abc.SocketStream], Awaitable[None]]

NOTHING = TransportStatistics(connections=0, idle=0, waiting=0)
ONE_IDLE = TransportStatistics(connections=1, idle=1, waiting=0)

# Made once: reading the certificates takes longer than most of the tests.
CONTEXT = ssl.create_default_context()
_DESCRIPTORS = Path("/proc/self/fd")


@dataclass
class ByteServer:
    """A server that serves its n-th connection as the n-th of its scripts says, the last one repeated; then closes it.

    Attributes:
        scripts: what it does.
        port: where it listens.
        connections: how many connections it has accepted.
        left: how many of them are over.
    """

    scripts: tuple[Serve, ...]
    port: int = 0
    connections: int = 0
    left: int = 0
    over: anyio.Event = field(default_factory=anyio.Event)

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
        self.left += 1
        if self.left == self.connections:
            self.over.set()


@contextlib.asynccontextmanager
async def byte_server(*scripts: Serve) -> AsyncGenerator[ByteServer, None]:
    """Run a ByteServer during the block, for 10 s at most."""
    server = ByteServer(scripts)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


def new_transport() -> HTTPTransport:
    """Make a transport whose pool holds one connection."""
    return HTTPTransport(verify=CONTEXT, limits=httpx.Limits(max_connections=1))


def new_client(transport: HTTPTransport, timeout: httpx.Timeout | float = 5) -> httpx.AsyncClient:
    """Make httpx's client on a transport."""
    return httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False)


@contextlib.asynccontextmanager
async def wired(*script: Act) -> AsyncGenerator[tuple[RawServer, httpx.AsyncClient, HTTPTransport], None]:
    """Run a RawServer and a client whose pool holds one connection."""
    transport = new_transport()
    async with raw_server(*script) as server, new_client(transport) as client:
        yield server, client, transport


def say(*packets: bytes) -> Act:
    """Answer with these bytes, and keep the connection."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        for packet in packets:
            await stream.send(packet)

    return act


def say_and_close(*packets: bytes) -> Act:
    """Answer with these bytes, and close the connection."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await say(*packets)(stream)
        await stream.aclose()

    return act


async def read_head(stream: anyio.abc.ByteStream) -> bytes:
    """Read until a request's head is there; give it, and what came along."""
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


async def reset(stream: anyio.abc.SocketStream) -> None:
    """Break the connection, so that the client sees a reset."""
    raw_socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await anyio.aclose_forcefully(stream)


async def settle() -> None:
    """Let the others run for a while; anyio.wait_all_tasks_blocked() knows nothing of sockets, and takes 0.1 s."""
    for _ in range(30):
        await anyio.lowlevel.checkpoint()


def open_sockets() -> set[str]:
    """Give the sockets that this process has open; none where nobody tells."""
    found: set[str] = set()
    if _DESCRIPTORS.exists():
        for descriptor in _DESCRIPTORS.iterdir():
            with contextlib.suppress(FileNotFoundError):  # that of the directory itself
                found.add(os.readlink(descriptor))  # noqa: PTH115, it is no path
    return {each for each in found if each.startswith("socket:")}


async def until_closed(before: set[str]) -> None:
    """Wait until no sockets are open but those, the servers' included; a second at most."""
    with anyio.fail_after(1):
        while not open_sockets() <= before:
            await anyio.lowlevel.checkpoint()
