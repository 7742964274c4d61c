"""ProxyServer: what users name, and what becomes of it."""

from __future__ import annotations

import ssl

import httpx
import pytest

from prefect_http import HTTPTransport
from prefect_http._wire.origin import Origin
from prefect_http._wire.proxy.proxy_server import ProxyServer
from prefect_http._wire.proxy.socks5 import Credentials

BASIC = (b"Proxy-Authorization", b"Basic dXNlcjpwQHNz")


def test_urls() -> None:
    """A URL has the place, the protocol and the credentials; messages and repr() have no password."""
    for url, origin, name, headers, credentials in (
        ("http://p.test", Origin(b"http", b"p.test", 80, "p.test", True), "http://p.test:80", (), None),
        ("https://p.test.", Origin(b"https", b"p.test.", 443, "p.test", True), "https://p.test.:443", (), None),
        ("http://[::1]:81", Origin(b"http", b"::1", 81, "::1", True), "http://[::1]:81", (), None),
        ("http://user:p%40ss@p:81", Origin(b"http", b"p", 81, "p", True), "http://p:81", (BASIC,), None),
        ("socks5://p", Origin(b"socks5", b"p", 1080, "p", True), "socks5://p:1080", (), None),
        (
            "socks5://user:p%40ss@p",
            Origin(b"socks5", b"p", 1080, "p", True),
            "socks5://p:1080",
            (),
            Credentials(b"user", b"p@ss"),
        ),
    ):
        server = ProxyServer.of(httpx.Proxy(url))
        assert (server.origin, server.headers, server.credentials) == (origin, headers, credentials), url
        assert server.origin.peer == f"the proxy {name}"
        assert (server.origin.is_secure, server.is_socks) == (url.startswith("https"), url.startswith("socks"))
        assert "p@ss" not in str(server)
        assert "dXNlcjpwQHNz" not in str(server)


def test_headers() -> None:
    """The headers of a proxy follow the credentials; a SOCKS5 proxy has none."""
    given = {"X-One": "1", "Proxy-Authorization": "Bearer token"}
    server = ProxyServer.of(httpx.Proxy("http://p", auth=("user", "p@ss"), headers=given))
    assert server.headers == (BASIC, (b"X-One", b"1"), (b"Proxy-Authorization", b"Bearer token"))
    assert ProxyServer.of(httpx.Proxy("socks5://p", headers=given)).headers == ()


def test_what_cannot_be_used() -> None:
    """A context without TLS, long credentials, an invalid port and an unknown protocol are errors at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for scheme in ("http", "socks5"):
        with pytest.raises(RuntimeError, match="ssl_context of a proxy is for https:// proxies only"):
            HTTPTransport(proxy=httpx.Proxy(f"{scheme}://p", ssl_context=context))
    assert ProxyServer.of(httpx.Proxy("https://p", ssl_context=context)).ssl_context is context
    with pytest.raises(ValueError, match="at most 255 bytes") as caught:
        HTTPTransport(proxy="socks5://user:" + "s3cret" * 50 + "@p")
    assert "s3cret" not in str(caught.value)
    for port in (0, 65536):
        with pytest.raises(ValueError, match=f"^invalid port {port} in the URL of a proxy$"):
            HTTPTransport(proxy=f"http://user:s3cret@127.0.0.1:{port}")
    with pytest.raises(ValueError, match="Unknown scheme for proxy URL"):
        HTTPTransport(proxy="ftp://user:s3cret@p")
