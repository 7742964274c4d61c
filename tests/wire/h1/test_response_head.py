"""Where the body of a response ends, and what becomes of the connection: RFC 9112 sections 6.3 and 9.3."""

from __future__ import annotations

import httpx
import pytest

from prefect_http._wire.h1.response_head import Body, ResponseHead, response_head

LENGTH = (b"Content-Length", b"5")
EMPTY = (b"Content-Length", b"0")
CHUNKED = (b"Transfer-Encoding", b"chunked")
GZIP = (b"Transfer-Encoding", b"gzip")
CLOSE = (b"Connection", b"close")
KEEP_ALIVE = (b"Connection", b"keep-alive")

Fields = list[tuple[bytes, bytes]]


def test_head_is_told_as_it_came() -> None:
    """Version, status, reason and headers stand there as they came."""
    headers = [(b"sErver", b"a"), LENGTH]
    head = response_head("GET", "1.0", 299, b"So \xff", headers)
    assert head == ResponseHead(b"HTTP/1.0", 299, b"So \xff", headers, Body.LENGTH, 5, False)


@pytest.mark.parametrize("headers", [[], [LENGTH], [EMPTY], [CHUNKED], [GZIP, CHUNKED], [GZIP]])
@pytest.mark.parametrize(
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
def test_rule_1_no_body(method: str, status: int, headers: Fields) -> None:
    """HEAD, 1xx, 204 and 304 have no body, whatever their headers say."""
    head = response_head(method, "1.1", status, b"", headers)
    assert (head.body, head.length, head.keeps_alive) == (Body.NONE, 0, True)


@pytest.mark.parametrize("headers", [[], [LENGTH], [EMPTY], [CHUNKED], [GZIP], [KEEP_ALIVE]])
@pytest.mark.parametrize(
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
def test_rule_2_tunnel(method: str, status: int, headers: Fields) -> None:
    """What follows a 2xx to CONNECT, or a 101, is not HTTP, whatever the headers say; the connection is used up."""
    head = response_head(method, "1.1", status, b"", headers)
    assert (head.body, head.length, head.keeps_alive) == (Body.TUNNEL, 0, False)


@pytest.mark.parametrize("status", [300, 407, 500])
def test_refused_connect_is_no_tunnel(status: int) -> None:
    """The answer to CONNECT that is not 2xx has a body like any other."""
    assert response_head("CONNECT", "1.1", status, b"", [LENGTH]).body is Body.LENGTH
    assert response_head("CONNECT", "1.1", status, b"", [CHUNKED]).body is Body.CHUNKED
    assert response_head("CONNECT", "1.1", status, b"", []).body is Body.UNTIL_CLOSE


@pytest.mark.parametrize("method", ["connect", "head", "Head", "HEADS"])
def test_methods_are_case_sensitive(method: str) -> None:
    """A method that is no HEAD and no CONNECT to the server is none here (RFC 9110 section 9.1)."""
    assert response_head(method, "1.1", 200, b"", [LENGTH]).body is Body.LENGTH


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"chunked ", b"\tchunked"])
@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"TRANSFER-encoding"])
@pytest.mark.parametrize("status", [200, 205, 404, 999])
def test_rule_4_chunked(name: bytes, value: bytes, status: int) -> None:
    """With Transfer-Encoding: chunked the body ends with its last chunk."""
    head = response_head("GET", "1.1", status, b"", [(name, value)])
    assert (head.body, head.length, head.keeps_alive) == (Body.CHUNKED, 0, True)


@pytest.mark.parametrize(
    "codings",
    [
        [b"gzip"],
        [b"identity"],
        [b"gzip, chunked"],
        [b"gzip", b"chunked"],
        [b"chunked", b"gzip"],
        [b"chunked", b"chunked"],
        [b"chunked, chunked"],
        [b"chunked, identity"],
        [b"chunked;a=b"],
        [b"chunked", b""],
        [b""],
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_other_codings_are_refused(codings: list[bytes], version: str) -> None:
    """A body in another coding than chunked alone is refused: nobody here could read it."""
    with pytest.raises(httpx.RemoteProtocolError, match=r"Transfer-Encoding '.*'; only chunked is known"):
        response_head("GET", version, 200, b"", [(b"transfer-encoding", coding) for coding in codings])


@pytest.mark.parametrize("value", [b"5", b"05", b"5 ", b"\t5"])
@pytest.mark.parametrize("status", [200, 205, 500])
def test_rule_6_length(value: bytes, status: int) -> None:
    """With a Content-Length the body has so many bytes."""
    head = response_head("GET", "1.1", status, b"", [(b"content-LENGTH", value)])
    assert (head.body, head.length, head.keeps_alive) == (Body.LENGTH, 5, True)


@pytest.mark.parametrize("value", [b"0", b"000"])
def test_length_of_zero_is_no_body(value: bytes) -> None:
    """With a Content-Length of zero there is no body, and the connection stays."""
    head = response_head("GET", "1.1", 200, b"", [(b"Content-Length", value)])
    assert (head.body, head.length, head.keeps_alive) == (Body.NONE, 0, True)


@pytest.mark.parametrize("headers", [[], [KEEP_ALIVE], [CLOSE], [(b"X-Content-Length", b"5")]])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_rule_8_until_close(version: str, headers: Fields) -> None:
    """With neither, the body ends where the connection does, which nothing can keep alive then."""
    head = response_head("GET", version, 200, b"", headers)
    assert (head.body, head.length, head.keeps_alive) == (Body.UNTIL_CLOSE, 0, False)


@pytest.mark.parametrize(
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
@pytest.mark.parametrize(("method", "status", "headers"), [("GET", 200, [LENGTH]), ("GET", 204, []), ("HEAD", 200, [])])
def test_keep_alive(values: list[bytes], in_11: bool, in_10: bool, method: str, status: int, headers: Fields) -> None:
    """A "close" closes; else HTTP/1.1 keeps the connection, and HTTP/1.0 does so with a "keep-alive"."""
    headers = [*headers, *((b"connection", value) for value in values)]
    assert response_head(method, "1.1", status, b"", headers).keeps_alive is in_11
    assert response_head(method, "1.0", status, b"", headers).keeps_alive is in_10


@pytest.mark.parametrize("headers", [[CHUNKED], [CHUNKED, KEEP_ALIVE]])
def test_chunks_in_http_10_are_read_and_the_connection_closed(headers: Fields) -> None:
    """BodyBuffer in an answer of HTTP/1.0 are read as such, but the connection is not trusted (RFC 9112 section 6.1)."""
    head = response_head("GET", "1.0", 200, b"", headers)
    assert (head.body, head.keeps_alive) == (Body.CHUNKED, False)


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "", "1.1 "])
def test_other_versions_are_refused(version: str) -> None:
    """A version other than 1.0 and 1.1 is refused."""
    with pytest.raises(httpx.RemoteProtocolError, match=r"and not in HTTP/1\.1"):
        response_head("GET", version, 200, b"", [EMPTY])


@pytest.mark.parametrize(("status", "shown"), [(0, "000"), (7, "007"), (99, "099")])
def test_status_below_100_is_refused(status: int, shown: str) -> None:
    """A status below 100 is refused, and shown as it came."""
    with pytest.raises(httpx.RemoteProtocolError, match=f"the status {shown}, which there is not"):
        response_head("GET", "1.1", status, b"", [EMPTY])
