"""Openers: what a connection begins with, TCP, a Unix socket or a stream that the user opens."""

from __future__ import annotations

import errno
import inspect
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol, cast

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.connecting import connect_tcp, connect_unix
from prefect_http._types import SocketOption
from prefect_http._wire.network_errors import close_forcefully, reason_for
from prefect_http._wire.raw_socket import is_unconnected, raw_socket_of

# Opens a stream to a host, which is a name or an address, and a port.
Connect = Callable[[str, int], Awaitable[ByteStream]]

# How long to wait until a Unix socket whose queue is full is tried again.
_QUEUE_SECONDS = 0.01


class Opener(Protocol):
    """Opens a stream that leads to a host.

    Attributes:
        event: the name of the step, for its events.
    """

    event: str

    async def open(self, host: str, port: int, on_looked_up: Callable[[], object]) -> ByteStream:
        """Open a stream. What it raises are network errors, and errors of httpx.

        Args:
            host: a name or an address.
            port: the port.
            on_looked_up: called when the address of a name has been looked up.
        """
        ...

    def info(self, host: str, port: int, timeout: float | None) -> Mapping[str, object]:
        """Return the info of the events."""
        ...

    def target(self, peer: str) -> str:
        """Return what the stream leads to, for messages; ``peer`` is the host and the port."""
        ...


class TcpOpener:
    """Opens TCP connections.

    Args:
        local_address: the address that they come from; None: the system chooses.
        socket_options: set on each socket, in addition to TCP_NODELAY; None: none.
    """

    event = "connect_tcp"

    def __init__(self, local_address: str | None = None, socket_options: Iterable[SocketOption] | None = None) -> None:
        self.local_address = local_address
        self.socket_options = None if socket_options is None else list(socket_options)

    async def open(self, host: str, port: int, on_looked_up: Callable[[], object]) -> ByteStream:
        """Connect to whichever of the addresses of the host is first to accept."""
        stream = await connect_tcp(host, port, self.local_address, on_looked_up)
        # asyncio does so by itself. Without it, the second part of a request would wait for the server's ACK.
        no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await _with_options(stream, [no_delay, *(self.socket_options or ())])

    def info(self, host: str, port: int, timeout: float | None) -> Mapping[str, object]:
        """Return the info of the events."""
        return {
            "host": host,
            "port": port,
            "local_address": self.local_address,
            "timeout": timeout,
            "socket_options": self.socket_options,
        }

    def target(self, peer: str) -> str:
        """Return what the stream leads to, and the local address if one was given."""
        return f"{peer} from the local address {self.local_address}" if self.local_address else peer


class UnixSocketOpener:
    """Opens connections to a Unix socket, whatever the host is.

    Args:
        path: where it is.
        socket_options: set on each socket; None: none.
    """

    event = "connect_unix_socket"

    def __init__(self, path: str, socket_options: Iterable[SocketOption] | None = None) -> None:
        self.path = path
        self.socket_options = None if socket_options is None else list(socket_options)

    async def open(self, host: str, port: int, on_looked_up: Callable[[], object]) -> ByteStream:
        """Connect to the socket, as soon as the server's queue of new connections has room."""
        while True:
            try:
                stream = await connect_unix(self.path)
            except BlockingIOError:  # uvloop, of a full queue
                pass
            else:
                if not is_unconnected(stream):
                    return await _with_options(stream, self.socket_options or ())
                await close_forcefully(stream)
            await anyio.sleep(_QUEUE_SECONDS)

    def info(self, host: str, port: int, timeout: float | None) -> Mapping[str, object]:
        """Return the info of the events."""
        return {"path": self.path, "timeout": timeout, "socket_options": self.socket_options}

    def target(self, peer: str) -> str:
        """Return what the stream leads to."""
        return f"{peer} at the Unix socket {self.path}"


class UserOpener:
    """Opens streams with a function of the user, instead of TCP.

    Args:
        connect: the function.
    """

    event = "connect_tcp"

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def open(self, host: str, port: int, on_looked_up: Callable[[], object]) -> ByteStream:
        """Call the function.

        Raises:
            httpx.ConnectTimeout: it has raised a TimeoutError, which is the cause.
            TypeError: it is not async, or has returned something else.
            Exception: what it raises.
        """
        try:
            opening: object = self._connect(host, port)
            if not inspect.isawaitable(opening):
                raise TypeError(f"connect= must be an async function; {self._connect!r} has returned {opening!r}")
            stream = await opening
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"could not connect to {host}:{port}: {reason_for(error)}") from error
        if not isinstance(stream, ByteStream):
            raise TypeError(f"connect= must return an anyio.abc.ByteStream, not {stream!r}")
        return stream

    def info(self, host: str, port: int, timeout: float | None) -> Mapping[str, object]:
        """Return the info of the events."""
        return {"host": host, "port": port, "local_address": None, "timeout": timeout, "socket_options": None}

    def target(self, peer: str) -> str:
        """Return what the stream leads to."""
        return peer


async def _with_options(stream: ByteStream, options: Iterable[SocketOption]) -> ByteStream:
    """Set options on the socket of a stream that has been opened, and return the stream."""
    raw_socket = raw_socket_of(stream)
    try:
        if raw_socket is None:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        for option in options:
            raw_socket.setsockopt(*cast("tuple[int, int, int]", option))  # or one of the other forms
    except BaseException:
        await close_forcefully(stream)
        raise
    return stream
