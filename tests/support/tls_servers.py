"""Servers that speak TLS, on loopback, and the certificates for them."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import anyio.abc
import trustme
from anyio.streams.tls import TLSListener

from support.servers import Act, RawServer

Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]
"""Serves one connection; closes it at the end."""

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@functools.cache
def authority() -> trustme.CA:
    """Give the authority that the clients trust."""
    return trustme.CA()


def server_context(
    *names: str, authority: trustme.CA, not_after: datetime.datetime | None = None, version: ssl.TLSVersion = TLS_1_3
) -> ssl.SSLContext:
    """Make the context of a server whose certificate is for these names; without any, for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority.issue_cert(*(names or ("127.0.0.1",)), not_after=not_after).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


def client_context(trusted: trustme.CA | None = None) -> ssl.SSLContext:
    """Make the context of a client that trusts one authority, or the one of all tests."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (trusted or authority()).configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    return context


@contextlib.asynccontextmanager
async def listening(
    serve: Serve, context: ssl.SSLContext | None = None, *, says_goodbye: bool = False
) -> AsyncGenerator[int, None]:
    """Serve connections during the block, for 10 s at most; give the port.

    Args:
        serve: serves one connection.
        context: for TLS; None: without.
        says_goodbye: the server sends close_notify before it closes a connection.
    """

    async def serve_suppressing(stream: anyio.abc.ByteStream) -> None:
        # What a client that is content with less does to a server: it leaves without a goodbye, or with an alert.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ssl.SSLError):
            await serve(stream)

    tcp_listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = tcp_listener.extra(anyio.abc.SocketAttribute.local_port)
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = tcp_listener
    if context is not None:
        listener = TLSListener(tcp_listener, context, standard_compatible=says_goodbye)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve_suppressing)
            yield port
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def tls_server(
    *script: Act, context: ssl.SSLContext | None = None, says_goodbye: bool = False
) -> AsyncGenerator[RawServer, None]:
    """Run a RawServer behind TLS; of its connections, those count whose handshake has succeeded."""
    server = RawServer(script)
    context = context or server_context(authority=authority())
    async with listening(server.serve, context, says_goodbye=says_goodbye) as server.port:
        yield server


def url_of(server: RawServer) -> str:
    """Give the URL of a server behind TLS."""
    return f"https://127.0.0.1:{server.port}/"
