"""The head of an HTTP/1.1 request: what is read from it, and what a client must not send."""

from __future__ import annotations

import pytest
from support.responses import bytewise

from prefect_http.testing._events import ProtocolError, RequestBegun
from prefect_http.testing._h1_server import H1Server

START = b"GET / HTTP/1.1\r\nHost: h\r\n"


def head(data: bytes) -> RequestBegun:
    """Return what a server reports for a head."""
    (event,) = H1Server().receive(data)
    assert isinstance(event, RequestBegun)
    return event


def test_request_lines() -> None:
    """RFC 9112 section 3: the method and the target are as they were sent."""
    for method, target in [(b"GET", b"/"), (b"x-1!", b"/a%20b?c=d&e"), (b"OPTIONS", b"*"), (b"GET", b"http://a/b")]:
        event = head(b"%b %b HTTP/1.1\r\nHost: h\r\n\r\n" % (method, target))
        assert (event.method, event.target, event.authority) == (method, target, b"h")


def test_headers() -> None:
    """RFC 9112 section 5: names and values are as they were sent, without the whitespace around values."""
    cases = {
        b"A: b\r\n": (b"A", b"b"),
        b"a:b\r\n": (b"a", b"b"),
        b"A:\t b c\td \r\n": (b"A", b"b c\td"),
        b"A:\r\n": (b"A", b""),
        b"A: \xff:\r\n": (b"A", b"\xff:"),
        b"A-1!: " + b"x" * 3000 + b"\r\n": (b"A-1!", b"x" * 3000),
    }
    for line, field in cases.items():
        assert head(START + line + b"\r\n").headers == ((b"Host", b"h"), field)


def test_headers_that_say_nothing_here() -> None:
    """Other values of headers that concern the body or the connection have no effect."""
    for line in (b"Expect: 100-continue", b"Expect: x", b"Upgrade: x", b"Connection: upgrade, x", b"Content-Length: 0"):
        data = START + line + b"\r\n\r\n"
        first, second = H1Server().receive(data * 2)
        assert isinstance(first, RequestBegun)
        assert first.is_last
        assert not first.expects_continue
        assert isinstance(second, RequestBegun)


LINE, HEADER = "invalid request line", "invalid line among the headers"
NOT_HTTP, BARE_LF = "not an HTTP/1.1 request", "does not end with CRLF"
FAULTS = {
    b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n": LINE,
    b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n": LINE,
    b"GET / HTTP/1.2\r\nHost: h\r\n\r\n": LINE,
    b"GET / http/1.1\r\nHost: h\r\n\r\n": LINE,
    b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n": LINE,
    b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n": LINE,
    b"GET\r\n\r\n": LINE,
    b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n": LINE,
    START + b"A : b\r\n\r\n": HEADER,
    START + b" A: b\r\n\r\n": HEADER,
    START + b"A: b\r\n c\r\n\r\n": HEADER,
    START + b"A\r\n\r\n": HEADER,
    START + b": b\r\n\r\n": HEADER,
    START + b"A: \0\r\n\r\n": HEADER,
    START + b"A: b\rc\r\n\r\n": HEADER,
    START + b"A: b\n\r\n\r\n": HEADER,
    START + b"Host: h\r\n\r\n": "more than one Host",
    START + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n": "not a single number",
    START + b"Content-Length: 1, 1\r\n\r\n": "not a single number",
    START + b"Content-Length: +1\r\n\r\n": "not a single number",
    START + b"Content-Length:\r\n\r\n": "not a single number",
    START + b"Transfer-Encoding: chunked, gzip\r\n\r\n": "does not end with chunked",
    START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n": "does not end with chunked",
    START + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": "both",
}
INCOMPLETE = {
    b"\x16\x03\x01": NOT_HTTP,
    b"\r\n": NOT_HTTP,
    b"GET\r\n": NOT_HTTP,
    b"GET  /": NOT_HTTP,
    b"GET / HTTP/1.1\n": BARE_LF,
    b"GET / HTTP/1.1\r\nHost: h\n\n": BARE_LF,
}


def test_faults() -> None:
    """RFC 9112 sections 2, 3, 5 and 6: a client must not send any of these."""
    for data, message in FAULTS.items():
        with pytest.raises(ProtocolError, match=message):
            H1Server().receive(data)
        server = H1Server()
        with pytest.raises(ProtocolError):
            for byte in bytewise(data):
                server.receive(byte)


def test_faults_in_incomplete_heads() -> None:
    """What cannot become a request is found before an empty line has arrived."""
    for data, message in INCOMPLETE.items():
        with pytest.raises(ProtocolError, match=message):
            H1Server().receive(data)
    for size in range(len(START)):
        assert H1Server().receive(START[:size]) == []
