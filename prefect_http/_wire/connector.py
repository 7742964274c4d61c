"""Opening a connection: TCP, TLS, their timeouts, and trying again."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from functools import cached_property, partial
from typing import cast

import anyio
import httpx
from anyio.abc import ByteStream, SocketAttribute

from prefect_http._types import SocketOption
from prefect_http._wire.network_errors import close_at_once, within
from prefect_http._wire.network_stream import NetworkStream, start_tls
from prefect_http._wire.pool import Origin
from prefect_http._wire.trace import Trace

SECURE_SCHEMES = frozenset({b"https", b"wss"})
_ALPN = ["http/1.1"]


class Connector:
    """Opens connections.

    Args:
        ssl_context: for https; None: httpx's default, without what the environment names. It is told that HTTP/1.1 is
            spoken (ALPN).
        local_address: where connections come from; None: the system chooses.
        retries: how many times a connection that cannot be made is tried again, after 0, 0.5, 1, 2, ... seconds.
        socket_options: set on each socket; None: none.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        if ssl_context is not None:
            self.ssl_context = ssl_context
        self.local_address = local_address
        self.retries = retries
        self.socket_options = None if socket_options is None else list(socket_options)

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """Make the default one when it is needed: that takes 17 ms, and many a client never calls https."""
        return httpx.create_ssl_context(trust_env=False)

    async def connect(self, origin: Origin, timeout: float | None, trace: Trace | None) -> ByteStream:
        """Open a connection.

        Args:
            origin: where to.
            timeout: in seconds, for TCP, and again for TLS, as in httpx.
            trace: who listens.

        Raises:
            httpx.ConnectError: it cannot be opened: the host is unknown, refuses, or has no valid certificate.
            httpx.ConnectTimeout: it takes too long.
        """
        delay = 0.0
        for _ in range(self.retries):
            try:
                return await self._attempt(origin, timeout, trace)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                wait = partial(anyio.sleep, delay)
                await (wait() if trace is None else trace.step("connection.retry", wait, self._told(origin, timeout)))
                delay = delay * 2 or 0.5
        return await self._attempt(origin, timeout, trace)

    async def _attempt(self, origin: Origin, timeout: float | None, trace: Trace | None) -> ByteStream:
        scheme, raw_host, port, server_name = origin
        host = raw_host.decode("ascii")
        peer = peer_of(origin)
        stream: ByteStream | None = None

        async def connect_tcp() -> ByteStream:
            nonlocal stream
            stream = await within(
                timeout,
                lambda: self._connect_tcp(host, port),
                httpx.ConnectTimeout,
                httpx.ConnectError,
                f"no connection to {peer}",
            )
            return stream

        async def secure() -> ByteStream:
            nonlocal stream
            ssl_context = self.ssl_context
            # Each time: others may use the context as well, and for HTTP/2.
            ssl_context.set_alpn_protocols(_ALPN)
            assert stream is not None
            plain, stream = stream, None  # start_tls() closes it if that fails
            stream = await start_tls(plain, ssl_context, server_name, timeout, peer)
            return stream

        is_secure = scheme in SECURE_SCHEMES
        try:
            if trace is None:
                await connect_tcp()
                if is_secure:
                    await secure()
            else:
                await trace.step("connection.connect_tcp", connect_tcp, self._told(origin, timeout), NetworkStream)
                if is_secure:
                    told = {"ssl_context": self.ssl_context, "server_hostname": server_name, "timeout": timeout}
                    await trace.step("connection.start_tls", secure, told, NetworkStream)
        except BaseException:  # the listener's, too
            if stream is not None:
                await close_at_once(stream)
            raise
        assert stream is not None
        return stream

    def _told(self, origin: Origin, timeout: float | None) -> dict[str, object]:
        """Give what comes with the events of a connection."""
        return {
            "host": origin[1].decode("ascii"),
            "port": origin[2],
            "local_address": self.local_address,
            "timeout": timeout,
            "socket_options": self.socket_options,
        }

    async def _connect_tcp(self, host: str, port: int) -> ByteStream:
        stream = await anyio.connect_tcp(host, port, local_host=self.local_address)
        raw_socket = stream.extra(SocketAttribute.raw_socket)
        try:
            # asyncio sets it by itself. Without it, the second part of a request would wait for the server's ACK.
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in self.socket_options or ():
                raw_socket.setsockopt(*cast("tuple[int, int, int]", option))  # or one of the other forms
        except BaseException:
            await close_at_once(stream)
            raise
        return stream


def peer_of(origin: Origin) -> str:
    """Write host and port, for messages."""
    host = origin[1].decode("ascii")
    return f"[{host}]:{origin[2]}" if ":" in host else f"{host}:{origin[2]}"
