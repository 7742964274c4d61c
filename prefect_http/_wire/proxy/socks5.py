"""Socks5Handshake: asks a SOCKS5 proxy for a tunnel (RFC 1928, RFC 1929). Pure.

The client offers ways to authenticate, and the proxy picks one. After that, the client says where the tunnel leads, and
the proxy says whether it is open. Host names are left to the proxy, which may be the only one to know them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import NamedTuple

import httpx

from prefect_http._errors import InvalidResponse
from prefect_http._internal_errors import TunnelFailed

_VERSION, _AUTH_VERSION = 5, 1
_NO_AUTH, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_MAX_LENGTH = 255  # of a name, a user or a password: it is sent in one byte
_METHODS = {1: "GSSAPI", _PASSWORD: "a user name and a password"}
# RFC 1928 section 6.
_FAILURES = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "it does not support CONNECT",
    8: "it does not support this type of address",
}
# The proxy would open a tunnel, but cannot reach the server. Many say "general failure" then.
_UNREACHABLE = {1, 3, 4, 5, 6}


class Credentials(NamedTuple):
    """A user name and a password for a SOCKS5 proxy: up to 255 bytes each."""

    user: bytes
    password: bytes

    def encode(self) -> bytes:
        """Return the request for authentication (RFC 1929 section 2)."""
        return b"%c%c%b%c%b" % (_AUTH_VERSION, len(self.user), self.user, len(self.password), self.password)

    def check(self) -> None:
        """Check that they can be sent.

        Raises:
            ValueError: they are too long.
        """
        if max(len(self.user), len(self.password)) > _MAX_LENGTH:
            raise ValueError(f"the user name and the password of a SOCKS5 proxy have at most {_MAX_LENGTH} bytes each")


class Socks5Handshake:
    """One handshake: bytes in, bytes out.

    Args:
        proxy: the proxy, for messages.
        peer: where the tunnel leads, for messages.
        host: a name or an address.
        port: the port.
        credentials: user and password; None: there are none.

    Attributes:
        is_complete: whether the tunnel is open.
        trailing_data: what has arrived through it by then.

    Raises:
        httpx.ConnectError: the host name is too long.
    """

    def __init__(self, proxy: str, peer: str, host: bytes, port: int, credentials: Credentials | None) -> None:
        self._proxy = proxy
        self._peer = peer
        self._request = b"%c%c\0%b%b" % (_VERSION, _CONNECT, _encoded_address(host, peer), port.to_bytes(2, "big"))
        self._credentials = credentials
        self._received = b""
        # Functions, since bound methods would refer to the object, and the object to them.
        self._step: Callable[[Socks5Handshake, bytes], bytes | None] = Socks5Handshake._receive_method
        self.is_complete = False

    @property
    def trailing_data(self) -> bytes:
        """See above."""
        return self._received if self.is_complete else b""

    def start(self) -> bytes:
        """Return what to send first: the ways to authenticate (RFC 1928 section 3).

        A proxy that needs no credentials may take them for a mistake, so it is offered to do without.
        """
        methods = b"%c" % _NO_AUTH if self._credentials is None else b"%c%c" % (_NO_AUTH, _PASSWORD)
        return b"%c%c%b" % (_VERSION, len(methods), methods)

    def feed(self, data: bytes) -> bytes:
        """Return what to send after having received something; ``b""``: nothing.

        Raises:
            httpx.ProxyError: the proxy refuses.
            TunnelFailed: it cannot connect to the server now.
            InvalidResponse: it does not speak SOCKS5.
        """
        self._received += data
        to_send = b""
        while not self.is_complete and (reply := self._step(self, self._received)) is not None:
            to_send += reply
        return to_send

    def _take(self, count: int) -> None:
        self._received = self._received[count:]

    def _check_version(self, received: bytes, version: int) -> None:
        if received and received[0] != version:
            # Later on, it may be an echo of the credentials.
            quoted = received[: 8 if self._step is Socks5Handshake._receive_method else 1]
            raise InvalidResponse(f"{self._proxy} does not speak SOCKS5: its reply begins with {quoted!r}")

    def _receive_method(self, received: bytes) -> bytes | None:
        self._check_version(received, _VERSION)
        if len(received) < 2:
            return None
        method = received[1]
        self._take(2)
        if method == _NO_AUTH:
            self._step = Socks5Handshake._receive_reply
            return self._request
        if method == _PASSWORD and self._credentials is not None:
            self._step = Socks5Handshake._receive_authentication
            return self._credentials.encode()
        if method == _NO_METHOD:
            needs = "needs credentials" if self._credentials is None else "accepts no user name and password"
            raise httpx.ProxyError(f"{self._proxy} refuses to authenticate the client: it {needs}")
        known = _METHODS.get(method, f"the unknown method {method}")
        raise httpx.ProxyError(f"{self._proxy} asks for {known} to authenticate, which was not offered")

    def _receive_authentication(self, received: bytes) -> bytes | None:
        self._check_version(received, _AUTH_VERSION)
        if len(received) < 2:
            return None
        if received[1]:
            raise httpx.ProxyError(f"{self._proxy} does not accept the user name and the password")
        self._take(2)
        self._step = Socks5Handshake._receive_reply
        return self._request

    def _receive_reply(self, received: bytes) -> bytes | None:
        self._check_version(received, _VERSION)
        if len(received) < 2:
            return None
        if code := received[1]:
            reason = _FAILURES.get(code, f"unknown error {code}")
            if code in _UNREACHABLE:
                raise TunnelFailed(f"{self._proxy} could not connect to {self._peer}: {reason}")
            raise httpx.ProxyError(f"{self._proxy} refused a tunnel to {self._peer}: {reason}")
        if len(received) < 5:
            return None
        lengths = {_IPV4: 4, _IPV6: 16, _NAME: 1 + received[4]}
        if received[3] not in lengths:
            raise InvalidResponse(f"{self._proxy} sent an address of the unknown type {received[3]}")
        end = 4 + lengths[received[3]] + 2
        if len(received) < end:
            return None
        self._take(end)
        self.is_complete = True
        return b""


def _encoded_address(host: bytes, peer: str) -> bytes:
    """Return a host as RFC 1928 section 5 has it."""
    try:
        address = ipaddress.ip_address(host.decode("ascii"))
    except ValueError:
        if len(host) > _MAX_LENGTH:
            raise httpx.ConnectError(f"could not connect to {peer}: the name is too long") from None
        return b"%c%c%b" % (_NAME, len(host), host)
    return b"%c%b" % (_IPV4 if address.version == 4 else _IPV6, address.packed)
