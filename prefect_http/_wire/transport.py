"""HTTPTransport: the wire."""

from __future__ import annotations

import functools
import math
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import anyio.lowlevel
import httpx

from prefect_http._concurrency.backend import clock, loop_getter, max_receive_bytes, new_cancel_scope, new_event
from prefect_http._fields.methods import IDEMPOTENT_METHODS
from prefect_http._httpx_details import ReadyResponse
from prefect_http._types import Certificate, SocketOption
from prefect_http._wire.connection import Connection
from prefect_http._wire.connector import Connector, peer_of
from prefect_http._wire.h1.exchange import Exchange
from prefect_http._wire.h1.request_head import encode_headers, request_line
from prefect_http._wire.h1.response_body import ResponseBody
from prefect_http._wire.h1.response_head import Body
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.pool import Origin, Place, Pool
from prefect_http._wire.timeouts import TimeoutWatcher
from prefect_http._wire.trace import Trace

# The same as httpx's.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_CERTIFICATES = "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"
_MAX_BLOCKS = 16
_OTHER_LOOP = (
    "this HTTPTransport has connections that belong to another event loop; "
    "close it there, or use another one for each loop"
)
_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportStatistics:
    """What goes on in an HTTPTransport.

    Attributes:
        connections: how many are open, or being opened.
        idle: how many of them wait for a request.
        waiting: how many requests wait for a connection.
    """

    connections: int
    idle: int
    waiting: int


class HTTPTransport(httpx.AsyncBaseTransport):
    """Sends requests over HTTP/1.1, as fast with a thousand tasks as with one; in place of httpx.AsyncHTTPTransport.

    PrefectHttpxClient uses it by itself; any httpx.AsyncClient takes it as ``transport=``. It does what httpx's does,
    with the same arguments, timeouts, errors, extensions and ``trace`` events, and besides:

    - A request costs the same, however many connections there are and however many requests wait.
    - A request that fails on a connection which served another one before, without a byte of an answer, is sent once
      more on a fresh one, if it may be repeated: the server has closed the connection in that moment
      (RFC 9112 section 9.3.1). It is repeated for GET, HEAD, OPTIONS, TRACE, PUT and DELETE, with a body that is there.
    - A connection with anything on it behind the answer is closed, and answers that can be read in two ways are errors.
    - An answer of 3xx, 4xx or 5xx ends the sending of a long body.

    HTTP/2, proxies and Unix sockets are httpx's: with these arguments it hands over to httpx.AsyncHTTPTransport.

    Args:
        verify: as in httpx: an ssl.SSLContext, or whether to check certificates. A context is told that HTTP/1.1 is
            spoken (ALPN).
        cert: as in httpx: a client certificate.
        trust_env: take the certificates that the environment names.
        http1: False: hand over.
        http2: True: hand over.
        limits: how many connections there may be, how many of them idle, and for how many seconds.
        proxy: hand over.
        uds: hand over.
        local_address: where connections come from.
        retries: how many times a connection that cannot be made is tried again, after 0, 0.5, 1, 2, ... seconds.
        socket_options: set on each socket, next to TCP_NODELAY.

    Requests raise:
        httpx.PoolTimeout: no connection becomes free in time.
        httpx.ConnectError, httpx.ConnectTimeout: none can be opened, or the transport has been closed meanwhile.
        httpx.WriteError, httpx.WriteTimeout, httpx.ReadError, httpx.ReadTimeout: it breaks, or takes too long.
        httpx.RemoteProtocolError: the server breaks off, or does not answer in valid HTTP/1.1: RFC 9112, strictly, with
            at most 64 KiB and 256 fields of headers.
        httpx.LocalProtocolError: the request is none that can be sent.
        httpx.UnsupportedProtocol: the URL is not one of http, https, ws or wss.
        RuntimeError: connections are open that belong to another event loop.

    Cancellation:
        Closes the request's connection, and gives its place to the next.
    """

    def __init__(
        self,
        verify: ssl.SSLContext | str | bool = True,
        cert: Certificate | None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: httpx.Limits = _LIMITS,
        proxy: httpx.URL | str | httpx.Proxy | None = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> None:
        self._httpx: httpx.AsyncHTTPTransport | None = None
        if http2 or not http1 or proxy is not None or uds is not None:
            self._httpx = httpx.AsyncHTTPTransport(
                verify=verify,
                cert=cert,
                trust_env=trust_env,
                http1=http1,
                http2=http2,
                limits=limits,
                proxy=proxy,
                uds=uds,
                local_address=local_address,
                retries=retries,
                socket_options=socket_options,
            )
            return
        ssl_context: ssl.SSLContext | None = None
        # What names a file or a certificate is looked at now, for it may be wrong.
        if verify is not True or cert is not None or (trust_env and not os.environ.keys().isdisjoint(_CERTIFICATES)):
            ssl_context = httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
        self._connector = Connector(
            ssl_context=ssl_context,
            local_address=local_address,
            retries=retries,
            socket_options=socket_options,
        )
        self._pool = Pool[Connection](
            max_connections=limits.max_connections,
            max_idle=limits.max_keepalive_connections,
            expiry=limits.keepalive_expiry,
        )
        # Many requests have the same headers as one before.
        self._header_block = functools.lru_cache(_MAX_BLOCKS)(encode_headers)
        self._deadlines = TimeoutWatcher()
        self._run: object = None
        self._current_run: Callable[[], object] = object
        self._now: Callable[[], float]

    def statistics(self) -> TransportStatistics:
        """Tell what goes on.

        Raises:
            RuntimeError: the transport has handed over to httpx's, which does not tell.
        """
        if self._httpx is not None:
            raise RuntimeError("with http2=, proxy= or uds= the connections are httpx's, which does not tell of them")
        pool = self._pool
        return TransportStatistics(connections=pool.held + pool.idle, idle=pool.idle, waiting=pool.waiting)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and give its response, with the body still to be read."""
        if self._httpx is not None:
            return await self._httpx.handle_async_request(request)
        extensions = request.extensions
        origin = _origin(request)
        line = request_line(request.method, extensions.get("target", request.url.raw_path))
        block = self._header_block(tuple(request.headers.raw))
        timeouts: Mapping[str, float | None] = extensions.get("timeout", {})
        trace = Trace.of(request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        # Not a subclass: it may want to know how far the upload is.
        body = b"".join(request.stream) if type(request.stream) is httpx.ByteStream else request.stream
        self._enter_run()
        place = self._pool.enter(origin, self._now())
        try:
            if not place.is_granted:
                await self._wait(place, timeouts.get("pool"))
            if self._pool.discarded:
                await self._close_discarded()
            is_reused = await self._take_idle(place)
            while True:
                connection = place.connection or await self._connect(place, timeouts.get("connect"), trace)
                exchange = Exchange(connection, request.method, block, timeouts, trace)
                try:
                    await exchange.run(line, body)
                    break
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    if (
                        not is_reused
                        or exchange.parser.has_begun
                        or request.method not in IDEMPOTENT_METHODS
                        or not isinstance(body, bytes)
                        or connection.is_closed  # from this side
                    ):
                        raise
                    is_reused, place.connection = False, None
                    await connection.aclose()
        except BaseException:
            if trace is None or place.connection is None:
                await self._leave(place, keep=False)
            else:
                await trace.close(lambda: self._leave(place, keep=False))
            raise
        return self._response(place, connection, exchange, block.close_after, timeouts.get("read"), trace)

    def _response(
        self,
        place: Place[Connection],
        connection: Connection,
        exchange: Exchange,
        close_after: bool,
        read_timeout: float | None,
        trace: Trace | None,
    ) -> httpx.Response:
        parser, is_sent = exchange.parser, exchange.is_sent
        head = parser.head
        assert head is not None

        async def leave(is_through: bool) -> None:
            await self._leave(place, keep=is_through and is_sent and not close_after)

        body = ResponseBody(connection, parser, exchange.first, read_timeout, leave, trace)
        extensions: dict[str, object] = {
            "http_version": head.version,
            "reason_phrase": head.reason,
            "network_stream": connection.network_stream,
        }
        if head.body is Body.TUNNEL:
            extensions["network_stream"] = NetworkStream(connection.stream, parser.leading)
        elif parser.is_complete and trace is None:
            return ReadyResponse(head.status, head.headers, exchange.first, body, extensions)
        return httpx.Response(head.status, headers=head.headers, stream=body, extensions=extensions)

    def _enter_run(self) -> None:
        """See to it that the connections are those of the running event loop."""
        if self._is_own_run():
            return
        if self._pool.held or self._pool.idle:
            raise RuntimeError(_OTHER_LOOP)
        self._current_run = loop_getter()
        self._run, self._now, self._deadlines = self._current_run(), clock(), TimeoutWatcher()

    def _is_own_run(self) -> bool:
        try:
            return self._current_run() is self._run
        except RuntimeError:  # another backend
            return False

    async def _wait(self, place: Place[Connection], timeout: float | None) -> None:
        """Wait until a place is granted."""
        granted = new_event()
        place.on_grant = granted.set
        scope = new_cancel_scope()
        scope.deadline = math.inf if timeout is None else self._now() + timeout
        try:
            with scope:
                await granted.wait()
        except BaseException:
            # It may have been granted in the same moment, with a connection that is still good.
            await self._leave(place, keep=True)
            raise
        if place.is_refused:
            raise httpx.ConnectError("the transport has been closed while the request waited for a connection")
        if not place.is_granted:
            await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
            raise httpx.PoolTimeout(f"no connection became free for {timeout:g} s")

    async def _take_idle(self, place: Place[Connection]) -> bool:
        """See to it that a connection from the pool is a good one; say whether there is one."""
        while place.connection is not None:
            if not place.connection.is_stale():
                return True
            self._pool.replace(place, self._now())
            await self._close_discarded()
        return False

    async def _connect(self, place: Place[Connection], timeout: float | None, trace: Trace | None) -> Connection:
        stream = await self._connector.connect(place.origin, timeout, trace)
        connection = Connection(stream, peer_of(place.origin), self._deadlines, self._now, max_receive_bytes())
        place.connection = connection
        if not self._pool.holds(place):
            raise httpx.ConnectError("the transport has been closed while the request was connecting")
        return connection

    async def _leave(self, place: Place[Connection], *, keep: bool) -> None:
        self._pool.leave(place, self._now(), keep=keep)
        if self._pool.discarded:
            await self._close_discarded()

    async def _close_discarded(self) -> None:
        failure: BaseException | None = None
        while self._pool.discarded:
            try:
                await self._pool.discarded.pop().aclose()
            except BaseException as error:  # the others must be closed all the same
                failure = error
        if failure is not None:
            raise failure

    async def __aenter__(self) -> Self:
        if self._httpx is not None:
            await self._httpx.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close all connections, those in use as well: their requests fail. Those that wait for one fail likewise.

        The transport may be used again afterwards, as httpx's may.

        Cancellation:
            Is held back; nothing here waits for the network.

        Raises:
            RuntimeError: the connections belong to another event loop. They are forgotten, and closed when they are
                collected.
        """
        if self._httpx is not None:
            await self._httpx.aclose()
            return
        self._header_block.cache_clear()  # there are credentials among them
        self._pool.empty()
        if not self._is_own_run():
            if self._pool.discarded:
                self._pool.discarded.clear()  # only their own loop can close them
                raise RuntimeError(_OTHER_LOOP)
            return
        try:
            if self._pool.discarded:
                await self._close_discarded()
        finally:
            await self._deadlines.stop()


def _origin(request: httpx.Request) -> Origin:
    url = request.url
    scheme = url.raw_scheme
    if scheme in _PORTS and not url.raw_host:
        raise httpx.UnsupportedProtocol("the URL has no host")
    if scheme not in _PORTS:
        raise httpx.UnsupportedProtocol(
            f"the URL has the scheme {url.scheme!r}, and not http or https"
            if scheme
            else "the URL is relative: it begins with neither http:// nor https://"
        )
    host = url.raw_host
    # A connection whose certificate was checked for another name is another one.
    return scheme, host, url.port or _PORTS[scheme], request.extensions.get("sni_hostname") or host.decode("ascii")
