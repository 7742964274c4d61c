"""HTTPTransport: sends requests over HTTP/1.1 and HTTP/2, in place of httpx.AsyncHTTPTransport."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from typing import Generic, Self, SupportsIndex, TypedDict, TypeVar

import httpx

from prefect_http._httpx_details import ReadyResponse
from prefect_http._httpx_requests import check_request
from prefect_http._telemetry import Telemetry
from prefect_http._types import Certificate, SocketOption
from prefect_http._wire.connector import Connector
from prefect_http._wire.openers import Connect, Opener, TcpOpener, UnixSocketOpener, UserOpener
from prefect_http._wire.protocols import Protocols
from prefect_http._wire.proxy.proxy_server import Proxy, ProxyServer
from prefect_http._wire.replaced import StandIn
from prefect_http._wire.statistics import Limits, TransportStatistics
from prefect_http._wire.wire import Wire

# The same as httpx's.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_CERTIFICATE_VARIABLES = {"SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"}


class HTTPTransport(httpx.AsyncBaseTransport):
    """Sends requests over HTTP/1.1 and HTTP/2, as fast with a thousand tasks as with one.

    PrefectHttpxClient uses it by default; for any other httpx.AsyncClient, pass it as ``transport=``. It replaces
    httpx.AsyncHTTPTransport, with the same arguments, timeouts, errors, extensions and ``trace`` events. The
    differences:

    - The cost of a request does not depend on the number of open connections and waiting requests.
    - If a request fails on a reused connection before any of the response has arrived, the server may have closed the
      connection just as it was reused (RFC 9112 section 9.3.1). A request that is safe to repeat is then sent again on
      a fresh connection, once: GET, HEAD, OPTIONS, TRACE, PUT or DELETE, without a body or with one of bytes.
    - After a 5xx or a 413 response, some servers close the connection unannounced, so it serves only requests that are
      safe to repeat.
    - A connection is closed if anything follows a response, or if the response can be read in two ways.
    - A 3xx, 4xx or 5xx response ends the upload of a large body.
    - Through a proxy, the connect timeout applies to each step. If the connection breaks before there is a tunnel, that
      is a ConnectError, since the request was not sent. ``retries``, ``local_address``, ``socket_options`` and ``uds``
      also apply to connections to proxies, and an HTTP proxy opens a tunnel without TLS for ws:// requests.
    - With HTTP/2, one request's timeout, cancellation or error does not end the connection that others use. A request
      that the server says it has not processed is sent again, whatever its method, unless its body is a stream.
    - If HTTP/2 is possible, requests to an unknown host wait for its first connection before they open more.

    While something has replaced the ``handle_async_request`` of httpx.AsyncHTTPTransport or of httpcore's pool, as
    mocks, recorders and tracers do, requests go through an httpx.AsyncHTTPTransport.

    Args:
        verify: as in httpx: an ssl.SSLContext, or whether to check certificates. The context's ALPN protocols are set
            as ``http1`` and ``http2`` say.
        cert: as in httpx: a client certificate.
        trust_env: whether to use the certificates that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name.
        http1: whether to use HTTP/1.1. With ``http1=False`` and ``http2=True``, HTTP/2 is used for http URLs as well.
        http2: whether to use HTTP/2 if the server chooses it in the TLS handshake (ALPN).
        limits: the most connections, the most idle connections, and the seconds that a connection may be idle.
        proxy: as in httpx: an ``http://``, ``https://``, ``socks5://`` or ``socks5h://`` proxy. An HTTP proxy forwards
            http:// requests, and opens a tunnel for all others.
        uds: the path of a Unix socket to connect to, instead of TCP; with ``proxy``, the socket of the proxy.
        local_address: the local address that connections are opened from.
        retries: how many times to retry a connection that cannot be opened, after 0, 0.5, 1, 2, ... seconds.
        socket_options: set on each socket, in addition to TCP_NODELAY.
        connect: opens connections, instead of TCP: an async function that is called with a host (a name or an address)
            and a port, and returns a stream that is connected to them; with ``proxy``, to the proxy. TLS is started on
            top of it. A stream without a socket is reused without checking whether the server has closed it.

    Raises:
        ValueError: ``connect`` is given along with ``uds``, ``local_address`` or ``socket_options``.
        TypeError: ``connect`` is not a function, or ``uds``, ``local_address`` or ``retries`` is not what it must be.
        Exception: whatever httpx raises for a certificate or a proxy that cannot be used.

    Requests raise:
        httpx.PoolTimeout: no connection becomes free in time.
        httpx.ConnectError, httpx.ConnectTimeout: no connection can be opened, or the transport was closed meanwhile.
            If ``connect`` raises an OSError, that is a ConnectError, and a TimeoutError a ConnectTimeout.
        httpx.ProxyError: the proxy refuses a tunnel, or cannot connect to the server. The request was not sent.
        httpx.WriteError, httpx.WriteTimeout, httpx.ReadError, httpx.ReadTimeout: the connection breaks, or the server
            takes too long.
        httpx.RemoteProtocolError: the server closes the connection too early.
        InvalidResponse: the response is not valid HTTP, or has more than 256 header fields, or more than 100 KiB of
            them over HTTP/1.1 or 64 KiB over HTTP/2.
        httpx.LocalProtocolError: the request cannot be sent.
        httpx.UnsupportedProtocol: the URL scheme is not http, https, ws or wss.
        TypeError, ValueError: a value in the request's extensions is invalid.
        RuntimeError: there are open connections that belong to another event loop, which has not ended. Connections of
            an event loop that has ended are dropped.

    Cancellation:
        Closes the request's connection, and lets the next request open one in its place; over HTTP/2, only resets the
        stream. If a cancel scope of trio's or anyio's around a request has been cancelled before that is sent, or has
        passed its deadline, it is not sent, and its connection is kept. That is decided before the first ``trace``
        event about sending.
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
        connect: Connect | None = None,
    ) -> None:
        if isinstance(proxy, str | httpx.URL):
            proxy = httpx.Proxy(proxy)
        arguments = Arguments(
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
            socket_options=None if socket_options is None else list(socket_options),  # it may be needed twice
        )
        self._wire = new_wire(arguments, connect)
        self._stand_in = StandIn(httpx, lambda: httpx.AsyncHTTPTransport(**arguments), has_connect=connect is not None)

    def statistics(self) -> TransportStatistics:
        """Return the number of connections, of waiting requests, and of streams."""
        return self._wire.statistics()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response, with the body still to be read.

        Raises:
            TypeError: the request is one of another library, such as httpx2, unless the application has put that in
                the place of httpx.
        """
        check_request(request, "HTTPTransport")
        transport = self._stand_in.find() or self._wire
        return await transport.handle_async_request(request)

    async def __aenter__(self) -> Self:
        await self._wire.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close all connections. Requests that use one, or wait for one, fail.

        The transport may be used again afterwards, like httpx's.

        Cancellation:
            Takes effect afterwards; nothing here waits for the network.

        Raises:
            RuntimeError: the connections belong to another event loop, which has not ended. They are dropped without
                being closed.
        """
        try:
            await self._wire.aclose()
        finally:
            await self._stand_in.aclose()


def answer_with(transport: HTTPTransport, response_class: type[ReadyResponse]) -> None:
    """Let the responses of a transport be of a class, so that its client need not copy them."""
    transport._wire.response_class = response_class  # pyright: ignore[reportPrivateUsage]


def tell(transport: HTTPTransport, telemetry: Telemetry) -> None:
    """Report the connections that a transport opens from now on to a telemetry, once, while something refers to it."""
    transport._wire.tell(telemetry)  # pyright: ignore[reportPrivateUsage]


L = TypeVar("L", bound=Limits)
P = TypeVar("P", bound=Proxy | None)


class Arguments(TypedDict, Generic[L, P]):
    """The arguments of an AsyncHTTPTransport; limits and proxy are those of httpx or of httpx2."""

    verify: ssl.SSLContext | str | bool
    cert: Certificate | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: L
    proxy: P
    uds: str | None
    local_address: str | None
    retries: int
    socket_options: list[SocketOption] | None


def new_wire(arguments: Arguments[L, P], connect: Connect | None) -> Wire:
    """Return a wire.

    Raises:
        ValueError, TypeError: ``connect`` does not go with the arguments, or one of them is not what it must be.
        Exception: what httpx raises for a certificate or a proxy that cannot be used.
    """
    if not isinstance(arguments["retries"], SupportsIndex):
        raise TypeError(f"retries must be an integer, not {arguments['retries']!r}")
    trust_env = arguments["trust_env"]
    proxy = None if arguments["proxy"] is None else ProxyServer.of(arguments["proxy"])
    proxy_context = None
    if proxy is not None and proxy.origin.is_secure:
        proxy_context = proxy.ssl_context or _ssl_context(True, None, trust_env=trust_env)
    connector = Connector(
        ssl_context=_ssl_context(arguments["verify"], arguments["cert"], trust_env=trust_env),
        opener=_opener(arguments, connect),
        proxy=proxy,
        proxy_ssl_context=proxy_context,
        retries=arguments["retries"],
        protocols=Protocols(http1=arguments["http1"], http2=arguments["http2"]),
    )
    return Wire(connector, arguments["limits"])


def _opener(arguments: Arguments[L, P], connect: Connect | None) -> Opener:
    uds, local_address, options = arguments["uds"], arguments["local_address"], arguments["socket_options"]
    if uds is not None and not isinstance(uds, str | bytes | os.PathLike):
        raise TypeError(f"uds must be the path of a Unix socket, not {uds!r}")
    if local_address is not None and not isinstance(local_address, str | bytes):
        raise TypeError(f"local_address must be an address or a name, as a string, not {local_address!r}")
    if connect is None:
        return TcpOpener(local_address, options) if uds is None else UnixSocketOpener(uds, options)
    if not (uds is None and local_address is None and options is None):
        raise ValueError("connect= opens the connections itself: uds=, local_address= and socket_options= do not apply")
    if not callable(connect):
        raise TypeError(f"connect must be an async function that takes a host and a port, not {connect!r}")
    return UserOpener(connect)


def _ssl_context(
    verify: ssl.SSLContext | str | bool, cert: Certificate | None, *, trust_env: bool
) -> ssl.SSLContext | None:
    """Return a context; None for the default one, which is made when it is needed.

    Raises:
        Exception: a file or a certificate is not usable; now, and not with the first request.
    """
    if verify is True and cert is None and not (trust_env and _CERTIFICATE_VARIABLES & os.environ.keys()):
        return None
    return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
