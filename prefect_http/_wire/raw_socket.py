"""The socket below a stream: what is asked of it directly, without the event loop."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from typing import TypeVar

from anyio.abc import ByteStream, SocketAttribute

from prefect_http._concurrency.socket_attributes import InputAttribute, Peek

T = TypeVar("T")


def raw_socket_of(stream: ByteStream) -> socket.socket | None:
    """Return the socket of a stream; None if it is closed already.

    asyncio's has fewer methods than a plain one.
    """
    return _extra(stream, SocketAttribute.raw_socket)


def peer_address_of(stream: ByteStream) -> tuple[str, int] | None:
    """Return the IP address and the port at the other end of a stream; None if they are not known."""
    address = _extra(stream, SocketAttribute.remote_address)
    return address[:2] if isinstance(address, tuple) else None


def peek_of(stream: ByteStream) -> Peek | None:
    """Return the stream's `InputAttribute.peek`; None if it has none, as it leaves all input in the socket."""
    return _extra(stream, InputAttribute.peek)


def _extra(stream: ByteStream, attribute: T) -> T | None:
    try:
        return stream.extra(attribute, None)
    except AttributeError:  # under uvloop: anyio asks the socket for its address, and there is no socket any more
        return None


def is_unconnected(stream: ByteStream) -> bool:
    """Return whether a stream over a Unix socket that has just been opened is not connected.

    If the server's queue of new connections is full, Linux does not connect a socket that must not block (EAGAIN), and
    does not say when there is room. trio and asyncio wait until it is writable, and then find no error.
    """
    raw_socket = raw_socket_of(stream)
    if raw_socket is None:
        return False
    try:
        raw_socket.getpeername()
    except OSError as error:
        # On other systems, that is so if the server has closed the connection already.
        return sys.platform == "linux" and error.errno == errno.ENOTCONN
    return False


def abandon(stream: ByteStream) -> None:
    """Close the socket of a stream, if it has one, without its event loop, which has ended."""
    raw_socket = raw_socket_of(stream)
    if raw_socket is not None:
        close_without_loop(raw_socket)


def close_without_loop(raw_socket: socket.socket) -> None:
    """Close a socket whose event loop has ended. asyncio's can only be shut down; it is closed when it is freed."""
    with contextlib.suppress(OSError):
        raw_socket.shutdown(socket.SHUT_RDWR)
    if isinstance(raw_socket, socket.socket):
        raw_socket.close()


def has_early_data(raw_socket: socket.socket) -> bool:
    """Return whether data has arrived on a socket that is readable; if not, the other side has closed it."""
    with contextlib.suppress(OSError), raw_socket.dup() as copy:
        copy.setblocking(False)
        return bool(copy.recv(1, socket.MSG_PEEK))
    return False
