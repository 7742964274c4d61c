"""The headers that an HTTP proxy gets."""

from __future__ import annotations

import httpx
import pytest

from prefect_http._wire.proxy.proxy_headers import Headers, basic_authorization, encode_forwarded, merged

AUTHORIZATION = (b"Proxy-Authorization", b"Basic dXNlcjpwdw==")


def test_basic_authorization() -> None:
    """User and password are encoded as RFC 7617 has it."""
    assert basic_authorization(b"user", b"pw") == AUTHORIZATION
    assert basic_authorization("ä".encode(), b"")[1] == b"Basic w6Q6"


def test_merged() -> None:
    """A stronger header replaces all of the same name; both keep their order."""
    weak, strong = [(b"A", b"1"), (b"b", b"2"), (b"a", b"3")], [(b"B", b"4"), (b"C", b"5")]
    assert merged(weak, strong) == [(b"A", b"1"), (b"a", b"3"), (b"B", b"4"), (b"C", b"5")]
    assert merged([], strong) == strong
    assert merged(weak, []) == weak


def test_encode_forwarded() -> None:
    """A forwarded request has the proxy's headers, unless it has its own, and begins with the Host."""
    host, own = (b"Host", b"x.test"), (b"proxy-authorization", b"own")
    for proxy_headers, headers, expected in (
        ((), [host], b"Host: x.test\r\n\r\n"),
        ([AUTHORIZATION], [host], b"Host: x.test\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\n\r\n"),
        (
            [AUTHORIZATION],
            [host, own],
            b"Host: x.test\r\nproxy-authorization: own\r\n\r\n",
        ),
        ([(b"Host", b"y")], [host], b"Host: x.test\r\n\r\n"),
    ):
        encoded = encode_forwarded(proxy_headers, headers)
        assert encoded.lines == expected
    none: Headers = [(b"X", b"\n")]
    with pytest.raises(httpx.LocalProtocolError, match="the value of the header X"):
        encode_forwarded(none, [host])
