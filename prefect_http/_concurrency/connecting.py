"""Connecting, on a lean stream of the running backend."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio.abc import ByteStream

from prefect_http._concurrency.backend import running_trio


def connect_tcp(
    host: str, port: int, local_host: str | None, on_looked_up: Callable[[], object] = lambda: None
) -> Awaitable[ByteStream]:
    """Connect to a host, on a lean stream of the running backend.

    Args:
        host: a name or an address.
        port: the port.
        local_host: the address that the connection comes from; None: the system chooses.
        on_looked_up: called when the host, being a name, has been looked up.

    Raises:
        OSError: that fails.
    """
    if running_trio() is None:
        from prefect_http._concurrency.asyncio_stream import connect_tcp
    else:
        from prefect_http._concurrency.trio_stream import connect_tcp
    return connect_tcp(host, port, local_host, on_looked_up)


def connect_unix(path: str) -> Awaitable[ByteStream]:
    """Connect to a Unix socket, on a lean stream of the running backend.

    Raises:
        OSError: that fails.
    """
    if running_trio() is None:
        from prefect_http._concurrency.asyncio_stream import connect_unix
    else:
        from prefect_http._concurrency.trio_stream import connect_unix
    return connect_unix(path)
