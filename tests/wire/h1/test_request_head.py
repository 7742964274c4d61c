"""The head of a request: what can be sent, what it says, and how the body is framed."""

from __future__ import annotations

from typing import NamedTuple

import h11
import httpx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._fields.request_rules import Headers
from prefect_http._wire.h1.request_head import BodyFramer, encode_headers, request_line
from prefect_http._wording import are, counted

HOST = (b"Host", b"example.com")
SECRET = b"s3cr3t"


class Head(NamedTuple):
    """The head of a request in bytes, and what it says about the body and the connection."""

    data: bytes
    content_length: int | None
    close_after: bool
    allow_upgrade: bool


def request_head(method: str, target: bytes | str, headers: Headers) -> Head:
    """Encode the head of a request."""
    line = request_line(method, target)
    encoded = encode_headers(headers)
    return Head(line + encoded.lines, *encoded[1:])


def build(*headers: tuple[bytes, bytes], method: str = "GET", target: bytes = b"/") -> Head:
    """Encode the head of a request that has a Host."""
    return request_head(method, target, [HOST, *headers])


def test_head_is_sent_unchanged() -> None:
    """The method, the target and the headers keep their order and their case."""
    head = build((b"aCCept", b"*/*"), (b"X", b""), (b"x", b"a\t b"), method="PATCH", target=b"/a?b=c#d")
    assert head.data == b"PATCH /a?b=c#d HTTP/1.1\r\nHost: example.com\r\naCCept: */*\r\nX: \r\nx: a\t b\r\n\r\n"
    assert (head.content_length, head.close_after) == (0, False)


@each_row("method", ["GET", "get", "CONNECT", "M-SEARCH", "!#$%&'*+-.^_`|~0Az"])
def test_valid_methods(method: str) -> None:
    """Any token is a valid method, and keeps its case."""
    assert build(method=method).data.startswith(method.encode() + b" / HTTP/1.1\r\n")


def illegal(*allowed: str) -> list[str]:
    """Return all characters of Latin-1 that are not in these ranges."""
    legal = {chr(code) for span in allowed for code in range(ord(span[0]), ord(span[-1]) + 1)}
    return sorted({chr(code) for code in range(256)} - legal)


NO_TCHAR = illegal("az", "AZ", "09", *"!#$%&'*+-.^_`|~")


@each_row("method", ["", "GÉT", "ＧＥＴ", "GET\u2028", "\udc80"])
def test_methods_that_are_not_ascii(method: str) -> None:
    """A method that is empty or not ASCII is refused."""
    with pytest.raises(httpx.LocalProtocolError, match="invalid method"):
        build(method=method)


def test_invalid_characters_in_a_method() -> None:
    """A method with a delimiter, whitespace, a control or non-ASCII character in it is refused, wherever that is."""
    for character in NO_TCHAR:
        for method in (character, f"{character}GET", f"G{character}ET", f"GET{character}"):
            with pytest.raises(httpx.LocalProtocolError, match="invalid method"):
                build(method=method)


@each_row("target", [b"/", b"*", b"example.com:443", b"http://example.com/", b'/\\"<>^`{|}', b"/%00"])
def test_valid_targets(target: bytes) -> None:
    """A target of visible ASCII characters is sent unchanged."""
    assert build(target=target).data.startswith(b"GET " + target + b" HTTP/1.1\r\n")


def test_invalid_characters_in_a_target() -> None:
    """A target that is empty, or has whitespace, a control character or a non-ASCII byte in it, is refused."""
    illegal_targets = [b""]
    for character in illegal("!~"):
        byte = character.encode("latin-1")
        illegal_targets += [
            byte,
            byte + b"/",
            b"/" + byte,
            b"/a" + byte + b"b",
            b"/" + byte + b" HTTP/1.1\r\nX: y\r\n\r\n",
        ]
    for target in illegal_targets:
        with pytest.raises(httpx.LocalProtocolError, match="invalid character in the target"):
            build(target=target)


def test_invalid_characters_in_a_header_name() -> None:
    """A header name that is empty, or has a colon, whitespace, a control or non-ASCII character in it, is refused."""
    names = [b""]
    for character in NO_TCHAR:
        byte = character.encode("latin-1")
        names += [byte, byte + b"X", b"X" + byte, b"X" + byte + b"Y"]
    for name in names:
        with pytest.raises(httpx.LocalProtocolError, match="invalid header name") as caught:
            build((name, SECRET))
        assert SECRET.decode() not in str(caught.value)


ILLEGAL_IN_VALUES = [bytes([code]) for code in (*range(9), *range(10, 32), 127)]


def test_control_characters_in_a_value() -> None:
    """A value with a control character other than the tab is refused, wherever that is, and not quoted."""
    for byte in ILLEGAL_IN_VALUES:
        for value in (byte, byte + SECRET, SECRET + byte, SECRET + byte + b"x", SECRET + b"\r\n" + byte + b"X: y"):
            with pytest.raises(httpx.LocalProtocolError, match="cannot be sent: the value of the header X ") as caught:
                build((b"X", value))
            assert SECRET.decode() not in str(caught.value)


@each_row("name", [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection"])
@each_row("value", [b"0\r\nX: y", b"close\n", b" chunked", b"\x00"])
def test_control_characters_in_the_framing(name: bytes, value: bytes) -> None:
    """Values that are interpreted here are checked like any others."""
    with pytest.raises(httpx.LocalProtocolError, match="the value of the header"):
        build((name, value))


@each_row("value", [b" ", b"\t", b" a", b"a ", b"\ta", b"a\t", b" a b "])
def test_whitespace_at_an_end_of_a_value(value: bytes) -> None:
    """Whitespace at the start or end of a value is refused: the server would not see it (RFC 9110 section 5.5)."""
    with pytest.raises(httpx.LocalProtocolError, match="whitespace at its start or end"):
        build((b"X", value))


@each_row("value", [b"", b"a", b"a b", b"a\tb", b"a \t b", b"\x80", b"\xff\xa0", "é".encode(), b":,;\"'\\"])
def test_valid_values(value: bytes) -> None:
    """Visible characters, bytes beyond ASCII (obs-text), and whitespace between them are sent unchanged."""
    assert b"\r\nX: " + value + b"\r\n" in build((b"X", value)).data


@each_row(
    ("headers", "count"),
    [([], "none"), ([HOST, HOST], "2"), ([HOST, (b"hOST", b"")], "2"), ([(b"X-Host", b"a")], "none")],
)
def test_one_host(headers: list[tuple[bytes, bytes]], count: str) -> None:
    """A request without Host, or with two, even if they are the same, is refused (RFC 9112 section 3.2)."""
    with pytest.raises(httpx.LocalProtocolError, match=f"must have one Host header, and has {count}"):
        request_head("GET", b"/", headers)


@pytest.mark.parametrize("host", [b"", b"[::1]:80", b"a"])
def test_host_is_sent_first(host: bytes) -> None:
    """Host may be empty (RFC 9112 section 3.2), and is sent first, wherever it was (RFC 9110 section 7.2)."""
    head = request_head("GET", b"/", [(b"a", b"b"), (b"hOsT", host)])
    assert head.data == b"GET / HTTP/1.1\r\nhOsT: " + host + b"\r\na: b\r\n\r\n"


@each_row(("value", "length"), [(b"0", 0), (b"5", 5), (b"0005", 5), (b"9" * 18, 10**18 - 1), (b"0" * 18, 0)])
def test_content_length(value: bytes, length: int) -> None:
    """A Content-Length of up to 18 digits is the length of the body."""
    assert build((b"content-LENGTH", value)).content_length == length


@each_row(
    "value",
    [
        b"",
        b"+5",
        b"-5",
        b"5.0",
        b"5e3",
        b"0x5",
        b"1_0",
        b"5,5",
        b"5, 5",
        b"5 5",
        b"five",
        b"9" * 19,
        b"\xb2",
        b"\xd9\xa5",
    ],
)
def test_invalid_content_length(value: bytes) -> None:
    """A Content-Length that is not a number, or has more than 18 digits, is refused, and not quoted."""
    with pytest.raises(httpx.LocalProtocolError) as caught:
        build((b"Content-Length", value))
    assert str(caught.value) == "the request cannot be sent: Content-Length must be a single number"


@each_row("second", [b"5", b"6", b"0"])
@each_row("first", [b"5", b"0"])
def test_two_content_lengths(first: bytes, second: bytes) -> None:
    """A second Content-Length is refused, even if it is the same, and even after a zero."""
    with pytest.raises(httpx.LocalProtocolError, match="Content-Length must be a single number"):
        build((b"Content-Length", first), (b"content-length", second))


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED"])
def test_chunked(value: bytes) -> None:
    """With Transfer-Encoding: chunked, in any case, the body is sent in chunks."""
    assert build((b"Transfer-encoding", value)).content_length is None


@each_row(
    "value", [b"", b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked,", b"chunked;a", b"xchunked"]
)
def test_other_transfer_encodings(value: bytes) -> None:
    """Any coding other than chunked is refused."""
    with pytest.raises(httpx.LocalProtocolError, match="the only supported Transfer-Encoding is chunked, once"):
        build((b"Transfer-Encoding", value))


def test_two_transfer_encodings() -> None:
    """Transfer-Encoding: chunked twice is refused (RFC 9112 section 6.1)."""
    with pytest.raises(httpx.LocalProtocolError, match="chunked, once"):
        build((b"Transfer-Encoding", b"chunked"), (b"transfer-encoding", b"chunked"))


@each_row("length", [b"0", b"5"])
@each_row("is_first", [True, False])
def test_content_length_beside_transfer_encoding(length: bytes, is_first: bool) -> None:
    """The two are never sent together, in either order: that is how requests are smuggled (RFC 9112 section 6.2)."""
    both = [(b"Content-Length", length), (b"Transfer-Encoding", b"chunked")]
    head = build(*(both if is_first else reversed(both)))
    assert head.content_length is None
    assert b"content-length" not in head.data.lower()


@each_row(
    ("values", "close_after"),
    [
        ([], False),
        ([b"close"], True),
        ([b"Close"], True),
        ([b"keep-alive"], False),
        ([b"keep-alive, close"], True),
        ([b"close,upgrade"], True),
        ([b"a ,\tCLOSE\t, b"], True),
        ([b",,close"], True),
        ([b"closed"], False),
        ([b"close d"], False),
        ([b"not-close"], False),
        ([b'"close"'], False),
        ([b""], False),
        ([b"close", b"keep-alive"], True),
        ([b"keep-alive", b"close"], True),
    ],
)
def test_close_after(values: list[bytes], close_after: bool) -> None:
    """A "close" anywhere in the Connection headers closes the connection; similar words do not."""
    assert build(*((b"connection", value) for value in values)).close_after is close_after


@each_row(
    ("name", "allow_upgrade"),
    [(b"Upgrade", True), (b"uPGRADE", True), (b"X-Upgrade", False), (b"Upgrade-Insecure", False)],
)
def test_allow_upgrade(name: bytes, allow_upgrade: bool) -> None:
    """Only the Upgrade header asks for another protocol."""
    assert build((name, b"x")).allow_upgrade is allow_upgrade
    assert not build((b"Connection", b"upgrade")).allow_upgrade


def test_close_in_other_headers() -> None:
    """A "close" in another header does not close the connection."""
    assert not build((b"X-Connection", b"close"), (b"Proxy-Connection", b"close")).close_after


@each_row("chunks", [[], [b""], [b"hello"], [b"he", b"", b"llo"], [b"hello", b""]])
def test_body_with_a_length(chunks: list[bytes]) -> None:
    """A body of the right length is sent unchanged, with nothing after it."""
    framer = BodyFramer(sum(map(len, chunks)))
    assert [framer.frame(chunk) for chunk in chunks] == chunks
    assert framer.end() == b""


@each_row(("length", "chunks"), [(0, [b"a"]), (5, [b"hello!"]), (5, [b"hello", b"", b"!"]), (1, [b"ab"])])
def test_body_that_is_too_long(length: int, chunks: list[bytes]) -> None:
    """If a part of the body is too long, none of that part is sent."""
    framer = BodyFramer(length)
    for chunk in chunks[:-1]:
        framer.frame(chunk)
    expected = f"the request body is longer than its Content-Length of {counted(length, 'byte')}$"
    with pytest.raises(httpx.LocalProtocolError, match=expected):
        framer.frame(chunks[-1])
    with pytest.raises(httpx.LocalProtocolError):
        framer.end()


@pytest.mark.parametrize(("chunks", "missing"), [([], 5), ([b""], 5), ([b"he", b"ll"], 1)])
def test_body_that_is_too_short(chunks: list[bytes], missing: int) -> None:
    """A body that is too short is refused, and the error says how many bytes are missing."""
    framer = BodyFramer(5)
    for chunk in chunks:
        framer.frame(chunk)
    with pytest.raises(httpx.LocalProtocolError, match=f"Content-Length of 5 bytes: {missing} {are(missing)} missing$"):
        framer.end()


@each_row(
    ("chunks", "framed"),
    [
        ([], b"0\r\n\r\n"),
        ([b""], b"0\r\n\r\n"),
        ([b"a", b"", b"b" * 16], b"1\r\na\r\n10\r\n" + b"b" * 16 + b"\r\n0\r\n\r\n"),
        ([b"0\r\n\r\n"], b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ],
)
def test_chunked_body(chunks: list[bytes], framed: bytes) -> None:
    """Each part of a chunked body is a chunk, except for empty ones: an empty chunk would be the last."""
    framer = BodyFramer(None)
    assert b"".join(map(framer.frame, chunks)) + framer.end() == framed


# What can be sent, and sometimes what cannot.
ODD = ["\r", "\n", "\x00", "\r\n\r\n", "\r\nX: y", " ", "\t", ":", "\x7f", "\x85", "é", "\xa0"]


def mostly(legal: str, *known: str) -> st.SearchStrategy[str]:
    """Generate texts of these characters, or known ones; one in ten may be invalid."""
    odd = st.lists(st.sampled_from([*legal, *ODD]), max_size=4).map("".join)
    good = st.one_of(st.sampled_from(known), st.text(legal, min_size=1, max_size=4))
    return st.integers(0, 9).flatmap(lambda roll: odd if roll == 9 else good)


METHODS = mostly("aZ9!~", "GET", "POST", "HEAD", "CONNECT", "OPTIONS", "PRI")
TARGETS = mostly('/?#%a\\"<:', "/", "*", "a:1", "http://a/").map(str.encode)
NAMES = mostly("xY-!~", "Connection", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "Keep-Alive", "TE")
VALUES = mostly('a:,;"é\xff\x80', "", "5", "0", "chunked", "Chunked", "close", "100-continue", "a \t b", "x, close ,y")
FIELDS = st.tuples(NAMES.map(str.encode), VALUES.map(lambda value: value.encode("latin-1")))


@settings(max_examples=80, derandomize=True, database=None)
@given(method=METHODS, target=TARGETS, headers=st.lists(FIELDS, max_size=4), body=st.binary(max_size=9))
@example(method="POST", target=b"/", headers=[(b"Content-Length", b"3")], body=b"abc")
@example(method="POST", target=b"/", headers=[(b"Transfer-Encoding", b"Chunked")], body=b"abc")
def test_h11_reads_what_is_sent(method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Whatever is sent, h11 reads the same method, target, headers and body, and nothing is left over."""
    headers = [HOST, *headers]
    try:
        head = request_head(method, target, headers)
    except httpx.LocalProtocolError:
        return
    framer = BodyFramer(head.content_length)
    body = body if head.content_length is None else (body * 5)[: head.content_length]
    assume(head.content_length in (None, len(body)))
    server = h11.Connection(h11.SERVER)
    server.receive_data(head.data + framer.frame(body) + framer.end())
    request = server.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (method.encode(), target)
    assert list(request.headers) == [
        # h11 lowers the codings
        (name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value)
        for name, value in headers
    ]
    received = b""
    while isinstance(event := server.next_event(), h11.Data):
        received += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert received == body
    assert server.trailing_data == (b"", False)
    if method != "CONNECT" and not head.allow_upgrade:  # otherwise h11 waits for the server's response
        assert (server.their_state is h11.MUST_CLOSE) == head.close_after


@settings(max_examples=40, derandomize=True, database=None)
@given(headers=st.lists(FIELDS.map(lambda field: (field[0], SECRET + field[1])), min_size=1, max_size=3))
def test_messages_do_not_quote_values(headers: list[tuple[bytes, bytes]]) -> None:
    """No message quotes the value of a header: it may be a password."""
    with pytest.raises(httpx.LocalProtocolError) as caught:
        build(*headers, (b"Host", SECRET))  # if all else is valid, there are two Hosts
    assert SECRET.decode() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
