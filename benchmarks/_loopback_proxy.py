"""A proxy on loopback, for the clients that are measured: a program that prints its port.

It opens a tunnel for each CONNECT, and passes on what arrives. It checks nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from typing import cast

_OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"


class End(asyncio.Protocol):
    """One end of a tunnel, which sends on what arrives.

    Attributes:
        transport: the connection.
        other: the other end, once there is one.
    """

    transport: asyncio.Transport

    def __init__(self, other: End | None = None) -> None:
        self.other = other
        self._received = b""
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Send it on, or open the tunnel."""
        if self.other is not None:
            self.other.transport.write(data)
            return
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            host, _, port = self._received.split(b" ", 2)[1].decode().rpartition(":")
            self._connecting = asyncio.ensure_future(self._connect(host, int(port)))

    async def _connect(self, host: str, port: int) -> None:
        _, self.other = await asyncio.get_running_loop().create_connection(lambda: End(self), host, port)
        self.transport.write(_OPEN)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other end as well."""
        if self.other is not None:
            self.other.transport.close()


async def serve() -> None:
    """Serve until this process is killed."""
    server = await asyncio.get_running_loop().create_server(End, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main(core: str) -> None:
    """Run the proxy on a core, if one is named."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    if importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(serve())
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
