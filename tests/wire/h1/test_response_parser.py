"""What the parser makes of the bytes of a response: heads, bodies, ends, limits and what comes behind."""

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

from prefect_http._wire.h1.response_head import Body
from prefect_http._wire.h1.response_parser import MAX_FIELDS, MAX_HEAD_BYTES, MAX_INFORMATIONAL, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FEED = 256 * 1024  # the wire takes no more than that from the socket at a time


class Row(NamedTuple):
    """A response, and what is to become of it.

    Attributes:
        data: its bytes.
        body: its body.
        kind: where the body ends.
        keeps: the connection stays.
        method: of the request.
    """

    data: bytes
    body: bytes
    kind: Body
    keeps: bool = True
    method: str = "GET"


ROWS = {
    "length": Row(LENGTH + b"hello", b"hello", Body.LENGTH),
    "length-zero": Row(OK + b"content-length:0\r\n\r\n", b"", Body.NONE),
    "length-of-line-breaks": Row(OK + b"Content-Length: 6\r\n\r\n\r\n\r\n\r\n", b"\r\n" * 3, Body.LENGTH),
    "length-and-close": Row(OK + b"Content-Length: 1\r\nConnection: close\r\n\r\na", b"a", Body.LENGTH, keeps=False),
    "length-in-1.0": Row(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", Body.LENGTH, keeps=False),
    "length-kept-in-1.0": Row(
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na", b"a", Body.LENGTH
    ),
    "chunked": Row(CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", Body.CHUNKED),
    "chunked-empty": Row(CHUNKED + b"0\r\n\r\n", b"", Body.CHUNKED),
    "chunked-extensions": Row(CHUNKED + b'2;a\r\nhi\r\n1;a=b;c="d\\"; \t"\r\n!\r\n0;end\r\n\r\n', b"hi!", Body.CHUNKED),
    "chunked-sizes": Row(
        CHUNKED + b"00A\r\n0123456789\r\n0a\r\n0123456789\r\n000\r\n\r\n", b"0123456789" * 2, Body.CHUNKED
    ),
    "chunked-trailers": Row(CHUNKED + b"1\r\na\r\n0\r\nX: y\r\nExpires:\r\n\r\n", b"a", Body.CHUNKED),
    "chunks-like-ends": Row(
        CHUNKED + b"5\r\n0\r\n\r\n\r\n4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n" + b"\r\n" * 3, Body.CHUNKED
    ),
    "chunked-response-in-a-chunk": Row(CHUNKED + b"11\r\n" + OK + b"\r\n0\r\n\r\n", OK, Body.CHUNKED),
    "chunked-and-tab": Row(OK + b"Transfer-Encoding: chunked\t\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Body.CHUNKED),
    "chunked-in-whitespace": Row(
        OK + b"Transfer-Encoding: \tCHUNKED \t \r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Body.CHUNKED
    ),
    "length-in-whitespace": Row(OK + b"Content-Length:\t 1\t \r\n\r\na", b"a", Body.LENGTH),
    "close-in-whitespace": Row(
        OK + b"Connection:close\t\r\nContent-Length: 1\r\n\r\na", b"a", Body.LENGTH, keeps=False
    ),
    "chunked-and-close": Row(
        OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Body.CHUNKED,
        keeps=False,
    ),
    "chunked-in-1.0": Row(
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Body.CHUNKED, keeps=False
    ),
    "chunked-proxy-connection": Row(
        OK + b"Proxy-Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", Body.CHUNKED
    ),
    "chunked-trailer-connection": Row(CHUNKED + b"0\r\nConnection: close\r\n\r\n", b"", Body.CHUNKED),
    "chunked-upgrade-offered": Row(
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"a",
        Body.CHUNKED,
    ),
    "head": Row(OK + b"Content-Length: 5\r\n\r\n", b"", Body.NONE, method="HEAD"),
    "head-chunked": Row(CHUNKED, b"", Body.NONE, method="HEAD"),
    "head-gzip": Row(OK + b"Transfer-Encoding: gzip\r\n\r\n", b"", Body.NONE, method="HEAD"),
    "head-without-length": Row(OK + b"\r\n", b"", Body.NONE, method="HEAD"),
    "204": Row(b"HTTP/1.1 204 No Content\r\n\r\n", b"", Body.NONE),
    "204-length": Row(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"", Body.NONE),
    "304": Row(b"HTTP/1.1 304 Not Modified\r\nETag: a\r\nContent-Length: 5\r\n\r\n", b"", Body.NONE),
    "304-chunked": Row(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"", Body.NONE),
    "interim": Row(
        CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH + b"hello", b"hello", Body.LENGTH
    ),
    "interim-with-a-length": Row(
        b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\nConnection: close\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        b"",
        Body.CHUNKED,
    ),
    "interim-chunked": Row(
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + LENGTH + b"hello", b"hello", Body.LENGTH
    ),
    "interim-before-204": Row(CONTINUE + b"HTTP/1.1 204 No Content\r\n\r\n", b"", Body.NONE),
    "refused-connect": Row(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno", b"no", Body.LENGTH, method="CONNECT"),
    "no-reason": Row(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", b"", Body.NONE),
    "neither-reason-nor-space": Row(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", Body.NONE),
    "status-999": Row(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", b"", Body.NONE),
}
rows = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])


@rows
def test_response_is_read(row: Row) -> None:
    """The response comes out complete, with its body, and says whether the connection stays."""
    read = outcome(row.method, [row.data])
    assert read.head is not None
    assert (read.body, read.head.body, read.is_complete) == (row.body, row.kind, True)
    assert (read.has_failed, read.leaves_reusable) == (False, row.keeps)


@rows
def test_cuts_make_no_difference(row: Row) -> None:
    """Cut in two at any byte, cut at two near ones, or byte by byte: it is the same response."""
    whole = outcome(row.method, [row.data])
    for at in range(1, len(row.data)):
        assert outcome(row.method, cut_at(row.data, [at])) == whole
        assert outcome(row.method, cut_at(row.data, [at, at + 2])) == whole
    assert outcome(row.method, bytewise(row.data)) == whole


@rows
def test_end_of_the_stream_before_the_end_of_the_response(row: Row) -> None:
    """Wherever the stream ends before the response does, that is an error; what came of the body was given."""
    for end in range(len(row.data)):
        read = outcome(row.method, [row.data[:end]], eof=True)
        assert (read.is_complete, read.has_failed, read.leaves_reusable) == (False, True, False)
        assert row.body.startswith(read.body)


BEHIND = [
    *(bytes([code]) for code in range(256)),
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


@rows
def test_bytes_behind_a_response_use_the_connection_up(row: Row) -> None:
    """Whatever comes behind a response in the same piece is no part of it, and the connection is not used again."""
    for behind in BEHIND:
        for pieces in (
            [row.data + behind],
            [row.data[:-1], row.data[-1:] + behind],
            [row.data[:-3], row.data[-3:] + behind],
        ):
            read = outcome(row.method, pieces)
            assert (read.body, read.is_complete, read.has_failed) == (row.body, True, False), behind[:20]
            assert not read.leaves_reusable, behind[:20]


@rows
def test_bytes_behind_a_response_are_told(row: Row) -> None:
    """The parser says that something has come behind the response, whether or not the connection would have stayed."""
    for behind in (b"X", b"\r", b"\n", b"\r\n", LENGTH):
        parser = ResponseParser(row.method)
        parser.feed(row.data)
        assert not parser.is_followed
        parser = ResponseParser(row.method)
        parser.feed(row.data + behind)
        assert parser.is_followed, behind


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("headers", [b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"])
def test_body_until_close(version: bytes, headers: bytes) -> None:
    """Without a length, the body is all that comes until the stream ends, and that is no error."""
    data = b"HTTP/" + version + b" 200 OK\r\n" + headers + b"\r\n" + b"hello\r\n\r\n" + LENGTH
    whole = outcome("GET", [data], eof=True)
    assert whole.body == b"hello\r\n\r\n" + LENGTH
    assert (whole.is_complete, whole.has_failed, whole.leaves_reusable) == (True, False, False)
    for at in range(1, len(data)):
        assert outcome("GET", cut_at(data, [at]), eof=True) == whole
    assert not outcome("GET", [data]).is_complete


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"


@pytest.mark.parametrize("leading", [b"", b"\r\n", b"\x00", LENGTH, b"\r\n\r\nx", b"x" * 70000])
@pytest.mark.parametrize(
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
def test_tunnel(method: str, head: bytes, leading: bytes) -> None:
    """Behind a 101, or a 2xx to CONNECT, another protocol begins, and its first bytes are kept as they are."""
    whole = outcome(method, [head + leading])
    assert whole.head is not None
    assert whole.head.body is Body.TUNNEL
    assert whole[1:] == (b"", leading, True, False, False)
    for at in (*range(1, len(head)), *range(len(head), len(head + leading))[:4]):
        assert outcome(method, cut_at(head + leading, [at])) == whole


@pytest.mark.parametrize("lines", [b"", b"Upgrade: x\r\n", b"Connection: upgrade\r\n"])
def test_101_that_names_no_protocol_is_refused(lines: bytes) -> None:
    """A 101 has Upgrade, and Connection: upgrade (RFC 9110 section 7.8); without, nobody knows what follows it."""
    data = b"HTTP/1.1 101 Bare\r\n" + lines + b"\r\nx"
    for pieces in ([data], bytewise(data)):
        assert outcome("GET", pieces) == Outcome(None, b"", b"", False, True, False)


@pytest.mark.parametrize("before", [b"", CONTINUE])
def test_101_that_was_not_asked_for_is_refused(before: bytes) -> None:
    """A 101 to a request without Upgrade is refused (RFC 9110 section 7.8); other responses are not."""
    parser = ResponseParser("GET", allow_upgrade=False)
    with pytest.raises(httpx.RemoteProtocolError, match="a protocol that the request has not asked for"):
        parser.feed(before + SWITCH + b"x")
    assert parser.head is None
    assert not parser.leaves_reusable
    parser = ResponseParser("CONNECT", allow_upgrade=False)
    parser.feed(before + OK + b"\r\nx")
    assert parser.leading == b"x"


def test_interim_responses_are_skipped() -> None:
    """The head is the final response's, and there is none before that; but the response has begun."""
    parser = ResponseParser("GET")
    assert not parser.has_begun
    assert parser.feed(CONTINUE) == b""
    assert parser.head is None
    assert parser.has_begun
    assert parser.feed(LENGTH + b"he") == b"he"
    assert parser.head_for_trace() == (b"HTTP/1.1", 200, b"OK", [(b"Content-Length", b"5")])
    assert parser.feed(b"llo") == b"llo"
    assert parser.is_complete


def test_response_begins_with_its_first_byte() -> None:
    """After a single byte the response has begun, and an end is an end in its middle."""
    parser = ResponseParser("GET")
    with pytest.raises(httpx.RemoteProtocolError, match=r"^Server disconnected without sending a response\.$"):
        parser.feed_eof()
    parser.feed(b"H")
    assert parser.has_begun
    with pytest.raises(httpx.RemoteProtocolError, match="in the middle of the response's head"):
        parser.feed_eof()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (CONTINUE, "in the middle of the response's head"),
        (LENGTH + b"he", "in the middle of the response's body: 3 of 5 bytes are missing"),
        (LENGTH, "in the middle of the response's body: 5 of 5 bytes are missing"),
        (CHUNKED, "before the last chunk"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "before the last chunk"),
    ],
)
def test_early_end_is_told(data: bytes, message: str) -> None:
    """The error says where the stream ended."""
    parser = ResponseParser("GET")
    parser.feed(data)
    with pytest.raises(httpx.RemoteProtocolError, match=message):
        parser.feed_eof()


def fields_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Read a whole head, and give its fields."""
    read = outcome("GET", [data])
    assert read.head is not None
    return list(read.head.headers)


@pytest.mark.parametrize(
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
    ],
)
def test_fields_are_read(line: bytes, field: tuple[bytes, bytes]) -> None:
    """A field has the name as it came, and the value without the whitespace around it (RFC 9112 section 5.1)."""
    assert fields_of(OK + line + b"\r\nContent-Length: 0\r\n\r\n")[0] == field


def test_fields_of_one_name_stay_apart() -> None:
    """Fields of one name are not joined, and stay in their order."""
    data = OK + b"Set-Cookie: a\r\nX: y\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    assert fields_of(data)[:3] == [(b"Set-Cookie", b"a"), (b"X", b"y"), (b"set-cookie", b"b")]


def test_trailers_are_no_headers() -> None:
    """Trailers do not come among the headers."""
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
    b"HTTP/1.2 200 OK\r\n",
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
    b"HTTP/1.1 200 OK\n",
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


@pytest.mark.parametrize("start", BAD_STARTS)
@pytest.mark.parametrize("before", [b"", CONTINUE])
def test_bad_status_line_is_refused(start: bytes, before: bytes) -> None:
    """What does not begin with a status line of HTTP/1.1 is no response, be it the first line or behind a 1xx."""
    data = before + start + b"Content-Length: 0\r\n\r\n"
    for pieces in ([data], bytewise(data)):
        assert outcome("GET", pieces) == Outcome(None, b"", b"", False, True, False)


def test_control_characters_in_a_reason_are_refused() -> None:
    """A reason is of visible characters, spaces, tabs and bytes beyond ASCII, and no others (RFC 9112 section 4)."""
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
    b"X\r\n",
    b": y\r\n",
    b"X y: z\r\n",
    b"X\x00: y\r\n",
    b"X\xe4: y\r\n",
    b"X(: y\r\n",
    b"X: y\n",
    b"X: y\r",
    b"X: y\r\r\n",
    b"X: y\rZ: a\r\n",
    b"X: y\nZ: a\r\n",
    b"X: y\r\n z\r\n",
    b"X: y\r\n\tz\r\n",
    b"X:\r\n y\r\n",
    b"X: y\x00\r\n",
    b"X: \x00\r\n",
    b"X: y\x0bz\r\n",
    b"X: y\x1b\r\n",
    b"X: y\x7f\r\n",
    b"\n",
    b"\r",
]
BAD_FRAMINGS = [
    b"Content-Length: 5\r\n",
    b"Content-Length: 6\r\n",
    b"Transfer-Encoding: chunked\r\n",
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
    b"5,5",
    b"5, 5",
    b"0x5",
    b"5_0",
    b"five",
    b"5;",
    b"9" * 21,
    b"\xb2",
]


@pytest.mark.parametrize(
    "lines",
    [
        *BAD_FIELDS,
        *(b"Content-Length: 5\r\n" + line for line in BAD_FRAMINGS),
        *(line + b"Content-Length: 5\r\n" for line in BAD_FRAMINGS),
        *(b"Content-Length: " + length + b"\r\n" for length in BAD_LENGTHS),
        *(b"Content-Length:" + length + b"\r\n" for length in BAD_LENGTHS),
        *(
            b"Transfer-Encoding: " + coding + b"\r\n"
            for coding in (
                b"gzip",
                b"identity",
                b"gzip, chunked",
                b"chunked, chunked",
                b"chunked, gzip",
                b"chunked;a",
                b"x",
            )
        ),
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
    ],
)
@pytest.mark.parametrize("rest", [b"X: y\r\n\r\n", b"\r\n", b"\r\nhello", b"\r\n0\r\n\r\n"])
def test_bad_head_is_refused(lines: bytes, rest: bytes) -> None:
    """A head that is not valid, or that says two things of the body, is refused as a whole, however it is cut."""
    data = OK + lines + rest
    for pieces in ([data], bytewise(data)):
        assert outcome("GET", pieces) == Outcome(None, b"", b"", False, True, False)


@pytest.mark.parametrize(
    "bad",
    [
        b"\r\n",
        b"\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\na\r\n",
        b"1\r\r\na\r\n",
        b"1\ra\r\n",
        b"1_0\r\n",
        b"1.0\r\n",
        b"\xb2\r\n",
        b"fffffffffffffffff\r\n",
        b"10000000000000000\r\n",
        b";a\r\n",
        b"1;\r\na\r\n",
        b"1;\x00\r\na\r\n",
        b"1;a\nb\r\n",
        b'1;a="\r\na\r\n',
        b"0\n\n",
        b"0\r\n\n",
        b"0\n\r\n",
        b"0\r\rX",
        b"0\r\nX\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX: \x00\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_bad_chunk_is_an_error_behind_the_good_ones(bad: bytes) -> None:
    """An error in a chunked body hides neither the head nor the data before it, however it is cut."""
    data = CHUNKED + b"5\r\nhello\r\n" + bad
    for pieces in (
        [data],
        [CHUNKED, data[len(CHUNKED) :]],
        *(cut_at(data, [at]) for at in range(1, len(data))),
        bytewise(data),
    ):
        read = outcome("GET", pieces)
        assert read.head is not None
        assert (read.is_complete, read.has_failed, read.leaves_reusable) == (False, True, False)
        assert read.body.removeprefix(b"hello") in (b"", b"a"), "no more than the bad chunk's own data"


@pytest.mark.parametrize("bad", [b"2\r\nabX", b"2\r\nab\n", b"2\r\nab\rX", b"2\r\nabc\r\n", b"2\r\nab0\r\n\r\n"])
def test_chunk_that_is_longer_than_it_says(bad: bytes) -> None:
    """What the size of a chunk promises is given; that no CRLF follows is an error."""
    for pieces in ([CHUNKED + bad], bytewise(CHUNKED + bad)):
        read = outcome("GET", pieces)
        assert (read.body, read.is_complete, read.has_failed) == (b"ab", False, True)


def test_error_stands_behind_the_data() -> None:
    """The error is not raised, for that would hide the data that came along with it, but left to be raised next."""
    parser = ResponseParser("GET")
    assert parser.feed(CHUNKED + b"5\r\nhello\r\nnonsense") == b"hello"
    assert not parser.is_complete
    assert isinstance(parser.error, httpx.RemoteProtocolError)
    assert "the response is not valid HTTP/1.1" in str(parser.error)


def short_texts(alphabet: bytes) -> Iterator[bytes]:
    """Give all texts of up to five of these bytes."""
    for length in range(6):
        yield from map(bytes, itertools.product(alphabet, repeat=length))


def test_every_short_head_is_taken_by_the_grammar_alone() -> None:
    """Of all that line breaks, colons, spaces and a letter make up, the parser takes what RFC 9112 has, and no more."""
    grammar = re.compile(rb"(?: [^\r\n]*)?\r\n(?:X+:[ X:]*\r\n)*\r\n")
    for text in short_texts(b"\r\nX: "):
        for data in (text + b"\r\n\r\n", b"\r\n" + text + b"\r\n\r\n"):
            head = grammar.match(data)
            read = outcome("GET", [b"HTTP/1.1 204" + data])
            assert read.is_complete is (head is not None), data
            assert read.leaves_reusable is (head is not None and head.end() == len(data)), data


def test_every_short_end_is_taken_by_the_grammar_alone() -> None:
    """The same for what comes with a last chunk: trailers, and bytes behind it."""
    grammar = re.compile(rb"0+\r\n(?:[X0]+:[X0:]*\r\n)*\r\n")
    for text in short_texts(b"\r\nX:0"):
        data = b"0" + text + b"\r\n\r\n"
        end = grammar.match(data)
        read = outcome("GET", [CHUNKED + data])
        assert read.is_complete is (end is not None), data
        assert read.leaves_reusable is (end is not None and end.end() == len(data)), data


def head_of(size: int, framing: bytes = b"Content-Length: 5\r\n") -> bytes:
    """Make a head of so many bytes."""
    start = OK + framing + b"X: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def cuts_of(data: bytes) -> list[list[bytes]]:
    """Cut data in some ways."""
    thousands = range(1000, len(data), 1000)
    return [[data], cut_at(data, thousands), *(cut_at(data, [len(data) - back]) for back in (1, 2, 3, 4, 5, 20))]


@pytest.mark.parametrize("before", [b"", CONTINUE, CONTINUE * MAX_INFORMATIONAL])
def test_head_of_64_kib_is_taken(before: bytes) -> None:
    """A head of exactly 64 KiB is taken, and what came before it does not count."""
    for pieces in cuts_of(before + head_of(MAX_HEAD_BYTES) + b"hello"):
        read = outcome("GET", pieces)
        assert (read.body, read.is_complete, read.leaves_reusable) == (b"hello", True, True)


@pytest.mark.parametrize("before", [b"", CONTINUE])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"A: b"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
def test_longer_head_is_refused(before: bytes, framing: bytes, method: str) -> None:
    """One byte more is too much, whatever follows the head."""
    for pieces in cuts_of(before + head_of(MAX_HEAD_BYTES + 1, framing + b"\r\n") + b"hello"):
        read = outcome(method, pieces)
        assert (read.head, read.has_failed) == (None, True)


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 ", OK + b"X: ", OK + b"X", OK])
def test_endless_head_is_refused_before_it_ends(start: bytes) -> None:
    """A head without an end is refused as soon as it is too long, whatever it is that is so long."""
    filler = b"x" if start != OK else b"a: b\r\n" * 40
    parser = ResponseParser("GET")
    parser.feed(start)
    fed = len(start)
    with pytest.raises(httpx.RemoteProtocolError, match=r"more than (65536 bytes|256 header fields)"):
        while fed < 2 * MAX_HEAD_BYTES:
            fed += len(filler)
            parser.feed(filler)
    assert fed <= MAX_HEAD_BYTES + len(filler)


def test_limits_hold_for_interim_heads() -> None:
    """The limits hold for the head of an interim response, too."""
    for long in (b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n", b"X: y\r\n" * (MAX_FIELDS + 1)):
        for pieces in cuts_of(b"HTTP/1.1 103 Hints\r\n" + long + b"\r\n" + LENGTH):
            assert outcome("GET", pieces).has_failed


def test_long_head_leaves_the_chunks_their_own_limit() -> None:
    """A chunked body may follow a head of 64 KiB, and is read however it is cut: the head does not count for it."""
    head = head_of(MAX_HEAD_BYTES, b"Transfer-Encoding: chunked\r\n")
    body = b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"
    whole = outcome("GET", [head + body])
    assert (whole.body, whole.is_complete, whole.leaves_reusable) == (b"hello", True, True)
    for at in range(len(body)):
        assert outcome("GET", [head, body[:at], body[at:]]) == whole
        assert outcome("GET", [head + body[:at], body[at:]]) == whole


@pytest.mark.parametrize(("count", "is_taken"), [(MAX_FIELDS, True), (MAX_FIELDS + 1, False)])
def test_256_fields_are_taken(count: int, is_taken: bool) -> None:
    """A head of 256 fields is taken, and one of 257 is refused."""
    for pieces in cuts_of(OK + b"Content-Length: 5\r\n" + b"X: y\r\n" * (count - 1) + b"\r\nhello"):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_taken, not is_taken)


@pytest.mark.parametrize(("count", "is_taken"), [(MAX_FIELDS, True), (MAX_FIELDS + 1, False), (1000, False)])
@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
@pytest.mark.parametrize("behind", [b"", b"X"])
def test_256_trailers_are_taken(before: bytes, count: int, is_taken: bool, behind: bytes) -> None:
    """The limit holds for trailers, too, which are counted apart from the headers, and however they are cut."""
    head = OK + b"A: b\r\n" * 255 + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in cuts_of(head + before + b"0\r\n" + b"X: y\r\n" * count + b"\r\n" + behind):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_taken, not is_taken)
        assert read.leaves_reusable is (is_taken and not behind)


@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 2000, 150_000])
def test_trailers_of_more_than_64_kib_are_refused(before: bytes, size: int) -> None:
    """Trailers of more than 64 KiB are refused, not counting what comes in one piece with some of the body."""
    data = CHUNKED + before + b"0\r\nX: " + b"x" * size + b"\r\n\r\n"
    read = outcome("GET", cut_at(data, range(1000, len(data), 1000)))
    assert (read.is_complete, read.has_failed) == (False, True)


@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
def test_trailers_of_less_than_64_kib_are_taken(before: bytes) -> None:
    """Trailers of less than 64 KiB are taken."""
    for pieces in cuts_of(CHUNKED + before + b"0\r\nX: " + b"x" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n"):
        assert outcome("GET", pieces).leaves_reusable


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 2000, 150_000])
@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
def test_extension_of_more_than_64_kib_is_refused(before: bytes, size: int) -> None:
    """A chunk extension of more than 64 KiB is refused, not counting what comes in one piece with some of the body."""
    data = CHUNKED + before + b"1;" + b"x" * size + b"\r\na\r\n0\r\n\r\n"
    read = outcome("GET", cut_at(data, range(1000, len(data), 1000)))
    assert (read.is_complete, read.has_failed) == (False, True)


def test_endless_framing_is_refused() -> None:
    """Framing without end and without data is refused: zeros before a size, an extension, a trailer."""
    for start, filler in ((b"", b"0"), (b"1;", b"x"), (b"0\r\n", b"x"), (b"0\r\nX:", b" "), (b'1;a="', b"x")):
        pieces = [CHUNKED + start, *[filler * 1000] * 70]
        assert outcome("GET", pieces).has_failed


@pytest.mark.parametrize(("count", "is_taken"), [(MAX_INFORMATIONAL, True), (MAX_INFORMATIONAL + 1, False)])
def test_100_interim_responses_are_taken(count: int, is_taken: bool) -> None:
    """A hundred interim responses are skipped, and one more is refused."""
    for pieces in cuts_of(CONTINUE * count + LENGTH + b"hello"):
        read = outcome("GET", pieces)
        assert (read.is_complete, read.has_failed) == (is_taken, not is_taken)


def in_chunks(body: bytes, size: int) -> bytes:
    """Write a body in chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("content", [b"\r\n", b"x", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("size", [4, 1000, 16 * 1024, FEED, 10**6])
def test_long_chunked_body_passes_the_limits(content: bytes, size: int) -> None:
    """A body of many pieces passes, whatever it is of and however long its chunks are; data do not count as framing."""
    body = (content * (600_000 // len(content)))[: 600_000 if size > 4 else 60_000]
    data = CHUNKED + in_chunks(body, size)
    for feed in (FEED, 5000, 65536):
        read = outcome("GET", cut_at(data, range(feed, len(data), feed)))
        assert read.body == body
        assert (read.is_complete, read.has_failed, read.leaves_reusable) == (True, False, True)


def test_long_body_of_a_known_length_passes() -> None:
    """A long body is counted down to its end over many pieces."""
    body = b"\r\n" * FEED
    data = OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    read = outcome("GET", cut_at(data, range(FEED, len(data), FEED)))
    assert (read.body, read.leaves_reusable) == (body, True)


def test_nothing_is_kept_of_a_body() -> None:
    """A body of line breaks is handed on piece by piece: the parser keeps nothing of what has gone through it."""
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


def test_parser_is_no_garbage_cycle() -> None:
    """A parser that is dropped is gone at once, without the garbage collector."""
    parser = ResponseParser("GET")
    parser.feed(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")
    reference = weakref.ref(parser)
    gc.disable()
    try:
        del parser
        assert reference() is None
    finally:
        gc.enable()
