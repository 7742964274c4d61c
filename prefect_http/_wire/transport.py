"""HTTPTransport: sends requests over HTTP/1.1, in place of httpx.AsyncHTTPTransport."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from typing import Protocol, Self

import httpx

from prefect_http._types import Certificate, SocketOption
from prefect_http._wire.connector import Connector
from prefect_http._wire.wire import TransportStatistics, Wire

# The same as httpx's.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)
_CERTIFICATE_VARIABLES = {"SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"}


class HTTPTransport(httpx.AsyncBaseTransport):
    """Sends requests over HTTP/1.1, as fast with a thousand tasks as with one; in place of httpx.AsyncHTTPTransport.

    PrefectHttpxClient uses it by default; any httpx.AsyncClient takes it as ``transport=``. It does what httpx's
    transport does, with the same arguments, timeouts, errors, extensions and ``trace`` events, and also:

    - A request costs the same, however many connections are open and however many requests wait.
    - If a request fails on a reused connection before any of the response has arrived, the server may have closed the
      connection just as it was reused (RFC 9112 section 9.3.1). A request that is safe to repeat is then sent again on
      a fresh connection, once: GET, HEAD, OPTIONS, TRACE, PUT or DELETE, without a body or with one of bytes.
    - Behind a 5xx, after which some servers close the connection without saying so, a connection serves only requests
      that are safe to repeat.
    - A connection is closed if anything follows a response, or if the response can be read in two ways.
    - A response of 3xx, 4xx or 5xx ends the sending of a large body.

    HTTP/2, proxies and Unix sockets are left to httpx: with these arguments, requests go to an
    httpx.AsyncHTTPTransport.

    Args:
        verify: as in httpx: an ssl.SSLContext, or whether to check certificates. The context's ALPN protocols are set
            to HTTP/1.1.
        cert: as in httpx: a client certificate.
        trust_env: whether to use the certificates that the environment names.
        http1: False: leave requests to httpx.
        http2: True: leave requests to httpx.
        limits: the number of connections, of idle connections, and the seconds that a connection may be idle.
        proxy: leave requests to httpx.
        uds: leave requests to httpx.
        local_address: the address that connections come from.
        retries: how many times to retry a connection that cannot be opened, after 0, 0.5, 1, 2, ... seconds.
        socket_options: set on each socket, in addition to TCP_NODELAY.

    Requests raise:
        httpx.PoolTimeout: no connection becomes free in time.
        httpx.ConnectError, httpx.ConnectTimeout: no connection can be opened, or the transport was closed meanwhile.
        httpx.WriteError, httpx.WriteTimeout, httpx.ReadError, httpx.ReadTimeout: the connection breaks, or the server
            takes too long.
        httpx.RemoteProtocolError: the server closes the connection too early.
        InvalidResponse: the response is not valid HTTP/1.1, or has more than 100 KiB or 256 fields of headers.
        httpx.LocalProtocolError: the request cannot be sent.
        httpx.UnsupportedProtocol: the URL scheme is not http, https, ws or wss.
        TypeError, ValueError: a value in the request's extensions is invalid.
        RuntimeError: there are open connections that belong to another event loop, which has not ended. Those of one
            that has ended are dropped.

    Cancellation:
        Closes the request's connection, and lets the next request open one in its place.
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
        # The only place that decides whose connections are used.
        self._sender: _Sender
        if http2 or not http1 or proxy is not None or uds is not None:
            self._sender = _HttpxTransport(
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
        else:
            connector = Connector(
                ssl_context=_ssl_context(verify, cert, trust_env=trust_env),
                local_address=local_address,
                retries=retries,
                socket_options=socket_options,
            )
            self._sender = Wire(connector, limits)

    def statistics(self) -> TransportStatistics:
        """Return the number of connections and of waiting requests.

        Raises:
            RuntimeError: requests are left to httpx, which has no statistics.
        """
        return self._sender.statistics()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response, with the body still to be read."""
        return await self._sender.handle_async_request(request)

    async def __aenter__(self) -> Self:
        await self._sender.__aenter__()
        return self

    async def aclose(self) -> None:
        """Close all connections. Requests that use one, or wait for one, fail.

        The transport may be used again afterwards, as httpx's may.

        Cancellation:
            Is held back; nothing here waits for the network.

        Raises:
            RuntimeError: the connections belong to another event loop, which has not ended. They are dropped without
                being closed.
        """
        await self._sender.aclose()


class _Sender(Protocol):
    """What an HTTPTransport does its work with."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response: ...
    def statistics(self) -> TransportStatistics: ...
    async def __aenter__(self) -> object: ...
    async def aclose(self) -> None: ...


class _HttpxTransport(httpx.AsyncHTTPTransport):
    """Does what the wire does not do yet."""

    def statistics(self) -> TransportStatistics:
        raise RuntimeError(
            "with http2=, http1=False, proxy= or uds=, requests are left to httpx, which has no statistics"
        )


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
