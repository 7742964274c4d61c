"""The sockets of this process, so that a test can check that none stays open."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Set

import anyio
import anyio.abc
import anyio.lowlevel

_DESCRIPTORS = "/proc/self/fd"


def open_sockets() -> frozenset[int]:
    """Return the inodes of the sockets that are open; none on a system where they cannot be listed."""
    found: set[int] = set()
    for descriptor in os.listdir(_DESCRIPTORS) if os.path.isdir(_DESCRIPTORS) else ():  # noqa: PTH112, PTH208, slower
        try:
            status = os.fstat(int(descriptor))
        except OSError:  # that of the directory itself
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add(status.st_ino)
    return frozenset(found)


async def sockets_closed(before: Set[int], *, but: int = 0, seconds: float = 5) -> None:
    """Wait until no sockets are open but those that were before, and a number of others.

    The server's end of a connection is in this process as well, and takes a moment to close.
    """
    left = open_sockets() - before
    with anyio.move_on_after(seconds):
        while len(left) > but:
            await anyio.lowlevel.checkpoint()
            left = open_sockets() - before
    assert len(left) <= but, f"{len(left)} sockets are left open, and not {but}"


def reset_on_close(stream: anyio.abc.ByteStream) -> None:
    """Make the closing of a stream reset the connection."""
    raw_socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def reset(stream: anyio.abc.ByteStream) -> None:
    """Reset the connection."""
    reset_on_close(stream)
    await anyio.aclose_forcefully(stream)
