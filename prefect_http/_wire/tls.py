"""TLS on a stream: the handshake, and what is needed to see all that has arrived."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from prefect_http._concurrency.backend import max_receive_bytes
from prefect_http._wire.network_errors import close_forcefully, with_timeout


async def start_tls(
    stream: ByteStream, ssl_context: ssl.SSLContext, server_name: str | None, timeout: float | None, peer: str
) -> ByteStream:
    """Do the TLS handshake on a stream. If it fails, the stream is closed.

    Args:
        stream: the stream to use.
        ssl_context: the context to use.
        server_name: the name that the certificate must be for.
        timeout: in seconds; None: no limit.
        peer: who is at the other end, for messages.

    Raises:
        httpx.ConnectTimeout: it takes longer than ``timeout``.
        httpx.ConnectError: the handshake fails.
    """

    def wrap() -> Awaitable[ByteStream]:
        # Not standard compatible: HTTP itself says where a response ends, and many servers close the connection without
        # a close_notify.
        return TLSStream.wrap(
            ReadAheadStream(stream, max_receive_bytes()),
            server_side=False,
            hostname=server_name,
            ssl_context=ssl_context,
            standard_compatible=False,
        )

    try:
        failure = f"could not complete the TLS handshake with {peer}"
        return await with_timeout(timeout, wrap, httpx.ConnectTimeout, httpx.ConnectError, failure)
    except BaseException:
        await close_forcefully(stream)
        raise


class ReadAheadStream(ByteStream):
    """The stream under TLS. It receives all that has arrived, however little TLS asks for.

    anyio would keep the rest in a buffer that cannot be seen from outside, and a connection on which the next response
    has already arrived would pass for a good one. See ``max_receive_bytes()``.
    """

    def __init__(self, stream: ByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(self._max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def has_tls_input(ssl_object: ssl.SSLObject) -> bool:
    """Return whether TLS holds data that has not been read, decrypted or not, or the end of the stream."""
    try:
        ssl_object.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def has_early_tls_data(ssl_object: ssl.SSLObject) -> bool:
    """Return whether data has arrived along with the end of the handshake; if so, the first byte of it is taken out.

    That is possible up to TLS 1.2. In TLS 1.3, the client is the one that ends the handshake.
    """
    with contextlib.suppress(ssl.SSLError):
        return bool(ssl_object.read(1))
    return False
