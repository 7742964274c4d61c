"""AsyncioStream: bytes over TCP under asyncio, as a protocol of asyncio's own.

anyio's stream lets the loop read only while somebody receives, so it changes what the loop watches twice for each
request (two system calls and more on a plain loop), and waits through events and guards. This one lets the loop read
until there is more than `_MAX_BUFFERED`, and waits for a single future.

It is both kinds of protocol. The loops of Python take it for a BufferedProtocol: for any other, they allocate 256 KiB
for each read, however little arrives, which takes three system calls. uvloop takes it for a Protocol: its reads cost
nothing, and it makes one call for each instead of two.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

import anyio
from anyio.abc import ByteStream

from prefect_http._concurrency.addresses import connect_to_first
from prefect_http._concurrency.backend import await_cancellation
from prefect_http._concurrency.eager_stream import Data, EagerStream
from prefect_http._concurrency.socket_attributes import InputAttribute, Socket, socket_attributes

# When there is more than this that nobody has received yet, the loop stops reading. It reads up to 256 KiB at a time.
_MAX_BUFFERED = 256 * 1024
_MAX_UNIX_BUFFER = 8 * 1024 * 1024  # received at most: the size of the other side's buffer is unknown


class _Buffers(threading.local):
    """What the loop of each thread reads into. All its streams share it: reading and the callback are one step."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_MAX_BUFFERED))


_buffers = _Buffers()


class AsyncioStream(asyncio.BufferedProtocol, asyncio.Protocol, EagerStream):
    """A stream over a transport, which ``connection_made()`` sets.

    Cancellation:
        Nothing is lost if receiving is cancelled. If sending is, the data is sent all the same, unless the stream is
        closed first.
    """

    _transport: asyncio.Transport
    _socket: Socket
    _buffer: memoryview  # what the loop reads into
    _error: BaseException | None = None
    _receive_error: BaseException | None = None  # None: what follows the last data is the end of the stream
    _has_ended = False  # whether nothing more arrives: by the end of the stream, or one of the next two
    _is_lost = False
    _is_closed = False
    _is_reading = True
    _can_write = True
    _reader: asyncio.Future[None] | None = None
    _writer: asyncio.Future[None] | None = None

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next: bytes | None = None  # what is received next
        self._later: deque[bytes] | None = None  # what follows it; seldom needed, and 0.7 KiB
        self._buffered = 0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(0)  # so that sending waits for the network
        self._socket = transport.get_extra_info("socket")

    def get_buffer(self, sizehint: int) -> memoryview:
        self._buffer = buffer = _buffers.buffer  # each time, since a loop may go on in another thread
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        self._keep(data)
        if self._buffered > _MAX_BUFFERED and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        self._has_ended = True
        _wake(self._reader)
        return True  # the stream closes the transport

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._has_ended:
            self._receive_error = self._receive_rest(exc) if isinstance(exc, OSError) else exc
        self._has_ended = self._is_lost = True
        self._error = exc
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        _wake(self._writer)

    # What anyio's streams have.

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what has arrived, or what arrives next. It is a checkpoint in both cases."""
        if self._next is not None or self._has_ended:
            await asyncio.sleep(0)
        while self._next is None:
            if self._has_ended:
                raise self._end()
            if self._reader is not None:
                raise anyio.BusyResourceError("reading from")
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._next
        if len(data) > max_bytes:
            data, self._next = data[:max_bytes], data[max_bytes:]
        else:
            self._next = self._later.popleft() if self._later else None
        self._buffered -= len(data)
        if not self._is_reading and self._buffered <= _MAX_BUFFERED:
            self._is_reading = True
            if not self._has_ended:
                self._transport.resume_reading()
        return data

    async def send(self, item: Data) -> None:
        """Send all of the data. It lets other tasks run only if the network does not take all of it at once."""
        if anyio.current_effective_deadline() == -math.inf:  # checkpoint_if_cancelled(), but for its look for trio
            await await_cancellation()
        if self._writer is not None:
            raise anyio.BusyResourceError("writing to")
        if self._can_write:
            self._check_writable()
        else:
            await self._wait_until_writable()
        self._transport.write(item)
        if not self._can_write:
            await self._wait_until_writable()

    def send_nowait(self, item: Data) -> Data | None:
        if not self._can_write:
            return item
        self._check_writable()
        self._transport.write(item)
        return None if self._can_write else b""

    async def send_eof(self) -> None:
        """Close the stream for sending; it can still be received from."""
        await asyncio.sleep(0)
        self._transport.write_eof()

    async def aclose(self) -> None:
        """Close the connection without sending what is left. Tasks that use it get a ClosedResourceError."""
        self.close()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Close the connection, as ``aclose()`` does."""
        self._has_ended = self._is_closed = True
        self._transport.abort()
        _wake(self._reader)
        _wake(self._writer)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {**socket_attributes(self._socket), InputAttribute.peek: lambda: self._peek}

    def _keep(self, data: bytes) -> None:
        if self._next is None:
            self._next = data
        elif self._later is None:
            self._later = deque([data])
        else:
            self._later.append(data)
        self._buffered += len(data)

    def _receive_rest(self, failure: OSError) -> OSError | None:
        """Receive what arrived before sending failed, and return why nothing follows; None: it is the end.

        A server that rejects an upload may close the connection at once. If sending fails then, asyncio gives up the
        socket, with the response still in it. No more is received than a socket can buffer, because the other side of
        a Unix socket may go on sending.
        """
        try:
            raw_socket = self._socket.dup()
        except OSError:  # there are too many files open
            return failure
        with raw_socket:
            raw_socket.setblocking(False)
            left = _buffer_size(raw_socket)
            while left > 0:
                try:
                    data = raw_socket.recv(min(left, _MAX_BUFFERED))
                except BlockingIOError:
                    break
                except OSError as error:
                    return error
                if not data:
                    # The system reports a failure once. Only a broken pipe leaves receiving as it is.
                    return None if isinstance(failure, BrokenPipeError) else failure
                self._keep(data)
                left -= len(data)
        return failure

    def _peek(self) -> bytes | None:
        return b"" if self._next is None and self._has_ended else self._next

    def _end(self) -> Exception:
        """Return what to raise when nothing more arrives."""
        if self._is_closed:
            return anyio.ClosedResourceError()
        if self._receive_error is None:
            return anyio.EndOfStream()
        error = anyio.BrokenResourceError()
        error.__cause__ = self._receive_error
        return error

    async def _wait_until_writable(self) -> None:
        while not self._can_write and not self._is_lost and not self._is_closed:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        self._check_writable()

    def _check_writable(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._is_lost or self._transport.is_closing():
            raise anyio.BrokenResourceError from self._error


def _buffer_size(raw_socket: socket.socket) -> int:
    """Return how much may have arrived on a socket; on a Unix socket, it is in the other side's buffer."""
    is_tcp = raw_socket.family in (socket.AF_INET, socket.AF_INET6)
    return raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) if is_tcp else _MAX_UNIX_BUFFER


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def connect_tcp(host: str, port: int, local_host: str | None, on_looked_up: Callable[[], object]) -> ByteStream:
    """Connect to a host; see ``connect_to_first()``."""
    return (await connect_to_first(host, port, local_host, on_looked_up, _connect, lambda made: made[1].close()))[1]


def _connect(
    address: str, port: int, local_address: Any
) -> Coroutine[Any, Any, tuple[asyncio.Transport, AsyncioStream]]:
    return asyncio.get_running_loop().create_connection(AsyncioStream, address, port, local_addr=local_address)


async def connect_unix(path: str) -> ByteStream:
    """Connect to a Unix socket."""
    _, stream = await asyncio.get_running_loop().create_unix_connection(AsyncioStream, path)
    return stream
