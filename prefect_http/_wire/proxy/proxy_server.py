"""ProxyServer: where a proxy is, what it speaks, and the credentials for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Protocol

from prefect_http._ports import MAX_PORT
from prefect_http._wire.origin import Origin
from prefect_http._wire.proxy.proxy_headers import Headers, basic_authorization
from prefect_http._wire.proxy.socks5 import Credentials

_PORTS = {b"http": 80, b"https": 443, b"socks5": 1080, b"socks5h": 1080}


class _Url(Protocol):
    @property
    def raw_scheme(self) -> bytes: ...
    @property
    def raw_host(self) -> bytes: ...
    @property
    def port(self) -> int | None: ...


class _Headers(Protocol):
    @property
    def raw(self) -> list[tuple[bytes, bytes]]: ...


class Proxy(Protocol):
    """What httpx.Proxy and httpx2.Proxy have."""

    @property
    def url(self) -> _Url: ...
    @property
    def raw_auth(self) -> tuple[bytes, bytes] | None: ...
    @property
    def headers(self) -> _Headers: ...
    @property
    def ssl_context(self) -> ssl.SSLContext | None: ...


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A proxy.

    Attributes:
        origin: where it is; its scheme is ``b"http"``, ``b"https"`` or ``b"socks5"``.
        headers: what an HTTP proxy gets with each CONNECT and each request that it forwards, credentials included.
        credentials: for a SOCKS5 proxy; None: there are none.
        ssl_context: for TLS with the proxy itself; None: the default one.
    """

    origin: Origin
    headers: Headers = field(default=(), repr=False)
    credentials: Credentials | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)

    @classmethod
    def of(cls, proxy: Proxy) -> ProxyServer:
        """Return the proxy that a user has named.

        Raises:
            RuntimeError: there is an SSL context, and no TLS to use it for; as httpx.
            ValueError: there is no such port, or the user name or the password is too long for SOCKS5.
        """
        url, auth = proxy.url, proxy.raw_auth
        scheme = url.raw_scheme
        if proxy.ssl_context is not None and scheme != b"https":
            raise RuntimeError("the ssl_context of a proxy is for https:// proxies only")
        port = _PORTS[scheme] if url.port is None else url.port
        if not 0 < port <= MAX_PORT:
            raise ValueError(f"invalid port {port} in the URL of a proxy")
        if scheme in {b"socks5", b"socks5h"}:  # the proxy resolves names for both, as with httpx
            credentials = None if auth is None else Credentials(*auth)
            if credentials is not None:
                credentials.check()
            return cls(Origin.of_proxy(b"socks5", url.raw_host, port), credentials=credentials)
        headers = proxy.headers.raw
        if auth is not None:
            headers = [basic_authorization(*auth), *headers]
        return cls(Origin.of_proxy(scheme, url.raw_host, port), tuple(headers), ssl_context=proxy.ssl_context)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5, and not HTTP."""
        return self.origin.scheme == b"socks5"

    def forwards(self, origin: Origin) -> bool:
        """Return whether requests to an origin are sent to the proxy itself, which forwards them."""
        return origin.scheme == b"http" and not self.is_socks
