"""Servers that speak TLS, on loopback, and their certificates."""

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
"""Serves one connection, and closes it at the end."""

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@functools.cache
def authority(name: str = "trusted") -> trustme.CA:
    """Return a certificate authority: the one that the clients trust, or another one."""
    return trustme.CA(organization_name=name)


@functools.cache
def certificate(*names: str, issuer: trustme.CA, not_after: datetime.datetime | None = None) -> trustme.LeafCert:
    """Issue a certificate, once."""
    return issuer.issue_cert(*names, not_after=not_after)


def server_context(
    *names: str,
    issuer: trustme.CA | None = None,
    not_after: datetime.datetime | None = None,
    version: ssl.TLSVersion = TLS_1_3,
) -> ssl.SSLContext:
    """Make the context of a server whose certificate is for these names, or for 127.0.0.1 and localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    names = names or ("127.0.0.1", "localhost")
    issued = certificate(*names, issuer=issuer or authority(), not_after=not_after)
    issued.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


def client_context() -> ssl.SSLContext:
    """Make the context of a client that trusts the servers of the tests, and no others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)  # pyright: ignore[reportUnknownMemberType]
    return context


@contextlib.asynccontextmanager
async def listening(
    serve: Serve, context: ssl.SSLContext | None = None, *, standard_compatible: bool = False
) -> AsyncGenerator[int, None]:
    """Serve connections during the block, which may take 10 s; yield the port.

    Args:
        serve: serves one connection.
        context: for TLS; None: without.
        standard_compatible: whether the server sends close_notify before it closes a connection.
    """

    async def serve_suppressing(stream: anyio.abc.ByteStream) -> None:
        # A client may leave without a close_notify, or with an alert.
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, ssl.SSLError):
            await serve(stream)

    tcp_listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = tcp_listener.extra(anyio.abc.SocketAttribute.local_port)
    listener: anyio.abc.Listener[anyio.abc.ByteStream] = tcp_listener
    if context is not None:
        listener = TLSListener(tcp_listener, context, standard_compatible=standard_compatible)
    with anyio.fail_after(10):
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve_suppressing)
            yield port
            tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def tls_server(
    *script: Act, context: ssl.SSLContext | None = None, standard_compatible: bool = False
) -> AsyncGenerator[RawServer, None]:
    """Run a RawServer that speaks TLS; it counts the connections whose handshake has succeeded."""
    server = RawServer(script)
    context = context or server_context()
    async with listening(server.serve, context, standard_compatible=standard_compatible) as server.port:
        yield server


def url_of(server: RawServer) -> str:
    """Return the URL of a server that speaks TLS."""
    return f"https://127.0.0.1:{server.port}/"
