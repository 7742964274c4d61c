"""Origin: which server a request goes to."""

from __future__ import annotations

import httpx
import pytest
from support.rows import each_row

from prefect_http._wire.origin import Origin


def origin(url: str, **extensions: str) -> Origin:
    """Return the origin of a request."""
    return Origin.of(httpx.Request("GET", url, extensions=extensions))


@each_row(
    ("url", "expected", "is_secure", "peer"),
    [
        ("http://x.test/path?q", Origin(b"http", b"x.test", 80, "x.test"), False, "x.test:80"),
        ("https://x.test", Origin(b"https", b"x.test", 443, "x.test"), True, "x.test:443"),
        ("ws://X.TEST:81/", Origin(b"ws", b"x.test", 81, "x.test"), False, "x.test:81"),
        ("wss://x.test:80/", Origin(b"wss", b"x.test", 80, "x.test"), True, "x.test:80"),
        ("http://user:secret@127.0.0.1/", Origin(b"http", b"127.0.0.1", 80, "127.0.0.1"), False, "127.0.0.1:80"),
        ("http://[::1]:8080/", Origin(b"http", b"::1", 8080, "::1"), False, "[::1]:8080"),
        ("http://ü.test/", Origin(b"http", b"xn--tda.test", 80, "xn--tda.test"), False, "xn--tda.test:80"),
    ],
)
def test_origins(url: str, expected: Origin, is_secure: bool, peer: str) -> None:
    """The origin has the default port, a host without brackets, and the host as the TLS name."""
    found = origin(url)
    assert found == expected
    assert (found.is_secure, found.peer) == (is_secure, peer)


def test_sni_hostname() -> None:
    """The extension ``sni_hostname`` is the TLS name."""
    assert origin("https://127.0.0.1/", sni_hostname="x.test") == Origin(b"https", b"127.0.0.1", 443, "x.test")


def test_trailing_dot() -> None:
    """A trailing dot of the host is not part of the TLS name; with and without it, the origins differ."""
    assert origin("https://x.test./") == Origin(b"https", b"x.test.", 443, "x.test")
    assert origin("https://x.test./", sni_hostname="y.test.").server_name == "y.test."


@each_row("port", [65536, 99999, -1, 10**30])
def test_port_that_does_not_exist(port: int) -> None:
    """A port that does not exist cannot be connected to."""
    with pytest.raises(httpx.ConnectError, match=rf"^could not connect to x\.test: invalid port {port}$"):
        origin(f"http://x.test:{port}/")
    assert origin("http://x.test:65535/").port == 65535


@each_row(
    ("url", "message"),
    [
        ("http://", "the URL has no host"),
        ("/path", "the URL has no scheme; it must start with http:// or https://, unless the client has a base_url"),
        ("//x.test/", "the URL has no scheme"),
        ("ftp://x.test/", "the URL scheme 'ftp' is not supported; use http:// or https://"),
        ("mailto:user@x.test", "the URL scheme 'mailto' is not supported"),
    ],
)
def test_unsupported_urls(url: str, message: str) -> None:
    """A URL without a host, or with another scheme, is an error that says so."""
    with pytest.raises(httpx.UnsupportedProtocol, match=message):
        origin(url)
