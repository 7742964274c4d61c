"""ResponseParser: heads, bodies, where they end, limits, and trailing data."""

from __future__ import annotations

import gc
import itertools
import re
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest
from support.responses import Outcome, bytewise, cut_at, outcome
from support.rows import each_row

from prefect_http import InvalidResponse
from prefect_http._wire.h1.response_head import MAX_FIELDS, MAX_HEAD_BYTES, Framing
from prefect_http._wire.h1.response_parser import MAX_INFORMATIONAL, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FEED = 256 * 1024  # the wire receives no more than that at once


class Row(NamedTuple):
    """A response, and how it is to be read.

    Attributes:
        data: its bytes.
        body: its body.
        framing: where the body ends.
        keep_alive: whether the connection is kept.
        method: the request's method.
    """

    data: bytes
    body: bytes
    framing: Framing
    keep_alive: bool = True
    method: str = "GET"


ROWS = {
    "length": Row(LENGTH + b"hello", b"hello", Framing.CONTENT_LENGTH),
    "length-zero": Row(OK + b"content-length:0\r\n\r\n", b"", Framing.NO_BODY),
    "length-of-line-breaks": Row(OK + b"Content-Length: 6\r\n\r\n\r\n\r\n\r\n", b"\r\n" * 3, Framing.CONTENT_LENGTH),
    "length-and-close": Row(
        OK + b"Content-Length: 1\r\nConnection: close\r\n\r\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False
    ),
    "length-in-1.0": Row(
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False
    ),
    "length-kept-in-1.0": Row(
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH
    ),
    "chunked": Row(CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", Framing.CHUNKED),
    "chunked-empty": Row(CHUNKED + b"0\r\n\r\n", b"", Framing.CHUNKED),
    "chunked-extensions": Row(
        CHUNKED + b'2;a\r\nhi\r\n1;a=b;c="d\\"; \t"\r\n!\r\n0;end\r\n\r\n', b"hi!", Framing.CHUNKED
    ),
    "chunked-sizes": Row(
        CHUNKED + b"00A\r\n0123456789\r\n0a\r\n0123456789\r\n000\r\n\r\n", b"0123456789" * 2, Framing.CHUNKED
    ),
    "chunked-trailers": Row(CHUNKED + b"1\r\na\r\n0\r\nX: y\r\nExpires:\r\n\r\n", b"a", Framing.CHUNKED),
    "chunks-like-ends": Row(
        CHUNKED + b"5\r\n0\r\n\r\n\r\n4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
        b"0\r\n\r\n" + b"\r\n" * 3,
        Framing.CHUNKED,
    ),
    "chunked-response-in-a-chunk": Row(CHUNKED + b"11\r\n" + OK + b"\r\n0\r\n\r\n", OK, Framing.CHUNKED),
    "chunked-and-tab": Row(OK + b"Transfer-Encoding: chunked\t\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Framing.CHUNKED),
    "chunked-in-whitespace": Row(
        OK + b"Transfer-Encoding: \tCHUNKED \t \r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Framing.CHUNKED
    ),
    "length-in-whitespace": Row(OK + b"Content-Length:\t 1\t \r\n\r\na", b"a", Framing.CONTENT_LENGTH),
    "close-in-whitespace": Row(
        OK + b"Connection:close\t\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False
    ),
    "chunked-and-close": Row(
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Framing.CHUNKED,
        keep_alive=False,
    ),
    "chunked-in-1.0": Row(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Framing.CHUNKED,
        keep_alive=False,
    ),
    "chunked-proxy-connection": Row(
        OK + b"Proxy-Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Framing.CHUNKED
    ),
    "chunked-trailer-connection": Row(CHUNKED + b"0\r\nConnection: close\r\n\r\n", b"", Framing.CHUNKED),
    "chunked-upgrade-offered": Row(
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Framing.CHUNKED,
    ),
    "head": Row(OK + b"Content-Length: 5\r\n\r\n", b"", Framing.NO_BODY, method="HEAD"),
    "head-chunked": Row(CHUNKED, b"", Framing.NO_BODY, method="HEAD"),
    "head-gzip": Row(OK + b"Transfer-Encoding: gzip\r\n\r\n", b"", Framing.NO_BODY, method="HEAD"),
    "head-without-length": Row(OK + b"\r\n", b"", Framing.NO_BODY, method="HEAD"),
    "204": Row(b"HTTP/1.1 204 No Content\r\n\r\n", b"", Framing.NO_BODY),
    "204-length": Row(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", Framing.NO_BODY),
    "304": Row(b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 5\r\n\r\n", b"", Framing.NO_BODY),
    "304-chunked": Row(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", Framing.NO_BODY),
    "informational": Row(
        CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH + b"hello",
        b"hello",
        Framing.CONTENT_LENGTH,
    ),
    "informational-with-a-length": Row(
        b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\nConnection: close\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        b"",
        Framing.CHUNKED,
    ),
    "informational-chunked": Row(
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + LENGTH + b"hello",
        b"hello",
        Framing.CONTENT_LENGTH,
    ),
    "informational-before-204": Row(CONTINUE + b"HTTP/1.1 204 No Content\r\n\r\n", b"", Framing.NO_BODY),
    "refused-connect": Row(
        b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno", b"no", Framing.CONTENT_LENGTH, method="CONNECT"
    ),
    "no-reason": Row(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b"", Framing.NO_BODY),
    "neither-reason-nor-space": Row(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", Framing.NO_BODY),
    "status-999": Row(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", b"", Framing.NO_BODY),
}
# What only lenient readers accept, as httpx does.
LENIENT = {
    "length-twice": Row(OK + b"Content-Length: 5\r\ncontent-length: 05\r\n\r\nhello", b"hello", Framing.CONTENT_LENGTH),
    "list-of-lengths": Row(OK + b"Content-Length: 5 ,5\r\n\r\nhello", b"hello", Framing.CONTENT_LENGTH),
    "length-beside-chunks": Row(
        OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Framing.CHUNKED,
        keep_alive=False,
    ),
    "chunks-beside-a-length": Row(
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Framing.CHUNKED,
        keep_alive=False,
    ),
    "304-length-beside-chunks": Row(
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        b"",
        Framing.NO_BODY,
        keep_alive=False,
    ),
    "folded": Row(OK + b"X: a\r\n b\r\n\tc\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH),
    "folded-last": Row(OK + b"Content-Length: 1\r\nX:\r\n  b\r\n\r\na", b"a", Framing.CONTENT_LENGTH),
    "folded-length": Row(OK + b"Content-Length:\r\n 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False),
    "folded-coding": Row(
        OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", b"", Framing.CHUNKED, keep_alive=False
    ),
    "bare-line-feeds": Row(b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False),
    "one-bare-line-feed": Row(OK + b"X: y\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH, keep_alive=False),
    "bare-line-feed-at-the-end": Row(
        OK + b"Content-Length: 4\r\n\na\r\n\r", b"a\r\n\r", Framing.CONTENT_LENGTH, keep_alive=False
    ),
    "bare-line-feeds-in-informational": Row(
        b"HTTP/1.1 100 Continue\n\n" + LENGTH + b"hello", b"hello", Framing.CONTENT_LENGTH
    ),
    "control-characters": Row(
        OK + b"X: \x01a\x0b\x1f\x7fb\x0c\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH
    ),
    "1.2": Row(b"HTTP/1.2 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH),
    "1.2-without-reason": Row(b"HTTP/1.2 200\r\nContent-Length: 1\r\n\r\na", b"a", Framing.CONTENT_LENGTH),
    "chunk-size-and-blank": Row(CHUNKED + b"1 \r\na\r\n0\t \r\n\r\n", b"a", Framing.CHUNKED),
    "chunk-extensions-and-blanks": Row(
        CHUNKED + b'2; a=b\r\nhi\r\n1 ;a\r\n!\r\n2;\r\nhi\r\n1 ; a = "b ;\r\n!\r\n0; sig=x\r\n\r\n',
        b"hi!hi!",
        Framing.CHUNKED,
    ),
    "chunked-trailers-of-framing": Row(
        CHUNKED + b"0\r\nContent-Length: 5\r\nX: y\r\n z\r\nTransfer-Encoding: x\r\n\r\n", b"", Framing.CHUNKED
    ),
}
rows = each_row("row", [pytest.param(row, id=name) for name, row in (ROWS | LENIENT).items()])


@rows
def test_response_is_read(row: Row) -> None:
    """The response is complete, with its body, and the connection is kept or not."""
    read = outcome(row.method, [row.data])
    assert read.head is not None
    assert (read.body, read.head.framing, read.is_complete) == (row.body, row.framing, True)
    assert (read.has_failed, read.can_reuse_connection) == (False, row.keep_alive)


@rows
def test_response_that_is_cut(row: Row) -> None:
    """Cut in two at any byte, cut at two nearby bytes, or byte by byte, it is the same response."""
    whole = outcome(row.method, [row.data])
    for at in range(1, len(row.data)):
        assert outcome(row.method, cut_at(row.data, [at])) == whole
        assert outcome(row.method, cut_at(row.data, [at, at + 2])) == whole
    assert outcome(row.method, bytewise(row.data)) == whole


@rows
def test_early_end_of_the_stream(row: Row) -> None:
    """If the stream ends before the response does, that is an error; the part of the body that arrived is returned."""
    for end in range(len(row.data)):
        read = outcome(row.method, [row.data[:end]], eof=True)
        assert (read.is_complete, read.has_failed, read.can_reuse_connection) == (False, True, False)
        assert row.body.startswith(read.body)


TRAILING = [
    *(bytes([code]) for code in b"\0\t\n\r 0AHX;\x7f\xff"),
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"\r\n\r\n",
    b"\r\nX",
    b"0\r\n\r\n",
    LENGTH + b"hello",
    CHUNKED + b"0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    CONTINUE,
    b"HTTP/1.1 101 Bare\r\n\r\n",
    b"HTTP/1.1 101 Full\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"X" * 70000,
    b"\r\n" * 35000,
    OK + b"X: y\r\n" * 300,
]


def check_trailing_data(row: Row, trailing: bytes) -> None:
    """Check that trailing data in the same piece is not part of the response, and that the connection is not reused."""
    for cut in 0, -1, -3:
        head = row.data[:cut]
        read = outcome(row.method, [piece for piece in (head, row.data[len(head) :] + trailing) if piece])
        expected = (row.body, True, False, False)
        seen = (read.body, read.is_complete, read.has_failed, read.can_reuse_connection)
        assert seen == expected, (cut, trailing[:20])
    parser = ResponseParser(row.method)
    parser.feed(row.data)
    assert not parser.has_trailing_data
    parser = ResponseParser(row.method)
    parser.feed(row.data + trailing)
    assert parser.has_trailing_data, trailing[:20]


@rows
def test_trailing_data(row: Row) -> None:
    """Data after a response is not part of it, and the connection is not reused, even if it would have been kept."""
    for trailing in TRAILING:
        check_trailing_data(row, trailing)


@each_row("name", ["length", "length-zero", "chunked", "chunked-trailers", "head", "204"])
def test_each_byte_of_trailing_data(name: str) -> None:
    """Any byte after a response is trailing data."""
    for code in range(256):
        check_trailing_data(ROWS[name], bytes([code]))


@each_row("version", [b"1.0", b"1.1"])
@each_row("headers", [b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"])
def test_body_until_close(version: bytes, headers: bytes) -> None:
    """Without a length, the body is all that arrives until the stream ends."""
    data = b"HTTP/" + version + b" 200 OK\r\n" + headers + b"\r\n" + b"hello\r\n\r\n" + LENGTH
    whole = outcome("GET", [data], eof=True)
    assert whole.body == b"hello\r\n\r\n" + LENGTH
    assert (whole.is_complete, whole.has_failed, whole.can_reuse_connection) == (True, False, False)
    for at in range(1, len(data)):
        assert outcome("GET", cut_at(data, [at]), eof=True) == whole
    assert not outcome("GET", [data]).is_complete


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"


@each_row(
    ("method", "head"),
    [
        ("GET", SWITCH),
        ("GET", CONTINUE + SWITCH),
        ("GET", b"HTTP/1.0 101 Old\r\nupgrade: x/1\r\nconnection: y, UPGRADE\r\n\r\n"),
        ("POST", b"HTTP/1.1 101 Odd\r\nUpgrade: x\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\n"),
        ("CONNECT", OK + b"\r\n"),
        ("CONNECT", LENGTH),
        ("CONNECT", CHUNKED),
        ("CONNECT", b"HTTP/1.0 299 Yes\r\n\r\n"),
    ],
)
def test_tunnel(method: str, head: bytes) -> None:
    """After a 101, or a 2xx to CONNECT, another protocol begins, and its first bytes are kept unchanged."""
    for trailing in b"", b"\r\n", b"\x00", LENGTH, b"\r\n\r\nx", b"x" * 70000:
        whole = outcome(method, [head + trailing])
        assert whole.head is not None
        assert whole.head.framing is Framing.TUNNEL
        assert whole[1:] == (b"", trailing, True, False, False)
        for at in (*range(1, len(head)), *range(len(head), len(head + trailing))[:4]):
            assert outcome(method, cut_at(head + trailing, [at])) == whole, (trailing[:20], at)


@pytest.mark.parametrize("lines", [b"", b"Upgrade: x\r\n", b"Connection: upgrade\r\n"])
def test_101_without_upgrade(lines: bytes) -> None:
    """A 101 must have Upgrade, and Connection: upgrade (RFC 9110 section 7.8)."""
    data = b"HTTP/1.1 101 Bare\r\n" + lines + b"\r\nx"
    for pieces in ([data], bytewise(data)):
        assert outcome("GET", pieces) == Outcome(None, b"", b"", False, True, False)


@pytest.mark.parametrize("before", [b"", CONTINUE])
def test_101_to_a_request_without_upgrade(before: bytes) -> None:
    """A 101 to a request without Upgrade is refused (RFC 9110 section 7.8); other responses are not."""
    parser = ResponseParser("GET", allow_upgrade=False)
    with pytest.raises(httpx.RemoteProtocolError, match="did not ask for an upgrade"):
        parser.feed(before + SWITCH + b"x")
    assert parser.head is None
    assert not parser.can_reuse_connection
    parser = ResponseParser("CONNECT", allow_upgrade=False)
    parser.feed(before + OK + b"\r\nx")
    assert parser.trailing_data == b"x"


def test_informational_responses_are_skipped() -> None:
    """The head is that of the final response, and there is none before that; but the response has started."""
    parser = ResponseParser("GET")
    assert not parser.has_started
    assert parser.feed(CONTINUE) == b""
    assert parser.head is None
    assert parser.has_started
    assert parser.feed(LENGTH + b"he") == b"he"
    assert parser.head_for_trace() == (b"HTTP/1.1", 200, b"OK", [(b"Content-Length", b"5")])
    assert parser.feed(b"llo") == b"llo"
    assert parser.is_complete


def test_has_started() -> None:
    """After a single byte the response has started, and the end of the stream is in its middle."""
    parser = ResponseParser("GET")
    with pytest.raises(httpx.RemoteProtocolError, match=r"^Server disconnected without sending a response\.$"):
        parser.feed_eof()
    parser.feed(b"H")
    assert parser.has_started
    with pytest.raises(httpx.RemoteProtocolError, match="in the middle of the response's head"):
        parser.feed_eof()


@each_row(
    ("data", "message"),
    [
        (CONTINUE, "in the middle of the response's head"),
        (LENGTH + b"he", "in the middle of the response body: 3 of 5 bytes are missing"),
        (LENGTH, "in the middle of the response body: 5 of 5 bytes are missing"),
        (LENGTH + b"hell", "in the middle of the response body: 1 of 5 bytes is missing"),
        (CHUNKED, "before the last chunk"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "before the last chunk"),
    ],
)
def test_messages_of_an_early_end(data: bytes, message: str) -> None:
    """The error says where the stream ended."""
    parser = ResponseParser("GET")
    parser.feed(data)
    with pytest.raises(httpx.RemoteProtocolError, match=message):
        parser.feed_eof()


def fields_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Parse a whole head, and return its headers."""
    read = outcome("GET", [data])
    assert read.head is not None
    return list(read.head.headers)


@each_row(
    ("line", "field"),
    [
        (b"X: y", (b"X", b"y")),
        (b"x-Y:z", (b"x-Y", b"z")),
        (b"X:", (b"X", b"")),
        (b"X: \t", (b"X", b"")),
        (b"X: \t y\tz", (b"X", b"y\tz")),
        (b"X: \x80\xff", (b"X", b"\x80\xff")),
        (b"!#$%&'*+-.^_`|~09: :", (b"!#$%&'*+-.^_`|~09", b":")),
        (b"X: y ", (b"X", b"y")),
        (b"X: y\t \t", (b"X", b"y")),
        (b"X: y\r\n z", (b"X", b"y z")),
        (b"X: y \t\r\n\t z \r\n  \r\n a", (b"X", b"y z a")),
        (b"X:\r\n y", (b"X", b"y")),
        (b"X:\r\n ", (b"X", b"")),
        (b"X: y\n", (b"X", b"y")),
        (b"X: \x0by\x01\x7f", (b"X", b"\x0by\x01\x7f")),
    ],
)
def test_headers(line: bytes, field: tuple[bytes, bytes]) -> None:
    """A header has its name unchanged, and its value unfolded and without whitespace around it (RFC 9112 section 5)."""
    assert fields_of(OK + line + b"\r\nContent-Length: 0\r\n\r\n")[0] == field


def test_headers_of_the_same_name() -> None:
    """Headers of the same name are not joined, and keep their order."""
    data = OK + b"Set-Cookie: a\r\nX: y\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    assert fields_of(data)[:3] == [(b"Set-Cookie", b"a"), (b"X", b"y"), (b"set-cookie", b"b")]


def test_trailers_are_not_headers() -> None:
    """Trailers are not among the headers."""
    assert fields_of(CHUNKED + b"0\r\nX: y\r\n\r\n") == [(b"Transfer-Encoding", b"chunked")]


BAD_STARTS = [
    b"\r\n",
    b"\n",
    b" ",
    b"\r\nHTTP/1.1 200 OK\r\n",
    b"http/1.1 200 OK\r\n",
    b"HTTX/1.1 200 OK\r\n",
    b"HTTP/2 200\r\n",
    b"HTTP/2.0 200 OK\r\n",
    b"HTTP/0.9 200 OK\r\n",
    b"HTTP/1.11 200 OK\r\n",
    b"HTTP/11 200 OK\r\n",
    b"HTTP/1.1  200 OK\r\n",
    b"HTTP/1.1\t200 OK\r\n",
    b"HTTP/1.1 20 OK\r\n",
    b"HTTP/1.1 2000 OK\r\n",
    b"HTTP/1.1 2x0 OK\r\n",
    b"HTTP/1.1 -20 OK\r\n",
    b"HTTP/1.1 099 OK\r\n",
    b"HTTP/1.1 000 OK\r\n",
    b"HTTP/1.1 200OK\r\n",
    b"HTTP/1.1 200\tOK\r\n",
    b"HTTP/1.1 200 OK\rX: y\r\n",
    b"HTTP/1.1 200 OK\r\r\n",
    b"HTTP/1.1\r\n",
    b"ICY 200 OK\r\n",
    b"RTSP/1.0 200 OK\r\n",
    b"SSH-2.0-x\r\n",
    b"\x16\x03\x01",
    b"<html>",
    b"\x00\x00\x00\x04",
]


REFUSED = Outcome(None, b"", b"", False, True, False)


def test_bad_status_line() -> None:
    """A response must start with a status line of HTTP/1.1, and so must one that follows a 1xx."""
    for before, start in itertools.product((b"", CONTINUE), BAD_STARTS):
        data = before + start + b"Content-Length: 0\r\n\r\n"
        for pieces in ([data], bytewise(data)):
            assert outcome("GET", pieces) == REFUSED, data


@pytest.mark.parametrize("status", [b"000", b"007", b"099"])
def test_status_below_100(status: bytes) -> None:
    """A status code below 100 is refused."""
    with pytest.raises(InvalidResponse, match=f"invalid status code {status.decode()} in the response"):
        ResponseParser("GET").feed(b"HTTP/1.1 " + status + b" OK\r\nContent-Length: 0\r\n\r\n")


def test_control_characters_in_a_reason() -> None:
    """A reason phrase consists of visible characters, spaces, tabs and bytes beyond ASCII (RFC 9112 section 4)."""
    taken = {
        code
        for code in range(256)
        if outcome("GET", [b"HTTP/1.1 200 O" + bytes([code]) + b"K\r\nContent-Length: 0\r\n\r\n"]).is_complete
    }
    assert taken == {9, *range(32, 127), *range(128, 256)}


BAD_FIELDS = [
    b"X : y\r\n",
    b"X\t: y\r\n",
    b" X: y\r\n",
    b"X: y\r\n\x0bz\r\n",
    b"X: y\r\n z\x00\r\n",
    b"X: y\r\n z\rZ: a\r\n",
    b"X\r\n",
    b": y\r\n",
    b"X y: z\r\n",
    b"X\x00: y\r\n",
    b"X\xe4: y\r\n",
    b"X(: y\r\n",
    b"X: y\r",
    b"X: y\r\r\n",
    b"X: y\rZ: a\r\n",
    b"X: y\rZ: a\nX: y\r\n",
    b"X: y\rContent-Length: 5\nContent-Length: 0\r\n",
    b"X: y\x00\r\n",
    b"X: \x00\r\n",
    b"\r",
]
BAD_FRAMINGS = [
    b"Content-Length: 6\r\n",
    b"Content-Length: 5, 6\r\n",
    b"Content-Length: 5,\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n",
]
BAD_LENGTHS = [
    b"",
    b" ",
    b"+5",
    b"-5",
    b"5.",
    b"5 5",
    b"5,",
    b",5",
    b"5,6",
    b"5\x0b",
    b"5\r\n 0",
    b"0" * 19,
    b"0x5",
    b"5_0",
    b"five",
    b"5;",
    b"9" * 21,
    b"\xb2",
]


BAD_CODINGS = [
    b"chunked\x0b",
    b"\x0cchunked",
    b"gzip",
    b"identity",
    b"gzip, chunked",
    b"chunked, chunked",
    b"chunked, gzip",
    b"chunked;a",
    b"x",
]
BAD_HEADS = {
    "header": BAD_FIELDS,
    "framing-after-a-length": [b"Content-Length: 5\r\n" + line for line in BAD_FRAMINGS],
    "framing-before-a-length": [line + b"Content-Length: 5\r\n" for line in BAD_FRAMINGS],
    "length": [b"Content-Length:" + space + length + b"\r\n" for space in (b" ", b"") for length in BAD_LENGTHS],
    "coding": [
        *(b"Transfer-Encoding: " + coding + b"\r\n" for coding in BAD_CODINGS),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\n , gzip\r\n",
    ],
}


@each_row("name", BAD_HEADS)
def test_bad_head(name: str) -> None:
    """A head that is invalid, or ambiguous about the body, is refused as a whole, however it is cut."""
    rests = b"X: y\r\n\r\n", b"\r\n", b"\r\nhello", b"\r\n0\r\n\r\n"
    for lines, rest in itertools.product(BAD_HEADS[name], rests):
        data = OK + lines + rest
        for pieces in ([data], bytewise(data)):
            assert outcome("GET", pieces) == REFUSED, data


BAD_CHUNKS = [
    b"\r\n",
    b"\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\na\r\n",
    b"0x1\r\na\r\n",
    b" 1\r\na\r\n",
    b"1\na\r\n",
    b"1\r\r\na\r\n",
    b"1\ra\r\n",
    b"1_0\r\n",
    b"1.0\r\n",
    b"\xb2\r\n",
    b"fffffffffffffffff\r\n",
    b"10000000000000000\r\n",
    b";a\r\n",
    b"1;\x00\r\na\r\n",
    b"1;a\nb\r\n",
    b"1 a\r\na\r\n",
    b"1 \n",
    b"1;\x1f\r\n",
    b"1;a\rb\r\n",
    b"0\n\n",
    b"0\r\n\n",
    b"0\n\r\n",
    b"0\r\rX",
    b"0\r\nX\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX: y\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
]


def test_bad_chunk() -> None:
    """An error in a chunked body hides neither the head nor the data before it, however it is cut."""
    for bad in BAD_CHUNKS:
        data = CHUNKED + b"5\r\nhello\r\n" + bad
        cuts = (cut_at(data, [at]) for at in range(1, len(data)))
        for pieces in ([data], [CHUNKED, data[len(CHUNKED) :]], *cuts, bytewise(data)):
            read = outcome("GET", pieces)
            assert read.head is not None
            assert (read.is_complete, read.has_failed, read.can_reuse_connection) == (False, True, False), pieces
            assert read.body.removeprefix(b"hello") in (b"", b"a"), "no more than the bad chunk's own data"


@each_row("bad", [b"2\r\nabX", b"2\r\nab\n", b"2\r\nab\rX", b"2\r\nabc\r\n", b"2\r\nab0\r\n\r\n"])
def test_chunk_that_is_longer_than_it_says(bad: bytes) -> None:
    """A chunk that is longer than its size is an error, after as much data as the size says."""
    for pieces in ([CHUNKED + bad], bytewise(CHUNKED + bad)):
        read = outcome("GET", pieces)
        assert (read.body, read.is_complete, read.has_failed) == (b"ab", False, True)


def test_body_error() -> None:
    """An error in the body is not raised, which would hide the data before it, but kept."""
    parser = ResponseParser("GET")
    assert parser.feed(CHUNKED + b"5\r\nhello\r\nnonsense") == b"hello"
    assert not parser.is_complete
    assert parser.body_error is not None
    assert parser.body_error == "the response has an invalid chunk size"


def short_texts(alphabet: bytes) -> Iterator[bytes]:
    """Generate all texts of up to five of these bytes."""
    for length in range(6):
        yield from map(bytes, itertools.product(alphabet, repeat=length))


def test_all_short_heads() -> None:
    """Of the combinations of line breaks, colons, spaces and a letter, those are accepted that are documented."""
    grammar = re.compile(rb"(?: [^\r\n]*)?\r?\n(?:X+:[ X:]*\r?\n(?: [ X:]*\r?\n)*)*\r?\n")
    for text in short_texts(b"\r\nX: "):
        for data in (text + b"\r\n\r\n", b"\r\n" + text + b"\r\n\r\n"):
            head = grammar.match(data)
            read = outcome("GET", [b"HTTP/1.1 204" + data])
            assert read.is_complete is (head is not None), data
            is_clear = head is not None and head.end() == len(data) and not re.search(rb"(?<!\r)\n", data)
            assert read.can_reuse_connection is is_clear, data


def test_all_short_ends() -> None:
    """The same for what follows the last chunk: trailers, and trailing data."""
    grammar = re.compile(rb"0+\r\n(?:[X0]+:[X0:]*\r\n)*\r\n")
    for text in short_texts(b"\r\nX:0"):
        data = b"0" + text + b"\r\n\r\n"
        end = grammar.match(data)
        read = outcome("GET", [CHUNKED + data])
        assert read.is_complete is (end is not None), data
        assert read.can_reuse_connection is (end is not None and end.end() == len(data)), data


def head_of(size: int, framing: bytes = b"Content-Length: 5\r\n") -> bytes:
    """Make a head of so many bytes."""
    start = OK + framing + b"X: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def cuts_of(data: bytes) -> list[list[bytes]]:
    """Cut data in several ways."""
    thousands = range(1000, len(data), 1000)
    return [[data], cut_at(data, thousands), *(cut_at(data, [len(data) - back]) for back in (1, 2, 3, 4, 5, 20))]


@pytest.mark.parametrize("before", [b"", CONTINUE, CONTINUE * MAX_INFORMATIONAL])
def test_head_of_100_kib(before: bytes) -> None:
    """A head of exactly 100 KiB is accepted, not counting what precedes it."""
    for pieces in cuts_of(before + head_of(MAX_HEAD_BYTES) + b"hello"):
        read = outcome("GET", pieces)
        assert (read.body, read.is_complete, read.can_reuse_connection) == (b"hello", True, True)


@pytest.mark.parametrize("before", [b"", CONTINUE])
def test_larger_head(before: bytes) -> None:
    """A head of one byte more is refused, whatever follows it."""
    framings = b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"A: b"
    for method, framing in itertools.product(("GET", "HEAD", "CONNECT"), framings):
        for pieces in cuts_of(before + head_of(MAX_HEAD_BYTES + 1, framing + b"\r\n") + b"hello"):
            read = outcome(method, pieces)
            assert (read.head, read.has_failed) == (None, True), (method, framing)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", OK + b"X: ", OK + b"X", OK])
def test_endless_head(start: bytes) -> None:
    """An endless head is refused as soon as it is too large, whatever part of it is."""
    filler = b"x" if start != OK else b"a: b\r\n" * 40
    parser = ResponseParser("GET")
    start += filler * (100_000 // len(filler) if start != OK else 0)
    parser.feed(start)
    fed = len(start)
    with pytest.raises(httpx.RemoteProtocolError, match=r"larger than 102400 bytes|more than 256 headers"):
        while fed < 2 * MAX_HEAD_BYTES:
            fed += len(filler)
            parser.feed(filler)
    assert fed <= MAX_HEAD_BYTES + len(filler)


def test_limits_of_informational_heads() -> None:
    """The limits hold for the heads of informational responses, too."""
    for long in (b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n", b"X: y\r\n" * (MAX_FIELDS + 1)):
        for pieces in cuts_of(b"HTTP/1.1 103 Hints\r\n" + long + b"\r\n" + LENGTH):
            assert outcome("GET", pieces).has_failed


def test_chunks_after_a_large_head() -> None:
    """A chunked body may follow a head of 100 KiB: the head does not count for it."""
    head = head_of(MAX_HEAD_BYTES, b"Transfer-Encoding: chunked\r\n")
    body = b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"
    whole = outcome("GET", [head + body])
    assert (whole.body, whole.is_complete, whole.can_reuse_connection) == (b"hello", True, True)
    for at in range(len(body)):
        assert outcome("GET", [head, body[:at], body[at:]]) == whole
        assert outcome("GET", [head + body[:at], body[at:]]) == whole


@pytest.mark.parametrize(("count", "is_accepted"), [(MAX_FIELDS, True), (MAX_FIELDS + 1, False)])
def test_number_of_headers(count: int, is_accepted: bool) -> None:
    """A head of 256 headers is accepted, and one of 257 is refused."""
    for pieces in cuts_of(OK + b"Content-Length: 5\r\n" + b"X: y\r\n" * (count - 1) + b"\r\nhello"):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_accepted, not is_accepted)


@each_row(("count", "is_accepted"), [(MAX_FIELDS, True), (MAX_FIELDS + 1, False), (1000, False)])
@each_row("before", [b"", b"5\r\nhello\r\n"])
@each_row("trailing", [b"", b"X"])
def test_number_of_trailers(before: bytes, count: int, is_accepted: bool, trailing: bytes) -> None:
    """The same limit holds for trailers, counted separately, however they are cut."""
    head = OK + b"A: b\r\n" * 255 + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in cuts_of(head + before + b"0\r\n" + b"X: y\r\n" * count + b"\r\n" + trailing):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_accepted, not is_accepted)
        assert read.can_reuse_connection is (is_accepted and not trailing)


@each_row("before", [b"", b"5\r\nhello\r\n"])
@each_row("size", [MAX_HEAD_BYTES + 2000, 150_000])
def test_large_trailers(before: bytes, size: int) -> None:
    """Trailers of more than 100 KiB are refused, wherever they are cut."""
    data = CHUNKED + before + b"0\r\nX: " + b"x" * size + b"\r\n\r\n"
    for pieces in cuts_of(data):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (False, True)


@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
def test_trailers_of_100_kib(before: bytes) -> None:
    """Trailers of less than 100 KiB are accepted."""
    for pieces in cuts_of(CHUNKED + before + b"0\r\nX: " + b"x" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n"):
        assert outcome("GET", pieces).can_reuse_connection


@each_row("size", [MAX_HEAD_BYTES + 2000, 150_000])
@each_row("before", [b"", b"5\r\nhello\r\n"])
def test_large_extension(before: bytes, size: int) -> None:
    """A chunk extension of more than 100 KiB is refused, wherever it is cut."""
    data = CHUNKED + before + b"1;" + b"x" * size + b"\r\na\r\n0\r\n\r\n"
    for pieces in cuts_of(data):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (False, True)


def test_endless_framing() -> None:
    """Endless framing without data is refused: zeros before a size, an extension, a trailer."""
    for start, filler in ((b"", b"0"), (b"1;", b"x"), (b"0\r\n", b"x"), (b"0\r\nX:", b" "), (b'1;a="', b"x")):
        pieces = [CHUNKED + start, *[filler * 1000] * 103]
        assert outcome("GET", pieces).has_failed


def test_limits_of_lenient_heads() -> None:
    """The same limits hold for a head that only lenient readers accept."""
    start = b"HTTP/1.1 200 OK\nContent-Length: 5\n"
    for over in 0, 1:
        long = start + b"X: " + b"x" * (MAX_HEAD_BYTES + over - len(start) - 7) + b"\r\n\r\n"
        many = start + b"X: y\n" * (MAX_FIELDS + over - 1) + b"\n"
        for head in long, many:
            for pieces in cuts_of(head + b"hello"):
                read = outcome("GET", pieces)
                assert (read.body, read.has_failed) == ((b"", True) if over else (b"hello", False))
    for filler in b"x", b" ", b"\x01":
        assert outcome("GET", [start, b"X: y\r\n x: ", *[filler * 1000] * 103]).has_failed


@pytest.mark.parametrize(("count", "is_accepted"), [(MAX_INFORMATIONAL, True), (MAX_INFORMATIONAL + 1, False)])
def test_number_of_informational_responses(count: int, is_accepted: bool) -> None:
    """A hundred informational responses are skipped, and one more is refused."""
    for pieces in cuts_of(CONTINUE * count + LENGTH + b"hello"):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_accepted, not is_accepted)


def in_chunks(body: bytes, size: int) -> bytes:
    """Write a body in chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@each_row("content", [b"\r\n", b"x", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
@each_row("size", [4, 1000, 16 * 1024, FEED, 10**6])
def test_large_chunked_body(content: bytes, size: int) -> None:
    """A large body is accepted, whatever it is and however large its chunks are: data does not count as framing."""
    body = (content * (600_000 // len(content)))[: 600_000 if size > 4 else 60_000]
    data = CHUNKED + in_chunks(body, size)
    for feed in (FEED, 5000, 65536):
        read = outcome("GET", cut_at(data, range(feed, len(data), feed)))
        assert read.body == body
        assert (read.is_complete, read.has_failed, read.can_reuse_connection) == (True, False, True)


def test_large_body_with_a_length() -> None:
    """A large body with a length is read to its end."""
    body = b"\r\n" * FEED
    data = OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    read = outcome("GET", cut_at(data, range(FEED, len(data), FEED)))
    assert (read.body, read.can_reuse_connection) == (body, True)


def test_nothing_is_kept_of_a_body() -> None:
    """The parser keeps none of the data that has passed through it, not even of line breaks."""
    parser = ResponseParser("GET")
    parser.feed(CHUNKED)
    piece = in_chunks(b"\r\n" * (FEED // 2), FEED)[:-5]
    assert parser.feed(piece) == b"\r\n" * (FEED // 2)
    tracemalloc.start()
    try:
        for _ in range(20):
            parser.feed(piece)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 10_000


def test_no_garbage_cycle() -> None:
    """A parser is freed at once, without the garbage collector."""
    for end in b"0\r\n\r\n", b"nonsense":
        parser = ResponseParser("GET")
        parser.feed(CHUNKED + b"5\r\nhello\r\n" + end)
        reference = weakref.ref(parser)
        gc.disable()
        try:
            del parser
            assert reference() is None, end
        finally:
            gc.enable()
