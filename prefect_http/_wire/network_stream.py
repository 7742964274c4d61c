"""NetworkStream: what ``response.extensions["network_stream"]`` is; and how TLS is put on a stream."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable

import anyio
import httpx
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from prefect_http._concurrency.backend import max_receive_bytes
from prefect_http._wire.input_probe import input_probe
from prefect_http._wire.network_errors import close_at_once, within
from prefect_http._wire.read_ahead_stream import ReadAheadStream


class NetworkStream:
    """The connection under a response, with the methods of httpcore's AsyncNetworkStream.

    Behind a 101, or a 2xx to CONNECT, what is read and written is the caller's, and closing the response closes it.
    Elsewhere it can be asked, but is not to be read from.
    https://www.encode.io/httpcore/extensions/#network_stream
    """

    __slots__ = ("_leading", "_stream")

    def __init__(self, stream: ByteStream, leading: bytes = b"") -> None:
        self._stream = stream
        self._leading = leading

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most so many bytes; none at the end.

        Raises:
            httpx.ReadTimeout: nothing comes for ``timeout`` seconds.
            httpx.ReadError: the connection is broken, or closed.
        """
        if self._leading:
            data, self._leading = self._leading[:max_bytes], self._leading[max_bytes:]
            return data

        async def receive() -> bytes:
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

        return await within(timeout, receive, httpx.ReadTimeout, httpx.ReadError, "nothing could be read")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of the bytes.

        Raises:
            httpx.WriteTimeout: it takes longer than ``timeout`` seconds; some of them may have been written.
            httpx.WriteError: the connection is broken, or closed.
        """
        if buffer:
            await within(
                timeout,
                lambda: self._stream.send(buffer),
                httpx.WriteTimeout,
                httpx.WriteError,
                "not all could be written",
            )

    async def aclose(self) -> None:
        """Close the connection at once."""
        await anyio.aclose_forcefully(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        """Put TLS on the connection, for instance behind a CONNECT. If that fails, it is closed.

        Raises:
            httpx.ConnectTimeout: it takes longer than ``timeout`` seconds.
            httpx.ConnectError: the handshake fails.
        """
        peer = server_hostname or "the server"
        return NetworkStream(await start_tls(self._stream, ssl_context, server_hostname, timeout, peer))

    def get_extra_info(self, info: str) -> object:
        """Give ``ssl_object``, ``client_addr``, ``server_addr``, ``socket`` or ``is_readable``; None for all else."""
        match info:
            case "ssl_object":
                return self._stream.extra(TLSAttribute.ssl_object, None)
            case "client_addr":
                return self._stream.extra(SocketAttribute.local_address, None)
            case "server_addr":
                return self._stream.extra(SocketAttribute.remote_address, None)
            case "socket":
                return self._stream.extra(SocketAttribute.raw_socket, None)
            case "is_readable":
                return input_probe(self._stream.extra(SocketAttribute.raw_socket).fileno())()
            case _:
                return None


async def start_tls(
    stream: ByteStream, ssl_context: ssl.SSLContext, server_name: str | None, timeout: float | None, peer: str
) -> ByteStream:
    """Put TLS on a stream. If that fails, the stream is closed. ``peer`` is for messages.

    Raises:
        httpx.ConnectTimeout: it takes longer than ``timeout`` seconds.
        httpx.ConnectError: the handshake fails.
    """

    def wrap() -> Awaitable[ByteStream]:
        # Not standard compatible: HTTP says itself where a response ends, and many servers leave without a goodbye.
        return TLSStream.wrap(
            ReadAheadStream(stream, max_receive_bytes()),
            server_side=False,
            hostname=server_name,
            ssl_context=ssl_context,
            standard_compatible=False,
        )

    try:
        return await within(timeout, wrap, httpx.ConnectTimeout, httpx.ConnectError, f"no TLS with {peer}")
    except BaseException:
        await close_at_once(stream)
        raise
