"""The head of an HTTP/2 request: what is read from it, and what a client must not send. Sections are of RFC 9113."""

from __future__ import annotations

import pytest

from prefect_http._wire.h2.errors import ConnectionFault
from prefect_http.testing._h2_request_head import RequestHead, check_trailers, read_head

Fields = list[tuple[bytes, bytes]]

PSEUDO = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/b?c")]
CONNECT = [(b":method", b"CONNECT"), (b":authority", b"a:1")]


def test_heads() -> None:
    """8.3.1, 8.5: what a head says is in its pseudo-header fields, and in some of the others."""
    plain = RequestHead(b"GET", b"/b?c", b"a", (), None, expects_continue=False)
    cases: list[tuple[Fields, RequestHead]] = [
        (PSEUDO, plain),
        (PSEUDO[::-1], plain),
        ([*PSEUDO, (b"a", b"b c")], plain._replace(headers=((b"a", b"b c"),))),
        ([*PSEUDO, (b"te", b"trailers")], plain._replace(headers=((b"te", b"trailers"),))),
        ([*PSEUDO, (b"host", b"a")], plain._replace(headers=((b"host", b"a"),))),
        (PSEUDO[:2] + PSEUDO[3:], plain._replace(authority=b"")),
        ([*PSEUDO[:2], PSEUDO[3], (b"host", b"h")], plain._replace(authority=b"h", headers=((b"host", b"h"),))),
        (
            [*PSEUDO, (b"content-length", b"12")],
            plain._replace(headers=((b"content-length", b"12"),), content_length=12),
        ),
        (
            [*PSEUDO, (b"expect", b"100-Continue")],
            plain._replace(headers=((b"expect", b"100-Continue"),), expects_continue=True),
        ),
        ([*PSEUDO, (b"expect", b"x")], plain._replace(headers=((b"expect", b"x"),))),
        (
            [*PSEUDO, (b"cookie", b"a=b"), (b"x", b""), (b"cookie", b"c=d")],
            plain._replace(headers=((b"x", b""), (b"cookie", b"a=b; c=d"))),
        ),
        (CONNECT, RequestHead(b"CONNECT", b"a:1", b"a:1", (), None, expects_continue=False)),
    ]
    for fields, expected in cases:
        assert read_head(fields) == expected


PSEUDO_FAULT, PATH = "unknown or repeated", "an invalid :path"
HEADER, HTTP1 = "an invalid header, or one in upper case", "HTTP/2 does not have"
FAULTS: list[tuple[Fields, str]] = [
    ([], "no :method"),
    (PSEUDO[1:], "no :method"),
    ([(b":method", b"G T"), *PSEUDO[1:]], "no :method, or an invalid one"),
    ([PSEUDO[0], *PSEUDO[2:]], "without a :scheme"),
    (PSEUDO[:3], "without a :path"),
    ([*CONNECT, PSEUDO[1]], "CONNECT without an :authority, or with a :scheme"),
    (CONNECT[:1], "CONNECT without an :authority"),
    ([*CONNECT, PSEUDO[3]], "CONNECT with a :path"),
    ([*PSEUDO, PSEUDO[0]], PSEUDO_FAULT),
    ([*PSEUDO, PSEUDO[3]], PSEUDO_FAULT),
    ([*PSEUDO, (b":status", b"200")], PSEUDO_FAULT),
    ([*PSEUDO, (b":Path", b"/")], PSEUDO_FAULT),
    ([*PSEUDO[:3], (b"a", b"b"), PSEUDO[3]], "after the headers"),
    ([*PSEUDO[:3], (b":path", b"")], PATH),
    ([*PSEUDO[:3], (b":path", b"/ ")], PATH),
    ([PSEUDO[0], (b"a", b"b"), *PSEUDO[1:]], "without a :scheme"),
    ([*PSEUDO[:2], (b"a", b"b"), *PSEUDO[2:]], HEADER),
    ([*PSEUDO, (b"A", b"b")], HEADER),
    ([*PSEUDO, (b"", b"b")], HEADER),
    ([*PSEUDO, (b"a", b" b")], HEADER),
    ([*PSEUDO, (b"a", b"b\t")], HEADER),
    ([*PSEUDO, (b"a", b"b\r\nc")], HEADER),
    ([*PSEUDO, (b"a", b"\0")], HEADER),
    ([*PSEUDO, (b"connection", b"close")], HTTP1),
    ([*PSEUDO, (b"transfer-encoding", b"chunked")], HTTP1),
    ([*PSEUDO, (b"te", b"gzip")], HTTP1),
    ([*PSEUDO, (b"host", b"b")], "differs from :authority"),
    ([*PSEUDO, (b"host", b"a"), (b"host", b"a")], "more than one Host"),
    ([*PSEUDO, (b"content-length", b"1"), (b"content-length", b"1")], "not a single number"),
    ([*PSEUDO, (b"content-length", b"-1")], "not a single number"),
]


def test_faults() -> None:
    """8.1.1: a malformed head is an error that says what is wrong."""
    for fields, message in FAULTS:
        with pytest.raises(ConnectionFault, match=message):
            read_head(fields)


def test_trailers() -> None:
    """8.1: trailers are like headers, and have no pseudo-header fields."""
    check_trailers([(b"a", b"b")])
    for fields in ([(b":path", b"/")], [(b"A", b"b")]):
        with pytest.raises(ConnectionFault, match=HEADER):
            check_trailers(fields)
