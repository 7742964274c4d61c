"""What can be sent, and what the headers say about it; tests/wire/h1/test_request_head.py has the characters."""

from __future__ import annotations

import httpx
import pytest
from support.rows import each_row

from prefect_http._fields.request_rules import (
    BodyLength,
    CheckedHeaders,
    check_headers,
    check_host,
    check_method,
    check_target,
)

HOST = (b"Host", b"a")
LENGTH = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")
CLOSE = (b"Connection", b"a, close")
UPGRADE = (b"Upgrade", b"x")


def test_method_and_target() -> None:
    """Both are returned in bytes, or refused."""
    assert (check_method("GET"), check_target("/a?b"), check_target(b"*")) == (b"GET", b"/a?b", b"*")
    with pytest.raises(httpx.LocalProtocolError, match="invalid method"):
        check_method("GET /")
    with pytest.raises(httpx.LocalProtocolError, match="invalid character in the target"):
        check_target("/ü")


@each_row(
    ("headers", "expected"),
    [
        ([], CheckedHeaders([], None, False, False, False, False)),
        ([HOST], CheckedHeaders([HOST], None, False, True, False, False)),
        ([HOST, LENGTH], CheckedHeaders([HOST, LENGTH], 5, False, True, False, False)),
        ([HOST, CHUNKED], CheckedHeaders([HOST, CHUNKED], None, True, True, False, False)),
        ([LENGTH, HOST, CHUNKED], CheckedHeaders([HOST, CHUNKED], None, True, True, False, False)),
        ([CLOSE], CheckedHeaders([CLOSE], None, False, False, True, False)),
        ([UPGRADE], CheckedHeaders([UPGRADE], None, False, False, False, True)),
    ],
)
def test_headers(headers: list[tuple[bytes, bytes]], expected: CheckedHeaders) -> None:
    """The headers say how long the body is, and what becomes of the connection."""
    assert check_headers(headers) == expected


def test_host() -> None:
    """More than one Host is refused anywhere, and none only where one is needed."""
    with pytest.raises(httpx.LocalProtocolError, match="it must have one Host header, and has 2"):
        check_headers([HOST, HOST])
    check_host(check_headers([HOST]))
    with pytest.raises(httpx.LocalProtocolError, match="it must have one Host header, and has none"):
        check_host(check_headers([]))


@each_row(
    ("length", "chunks", "error"),
    [
        (None, [], ""),
        (None, [b"ab", b"c"], ""),
        (0, [], ""),
        (3, [b"ab", b"", b"c"], ""),
        (3, [b"ab"], "shorter than its Content-Length of 3 bytes: 1 is missing"),
        (3, [b"ab", b"cd"], "longer than its Content-Length of 3 bytes"),
        (0, [b"a"], "longer than its Content-Length of 0 bytes"),
    ],
)
def test_body_length(length: int | None, chunks: list[bytes], error: str) -> None:
    """A body is as long as it should be, or refused as soon as it is not."""

    def count() -> None:
        body = BodyLength(length)
        for chunk in chunks:
            body.count(chunk)
        body.check_end()

    if not error:
        count()
        return
    with pytest.raises(httpx.LocalProtocolError, match=error):
        count()
