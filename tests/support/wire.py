"""Requests to a transport, and what they leave open."""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import AsyncIterable, Callable, Mapping
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import trustme
from anyio.streams.tls import TLSListener

from prefect_http import HTTPTransport
from support.servers import RawServer

# Made once: a key takes longer than all that is done with it.
_AUTHORITY = trustme.CA()
_CERTIFICATE = _AUTHORITY.issue_cert("127.0.0.1")
_DESCRIPTORS = Path("/proc/self/fd")


def new_transport(limits: httpx.Limits | None = None, *, retries: int = 0) -> HTTPTransport:
    """Make a transport that trusts the servers here."""
    return HTTPTransport(verify=client_context(), limits=limits or httpx.Limits(), retries=retries)


@functools.cache
def client_context() -> ssl.SSLContext:
    """Make a context that trusts the servers here, and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType], it may be PyOpenSSL's
    return context


@functools.cache
def server_context() -> ssl.SSLContext:
    """Make a context for a server at 127.0.0.1."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _CERTIFICATE.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    return context


def tls_listener(listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> TLSListener:
    """Put TLS on a listener, of the kind that leaves without a goodbye."""
    return TLSListener(listener, server_context(), standard_compatible=False)


def new_request(
    url: str,
    method: str = "GET",
    content: bytes | AsyncIterable[bytes] | None = None,
    extensions: Mapping[str, object] | None = None,
    /,
    **timeouts: float | None,
) -> httpx.Request:
    """Make a request as a client would, with timeouts of 5 s and those that are given."""
    timeout = httpx.Timeout(5).as_dict() | timeouts
    return httpx.Request(method, url, content=content, extensions={"timeout": timeout, **(extensions or {})})


async def fetch(transport: httpx.AsyncBaseTransport, request: httpx.Request | str) -> bytes:
    """Send a request, and read the body of its response."""
    if isinstance(request, str):
        request = new_request(request)
    response = await transport.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


def figures(transport: HTTPTransport) -> tuple[int, int, int]:
    """Give a transport's connections, how many of them are idle, and how many requests wait."""
    statistics = transport.statistics()
    return statistics.connections, statistics.idle, statistics.waiting


def open_sockets() -> int | None:
    """Count the sockets that are open in this process; None where nobody tells."""
    if not _DESCRIPTORS.exists():
        return None
    count = 0
    for descriptor in list(_DESCRIPTORS.iterdir()):
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:  # that of the directory itself
            continue
    return count


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Let the others run until something holds."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def sockets_closed(expected: int | None, seconds: float = 5) -> None:
    """Wait until no more sockets are open than there were; what the other end closes takes a moment."""
    if expected is None:
        return
    now = expected
    with anyio.move_on_after(seconds):
        while (now := open_sockets() or 0) > expected:
            await anyio.lowlevel.checkpoint()
    assert now <= expected, f"{now} sockets are open, and not {expected}"


def reset(stream: anyio.abc.ByteStream) -> None:
    """See to it that closing a stream resets the connection."""
    raw_socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def until_waiting(transport: HTTPTransport, count: int) -> None:
    """Wait until so many requests wait for a connection."""
    await until(lambda: figures(transport)[2] == count)


async def is_readable(response: httpx.Response) -> None:
    """Wait until something has come on the connection of a response that has been read."""
    await until(lambda: response.extensions["network_stream"].get_extra_info("is_readable"))


def request_targets(server: RawServer) -> list[str]:
    """Give the targets of the requests that a server has read, in order."""
    return [received.target for received in server.requests]
