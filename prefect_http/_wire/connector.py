"""Connector: opens connections, directly or through a proxy, within a timeout, and retries."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, partial

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._wire.network_errors import close_forcefully, with_timeout
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.openers import Opener, TcpOpener
from prefect_http._wire.opening_times import OpeningTimes, Step
from prefect_http._wire.origin import Origin
from prefect_http._wire.protocols import Protocols
from prefect_http._wire.proxy.proxy_server import ProxyServer
from prefect_http._wire.proxy.tls_tunnel import TLSTunnel
from prefect_http._wire.proxy.tunnel import open_tunnel
from prefect_http._wire.tls import TLSInMemory, start_tls, start_tls_in_memory
from prefect_http._wire.trace import Trace, step


class Connector:
    """Opens connections.

    Args:
        ssl_context: for https; its ALPN protocols are set to those offered. None: httpx's default, without what the
            environment names.
        opener: opens the streams that connections begin with; None: over TCP.
        proxy: what all connections go through; None: they are direct.
        proxy_ssl_context: for TLS with the proxy itself, as ``ssl_context``.
        retries: how many times to retry a connection that cannot be opened, after 0, 0.5, 1, 2, ... seconds.
        protocols: which protocols to offer to servers in the TLS handshake; None: HTTP/1.1.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        opener: Opener | None = None,
        proxy: ProxyServer | None = None,
        proxy_ssl_context: ssl.SSLContext | None = None,
        retries: int = 0,
        protocols: Protocols | None = None,
    ) -> None:
        self.protocols = protocols or Protocols(http1=True, http2=False)
        if ssl_context is not None:
            self.ssl_context = ssl_context
        if proxy_ssl_context is not None:
            self.proxy_ssl_context = proxy_ssl_context
        self.opener = opener or TcpOpener()
        self.proxy = proxy
        self.retries = retries

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """The default context, made when it is first needed: that takes 17 ms, and many clients never call https."""
        return httpx.create_ssl_context(trust_env=False)

    @cached_property
    def proxy_ssl_context(self) -> ssl.SSLContext:
        """The same for TLS with the proxy: another object, so that settings of one do not affect the other."""
        return httpx.create_ssl_context(trust_env=False)

    def peer_of(self, origin: Origin) -> str:
        """Return what a connection leads to, for messages."""
        if self.proxy is None or origin.is_proxy:
            return origin.peer
        return f"{origin.peer} through {self.proxy.origin.peer}"

    def connect(
        self, origin: Origin, timeout: float | None, trace: Trace | None, times: OpeningTimes | None = None
    ) -> Awaitable[ByteStream]:
        """Return an awaitable that opens a connection.

        Args:
            origin: where it leads.
            timeout: in seconds, for each step: TCP, TLS, and what a proxy has to do; None: no limit.
            trace: what listens.
            times: measures the attempt that succeeds; None: that is not needed.

        Raises:
            httpx.ConnectError: the host is unknown, refuses the connection, or has no valid certificate.
            httpx.ConnectTimeout: a step takes longer than ``timeout``.
            httpx.ProxyError: the proxy refuses, or cannot connect to the origin.
        """
        attempt = partial(self._attempt, origin, timeout, trace, times)
        return self._retry(attempt, origin, timeout, trace) if self.retries else attempt()

    async def _retry(
        self,
        attempt: Callable[[], Awaitable[ByteStream]],
        origin: Origin,
        timeout: float | None,
        trace: Trace | None,
    ) -> ByteStream:
        delay = 0.0
        for _ in range(self.retries):
            try:
                return await attempt()
            except (httpx.ConnectError, httpx.ConnectTimeout):
                info = self._info(self._nearest(origin), timeout)
                await step(trace, "connection.retry", partial(anyio.sleep, delay), info)
                delay = delay * 2 or 0.5
        return await attempt()

    async def _attempt(
        self, origin: Origin, timeout: float | None, trace: Trace | None, times: OpeningTimes | None
    ) -> ByteStream:
        dial = _Dial(timeout, trace, times)
        try:
            await self._dial(dial, origin)
        except BaseException:
            await dial.aclose()
            raise
        return dial.stream_so_far

    async def _dial(self, dial: _Dial, origin: Origin) -> None:
        proxy, nearest = self.proxy, self._nearest(origin)
        library = "socks" if proxy is not None and proxy.is_socks else "connection"
        info = partial(self._info, nearest, dial.timeout)
        await dial.step(f"{library}.{self.opener.event}", partial(self._open, nearest, dial), info)
        dial.lap("connect")
        if proxy is not None:
            if nearest.is_secure:
                await dial.start_tls("connection", lambda: self.proxy_ssl_context, ["http/1.1"], nearest, nearest.peer)
            if origin.is_proxy:
                if nearest.is_secure:
                    dial.lap("tls")
                return
            await open_tunnel(dial.stream_so_far, proxy, origin, dial.timeout, dial.trace)
            if nearest.is_secure:
                dial.stream = TLSTunnel(dial.stream_so_far)
            library = "socks" if proxy.is_socks else "proxy"
            dial.lap("tunnel")
        if origin.is_secure:
            alpn = self.protocols.alpn(origin)
            await dial.start_tls(library, lambda: self.ssl_context, alpn, origin, self.peer_of(origin))
            dial.lap("tls")

    def _nearest(self, origin: Origin) -> Origin:
        """Return where connections to an origin lead first: to the proxy, if there is one."""
        return origin if self.proxy is None else self.proxy.origin

    def _info(self, nearest: Origin, timeout: float | None) -> Mapping[str, object]:
        return self.opener.info(nearest.host.decode("ascii"), nearest.port, timeout)

    def _open(self, nearest: Origin, dial: _Dial) -> Awaitable[ByteStream]:
        return with_timeout(
            dial.timeout,
            partial(self.opener.open, nearest.host.decode("ascii"), nearest.port, partial(dial.lap, "lookup")),
            httpx.ConnectTimeout,
            httpx.ConnectError,
            f"could not connect to {self.opener.target(nearest.peer)}",
        )


class _Dial:
    """One attempt to open a connection, step by step.

    Args:
        timeout: in seconds, for each step; None: no limit.
        trace: what listens.
        times: measures the steps; None: that is not needed.

    Attributes:
        stream: what has been opened so far; it is closed if a step, or what listens to it, fails. None: nothing.
    """

    __slots__ = ("_times", "stream", "timeout", "trace")

    def __init__(self, timeout: float | None, trace: Trace | None, times: OpeningTimes | None) -> None:
        self.timeout = timeout
        self.trace = trace
        self.stream: ByteStream | None = None
        self._times = times
        if times is not None:
            times.begin()

    def lap(self, step: Step) -> None:
        """Note that a step has been done, for the times."""
        if self._times is not None:
            self._times.lap(step)

    @property
    def stream_so_far(self) -> ByteStream:
        """The stream, once there is one."""
        assert self.stream is not None
        return self.stream

    async def step(
        self, name: str, do: Callable[[], Awaitable[ByteStream]], info: Callable[[], Mapping[str, object]]
    ) -> None:
        """Do a step that makes a stream, and emit its events."""
        if self.trace is None:
            self.stream = await do()
        else:
            await self.trace.step(name, partial(self._keep, do), info(), NetworkStream)

    async def _keep(self, do: Callable[[], Awaitable[ByteStream]]) -> ByteStream:
        self.stream = await do()
        return self.stream

    async def start_tls(
        self, library: str, context: Callable[[], ssl.SSLContext], alpn: list[str], origin: Origin, peer: str
    ) -> None:
        """Start TLS on the stream, with a context that is made only if it is needed."""
        start_in_memory = self.stream_so_far.extra(TLSInMemory.start, None)
        ssl_context = context() if start_in_memory is None else None
        if self._times is not None:
            self._times.pause()  # making the context took longer than many a handshake does

        async def secure() -> ByteStream:
            if ssl_context is None:
                assert start_in_memory is not None
                return await start_tls_in_memory(start_in_memory, alpn, peer, is_proxy=origin.is_proxy)
            # Each time, since others may use the context as well, and for HTTP/2.
            ssl_context.set_alpn_protocols(alpn)
            plain, self.stream = self.stream_so_far, None  # start_tls() closes it if that fails
            name, is_proxy = origin.server_name, origin.is_proxy
            return await start_tls(plain, ssl_context, name, self.timeout, peer, is_proxy=is_proxy)

        def info() -> Mapping[str, object]:
            return {"ssl_context": ssl_context, "server_hostname": origin.server_name, "timeout": self.timeout}

        await self.step(f"{library}.start_tls", secure, info)

    async def aclose(self) -> None:
        """Close the stream, if there is one."""
        if self.stream is not None:
            await close_forcefully(self.stream)
