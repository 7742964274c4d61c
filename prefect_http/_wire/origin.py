"""Origin: which server a connection leads to. Pure."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import httpx

from prefect_http._ports import MAX_PORT

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}
# Anything else makes TLS fail with errors of its own, or is sent as it is.
_SERVER_NAME = re.compile(r"[^\s\x00.][^\s\x00]*")
_SECURE_SCHEMES = frozenset({b"https", b"wss"})


class Origin(NamedTuple):
    """What a connection must have in common with a request that is to use it.

    Attributes:
        scheme: ``b"http"``, ``b"https"``, ``b"ws"`` or ``b"wss"``; for a proxy also ``b"socks5"``.
        host: a name or an address; an IPv6 address without brackets.
        port: 1 to 65535.
        server_name: the name that TLS asks for, and checks the certificate against.
        is_proxy: whether it is a proxy, which forwards requests to any server.
    """

    scheme: bytes
    host: bytes
    port: int
    server_name: str
    is_proxy: bool = False

    @classmethod
    def of(cls, request: httpx.Request) -> Origin:
        """Return the origin of a request.

        Raises:
            httpx.UnsupportedProtocol: the URL has no host, or a scheme that is not supported.
            httpx.ConnectError: there is no such port.
            TypeError: ``sni_hostname`` is not the name of a host.
        """
        url, name = request.url, request.extensions.get("sni_hostname")
        if name and (not isinstance(name, str) or not _SERVER_NAME.fullmatch(name)):
            raise TypeError(f'extensions["sni_hostname"] must be the name of a host, not {name!r}')
        return _origin(url.raw_scheme, url.raw_host, url.port, name or None)

    @classmethod
    def of_proxy(cls, scheme: bytes, host: bytes, port: int) -> Origin:
        """Return the origin of the requests that a proxy forwards, whichever servers they are for."""
        return cls(scheme, host, port, _server_name(host), is_proxy=True)

    @property
    def is_secure(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme in _SECURE_SCHEMES

    @property
    def peer(self) -> str:
        """The host and the port, for messages; for a proxy also that it is one, and what it speaks."""
        return f"the proxy {self.url}" if self.is_proxy else self._address

    @property
    def url(self) -> str:
        """The URL, without a path."""
        return f"{self.scheme.decode('ascii')}://{self._address}"

    @property
    def _address(self) -> str:
        host = self.host.decode("ascii")
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@functools.lru_cache(256)  # almost all requests go where others have gone
def _origin(scheme: bytes, host: bytes, port: int | None, name: str | None) -> Origin:
    if scheme not in _DEFAULT_PORTS:
        raise httpx.UnsupportedProtocol(
            f"the URL scheme {scheme.decode('ascii')!r} is not supported; use http:// or https://"
            if scheme
            else "the URL has no scheme; it must start with http:// or https://, unless the client has a base_url"
        )
    if not host:
        raise httpx.UnsupportedProtocol("the URL has no host")
    port = port or _DEFAULT_PORTS[scheme]
    if not 0 < port <= MAX_PORT:
        raise httpx.ConnectError(f"could not connect to {host.decode()}: invalid port {port}")
    return Origin(scheme, host, port, name or _server_name(host))


def _server_name(host: bytes) -> str:
    """Return a host as TLS knows it: without a trailing dot, which only says that a name is complete (RFC 6066)."""
    return host.decode("ascii").removesuffix(".")
