"""Forwarder: requests in the form that an HTTP proxy forwards."""

from __future__ import annotations

import httpx
import pytest

from prefect_http._wire.proxy.forwarder import Forwarder
from prefect_http._wire.proxy.proxy_server import ProxyServer


def new_forwarder(url: str = "http://user:pw@p.test") -> Forwarder:
    """Make a forwarder."""
    return Forwarder(ProxyServer.of(httpx.Proxy(url)))


def test_targets() -> None:
    """The target is the whole URL, without its credentials, and without a port that is the default one."""
    forwarder = new_forwarder()
    for method, url, expected in (
        ("GET", "http://x.test", b"GET http://x.test/ HTTP/1.1\r\n"),
        ("GET", "http://x.test:80/a%2Fb?c#d", b"GET http://x.test/a%2Fb?c HTTP/1.1\r\n"),
        ("POST", "http://user:s3cret@X.TEST:8080/", b"POST http://x.test:8080/ HTTP/1.1\r\n"),
        ("GET", "http://[::1]:81/", b"GET http://[::1]:81/ HTTP/1.1\r\n"),
        ("GET", "http://[::1]/", b"GET http://[::1]/ HTTP/1.1\r\n"),
        ("GET", "http://\u00fc.test/", b"GET http://xn--tda.test/ HTTP/1.1\r\n"),
    ):
        for _ in range(2):
            assert forwarder.encode(httpx.Request(method, url)).line == expected, url
    request = httpx.Request("OPTIONS", "http://x.test/", extensions={"target": b"*"})
    assert forwarder.encode(request).line == b"OPTIONS * HTTP/1.1\r\n"


def test_headers() -> None:
    """Each request has the proxy's credentials; what was encoded is forgotten on request."""
    forwarder = new_forwarder()
    request = httpx.Request("GET", "http://x.test/", headers={"X-Own": "1"})
    for _ in range(2):
        lines = forwarder.encode(request).headers.lines
        assert lines == b"Host: x.test\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\nX-Own: 1\r\n\r\n"
        forwarder.clear()


def test_requests_that_cannot_be_sent() -> None:
    """What cannot be sent is a LocalProtocolError, as without a proxy."""
    for request in (
        httpx.Request("GET", "http://x.test/", headers={"X": "a\nb"}),
        httpx.Request("G T", "http://x.test/"),
        httpx.Request("GET", "http://x.test/", extensions={"target": b"/a b"}),
    ):
        with pytest.raises(httpx.LocalProtocolError, match="the request cannot be sent"):
            new_forwarder().encode(request)
