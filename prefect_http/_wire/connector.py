"""Connector: opens connections with TCP and TLS, within a timeout, and retries."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterable
from functools import cached_property, partial
from typing import cast

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import connect_tcp
from prefect_http._types import SocketOption
from prefect_http._wire.network_errors import close_forcefully, with_timeout
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.origin import Origin
from prefect_http._wire.raw_socket import raw_socket_of
from prefect_http._wire.tls import start_tls
from prefect_http._wire.trace import Trace, step

_ALPN = ["http/1.1"]


class Connector:
    """Opens connections.

    Args:
        ssl_context: for https; its ALPN protocols are set to HTTP/1.1. None: httpx's default, without what the
            environment names.
        local_address: the address that connections come from; None: the system chooses.
        retries: how many times to retry a connection that cannot be opened, after 0, 0.5, 1, 2, ... seconds.
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
        """The default context, made when it is first needed: that takes 17 ms, and many clients never call https."""
        return httpx.create_ssl_context(trust_env=False)

    async def connect(self, origin: Origin, timeout: float | None, trace: Trace | None) -> ByteStream:
        """Open a connection.

        Args:
            origin: where it leads.
            timeout: in seconds, for TCP, and again for TLS, as in httpx; None: no limit.
            trace: what listens.

        Raises:
            httpx.ConnectError: the host is unknown, refuses the connection, or has no valid certificate.
            httpx.ConnectTimeout: it takes longer than ``timeout``.
        """
        delay = 0.0
        for _ in range(self.retries):
            try:
                return await self._attempt(origin, timeout, trace)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                await step(trace, "connection.retry", partial(anyio.sleep, delay), self._tcp_info(origin, timeout))
                delay = delay * 2 or 0.5
        return await self._attempt(origin, timeout, trace)

    async def _attempt(self, origin: Origin, timeout: float | None, trace: Trace | None) -> ByteStream:
        stream: ByteStream | None = None  # to be closed if a step fails, or what listens to it

        async def connect_tcp() -> ByteStream:
            nonlocal stream
            stream = await self._connect_tcp(origin, timeout)
            return stream

        async def secure() -> ByteStream:
            nonlocal stream
            assert stream is not None
            # Each time, since others may use the context as well, and for HTTP/2.
            self.ssl_context.set_alpn_protocols(_ALPN)
            plain, stream = stream, None  # start_tls() closes it if that fails
            stream = await start_tls(plain, self.ssl_context, origin.server_name, timeout, origin.peer)
            return stream

        try:
            await step(trace, "connection.connect_tcp", connect_tcp, self._tcp_info(origin, timeout), NetworkStream)
            if origin.is_secure:
                info = {"ssl_context": self.ssl_context, "server_hostname": origin.server_name, "timeout": timeout}
                await step(trace, "connection.start_tls", secure, info, NetworkStream)
        except BaseException:
            if stream is not None:
                await close_forcefully(stream)
            raise
        assert stream is not None
        return stream

    def _tcp_info(self, origin: Origin, timeout: float | None) -> dict[str, object]:
        """Return the info of the events of opening a connection."""
        return {
            "host": origin.host.decode("ascii"),
            "port": origin.port,
            "local_address": self.local_address,
            "timeout": timeout,
            "socket_options": self.socket_options,
        }

    async def _connect_tcp(self, origin: Origin, timeout: float | None) -> ByteStream:
        host, failure = origin.host.decode("ascii"), f"could not connect to {origin.peer}"
        return await with_timeout(
            timeout, lambda: self._open_socket(host, origin.port), httpx.ConnectTimeout, httpx.ConnectError, failure
        )

    async def _open_socket(self, host: str, port: int) -> ByteStream:
        stream = await connect_tcp(host, port, self.local_address)
        raw_socket = raw_socket_of(stream)
        try:
            if raw_socket is None:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            # asyncio does so by itself. Without it, the second part of a request would wait for the server's ACK.
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in self.socket_options or ():
                raw_socket.setsockopt(*cast("tuple[int, int, int]", option))  # or one of the other forms
        except BaseException:
            await close_forcefully(stream)
            raise
        return stream
