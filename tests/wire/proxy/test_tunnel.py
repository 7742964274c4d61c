"""Opening connections through proxies that misbehave, in virtual time and on streams that follow a script."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
from support.fake_stream import FakeStream
from support.tls_servers import client_context
from trio.testing import MockClock

from prefect_http import InvalidResponse
from prefect_http._internal_errors import TunnelFailed
from prefect_http._wire.connector import Connector
from prefect_http._wire.openers import UserOpener
from prefect_http._wire.origin import Origin
from prefect_http._wire.proxy.proxy_server import ProxyServer
from prefect_http._wire.trace import Trace

HTTP, HTTPS = Origin(b"http", b"x.test", 80, "x.test"), Origin(b"https", b"x.test", 443, "x.test")
WS = Origin(b"ws", b"x.test", 80, "x.test")
NO_AUTH, GRANTED = b"\5\0", b"\5\0\0\1" + bytes(6)
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"
PAGE = b"Content-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"

Event = tuple[float, str, Mapping[str, Any]]


def new_connector(stream: FakeStream, proxy: str, *, retries: int = 0, delay: float = 0.0) -> Connector:
    """Make a connector whose connections to a proxy are one stream, opened after so many seconds."""

    async def connect(host: str, port: int) -> FakeStream:
        await anyio.sleep(delay)
        return stream

    server = ProxyServer.of(httpx.Proxy(proxy))
    return Connector(ssl_context=client_context(), opener=UserOpener(connect), proxy=server, retries=retries)


def tracing(events: list[Event]) -> Trace:
    """Make a trace that keeps the events and their times."""

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        events.append((trio.current_time(), name, info))

    made = Trace.of(httpx.Request("GET", "https://x.test/", extensions={"trace": trace}))
    assert made is not None
    return made


BROKEN = anyio.BrokenResourceError()
END = anyio.EndOfStream()
CLOSED = "could not open a tunnel to x.test:80 through the proxy {}://p.test:{}: the proxy closed the connection"
EARLY = "data arrived through the proxy {}://p.test:{} before the request to x.test:80 was sent"
FAILURES: list[tuple[str, list[bytes | Exception], type[Exception], str]] = [
    ("http", [b"HTTP/1.1 403 Forbidden\r\n" + PAGE], httpx.ProxyError, "refused a tunnel to x.test:80: 403 Forbidden"),
    ("http", [b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"], httpx.ProxyError, "refused .*: 302 Found"),
    ("http", [b"HTTP/1.1 407 No\r\n\r\n"], httpx.ProxyError, "refused .*: 407 No"),
    ("http", [b"HTTP/1.1 504 Gateway Timeout\r\n\r\n"], TunnelFailed, "could not connect to x.test:80: 504 Gate"),
    ("http", [b"HTTP/1.1 200 OK\r\n" + PAGE], InvalidResponse, EARLY),
    ("http", [OPEN + b"SSH-2.0-OpenSSH_9.2\r\n"], InvalidResponse, EARLY),
    ("http", [b"<html>sign in</html>\n"], InvalidResponse, "response of the proxy http://p.test:80 to CONNECT is not"),
    ("http", [b"HTTP/1.1 101 Switching\r\n\r\n"], InvalidResponse, "response of the proxy .* to CONNECT is not"),
    ("http", [b"\5\xff", END], InvalidResponse, "response of the proxy http://p.test:80 to CONNECT is not valid"),
    ("http", [END], httpx.ConnectError, CLOSED),
    ("http", [b"HTTP/1.1 200", END], httpx.ConnectError, CLOSED),
    ("http", [BROKEN], httpx.ConnectError, "could not open a tunnel to x.test:80 through the proxy http://p.test:80: "),
    ("socks5", [b"\5\xff"], httpx.ProxyError, "the proxy socks5://p.test:1080 refuses to authenticate"),
    ("socks5", [NO_AUTH, b"\5\5"], TunnelFailed, "could not connect to x.test:80: connection refused"),
    ("socks5", [NO_AUTH + GRANTED + b"220 smtp"], InvalidResponse, EARLY),
    ("socks5", [b"HTTP/1.1 400 Bad Request\r\n\r\n"], InvalidResponse, "does not speak SOCKS5"),
    ("socks5", [END], httpx.ConnectError, CLOSED),
    ("socks5", [NO_AUTH, END], httpx.ConnectError, CLOSED),
    ("socks5", [NO_AUTH, GRANTED[:5], END], httpx.ConnectError, CLOSED),
    ("socks5", [NO_AUTH, BROKEN], httpx.ConnectError, "could not open a tunnel to x.test:80 through the proxy socks5"),
]


@pytest.mark.anyio
async def test_failures() -> None:
    """Whatever a proxy does, the error says which of the two failed, and the connection is closed."""
    for scheme, replies, expected, message in FAILURES:
        stream = FakeStream(*replies)
        port = {"http": 80, "socks5": 1080}[scheme]
        with anyio.fail_after(5), pytest.raises(expected) as caught:
            await new_connector(stream, f"{scheme}://user:s3cret@p.test").connect(WS, 5, None)
        assert type(caught.value) is expected, (scheme, replies)
        assert re.search(message.format(scheme, port), str(caught.value)), (message, str(caught.value))
        assert "s3cret" not in str(caught.value)
        assert stream.closings == 1, (scheme, replies)


@pytest.mark.anyio
async def test_sending_fails() -> None:
    """A connection that breaks while the request for a tunnel is sent is a ConnectError."""
    for proxy in ("http://p.test", "socks5://p.test"):
        stream = FakeStream(failure=anyio.BrokenResourceError())
        with pytest.raises(httpx.ConnectError, match=r"could not open a tunnel to x\.test:80 through the proxy"):
            await new_connector(stream, proxy).connect(WS, 5, None)
        assert stream.closings == 1


@pytest.mark.anyio
async def test_headers_that_cannot_be_sent() -> None:
    """A header of a proxy that cannot be sent is a LocalProtocolError, and nothing is sent."""
    stream = FakeStream()
    connector = new_connector(stream, "http://p.test")
    connector.proxy = ProxyServer.of(httpx.Proxy("http://p.test", headers={"X-Own": "a\nb"}))
    with pytest.raises(httpx.LocalProtocolError):
        await connector.connect(WS, 5, None)
    assert (stream.sent, stream.closings) == ([], 1)


# --- Timeouts


@pytest.mark.trio
@pytest.mark.parametrize(
    ("proxy", "replies", "name", "message"),
    [
        (
            "http://p.test",
            [],
            "http11.receive_response_headers.failed",
            "could not open a tunnel to x.test:443 through",
        ),
        ("http://p.test", [OPEN], "proxy.start_tls.failed", "TLS handshake with x.test:443 through the proxy http://p"),
        ("https://p.test", [], "connection.start_tls.failed", "TLS handshake with the proxy https://p.test:443"),
        ("socks5://p.test", [], "socks.setup_socks5_connection.failed", "could not open a tunnel to x.test:443"),
        (
            "socks5://p.test",
            [NO_AUTH],
            "socks.setup_socks5_connection.failed",
            "through the proxy socks5://p.test:1080",
        ),
        (
            "socks5://p.test",
            [NO_AUTH, GRANTED],
            "socks.start_tls.failed",
            "handshake with x.test:443 through the proxy",
        ),
    ],
)
async def test_a_proxy_that_hangs(
    proxy: str, replies: list[bytes], name: str, message: str, autojump_clock: MockClock
) -> None:
    """Each step has the connect timeout, and the message says whose fault it is; all is retried if asked to."""
    events: list[Event] = []
    stream = FakeStream(*replies)
    with pytest.raises(httpx.ConnectTimeout, match=f"{message}.* within 5 s"):
        await new_connector(stream, proxy, delay=4).connect(HTTPS, 5, tracing(events))
    assert trio.current_time() == 9
    assert events[-1][:2] == (9, name)
    assert stream.closings == 1
    with pytest.raises(httpx.ConnectTimeout):
        await new_connector(FakeStream(), proxy, retries=2).connect(HTTPS, 2, None)
    assert trio.current_time() == 9 + 2 + 2 + 0.5 + 2


@pytest.mark.trio
async def test_a_proxy_that_trickles(autojump_clock: MockClock) -> None:
    """A proxy that sends a byte a second does not escape the timeout."""
    for proxy, reply in (
        ("http://p.test", b"HTTP/1.1 200 " + b"x" * 1000),
        ("socks5://p.test", NO_AUTH + b"\5\0\0\3\xff" + bytes(300)),
    ):
        stream, started = FakeStream(*[bytes([byte]) for byte in reply], delay=1), trio.current_time()
        with pytest.raises(httpx.ConnectTimeout):
            await new_connector(stream, proxy).connect(WS, 20, None)
        assert trio.current_time() - started <= 21
        assert stream.closings == 1


@pytest.mark.trio
async def test_no_limit(autojump_clock: MockClock) -> None:
    """With a timeout of None there is no limit."""
    for proxy, replies in (("http://p.test", [OPEN]), ("socks5://p.test", [NO_AUTH, GRANTED])):
        stream = FakeStream(*replies, delay=1e5)
        assert await new_connector(stream, proxy, delay=1e5).connect(WS, None, None) is stream


@pytest.mark.trio
async def test_cancellation(autojump_clock: MockClock) -> None:
    """A cancellation while a proxy hangs closes the connection at once, and is not retried."""
    for proxy in ("http://p.test", "https://p.test", "socks5://p.test"):
        stream, started = FakeStream(), trio.current_time()
        with trio.move_on_after(1) as scope:
            await new_connector(stream, proxy, retries=5).connect(HTTPS, math.inf, None)
        assert scope.cancelled_caught
        assert trio.current_time() - started == 1
        assert stream.closings == 1


# --- What is sent, and in which order


@pytest.mark.trio
async def test_nothing_is_sent_too_early(autojump_clock: MockClock) -> None:
    """Credentials are sent only when a SOCKS5 proxy asks for them, and nothing of the tunnel before it is open."""
    for proxy, replies, expected in (
        ("http://user:pw@p.test", [OPEN], [b"CONNECT x.test:80 HTTP/1.1\r\nHost: x.test:80\r\nAccept: */*\r\n"]),
        ("socks5://user:pw@p.test", [NO_AUTH, GRANTED], [b"\5\2\0\2", b"\5\1\0\3\6x.test\0\x50"]),
        (
            "socks5://user:pw@p.test",
            [b"\5\2", b"\1\0", GRANTED],
            [b"\5\2\0\2", b"\1\4user\2pw", b"\5\1\0\3\6x.test\0\x50"],
        ),
    ):
        stream = FakeStream(*replies, delay=1)
        await new_connector(stream, proxy).connect(WS, 50, None)
        if proxy.startswith("http:"):
            expected = [expected[0] + b"Proxy-Authorization: Basic dXNlcjpwdw==\r\n\r\n"]
        assert stream.sent == expected
        assert stream.closings == 0


@pytest.mark.trio
async def test_what_a_proxy_forwards_needs_no_tunnel(autojump_clock: MockClock) -> None:
    """A connection for requests that the proxy forwards is there once it leads to the proxy."""
    stream = FakeStream()
    connector = new_connector(stream, "http://p.test")
    assert connector.proxy is not None
    assert connector.proxy.forwards(HTTP)
    assert not any(map(connector.proxy.forwards, (HTTPS, WS)))
    assert await connector.connect(connector.proxy.origin, 5, None) is stream
    assert stream.sent == []
