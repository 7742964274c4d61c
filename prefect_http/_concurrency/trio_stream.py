"""TrioStream: bytes over TCP under trio, straight on a non-blocking socket.

Of the 75 us that a small request took on the wire, anyio's stream and trio's socket took 25. trio's socket tries to
receive before it waits, and a response is never there yet: a system call and an exception for nothing. Each of their
calls is also a checkpoint of its own. Here, sending is none if the socket takes all of the data at once, because
receiving always is one.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import anyio
import trio
from anyio.abc import ByteStream, SocketAttribute

from prefect_http._concurrency.addresses import connect_to_first
from prefect_http._concurrency.eager_stream import Data, EagerStream
from prefect_http._concurrency.socket_attributes import socket_attributes

# After so much at once, more has probably arrived already. Then to try is faster than to wait until the socket is
# readable: a large body takes half the time.
_MUCH = 16 * 1024
# As much memory is allocated as is asked for, and large pieces of it are slow to get.
_FIRST = 64 * 1024


class TrioStream(EagerStream):
    """A stream over a socket.

    Args:
        raw_socket: connected, and non-blocking. It belongs to the stream from now on.

    Cancellation:
        Nothing is lost if receiving is cancelled. If sending is, part of the data may have been sent.
    """

    __slots__ = ("_expects_more", "_is_closed", "_is_sending", "_send_errno", "_socket")

    def __init__(self, raw_socket: socket.socket) -> None:
        self._socket = raw_socket
        self._expects_more = False
        self._is_closed = False
        self._is_sending = False
        self._send_errno = 0  # why the connection was lost, if sending has met it: the system reports it only once

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what arrives next. It is a checkpoint, even if there is something already."""
        if self._is_closed:
            raise anyio.ClosedResourceError
        try:
            if self._expects_more:
                await trio.lowlevel.checkpoint()
            else:
                max_bytes = min(max_bytes, _FIRST)
                await trio.lowlevel.wait_readable(self._socket)
            data: bytes | None = None
            while data is None:
                try:
                    data = self._socket.recv(max_bytes)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._socket)
        except trio.BusyResourceError:
            raise anyio.BusyResourceError("reading from") from None
        except (trio.ClosedResourceError, OSError) as error:
            raise self._failure() from error
        self._expects_more = len(data) >= _MUCH
        if not data:
            if self._send_errno:
                raise anyio.BrokenResourceError from OSError(self._send_errno, os.strerror(self._send_errno))
            raise anyio.EndOfStream
        return data

    async def send(self, item: Data) -> None:
        """Send all of the data. It lets other tasks run only if the socket does not take all of it at once."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_sending:
            raise anyio.BusyResourceError("writing to")
        sent = self._send_some(item)
        if sent < len(item):
            self._is_sending = True
            try:
                await self._send_rest(memoryview(item)[sent:])
            finally:
                self._is_sending = False

    def send_nowait(self, item: Data) -> Data | None:
        if self._is_sending:
            return item
        sent = self._send_some(item)
        return None if sent == len(item) else memoryview(item)[sent:]

    async def _send_rest(self, data: memoryview) -> None:
        while data:
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except trio.ClosedResourceError as error:
                raise self._failure() from error
            data = data[self._send_some(data) :]

    def _send_some(self, data: Data) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno != errno.EPIPE:  # which leaves receiving as it is
                self._send_errno = error.errno or 0
            raise self._failure() from error

    def _failure(self) -> Exception:
        """Return what to raise for an error of the socket."""
        return anyio.ClosedResourceError() if self._is_closed else anyio.BrokenResourceError()

    async def send_eof(self) -> None:
        """Close the stream for sending; it can still be received from."""
        await trio.lowlevel.checkpoint()
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close the socket. Tasks that use it get a ClosedResourceError."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the socket, as ``aclose()`` does."""
        if not self._is_closed:
            self._is_closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return socket_attributes(self._socket)


def connect_tcp(
    host: str, port: int, local_host: str | None, on_looked_up: Callable[[], object]
) -> Coroutine[Any, Any, ByteStream]:
    """Connect to a host; see ``connect_to_first()``."""
    return connect_to_first(host, port, local_host, on_looked_up, _connect, TrioStream.close)


async def _connect(address: str, port: int, local_address: Any) -> TrioStream:
    raw_socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        raw_socket.setblocking(False)
        raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio does
        if local_address is not None:
            raw_socket.bind(local_address)
        await trio.socket.from_stdlib_socket(raw_socket).connect((address, port))
    except BaseException:
        raw_socket.close()
        raise
    return TrioStream(raw_socket)


async def connect_unix(path: str) -> ByteStream:
    """Connect to a Unix socket."""
    stream = await anyio.connect_unix(path)
    return TrioStream(stream.extra(SocketAttribute.raw_socket))
