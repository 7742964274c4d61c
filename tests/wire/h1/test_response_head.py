"""Where the body of a response ends, and whether the connection is kept: RFC 9112 sections 6.3 and 9.3."""

from __future__ import annotations

import itertools

import h11
import pytest
from support.rows import each_row

from prefect_http import InvalidResponse
from prefect_http._wire.h1.response_head import Framing, ResponseHead, response_head

LENGTH = (b"Content-Length", b"5")
EMPTY = (b"Content-Length", b"0")
CHUNKED = (b"Transfer-Encoding", b"chunked")
GZIP = (b"Transfer-Encoding", b"gzip")
CLOSE = (b"Connection", b"close")
KEEP_ALIVE = (b"Connection", b"keep-alive")
UPGRADE = [(b"Upgrade", b"x"), (b"Connection", b"a, Upgrade ")]

Fields = list[tuple[bytes, bytes]]


def test_head_is_kept_unchanged() -> None:
    """The version, the status code, the reason phrase and the headers are kept as they arrived."""
    headers = [(b"sErver", b"a"), LENGTH]
    head = response_head("GET", b"HTTP/1.0", 299, b"So \xff", headers)
    assert head == ResponseHead(
        b"HTTP/1.0", 299, b"So \xff", headers, [name.lower() for name, _ in headers], Framing.CONTENT_LENGTH, 5, False
    )


@each_row(
    ("method", "status"),
    [
        ("HEAD", 200),
        ("HEAD", 404),
        ("HEAD", 304),
        ("GET", 100),
        ("GET", 103),
        ("GET", 199),
        ("GET", 204),
        ("GET", 304),
        ("CONNECT", 100),
        ("CONNECT", 304),
        ("HEAD", 999),
    ],
)
def test_no_body(method: str, status: int) -> None:
    """Responses to HEAD, and 1xx, 204 and 304, have no body, whatever their headers say."""
    for headers in [], [LENGTH], [EMPTY], [CHUNKED], [GZIP, CHUNKED], [GZIP]:
        head = response_head(method, b"HTTP/1.1", status, b"", headers)
        assert (head.framing, head.content_length, head.keep_alive) == (Framing.NO_BODY, 0, True), headers


@each_row(
    ("method", "status"),
    [
        ("CONNECT", 200),
        ("CONNECT", 204),
        ("CONNECT", 299),
        ("CONNECT", 101),
        ("GET", 101),
        ("HEAD", 101),
        ("POST", 101),
    ],
)
def test_tunnel(method: str, status: int) -> None:
    """A 2xx to CONNECT, and a 101, open a tunnel, whatever their headers say; the connection cannot be reused."""
    for headers in [], [LENGTH], [EMPTY], [CHUNKED], [GZIP], [KEEP_ALIVE]:
        head = response_head(method, b"HTTP/1.1", status, b"", [*headers, *UPGRADE])
        assert (head.framing, head.content_length, head.keep_alive) == (Framing.TUNNEL, 0, False), headers


@pytest.mark.parametrize("status", [300, 407, 500])
def test_refused_connect(status: int) -> None:
    """Any other response to CONNECT has a body like any other response."""
    assert response_head("CONNECT", b"HTTP/1.1", status, b"", [LENGTH]).framing is Framing.CONTENT_LENGTH
    assert response_head("CONNECT", b"HTTP/1.1", status, b"", [CHUNKED]).framing is Framing.CHUNKED
    assert response_head("CONNECT", b"HTTP/1.1", status, b"", []).framing is Framing.UNTIL_CLOSE


@each_row("method", ["connect", "head", "Head", "HEADS"])
def test_methods_are_case_sensitive(method: str) -> None:
    """Methods are case-sensitive (RFC 9110 section 9.1)."""
    assert response_head(method, b"HTTP/1.1", 200, b"", [LENGTH]).framing is Framing.CONTENT_LENGTH


@each_row("value", [b"chunked", b"Chunked", b"CHUNKED", b"chunked ", b"\tchunked"])
def test_chunked(value: bytes) -> None:
    """With Transfer-Encoding: chunked, the body ends with its last chunk."""
    for name, status in itertools.product((b"Transfer-Encoding", b"TRANSFER-encoding"), (200, 205, 404, 999)):
        head = response_head("GET", b"HTTP/1.1", status, b"", [(name, value)])
        assert (head.framing, head.content_length, head.keep_alive) == (Framing.CHUNKED, 0, True), (name, status)


@each_row(
    ("codings", "shown"),
    [
        ([b"gzip"], " 'gzip'"),
        ([b"Identity"], " 'identity'"),
        ([b"gzip, chunked"], " 'gzip, chunked'"),
        ([b"gzip", b"chunked"], " 'gzip, chunked'"),
        ([b"chunked", b"gzip"], " 'chunked, gzip'"),
        ([b"chunked", b"chunked"], " 'chunked, chunked'"),
        ([b"chunked, chunked"], " 'chunked, chunked'"),
        ([b"chunked, identity"], " 'chunked, identity'"),
        ([b"chunked;a=b"], ""),
        ([b"chunked", b""], ""),
        ([b"chunked", b"\xe9"], ""),
        ([b""], ""),
    ],
)
def test_other_codings(codings: list[bytes], shown: str) -> None:
    """A transfer coding other than a single chunked is refused: it could not be decoded. Only known ones are quoted."""
    headers = [(b"transfer-encoding", coding) for coding in codings]
    for version in b"HTTP/1.0", b"HTTP/1.1":
        with pytest.raises(InvalidResponse, match=f"unsupported Transfer-Encoding{shown} in the response"):
            response_head("GET", version, 200, b"", headers)


@each_row("value", [b"5", b"05", b"5 ", b"\t5"])
def test_content_length(value: bytes) -> None:
    """With a Content-Length, the body has so many bytes."""
    for status in 200, 205, 500:
        head = response_head("GET", b"HTTP/1.1", status, b"", [(b"content-LENGTH", value)])
        assert (head.framing, head.content_length, head.keep_alive) == (Framing.CONTENT_LENGTH, 5, True), status


@each_row(
    ("headers", "merged"),
    [
        ([(b"Content-Length", b"5"), (b"Content-Length", b"5")], [(b"Content-Length", b"5")]),
        ([(b"Content-Length", b"5, 5")], [(b"Content-Length", b"5")]),
        ([(b"Content-Length", b"05 ,\t05")], [(b"Content-Length", b"05")]),
        (
            [(b"A", b"5"), (b"content-LENGTH", b"5, 5"), (b"B", b"1"), (b"Content-Length", b"5"), (b"a", b"5")],
            [(b"A", b"5"), (b"content-LENGTH", b"5"), (b"B", b"1"), (b"a", b"5")],
        ),
        (
            [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")],
            [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        ),
    ],
)
def test_the_same_content_length_more_than_once(headers: Fields, merged: Fields) -> None:
    """There is one header in their place, with one value, as h11 makes of them, whatever its method and status."""
    for method, status in ("GET", 200), ("HEAD", 200), ("GET", 204), ("GET", 103):
        head = response_head(method, b"HTTP/1.1", status, b"", headers)
        assert list(head.headers) == merged
        assert head.names == [name.lower() for name, _ in merged]
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.receive_data(b"".join([b"HTTP/1.1 200 OK\r\n", *(b"%b: %b\r\n" % each for each in headers), b"\r\n"]))
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    assert event.headers.raw_items() == merged


@pytest.mark.parametrize("value", [b"0", b"000"])
def test_content_length_of_zero(value: bytes) -> None:
    """With a Content-Length of zero there is no body, and the connection is kept."""
    head = response_head("GET", b"HTTP/1.1", 200, b"", [(b"Content-Length", value)])
    assert (head.framing, head.content_length, head.keep_alive) == (Framing.NO_BODY, 0, True)


@each_row("headers", [[], [KEEP_ALIVE], [CLOSE], [(b"X-Content-Length", b"5")]])
@each_row("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_until_close(version: bytes, headers: Fields) -> None:
    """With neither, the body ends with the connection."""
    head = response_head("GET", version, 200, b"", headers)
    assert (head.framing, head.content_length, head.keep_alive) == (Framing.UNTIL_CLOSE, 0, False)


@each_row(
    ("values", "in_11", "in_10"),
    [
        ([], True, False),
        ([b""], True, False),
        ([b"keep-alive"], True, True),
        ([b"Keep-Alive"], True, True),
        ([b"x, keep-alive ,y"], True, True),
        ([b"keep-alive", b"x"], True, True),
        ([b"keep-alive\t"], True, True),
        ([b"keep-alive=5"], True, False),
        ([b"close"], False, False),
        ([b"CLOSE "], False, False),
        ([b",close,"], False, False),
        ([b"keep-alive, close"], False, False),
        ([b"close", b"keep-alive"], False, False),
        ([b"keep-alive", b"close"], False, False),
        ([b"closed, not-close"], True, False),
        ([b"upgrade"], True, False),
    ],
)
def test_keep_alive(values: list[bytes], in_11: bool, in_10: bool) -> None:
    """With "close" the connection is closed; otherwise HTTP/1.1 keeps it, and HTTP/1.0 does so with "keep-alive"."""
    others: list[tuple[str, int, Fields]] = [("GET", 200, [LENGTH]), ("GET", 204, []), ("HEAD", 200, [])]
    for method, status, other in others:
        headers = [*other, *((b"connection", value) for value in values)]
        assert response_head(method, b"HTTP/1.1", status, b"", headers).keep_alive is in_11, (method, status)
        assert response_head(method, b"HTTP/1.0", status, b"", headers).keep_alive is in_10, (method, status)


@pytest.mark.parametrize("headers", [[CHUNKED], [CHUNKED, KEEP_ALIVE]])
def test_chunks_in_http_10(headers: Fields) -> None:
    """Chunks in an HTTP/1.0 response are read as such, but the connection is not trusted (RFC 9112 section 6.1)."""
    head = response_head("GET", b"HTTP/1.0", 200, b"", headers)
    assert (head.framing, head.keep_alive) == (Framing.CHUNKED, False)


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/1.9"])
def test_higher_minor_versions(version: bytes) -> None:
    """A higher minor version is read as HTTP/1.1 (RFC 9110 section 2.5)."""
    head = response_head("GET", version, 200, b"", [LENGTH])
    assert (head.version, head.keep_alive) == (version, True)


@pytest.mark.parametrize("headers", [UPGRADE[:1], UPGRADE[1:], []])
def test_101_without_upgrade(headers: Fields) -> None:
    """A 101 must have Upgrade, and Connection: upgrade (RFC 9110 section 7.8)."""
    with pytest.raises(InvalidResponse, match="101 without an Upgrade header, or without Connection: upgrade"):
        response_head("GET", b"HTTP/1.1", 101, b"", headers)


SAME = [[b"5", b"5"], [b"5", b"05"], [b"5,5"], [b"5 ,\t5"], [b"5", b"5, 5"]]
DIFFERENT = [[b"5", b"6"], [b"5, 6"], [b"5", b"5", b"0"]]
BAD = [b"", b"x", b"-5", b"+5", b"5 5", b"5,", b",", b"5\x0b", b"\xb2", b"0x5", b"5_0", b"1" * 19]


@each_row("values", SAME)
def test_same_length_twice(values: list[bytes]) -> None:
    """The same length may be there more than once (RFC 9110 section 8.6)."""
    head = response_head("GET", b"HTTP/1.1", 200, b"", [(b"Content-Length", value) for value in values])
    assert (head.framing, head.content_length, head.keep_alive) == (Framing.CONTENT_LENGTH, 5, True)


@each_row("values", [*DIFFERENT, *([value] for value in BAD), *([b"5", value] for value in BAD)])
def test_bad_lengths(values: list[bytes]) -> None:
    """Different lengths, and what is not a length, are refused, even if there is no body."""
    for method, status in ("GET", 200), ("HEAD", 200), ("GET", 304):
        with pytest.raises(InvalidResponse, match="Content-Length"):
            response_head(method, b"HTTP/1.1", status, b"", [(b"Content-Length", value) for value in values])


@pytest.mark.parametrize("headers", [[LENGTH, CHUNKED], [CHUNKED, LENGTH], [CHUNKED, LENGTH, KEEP_ALIVE]])
def test_length_beside_chunks(headers: Fields) -> None:
    """Chunks win over a length beside them, and the connection is not trusted (RFC 9112 section 6.3)."""
    head = response_head("GET", b"HTTP/1.1", 200, b"", headers)
    assert (head.framing, head.content_length, head.keep_alive) == (Framing.CHUNKED, 0, False)
    for method, status in ("HEAD", 200), ("GET", 304):
        head = response_head(method, b"HTTP/1.1", status, b"", headers)
        assert (head.framing, head.keep_alive) == (Framing.NO_BODY, False)


def test_ambiguous_head() -> None:
    """The connection is not kept behind a head that can be read in two ways."""
    head = response_head("GET", b"HTTP/1.1", 200, b"", [LENGTH], is_ambiguous=True)
    assert (head.framing, head.content_length, head.keep_alive) == (Framing.CONTENT_LENGTH, 5, False)
