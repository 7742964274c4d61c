"""What of a request's head can be sent, what it says, and how the body behind it is framed."""

from __future__ import annotations

from typing import NamedTuple

import h11
import httpx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from prefect_http._wire.h1.request_head import CHUNKED, BodyFraming, Headers, encode_headers, request_line

HOST = (b"Host", b"example.com")
SECRET = b"s3cr3t"


class Head(NamedTuple):
    """A request's head in bytes, and what it promises."""

    data: bytes
    length: int
    close_after: bool
    allow_upgrade: bool


def request_head(method: str, target: bytes | str, headers: Headers) -> Head:
    """Write the head of a request."""
    line = request_line(method, target)
    block = encode_headers(headers)
    return Head(line + block.lines, block.length, block.close_after, block.allow_upgrade)


def build(*headers: tuple[bytes, bytes], method: str = "GET", target: bytes = b"/") -> Head:
    """Write the head of a request that has a Host."""
    return request_head(method, target, [HOST, *headers])


def test_head_is_written_as_it_was_given() -> None:
    """The request line and the headers stand in the order and the spelling in which they were given."""
    head = build((b"aCCept", b"*/*"), (b"X", b""), (b"x", b"a\t b"), method="PATCH", target=b"/a?b=c#d")
    assert head.data == b"PATCH /a?b=c#d HTTP/1.1\r\nHost: example.com\r\naCCept: */*\r\nX: \r\nx: a\t b\r\n\r\n"
    assert (head.length, head.close_after) == (0, False)


@pytest.mark.parametrize("method", ["GET", "get", "CONNECT", "M-SEARCH", "!#$%&'*+-.^_`|~0Az"])
def test_token_is_a_method(method: str) -> None:
    """Any token is a method, and is sent in the case in which it was given."""
    assert build(method=method).data.startswith(method.encode() + b" / HTTP/1.1\r\n")


def illegal(*allowed: str) -> list[str]:
    """Give all of Latin-1 that is not in these ranges."""
    legal = {chr(code) for span in allowed for code in range(ord(span[0]), ord(span[-1]) + 1)}
    return sorted({chr(code) for code in range(256)} - legal)


NO_TCHAR = illegal("az", "AZ", "09", *"!#$%&'*+-.^_`|~")


@pytest.mark.parametrize("method", ["", "GÉT", "ＧＥＴ", "GET\u2028", "\udc80"])
def test_odd_method_is_refused(method: str) -> None:
    """A method that is empty or not of ASCII is refused, whatever Unicode makes of it."""
    with pytest.raises(httpx.LocalProtocolError, match="the method"):
        build(method=method)


def test_each_character_that_is_none_of_a_token_is_refused_in_a_method() -> None:
    """A method with a delimiter, whitespace, a control character or one beyond ASCII is refused, wherever that is."""
    for character in NO_TCHAR:
        for method in (character, f"{character}GET", f"G{character}ET", f"GET{character}"):
            with pytest.raises(httpx.LocalProtocolError, match="the method"):
                build(method=method)


@pytest.mark.parametrize("target", [b"/", b"*", b"example.com:443", b"http://example.com/", b'/\\"<>^`{|}', b"/%00"])
def test_visible_characters_are_a_target(target: bytes) -> None:
    """A target of visible ASCII characters is sent as it is."""
    assert build(target=target).data.startswith(b"GET " + target + b" HTTP/1.1\r\n")


def test_each_character_that_is_not_visible_is_refused_in_a_target() -> None:
    """A target with whitespace, a control character or a byte beyond ASCII is refused, wherever that is; so is none."""
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
        with pytest.raises(httpx.LocalProtocolError, match="the request target"):
            build(target=target)


def test_each_byte_that_is_none_of_a_token_is_refused_in_a_header_name() -> None:
    """A header name with a colon, whitespace, a control character or a byte beyond ASCII is refused; so is none."""
    names = [b""]
    for character in NO_TCHAR:
        byte = character.encode("latin-1")
        names += [byte, byte + b"X", b"X" + byte, b"X" + byte + b"Y"]
    for name in names:
        with pytest.raises(httpx.LocalProtocolError, match="the header name") as caught:
            build((name, SECRET))
        assert SECRET.decode() not in str(caught.value)


ILLEGAL_IN_VALUES = [bytes([code]) for code in (*range(9), *range(10, 32), 127)]


def test_each_control_character_is_refused_in_a_value() -> None:
    """A value with CR, LF, NUL or any other control character but the tab is refused, wherever that is, unquoted."""
    for byte in ILLEGAL_IN_VALUES:
        for value in (byte, byte + SECRET, SECRET + byte, SECRET + byte + b"x", SECRET + b"\r\n" + byte + b"X: y"):
            with pytest.raises(httpx.LocalProtocolError, match="the value of the header X cannot be sent") as caught:
                build((b"X", value))
            assert SECRET.decode() not in str(caught.value)


@pytest.mark.parametrize("name", [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection"])
@pytest.mark.parametrize("value", [b"0\r\nX: y", b"close\n", b" chunked", b"\x00"])
def test_headers_of_the_framing_have_legal_values_as_well(name: bytes, value: bytes) -> None:
    """What the head itself reads is checked as any other header is."""
    with pytest.raises(httpx.LocalProtocolError, match="the value of the header"):
        build((name, value))


@pytest.mark.parametrize("value", [b" ", b"\t", b" a", b"a ", b"\ta", b"a\t", b" a b "])
def test_whitespace_at_an_end_of_a_value_is_refused(value: bytes) -> None:
    """A value with whitespace at an end is refused: the server would not see that whitespace (RFC 9110 section 5.5)."""
    with pytest.raises(httpx.LocalProtocolError, match="whitespace at an end"):
        build((b"X", value))


@pytest.mark.parametrize(
    "value", [b"", b"a", b"a b", b"a\tb", b"a \t b", b"\x80", b"\xff\xa0", "é".encode(), b":,;\"'\\"]
)
def test_legal_values_are_sent(value: bytes) -> None:
    """Visible characters, bytes beyond ASCII (obs-text), and whitespace between them are sent as they are."""
    assert b"\r\nX: " + value + b"\r\n" in build((b"X", value)).data


@pytest.mark.parametrize(
    ("headers", "count"),
    [([], "none"), ([HOST, HOST], "2"), ([HOST, (b"hOST", b"")], "2"), ([(b"X-Host", b"a")], "none")],
)
def test_there_is_one_host(headers: list[tuple[bytes, bytes]], count: str) -> None:
    """A request without Host, or with two, even alike, is refused (RFC 9112 section 3.2)."""
    with pytest.raises(httpx.LocalProtocolError, match=f"has one Host header, and this one has {count}"):
        request_head("GET", b"/", headers)


@pytest.mark.parametrize("host", [b"", b"[::1]:80", b"a"])
def test_host_goes_out_first_and_may_be_empty(host: bytes) -> None:
    """The Host may be empty (RFC 9112 section 3.2), and goes out first, wherever it was (RFC 9110 section 7.2)."""
    head = request_head("GET", b"/", [(b"a", b"b"), (b"hOsT", host)])
    assert head.data == b"GET / HTTP/1.1\r\nhOsT: " + host + b"\r\na: b\r\n\r\n"


@pytest.mark.parametrize(
    ("value", "length"), [(b"0", 0), (b"5", 5), (b"0005", 5), (b"9" * 18, 10**18 - 1), (b"0" * 18, 0)]
)
def test_content_length_is_a_number(value: bytes, length: int) -> None:
    """A Content-Length of up to 18 digits says how long the body is."""
    assert build((b"content-LENGTH", value)).length == length


@pytest.mark.parametrize(
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
def test_odd_content_length_is_refused(value: bytes) -> None:
    """A Content-Length that is no number, or one of more than 18 digits, is refused, and not quoted."""
    with pytest.raises(httpx.LocalProtocolError) as caught:
        build((b"Content-Length", value))
    assert str(caught.value) == "the request's Content-Length must be one number of bytes"


@pytest.mark.parametrize("second", [b"5", b"6", b"0"])
@pytest.mark.parametrize("first", [b"5", b"0"])
def test_two_content_lengths_are_refused(first: bytes, second: bytes) -> None:
    """A second Content-Length is refused, even if it says the same, and even behind a zero."""
    with pytest.raises(httpx.LocalProtocolError, match="Content-Length must be one number"):
        build((b"Content-Length", first), (b"content-length", second))


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED"])
def test_chunked_is_a_transfer_encoding(value: bytes) -> None:
    """With Transfer-Encoding: chunked, in any case, the body goes out in chunks."""
    assert build((b"Transfer-encoding", value)).length == CHUNKED


@pytest.mark.parametrize(
    "value", [b"", b"gzip", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked,", b"chunked;a", b"xchunked"]
)
def test_other_transfer_encodings_are_refused(value: bytes) -> None:
    """Another coding than chunked is refused."""
    with pytest.raises(httpx.LocalProtocolError, match="the only Transfer-Encoding that can be sent is chunked, once"):
        build((b"Transfer-Encoding", value))


def test_two_transfer_encodings_are_refused() -> None:
    """Transfer-Encoding: chunked twice is refused (RFC 9112 section 6.1)."""
    with pytest.raises(httpx.LocalProtocolError, match="chunked, once"):
        build((b"Transfer-Encoding", b"chunked"), (b"transfer-encoding", b"chunked"))


@pytest.mark.parametrize("length", [b"0", b"5"])
@pytest.mark.parametrize("is_first", [True, False])
def test_content_length_beside_transfer_encoding_is_left_out(length: bytes, is_first: bool) -> None:
    """Both at once never go out, in either order: that is how requests are smuggled (RFC 9112 section 6.2)."""
    both = [(b"Content-Length", length), (b"Transfer-Encoding", b"chunked")]
    head = build(*(both if is_first else reversed(both)))
    assert head.length == CHUNKED
    assert b"content-length" not in head.data.lower()


@pytest.mark.parametrize(
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
def test_close_is_found_in_lists(values: list[bytes], close_after: bool) -> None:
    """A "close" anywhere in the Connection headers closes the connection; what only looks like it does not."""
    assert build(*((b"connection", value) for value in values)).close_after is close_after


@pytest.mark.parametrize(
    ("name", "allow_upgrade"),
    [(b"Upgrade", True), (b"uPGRADE", True), (b"X-Upgrade", False), (b"Upgrade-Insecure", False)],
)
def test_upgrade_asks_for_another_protocol(name: bytes, allow_upgrade: bool) -> None:
    """Only with an Upgrade header does a request ask for another protocol."""
    assert build((name, b"x")).allow_upgrade is allow_upgrade
    assert not build((b"Connection", b"upgrade")).allow_upgrade


def test_close_elsewhere_means_nothing() -> None:
    """Only the Connection header closes the connection."""
    assert not build((b"X-Connection", b"close"), (b"Proxy-Connection", b"close")).close_after


@pytest.mark.parametrize("chunks", [[], [b""], [b"hello"], [b"he", b"", b"llo"], [b"hello", b""]])
def test_body_of_a_known_length_goes_out_as_it_is(chunks: list[bytes]) -> None:
    """A body as long as promised goes out unchanged, with nothing behind it."""
    framing = BodyFraming(sum(map(len, chunks)))
    assert [framing.frame(chunk) for chunk in chunks] == chunks
    assert framing.end() == b""


@pytest.mark.parametrize(
    ("length", "chunks"), [(0, [b"a"]), (5, [b"hello!"]), (5, [b"hello", b"", b"!"]), (1, [b"ab"])]
)
def test_body_that_is_too_long_is_refused(length: int, chunks: list[bytes]) -> None:
    """The chunk that is too much is refused as a whole: nothing of it is sent."""
    framing = BodyFraming(length)
    for chunk in chunks[:-1]:
        framing.frame(chunk)
    with pytest.raises(
        httpx.LocalProtocolError, match=f"the request's body is longer than its Content-Length, {length}$"
    ):
        framing.frame(chunks[-1])
    with pytest.raises(httpx.LocalProtocolError):
        framing.end()


@pytest.mark.parametrize(("chunks", "missing"), [([], 5), ([b""], 5), ([b"he", b"ll"], 1)])
def test_body_that_is_too_short_is_refused(chunks: list[bytes], missing: int) -> None:
    """A body that ends early is refused, with how much is missing."""
    framing = BodyFraming(5)
    for chunk in chunks:
        framing.frame(chunk)
    with pytest.raises(httpx.LocalProtocolError, match=f"Content-Length, 5: {missing} bytes are missing$"):
        framing.end()


@pytest.mark.parametrize(
    ("chunks", "framed"),
    [
        ([], b"0\r\n\r\n"),
        ([b""], b"0\r\n\r\n"),
        ([b"a", b"", b"b" * 16], b"1\r\na\r\n10\r\n" + b"b" * 16 + b"\r\n0\r\n\r\n"),
        ([b"0\r\n\r\n"], b"5\r\n0\r\n\r\n\r\n0\r\n\r\n"),
    ],
)
def test_chunked_body_is_framed(chunks: list[bytes], framed: bytes) -> None:
    """Each part of a chunked body is a chunk; an empty one is none, for it would be the last."""
    framing = BodyFraming(CHUNKED)
    assert b"".join(map(framing.frame, chunks)) + framing.end() == framed


# What can be sent, and now and then what cannot.
ODD = ["\r", "\n", "\x00", "\r\n\r\n", "\r\nX: y", " ", "\t", ":", "\x7f", "\x85", "é", "\xa0"]


def mostly(legal: str, *known: str) -> st.SearchStrategy[str]:
    """Draw texts of these characters, or known ones; one in ten may be odd."""
    odd = st.lists(st.sampled_from([*legal, *ODD]), max_size=4).map("".join)
    good = st.one_of(st.sampled_from(known), st.text(legal, min_size=1, max_size=4))
    return st.integers(0, 9).flatmap(lambda roll: odd if roll == 9 else good)


METHODS = mostly("aZ9!~", "GET", "POST", "HEAD", "CONNECT", "OPTIONS", "PRI")
TARGETS = mostly('/?#%a\\"<:', "/", "*", "a:1", "http://a/").map(str.encode)
NAMES = mostly("xY-!~", "Connection", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "Keep-Alive", "TE")
VALUES = mostly('a:,;"é\xff\x80', "", "5", "0", "chunked", "Chunked", "close", "100-continue", "a \t b", "x, close ,y")
FIELDS = st.tuples(NAMES.map(str.encode), VALUES.map(lambda value: value.encode("latin-1")))


@settings(max_examples=400, derandomize=True, database=None)
@given(method=METHODS, target=TARGETS, headers=st.lists(FIELDS, max_size=4), body=st.binary(max_size=9))
@example(method="POST", target=b"/", headers=[(b"Content-Length", b"3")], body=b"abc")
@example(method="POST", target=b"/", headers=[(b"Transfer-Encoding", b"Chunked")], body=b"abc")
def test_server_reads_what_was_given(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Whatever is sent, h11 reads the same method, target, headers and body in it, and nothing is left over."""
    headers = [HOST, *headers]
    try:
        head = request_head(method, target, headers)
    except httpx.LocalProtocolError:
        return
    framing = BodyFraming(head.length)
    body = body if head.length == CHUNKED else (body * 5)[: head.length]
    assume(head.length in (CHUNKED, len(body)))
    server = h11.Connection(h11.SERVER)
    server.receive_data(head.data + framing.frame(body) + framing.end())
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
    if method != "CONNECT" and not head.allow_upgrade:  # else h11 waits for what the server says
        assert (server.their_state is h11.MUST_CLOSE) == head.close_after


@settings(max_examples=200, derandomize=True, database=None)
@given(headers=st.lists(FIELDS.map(lambda field: (field[0], SECRET + field[1])), min_size=1, max_size=3))
def test_messages_quote_no_value(headers: list[tuple[bytes, bytes]]) -> None:
    """No message has a header's value in it: that may be a password."""
    with pytest.raises(httpx.LocalProtocolError) as caught:
        build(*headers, (b"Host", SECRET))  # if all else is right, there is one Host too many
    assert SECRET.decode() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
