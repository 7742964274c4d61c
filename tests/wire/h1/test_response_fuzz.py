"""Random responses, valid and broken, cut at random places: the parser reads in them what h11 reads.

The parser may refuse what h11 accepts, but nothing that is valid. What it accepts though h11 refuses it, `H11_REFUSES`
lists by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.responses import Outcome, bytewise, cut_at, outcome
from support.rows import each_row

from prefect_http._wire.h1.response_head import Framing, Headers

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = settings(max_examples=_EXAMPLES or 60, derandomize=not _EXAMPLES, deadline=None, database=None)

METHODS = ["GET", "GET", "GET", "POST", "HEAD", "CONNECT"]
TOKENS = st.sampled_from(
    ["a", "X-Y", "x_y", "Proxy-Connection", "Server", "ETag", "!#$%&'*+-.^_`|~", "Keep-Alive", "Content-Type", "Date"]
)
VALUES = st.sampled_from(
    [
        "",
        "b",
        "close",
        "keep-alive",
        "a b",
        "a\tb",
        "é",
        "a, b",
        '"q;\\""',
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "0" * 40,
        "a\r\n\tb",
    ]
)
WHITESPACE = st.sampled_from(["", " ", " ", "  ", "\t", " \t"])
REASONS = st.sampled_from(["OK", "", "Not Found", "I'm a\tteapot", "Größe", "  two", "200"])
CONNECTIONS = st.sampled_from(
    ["close", "keep-alive", "Close", "Keep-Alive", "upgrade", "keep-alive, close", "x,close", "closed", ",,close,", ""]
)
EXTENSIONS = st.sampled_from(["", "", "", ";a", ";a=b", ';a="b"', ';a="\\";b";c', ";a=b;c=d", "; a=b", ";", " "])
CHUNKS = st.sampled_from([b"a", b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 17, b"\x00\xff"])
TRAILING = st.sampled_from(
    [
        *[b""] * 6,
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b"\x00",
        b"H",
        b"0",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Bare\r\n\r\n",
    ]
)
NASTY = st.sampled_from(
    [
        *[
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b" ",
            b"\t",
            b"\x00",
            b"\x0b",
            b"\x0c",
            b"\x7f",
            b"\x85",
            b":",
            b";",
            b",",
        ],
        *[b"0", b"1", b"a", b"-", b"+", b"_", b"0x", b'"', b"=", b"\r\n ", b"\r\n\t", b" :", b"HTTP/1.1 "],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"0\r\n\r\n",
        b"1\r\na\r\n",
        b"5\r\nhello\r\n",
        b"ffffffffffffffff\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length:\r\n",
        b"content-length: 7 \r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: CHUNKED \r\n",
        b"Transfer-Encoding:\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Proxy-Connection: close\r\n",
        b"Proxy-Connection: keep-alive\r\n",
        b"Upgrade: x\r\nConnection: upgrade\r\n",
        b"X : y\r\n",
        b" X: y\r\n",
        b": y\r\n",
        b"X\r\n",
        b"X: y\n",
        b"\n",
        b"\n\n",
        b"X: y\r\n z\r\n",
        b"\r\n 5",
        b"Content-Length: 5, 5\r\n",
        b"1 \r\na\r\n",
        b"1; a\r\na\r\n",
        b"1 ;\r\na\r\n",
        b"0; sig=x\r\n\r\n",
        b"HTTP/1.2 ",
    ]
)


INFORMATIONAL = re.compile(rb"HTTP/1\.[0-9] 1(?!01)")
FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")
BLANK_LINE = re.compile(rb"\n\r?\n")
TRAILERS = re.compile(rb"\r\n0+[ \t]*(?:;[^\r]*)?(\r\n(?:[^\r]+\r\n)+)\r\n")
CODING = re.compile(rb"(?i)\ntransfer-encoding:([^\r\n]*)")
LENGTH = re.compile(rb"(?i)\ncontent-length:")


class Sent(NamedTuple):
    """What a server sends.

    Attributes:
        method: the request's method.
        response: the bytes of the response.
        body: its body.
        trailing: the bytes after the response.
        ends: whether the server then closes the connection.
    """

    method: str
    response: bytes
    body: bytes
    trailing: bytes
    ends: bool

    @property
    def data(self) -> bytes:
        """All of the bytes."""
        return self.response + self.trailing


def field(draw: st.DrawFn, name: str, value: str) -> str:
    """Write a header in one of the possible ways."""
    spelled = draw(st.sampled_from([name, name.lower(), name.upper()]))
    return f"{spelled}:{draw(WHITESPACE)}{value}{draw(WHITESPACE)}"


def fields(draw: st.DrawFn) -> list[str]:
    """Draw some headers that say nothing about the framing."""
    return [field(draw, draw(TOKENS), draw(VALUES)) for _ in range(draw(st.integers(0, 3)))]


def head(start: str, lines: list[str]) -> bytes:
    """Write a head."""
    return "".join(f"{line}\r\n" for line in [start, *lines, ""]).encode("latin-1")


def chunked(draw: st.DrawFn, chunks: list[bytes]) -> bytes:
    """Write chunks, each in one of the possible ways."""
    written = b""
    for chunk in [*chunks, b""]:
        size = draw(st.sampled_from(["{:x}", "{:X}", "{:03x}"])).format(len(chunk))
        written += f"{size}{draw(EXTENSIONS)}\r\n".encode() + (chunk + b"\r\n" if chunk else b"")
    trailers = [*fields(draw), *draw(st.sampled_from([[], [], ["Connection: close"]]))]
    return written + head("", trailers)[2:]


@st.composite
def valid(draw: st.DrawFn) -> Sent:
    """Make a valid response, sometimes with trailing bytes."""
    method = draw(st.sampled_from(METHODS))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    status = draw(st.sampled_from([200, 200, 200, 201, 404, 503, 999, 204, 304, 101]))
    informational = b""
    if version == "1.1":
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            informational += head(
                f"HTTP/1.1 {draw(st.sampled_from([100, 102, 103, 199]))} {draw(REASONS)}", fields(draw)
            )
    lines = fields(draw)
    if draw(st.booleans()):
        lines.append(field(draw, "Connection", draw(CONNECTIONS)))
    content, body, trailing, ends = b"".join(chunks := draw(st.lists(CHUNKS, max_size=3))), b"", draw(TRAILING), False
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    is_tunnel = status == 101 or (method == "CONNECT" and 200 <= status < 300)
    if status == 101:
        lines += [field(draw, "Upgrade", "x"), field(draw, "Connection", "upgrade")]
    if is_tunnel or status == 204:
        # RFC 9110 section 8.6, RFC 9112 section 6.1: neither length nor coding
        content = b""
    elif framing == "length":
        lines.append(field(draw, "Content-Length", draw(st.sampled_from(["{}", "{:03}"])).format(len(content))))
        body = content
    elif framing == "chunked" and version == "1.1":
        lines.append(field(draw, "Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked", "CHUNKED"]))))
        body = chunked(draw, chunks)
    else:
        body, ends = content, True
    if method == "HEAD" or status == 304:
        content, body, ends = b"", b"", False
    if ends:
        trailing = b""
    start = f"HTTP/{version} {status} {draw(REASONS)}"
    draw(st.randoms(use_true_random=False)).shuffle(lines)
    return Sent(method, informational + head(start, lines) + body, content, trailing, ends)


@st.composite
def broken(draw: st.DrawFn) -> Sent:
    """Break a valid response in one or more places."""
    sent = draw(valid())
    data = sent.data
    for _ in range(draw(st.integers(1, 3))):
        starts = [0, *(at + 1 for at, byte in enumerate(data) if byte == ord("\n"))]
        at = draw(st.one_of(st.sampled_from(starts), st.integers(0, len(data))))
        width = draw(st.one_of(st.integers(0, 3), st.sampled_from([data.find(b"\n", at) + 1 - at, len(data)])))
        piece = data[at : at + max(width, 0)]
        match draw(st.sampled_from(["delete", "duplicate", "insert", "insert", "flip", "cut off"])):
            case "delete":
                data = data[:at] + data[at + len(piece) :]
            case "duplicate":
                data = data[:at] + piece + data[at:]
            case "insert":
                data = data[:at] + draw(NASTY) + data[at:]
            case "flip":
                data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
            case _:
                data = data[:at]
    return Sent(sent.method, data, b"", b"", draw(st.booleans()))


class Reading(NamedTuple):
    """What h11 has read.

    Attributes:
        response: the final response, or the 101.
        body: its body.
        connection: h11's connection, to look at its state.
    """

    response: h11.Response | h11.InformationalResponse
    body: bytes
    connection: h11.Connection


def read_by_h11(method: str, data: bytes, *, eof: bool) -> Reading | None:
    """Let h11 read a response; return None if it refuses it, or finds no end in it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1024 * 1024)
    proposal = [("Host", "a"), ("Upgrade", "x"), ("Connection", "upgrade")]  # without it, h11 accepts no 101
    connection.send(h11.Request(method=method, target="a:1" if method == "CONNECT" else "/", headers=proposal))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if eof:
        connection.receive_data(b"")
    response: h11.Response | h11.InformationalResponse | None = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        match event:
            case h11.InformationalResponse() if event.status_code != 101:
                pass
            case h11.InformationalResponse() | h11.Response():
                response = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage() | h11.PAUSED if response is not None:
                return Reading(response, body, connection)
            case _:
                return None


def meaningless_heads(data: bytes, framing: Framing) -> list[bytes]:
    """Return the heads whose framing headers mean nothing.

    RFC 9112 section 6.3, rules 1 and 2: an informational response, a response to HEAD, a 204, a 304 and one that opens
    a tunnel have no body, whatever their headers say.
    """
    heads: list[bytes] = []
    for head in BLANK_LINE.split(FOLD.sub(b" ", data)):
        heads.append(head)
        if not INFORMATIONAL.match(head):
            break
    return heads if framing in {Framing.NO_BODY, Framing.TUNNEL} else heads[:-1]


def has_meaningless_coding(data: bytes, framing: Framing) -> bool:
    """Return whether there is a transfer coding other than chunked where it means nothing."""
    codings = [
        [coding.strip(b" \t").lower() for coding in CODING.findall(head)] for head in meaningless_heads(data, framing)
    ]
    return any(coding not in ([], [b"chunked"]) for coding in codings)


def has_framing_in_trailers(data: bytes, framing: Framing) -> bool:
    """Return whether there is a length or a coding among the trailers, which are discarded (RFC 9112 section 7.1.2)."""
    trailers: list[bytes] = TRAILERS.findall(FOLD.sub(b" ", data)) if framing is Framing.CHUNKED else []
    return any(CODING.search(lines) or LENGTH.search(lines) for lines in trailers)


def has_vertical_whitespace(data: bytes, _: Framing) -> bool:
    """Return whether there is a vertical tab or a form feed."""
    return re.search(rb"[\x0b\x0c]", data) is not None


def has_blank_before_extension(data: bytes, framing: Framing) -> bool:
    """Return whether there is whitespace between a chunk's size and its extension."""
    return framing is Framing.CHUNKED and re.search(rb"\n[0-9A-Fa-f]+[ \t]+;", data) is not None


def has_long_chunk_size(data: bytes, framing: Framing) -> bool:
    """Return whether there is a chunk size of more than twenty digits."""
    return framing is Framing.CHUNKED and re.search(rb"\n0[0-9A-Fa-f]{20}", data) is not None


class Difference(NamedTuple):
    """Something that h11 refuses by a rule of its own.

    Attributes:
        example: a response.
        is_in: whether it is in a response whose body has this framing.
    """

    example: bytes
    is_in: Callable[[bytes, Framing], bool]


OK = b"HTTP/1.1 200 OK\r\n"
H11_REFUSES: dict[str, Difference] = {
    "a coding that means nothing": Difference(
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: gzip\r\n\r\n", has_meaningless_coding
    ),
    "framing in the trailers": Difference(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: x\r\n\r\n", has_framing_in_trailers
    ),
    "a vertical tab or form feed in a value": Difference(
        OK + b"X: a\x0bb\r\nContent-Length: 0\r\n\r\n", has_vertical_whitespace
    ),
    "a blank before a chunk extension": Difference(
        OK + b"Transfer-Encoding: chunked\r\n\r\n0 ;a\r\n\r\n",
        has_blank_before_extension,
    ),
    "a chunk size of more than twenty digits": Difference(
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 21 + b"\r\n\r\n",
        has_long_chunk_size,
    ),
}


@each_row("name", H11_REFUSES)
def test_differences(name: str) -> None:
    """What the table lists is indeed read, and refused by h11."""
    data, is_in = H11_REFUSES[name]
    read = outcome("GET", [data])
    assert read.is_complete
    assert read.head is not None
    assert is_in(data, read.head.framing)
    assert read_by_h11("GET", data, eof=False) is None


def check_against_h11(sent: Sent, read: Outcome) -> None:
    """Check that h11 reads what the parser has read to its end."""
    assert read.head is not None
    head = read.head
    reading = read_by_h11(sent.method, sent.data, eof=head.framing is Framing.UNTIL_CLOSE)
    if reading is None:
        names = [name for name, difference in H11_REFUSES.items() if difference.is_in(sent.data, head.framing)]
        assert names, "h11 refuses it"
        return
    response, connection = reading.response, reading.connection
    assert (response.http_version, response.status_code, response.reason) == (
        head.version[5:],
        head.status,
        head.reason,
    )
    assert as_compared(list(response.headers)) == as_compared(head.headers)
    assert reading.body == read.body
    trailing, _ = connection.trailing_data
    if head.framing is Framing.TUNNEL:
        assert trailing == read.trailing_data
        assert not read.can_reuse_connection
    if read.can_reuse_connection:
        assert trailing == b""
        if head.version == b"HTTP/1.0":
            # RFC 9112 section 9.3 lets a client keep such a connection, if "keep-alive" is there; h11 never does.
            assert connection.their_state is h11.MUST_CLOSE
            assert b"keep-alive" in b",".join(value for _, value in head.headers).lower()
        else:
            connection.start_next_cycle()
            assert connection.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}


def as_compared(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Write headers as h11 does: it lowers codings, keeps one length of several, and whitespace before a fold."""
    compared: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        key, text = name.lower(), re.sub(rb"[ \t]+", b" ", value)
        if key == b"transfer-encoding":
            text = text.lower()
        if key == b"content-length":
            text = text.partition(b",")[0].strip()
            if any(key == other for other, _ in compared):
                continue
        compared.append((key, text))
    return compared


CUTS = st.lists(st.integers(0, 400), max_size=6)


@FUZZ
@given(sent=valid(), cuts=CUTS)
def test_valid_responses(sent: Sent, cuts: list[int]) -> None:
    """A valid response is accepted, whole and cut, and read as by h11; the connection is reusable if h11's is."""
    read = outcome(sent.method, [sent.data], eof=sent.ends)
    assert read.is_complete
    assert not read.has_failed
    assert read.head is not None
    assert read.body == sent.body
    assert read.can_reuse_connection == (read.head.keep_alive and not sent.trailing)
    check_against_h11(sent, read)
    assert outcome(sent.method, cut_at(sent.data, cuts), eof=sent.ends) == read
    assert outcome(sent.method, bytewise(sent.data), eof=sent.ends) == read
    reading = read_by_h11(sent.method, sent.data, eof=sent.ends)
    assert reading is not None
    if read.head.version == b"HTTP/1.1":
        is_reusable = reading.connection.their_state is h11.DONE and reading.connection.trailing_data == (b"", False)
        assert read.can_reuse_connection == is_reusable


@FUZZ
@given(sent=broken(), cuts=CUTS)
@example(
    Sent(
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nProxy-Connection: close\r\n\r\n0\r\n\r\nX",
        b"",
        b"",
        False,
    ),
    [],
)
@example(Sent("GET", b"HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", b"", b"", False), [])
def test_broken_responses(sent: Sent, cuts: list[int]) -> None:
    """A broken response is accepted only if h11 accepts it, or refuses it for a known reason; cuts change nothing."""
    read = outcome(sent.method, [sent.data], eof=sent.ends)
    if read.is_complete:
        assert not read.has_failed
        check_against_h11(sent, read)
    else:
        assert not read.can_reuse_connection
    assert outcome(sent.method, cut_at(sent.data, cuts), eof=sent.ends) == read
    assert outcome(sent.method, bytewise(sent.data), eof=sent.ends) == read
