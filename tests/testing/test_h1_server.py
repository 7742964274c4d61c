"""H1Server: requests are found however they are cut, and responses are framed as HTTP/1.1 demands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from support.server_events import received_in_any_pieces

from prefect_http.testing._events import BodyReceived, Event, ProtocolError, RequestBegun, RequestEnded
from prefect_http.testing._h1_server import MAX_HEAD_BYTES, H1Server

HOST = ((b"Host", b"h"),)
GET = b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
CHUNKS = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n02;x\r\nbc\r\n0\r\nA: b\r\n\r\n"
CONNECT = b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


def begun(data: bytes) -> H1Server:
    """Return a server that has received a request."""
    server = H1Server()
    server.receive(data)
    return server


# --- Requests


def get(stream: int) -> RequestBegun:
    """Return the event for GET."""
    return RequestBegun(stream, b"GET", b"/a?b", HOST, b"h", is_last=True)


def body_of(stream: int) -> list[Event]:
    """Return the events for the body ``abc``."""
    return [BodyReceived(stream, b"abc"), RequestEnded(stream)]


def test_requests() -> None:
    """A request is its head and its body; the next one on the connection is the next stream."""
    length, chunked = (b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")
    post = RequestBegun(1, b"POST", b"/", (*HOST, length), b"h", is_last=False)
    stream = RequestBegun(1, b"POST", b"/", (*HOST, chunked), b"h", is_last=False)
    expecting = RequestBegun(1, b"POST", b"/", (*HOST, length, (b"Expect", b"100-Continue")), b"h", False, True)
    cases: dict[bytes, list[Event]] = {
        b"": [],
        GET: [get(1)],
        GET[:-1]: [],
        GET * 3: [get(1), get(2), get(3)],
        POST: [post, *body_of(1)],
        POST[:-1]: [post, BodyReceived(1, b"ab")],
        POST[:-3]: [post],
        POST + GET: [post, *body_of(1), get(2)],
        CHUNKS: [stream, *body_of(1)],
        CHUNKS[:-2]: [stream, BodyReceived(1, b"abc")],
        CHUNKS + GET: [stream, *body_of(1), get(2)],
        POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\n\r\n"): [expecting, *body_of(1)],
        OLD: [RequestBegun(1, b"GET", b"/", (), b"", is_last=True)],
        OLD_KEPT + GET: [RequestBegun(1, b"GET", b"/", ((b"Connection", b"Keep-Alive"),), b"", is_last=True), get(2)],
        CONNECT + b"x": [RequestBegun(1, b"CONNECT", b"h:1", ((b"Host", b"h:1"),), b"h:1", is_last=True)],
    }
    for data, expected in cases.items():
        assert received_in_any_pieces(lambda: H1Server().receive, data) == expected, data


def test_large_heads() -> None:
    """A head may have a mebibyte."""
    server = H1Server()
    start = b"GET / HTTP/1.1\r\nHost: h\r\nA: "
    data = start + b"x" * (MAX_HEAD_BYTES - len(start)) + b"\r\n\r\n"
    (event,) = server.receive(data)
    assert isinstance(event, RequestBegun)
    assert len(event.headers[1][1]) == MAX_HEAD_BYTES - len(start)
    assert H1Server().receive(data[:-4]) == []
    for large in (data[:-4] + b"x", data.replace(b"A", b"AA")):
        with pytest.raises(ProtocolError, match="head of more than 1048576 bytes"):
            H1Server().receive(large)


FAULTS = {
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n": "the request has an invalid chunk size",
    b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n": "Transfer-Encoding with HTTP/1.0",
    CLOSING + b"G": "more after a request that closes the connection",
    OLD + b"G": "more after a request that closes the connection",
    b"GET / HTTP/1.1\r\n\r\n": "no Host",
    b"PRI * HTTP/2.0\r\n\r\n": "invalid request line",
    b"\x16\x03\x01\x02": "not an HTTP/1.1 request",
}


def test_faults() -> None:
    """What a client must not send raises an error that says what it is."""
    for data, message in FAULTS.items():
        with pytest.raises(ProtocolError, match=message):
            H1Server().receive(data)


# --- Responses


class Reply(NamedTuple):
    """A response, how it is to be sent, and whether the connection is closed after it."""

    request: bytes
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | None
    sent: bytes
    closes: bool = False
    reason: bytes = b""


LENGTH = [(b"Content-Length", b"3")]
EMPTY = b"Content-Length: 0\r\n\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
REPLIES = {
    "as long as it says": Reply(GET, 200, LENGTH, b"abc", b"200 OK\r\nContent-Length: 3\r\n\r\nabc"),
    "not as long as it says": Reply(
        GET, 200, [(b"content-length", b"9")], b"abc", b"200 OK\r\ncontent-length: 9\r\n\r\nabc"
    ),
    "in chunks": Reply(GET, 200, [], b"abc", b"200 OK\r\n" + IN_CHUNKS),
    "in chunks, as it says": Reply(GET, 200, [(b"Transfer-Encoding", b"chunked")], b"abc", b"200 OK\r\n" + IN_CHUNKS),
    "in chunks, without a body": Reply(
        GET,
        200,
        [(b"transfer-encoding", b"gzip, Chunked")],
        None,
        b"200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n0\r\n\r\n",
    ),
    "another encoding": Reply(
        GET,
        200,
        [(b"Transfer-Encoding", b"gzip")],
        b"abc",
        b"200 OK\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\nabc",
        closes=True,
    ),
    "no body": Reply(GET, 200, [], None, b"200 OK\r\n" + EMPTY),
    "an empty body of unknown length": Reply(
        GET, 200, [], b"", b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "HEAD": Reply(HEAD, 200, LENGTH, b"abc", b"200 OK\r\nContent-Length: 3\r\n\r\n"),
    "HEAD of unknown length": Reply(HEAD, 200, [], b"abc", b"200 OK\r\n\r\n"),
    "HEAD, no body": Reply(HEAD, 200, [], None, b"200 OK\r\n\r\n"),
    "204": Reply(GET, 204, [], b"abc", b"204 No Content\r\n\r\n"),
    "304": Reply(GET, 304, [], None, b"304 Not Modified\r\n\r\n"),
    "HTTP/1.0": Reply(OLD, 200, [], b"abc", b"200 OK\r\nConnection: close\r\n\r\nabc", closes=True),
    "HTTP/1.0 kept": Reply(
        OLD_KEPT, 200, LENGTH, b"abc", b"200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc"
    ),
    "HTTP/1.0 kept, of unknown length": Reply(
        OLD_KEPT, 200, [], b"abc", b"200 OK\r\nConnection: close\r\n\r\nabc", closes=True
    ),
    "the client closes": Reply(
        CLOSING, 200, [], None, b"200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", closes=True
    ),
    "the server closes": Reply(
        GET, 200, [(b"connection", b"a, Close")], None, b"200 OK\r\nconnection: a, Close\r\n" + EMPTY, closes=True
    ),
    "a reason": Reply(GET, 200, [], None, b"200 Fine\r\n" + EMPTY, reason=b"Fine"),
    "an unknown status": Reply(GET, 299, [], None, b"299 \r\n" + EMPTY),
    "a refused tunnel": Reply(CONNECT, 403, [], None, b"403 Forbidden\r\n" + EMPTY),
    "a tunnel": Reply(CONNECT, 200, [], b"abc", b"200 OK\r\n\r\nabc", closes=True),
    "another protocol": Reply(
        UPGRADE, 101, [(b"Upgrade", b"x")], b"abc", b"101 Switching Protocols\r\nUpgrade: x\r\n\r\nabc", closes=True
    ),
    "the same protocol": Reply(UPGRADE, 200, [], None, b"200 OK\r\n" + EMPTY),
}


def test_responses() -> None:
    """The body is framed as the response's headers say, or the best way for the request; see RFC 9112 section 6."""
    for name, reply in REPLIES.items():
        server = begun(reply.request)
        server.send_head(1, reply.status, reply.headers, is_last=reply.body is None, reason=reply.reason)
        if reply.body is not None:
            server.send_body(1, reply.body[:2])
            server.send_body(1, b"")
            server.send_body(1, reply.body[2:])
            server.end(1)
        server.end(1)
        assert server.take_output() == b"HTTP/1.1 " + reply.sent, name
        assert server.take_output() == b"", name
        assert server.closes_after(1) is reply.closes, name


def test_informational_responses() -> None:
    """A 1xx changes nothing: the head of the response follows."""
    server = begun(POST[:-3])
    server.send_head(1, 100, [], is_last=False)
    server.send_head(1, 103, [(b"Link", b"x")], is_last=True)
    assert server.take_output() == b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert server.receive(b"abc") == body_of(1)
    server.send_head(1, 204, [], is_last=True)
    assert server.take_output() == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_a_response_before_the_end_of_its_request() -> None:
    """The rest of the body still arrives, and then the next request."""
    server = begun(POST[:-2])
    server.send_head(1, 413, [], is_last=True)
    assert not server.closes_after(1)
    assert server.receive(b"bc" + GET) == [BodyReceived(1, b"bc"), RequestEnded(1), get(2)]


def test_pipelined_requests() -> None:
    """Each response is framed for its own request."""
    server = begun(HEAD + GET + OLD)
    for stream in (1, 2, 3):
        server.send_head(stream, 200, [], is_last=False)
        server.send_body(stream, b"a")
        server.end(stream)
        assert server.closes_after(stream) is (stream == 3)
    assert server.take_output() == (
        b"HTTP/1.1 200 OK\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\na"
    )


def test_nothing_is_kept_of_old_requests() -> None:
    """A connection may be used for any number of requests."""
    server = H1Server()
    for stream in range(1, 100):
        server.receive(GET)
        server.send_head(stream, 200, [], is_last=True)
    with pytest.raises(KeyError):
        server.closes_after(98)


@pytest.mark.parametrize(("request_head", "status"), [(CONNECT, 200), (UPGRADE, 101)])
def test_tunnels(request_head: bytes, status: int) -> None:
    """What follows the request belongs to another protocol, also if it came before the response."""
    server = begun(request_head + b"a\r\n")
    assert server.receive(b"b") == []
    server.send_head(1, status, [], is_last=False)
    assert server.receive(b"") == [BodyReceived(1, b"a\r\nb")]
    assert server.receive(b"GET") == [BodyReceived(1, b"GET")]
    server.end(1)
    assert server.closes_after(1)


@pytest.mark.parametrize(("request_head", "status"), [(CONNECT, 407), (UPGRADE, 200)])
def test_refused_tunnels(request_head: bytes, status: int) -> None:
    """What follows the request is the next one."""
    server = begun(request_head + GET)
    server.send_head(1, status, [], is_last=True)
    assert server.receive(b"") == [get(2)]
    assert not server.closes_after(1)


def test_upgrade_with_a_body() -> None:
    """Another protocol begins after the body of the request, whenever the response comes."""
    head = UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n")
    for early in (True, False):
        server = begun(head)
        if early:
            server.send_head(1, 101, [], is_last=False)
        assert server.receive(b"abcd")[:2] == body_of(1)
        if not early:
            server.send_head(1, 101, [], is_last=False)
            assert server.receive(b"") == [BodyReceived(1, b"d")]
        assert server.receive(b"e") == [BodyReceived(1, b"e")]
