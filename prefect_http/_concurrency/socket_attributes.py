"""What a stream over TCP tells about its socket, in anyio's terms."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import SocketAttribute


class Peek(Protocol):
    """Returns what has not been received yet; ``b""`` for the end of the stream; None: nothing."""

    def __call__(self) -> bytes | None: ...


class InputAttribute(TypedAttributeSet):
    """What a stream tells about the input that the event loop has read from its socket.

    Attributes:
        peek: a function that looks at it.
    """

    peek: Peek = typed_attribute()


class Socket(Protocol):
    """What socket.socket has, and the objects that asyncio and uvloop show in its place."""

    @property
    def family(self) -> int: ...
    def dup(self) -> socket.socket: ...
    def fileno(self) -> int: ...
    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...


def socket_attributes(raw_socket: Socket) -> Mapping[Any, Callable[[], Any]]:
    """Return the extra attributes of a stream; none if its socket is closed."""
    if raw_socket.fileno() < 0:
        return {}
    attributes: dict[Any, Callable[[], Any]] = {
        SocketAttribute.family: lambda: raw_socket.family,
        SocketAttribute.raw_socket: lambda: raw_socket,
        SocketAttribute.local_address: lambda: _address(raw_socket.getsockname()),
        SocketAttribute.local_port: lambda: raw_socket.getsockname()[1],
    }
    try:
        peer = raw_socket.getpeername()
    except OSError:  # the other side has closed the connection
        return attributes
    attributes[SocketAttribute.remote_address] = lambda: _address(peer)
    attributes[SocketAttribute.remote_port] = lambda: peer[1]
    return attributes


def _address(name: tuple[Any, ...] | str | bytes) -> tuple[Any, ...] | str | bytes:
    """Return host and port; an IPv6 address that is valid on one network interface only has that appended.

    The address of a Unix socket is its path, and is returned as it is.
    """
    if not isinstance(name, tuple):
        return name
    host, port, *rest = name
    return (f"{host}%{rest[1]}" if rest and rest[1] else host), port
