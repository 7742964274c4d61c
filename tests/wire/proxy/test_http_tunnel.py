"""HttpTunnelHandshake: what CONNECT sends, and what its responses mean."""

from __future__ import annotations

import httpx
import pytest

from prefect_http import InvalidResponse
from prefect_http._internal_errors import TunnelDelayed, TunnelFailed
from prefect_http._wire.proxy.http_tunnel import HttpTunnelHandshake
from prefect_http._wire.proxy.proxy_headers import Headers, basic_authorization

PROXY, PEER = "the proxy http://p:3128", "x.test:443"


def new_handshake(headers: Headers = (), peer: str = PEER) -> HttpTunnelHandshake:
    """Make a handshake."""
    return HttpTunnelHandshake(PROXY, peer, "http://p:3128", headers)


def test_request() -> None:
    """The request names the host and the port, and has the proxy's headers, which replace its own."""
    for peer, headers, expected in (
        (PEER, (), b"Host: x.test:443\r\nAccept: */*\r\n"),
        ("[::1]:8443", (), b"Host: [::1]:8443\r\nAccept: */*\r\n"),
        (
            PEER,
            [basic_authorization(b"user", b"pw"), (b"X-Own", b"1"), (b"x-own", b"2")],
            b"Host: x.test:443\r\nAccept: */*\r\nProxy-Authorization: Basic dXNlcjpwdw==\r\nX-Own: 1\r\nx-own: 2\r\n",
        ),
        (PEER, [(b"accept", b"none"), (b"HOST", b"other")], b"HOST: other\r\naccept: none\r\n"),
    ):
        handshake = new_handshake(headers, peer)
        assert handshake.head == b"CONNECT %b HTTP/1.1\r\n%b\r\n" % (peer.encode(), expected), headers
    with pytest.raises(httpx.LocalProtocolError, match="the value of the header X-Own"):
        new_handshake([(b"X-Own", b"a\r\nb: c")])


def test_tunnels() -> None:
    """Any 2xx opens the tunnel, whatever it says of a body, and in whatever pieces it arrives."""
    for head in (
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 299\r\nContent-Length: 100\r\n\r\n",
        b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nConnection: close\n\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ):
        whole, pieces = new_handshake(), new_handshake()
        whole.feed(head + b"early")
        for start in range(len(head)):
            assert not pieces.is_complete
            pieces.feed(head[start : start + 1])
        for handshake in (whole, pieces):
            assert handshake.is_complete, head
            handshake.check()
        assert (whole.trailing_data, pieces.trailing_data) == (b"early", b"")


HTML = b"Content-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>go away</html>"
REFUSALS: list[tuple[bytes, str]] = [
    (b"403 Forbidden\r\n\r\n", "refused a tunnel to x.test:443: 403 Forbidden"),
    (b"403\r\n\r\n", "refused a tunnel to x.test:443: 403"),
    (b"400 Bad Request\r\n" + HTML, "refused a tunnel to x.test:443: 400 Bad Request"),
    (b"302 Found\r\nLocation: http://login/\r\n\r\n", "refused a tunnel to x.test:443: 302 Found"),
    (b"304 Not Modified\r\n\r\n", "refused a tunnel to x.test:443: 304 Not Modified"),
    (b"500 Oops\r\n\r\n", "could not connect to x.test:443: 500 Oops"),
    (b"429 Too Many\r\nRetry-After: 7\r\n\r\n", "refused a tunnel to x.test:443: 429 Too Many"),
    (b"501 Not Implemented\r\n\r\n", "refused a tunnel to x.test:443: 501 Not Implemented"),
    (b"502 Bad Gateway\r\n\r\n", "could not connect to x.test:443: 502 Bad Gateway"),
    (b"503 No\r\n\r\n", "could not connect to x.test:443: 503 No"),
    (b"504 Gateway Timeout\r\n\r\n", "could not connect to x.test:443: 504 Gateway Timeout"),
    (
        b'407 Denied\r\nProxy-Authenticate: Basic realm="r"\r\nX-Squid-Error: ERR_DENIED 0\r\n\r\n',
        'refused a tunnel to x.test:443: 407 Denied (Proxy-Authenticate: Basic realm="r"; X-Squid-Error: ERR_DENIED 0)',
    ),
    (
        b"502 Bad\r\nProxy-Status: p; error=dns_error\r\n\r\n",
        "could not connect to x.test:443: 502 Bad (Proxy-Status: p; error=dns_error)",
    ),
    (
        b"403 No\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 15\r\n\r\nnot\r\non list \xc3\xa4",
        "refused a tunnel to x.test:443: 403 No: not on list ä",
    ),
    (b"403 No\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n", "refused a tunnel to x.test:443: 403 No"),
]


def test_refusals() -> None:
    """Anything but a 2xx is a ProxyError with the proxy's words, but for its pages."""
    for response, message in REFUSALS:
        handshake = new_handshake()
        handshake.feed(b"HTTP/1.1 " + response)
        with pytest.raises(httpx.ProxyError) as caught:
            handshake.check()
        assert str(caught.value) == f"{PROXY} {message}"
        assert isinstance(caught.value, TunnelFailed) == ("could not" in message or "429" in message), message
        assert isinstance(caught.value, TunnelDelayed) == ("429" in message), message


def test_what_a_proxy_asks_for() -> None:
    """The headers of a refusal are kept for those who want to try again; they may say when."""
    handshake = new_handshake()
    handshake.feed(b"HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n")
    with pytest.raises(TunnelFailed) as caught:
        handshake.check()
    assert caught.value.response is not None
    assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (503, "7")


def test_refusals_are_bounded_and_safe() -> None:
    """However much a proxy says, little is quoted, on one line, and without the credentials that it may echo."""
    headers = [basic_authorization(b"user", b"s3cr3t")]
    for response in (
        b"403 " + b"x" * 90_000 + b"\r\n\r\n",
        b"403 No\r\nContent-Type: text/plain\r\n\r\n" + b"\x1b[31m\0\r\n" * 10_000,
        b"407 Basic dXNlcjpzM2NyM3Q=\r\n\r\n",
        b'407 No\r\nProxy-Status: p; details="user:s3cr3t"\r\n\r\n',
        b"407 No\r\nContent-Type: text/plain\r\n\r\nwrong password s3cr3t",
    ):
        handshake = new_handshake(headers)
        handshake.feed(b"HTTP/1.1 " + response)
        with pytest.raises(httpx.ProxyError) as caught:
            handshake.check()
        message = str(caught.value)
        assert len(message) < 400
        assert message.isprintable()
        assert "s3cr3t" not in message
        assert "dXNlcjpzM2NyM3Q" not in message


def test_what_is_not_http() -> None:
    """What is not HTTP is an InvalidResponse that names the proxy; so is a 101, or too much of it."""
    for response in (
        b"<html>\n",
        b"\5\xff\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    ):
        with pytest.raises(InvalidResponse, match=f"^the response of {PROXY} to CONNECT is not valid: "):
            new_handshake().feed(response)
