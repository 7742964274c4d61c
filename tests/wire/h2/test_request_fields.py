"""The head of a request as HTTP/2 has it."""

from __future__ import annotations

from prefect_http._wire.h2.request_fields import request_fields


def fields(*headers: tuple[str, str], method: str = "GET", target: str = "/p?q") -> list[tuple[str, str]]:
    """Return the fields for a request with these headers."""
    raw = [(name.encode(), value.encode()) for name, value in headers]
    found = request_fields(method.encode(), b"https", target.encode(), raw)
    return [(name.decode(), value.decode()) for name, value in found]


START = [(":method", "GET"), (":scheme", "https"), (":authority", "a:1"), (":path", "/p?q")]


def test_fields() -> None:
    """8.2, 8.3: pseudo-header fields first, Host as :authority, lower case, nothing of an HTTP/1.1 connection."""
    cases: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]] = [
        ([], []),
        ([("X-A", "B"), ("x-a", "c")], [("x-a", "B"), ("x-a", "c")]),
        (
            [("Content-Length", "2"), ("Cookie", "A=b"), ("Authorization", "C")],
            [("content-length", "2"), ("cookie", "A=b"), ("authorization", "C")],
        ),
        ([("Connection", "keep-alive")], []),
        ([("Connection", "close, X-Hop"), ("X-Hop", "1"), ("X-End", "2")], [("x-end", "2")]),
        ([("X-Hop", "1"), ("Connection", "x-hop"), ("connection", "X-Other"), ("x-other", "3")], []),
        ([("Keep-Alive", "5"), ("Proxy-Connection", "x"), ("Transfer-Encoding", "chunked"), ("Upgrade", "h2c")], []),
        ([("HTTP2-Settings", "x")], []),
        ([("TE", "trailers")], [("te", "trailers")]),
        ([("TE", "Trailers")], [("te", "trailers")]),
        ([("TE", "trailers"), ("Connection", "te")], [("te", "trailers")]),
        ([("TE", "gzip"), ("TE", "trailers")], [("te", "trailers")]),
        ([("TE", "gzip")], []),
    ]
    for headers, expected in cases:
        assert fields(("Host", "a:1"), *headers) == START + expected, headers
        assert fields(*headers, ("host", "a:1")) == START + expected, headers


def test_empty_host() -> None:
    """8.3.1: there is no :authority if there is nothing to say."""
    assert fields(("Host", "")) == [(":method", "GET"), (":scheme", "https"), (":path", "/p?q")]


def test_connect() -> None:
    """8.5: CONNECT has neither :scheme nor :path, and its target is the authority."""
    assert fields(("Host", "x"), ("A", "b"), method="CONNECT", target="c:443") == [
        (":method", "CONNECT"),
        (":authority", "c:443"),
        ("a", "b"),
    ]
