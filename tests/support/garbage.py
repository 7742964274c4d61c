"""Counting what code leaves to the garbage collector, and servers that add nothing to that."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel

_TIMES = 3


async def garbage_of(do: Callable[[], Awaitable[object]]) -> list[int]:
    """Return how many objects each of several calls leaves to the garbage collector.

    They need not be equal: a worker thread drops what it holds now or a little later.
    """
    found = list[int]()
    gc.collect()
    gc.freeze()  # late in a run of the whole suite, to search everything else would take 0.1 s each time
    gc.disable()
    try:
        for _ in range(1 + _TIMES):
            await do()
            await _settle()
            found.append(gc.collect())
    finally:
        gc.enable()
    return found[1:]  # the first one fills caches


async def _settle() -> None:
    """Let the event loop drop what it holds on to; asyncio closes a socket in a callback."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Accept connections in a thread, and never read from them; yield the port."""
    connections: list[socket.socket] = []
    with _accepting(connections.append) as port:
        yield port
    for connection in connections:
        connection.close()


@contextlib.contextmanager
def responding_server(response: bytes, *, resets: bool = False) -> Iterator[int]:
    """Serve connections in a thread, without an event loop; yield the port.

    Args:
        response: sent once something has arrived; then everything is read until the client closes.
        resets: whether the connection is reset instead.
    """

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(response)
            if resets:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    with _accepting(serve) as port:
        yield port


@contextlib.contextmanager
def _accepting(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
