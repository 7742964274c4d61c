"""NetworkStream: what ``response.extensions["network_stream"]`` is."""

from __future__ import annotations

import ssl

import anyio
import httpx
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from prefect_http._wire.input_probe import input_probe_of
from prefect_http._wire.network_errors import with_timeout
from prefect_http._wire.raw_socket import raw_socket_of
from prefect_http._wire.tls import start_tls


class NetworkStream:
    """The connection that a response arrives on, with the methods of httpcore's AsyncNetworkStream.

    After a 101, or a 2xx to CONNECT, the caller may read and write, and closing the response closes the connection.
    After any other response, use ``get_extra_info()`` only.
    https://www.encode.io/httpcore/extensions/#network_stream

    Args:
        stream: the stream.
        trailing_data: bytes that have been received already, and not read.
        owner: what closes the stream when it is freed, and so must live as long as this object.
    """

    __slots__ = ("_owner", "_stream", "_trailing_data")

    def __init__(self, stream: ByteStream, trailing_data: bytes = b"", owner: object = None) -> None:
        self._owner = owner
        self._stream = stream
        self._trailing_data = trailing_data

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read up to ``max_bytes`` bytes; ``b""`` at the end of the stream.

        Raises:
            httpx.ReadTimeout: nothing arrives for ``timeout`` seconds.
            httpx.ReadError: the connection is broken or closed.
        """
        if self._trailing_data:
            data, self._trailing_data = self._trailing_data[:max_bytes], self._trailing_data[max_bytes:]
            return data

        async def receive() -> bytes:
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

        return await with_timeout(timeout, receive, httpx.ReadTimeout, httpx.ReadError, "could not read any data")

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of the bytes.

        Raises:
            httpx.WriteTimeout: it takes longer than ``timeout`` seconds; some of the bytes may have been written.
            httpx.WriteError: the connection is broken or closed.
        """
        if buffer:
            failure = "could not write all of the data"
            await with_timeout(
                timeout, lambda: self._stream.send(buffer), httpx.WriteTimeout, httpx.WriteError, failure
            )

    async def aclose(self) -> None:
        """Close the connection at once."""
        await anyio.aclose_forcefully(self._stream)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        """Start TLS on the connection, for instance after a CONNECT. If that fails, the connection is closed.

        Raises:
            httpx.ConnectTimeout: it takes longer than ``timeout`` seconds.
            httpx.ConnectError: the handshake fails.
        """
        peer = server_hostname or "the server"
        stream = await start_tls(self._stream, ssl_context, server_hostname, timeout, peer)
        return NetworkStream(stream, owner=self._owner)

    def get_extra_info(self, info: str) -> object:
        """Return ``ssl_object``, ``client_addr``, ``server_addr``, ``socket`` or ``is_readable``; else None."""
        match info:
            case "ssl_object":
                return self._stream.extra(TLSAttribute.ssl_object, None)
            case "client_addr":
                return self._stream.extra(SocketAttribute.local_address, None)
            case "server_addr":
                return self._stream.extra(SocketAttribute.remote_address, None)
            case "socket":
                return raw_socket_of(self._stream)
            case "is_readable":
                return input_probe_of(self._stream)()
            case _:
                return None
