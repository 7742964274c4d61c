"""HTTPTransport and where answers end: each framing of HTTP/1.1, what comes behind it, and what is none."""

from __future__ import annotations

import socket
import ssl

import anyio
import anyio.abc
import httpx
import pytest
import trustme
from anyio.streams.tls import TLSStream
from support.scripted_servers import (
    NOTHING,
    ONE_IDLE,
    byte_server,
    new_client,
    new_transport,
    read_head,
    read_to_end,
    say,
    say_and_close,
    settle,
    wired,
)
from support.servers import Act, answer

from prefect_http import HTTPTransport

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
MANY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 100

JUNK = [EVIL, b"\r\n", b"\n", b"X", b"H", b"\0"]

# What is kept open by both sides: method, answer, status, body.
KEPT = {
    "length": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "length-0": ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
    "chunked": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n02\r\nlo\r\n0\r\n\r\n",
        200,
        b"hello",
    ),
    "chunked-empty": ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, b""),
    "extensions": (
        "GET",
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5;a;b=c;d="e f"\r\nhello\r\n0;last\r\n\r\n',
        200,
        b"hello",
    ),
    "trailers": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
        200,
        b"hello",
    ),
    "line-breaks": (
        "GET",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n",
        200,
        b"\r\n\r\n\r\n\r\n",
    ),
    "HEAD": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200, b""),
    "HEAD-chunked": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, b""),
    "HEAD-bare": ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", 200, b""),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "204-length": ("DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", 204, b""),
    "304-length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n", 304, b""),
    "304-chunked": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, b""),
    "100": ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "102-103": (
        "GET",
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + LENGTH + b"\r\nhello",
        200,
        b"hello",
    ),
    "1xx-with-length": (
        "GET",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        200,
        b"hello",
    ),
    "refused-CONNECT": ("CONNECT", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, b"no"),
    "1.0-keep-alive": (
        "GET",
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello",
        200,
        b"hello",
    ),
    "no-reason": ("GET", b"HTTP/1.1 299 \r\nContent-Length: 5\r\n\r\nhello", 299, b"hello"),
}
# What closes the connection, though the server would keep it.
CLOSED = {
    "close": OK + b"Connection: close\r\n" + LENGTH + b"\r\nhello",
    "Close-in-a-list": OK + b"Connection: x, Close\r\n" + LENGTH + b"\r\nhello",
    "close-in-a-second-line": OK + b"Connection: x\r\nConnection: close\r\n" + LENGTH + b"\r\nhello",
    "close-chunked": OK + b"Connection: close\r\n" + CHUNKED + b"\r\n" + IN_CHUNKS,
    "1.0": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nhello",
    "1.0-chunked": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED + b"\r\n" + IN_CHUNKS,
}
UNTIL_CLOSE = {
    "1.1": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "1.1-keep-alive": b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
    "1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "1.0-keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
}
each_kept = pytest.mark.parametrize(("method", "data", "status", "body"), KEPT.values(), ids=KEPT)


def in_bytes(data: bytes) -> list[bytes]:
    """Cut data into packets of one byte."""
    return [data[index : index + 1] for index in range(len(data))]


@pytest.fixture(scope="module")
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Give contexts of a client and of a server that the client trusts."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)  # pyright: ignore[reportUnknownMemberType]
    client = ssl.create_default_context()
    authority.configure_trust(client)  # pyright: ignore[reportUnknownMemberType]
    return client, server


# Framings


@each_kept
async def test_answer_ends_where_it_says(method: str, data: bytes, status: int, body: bytes) -> None:
    """An answer ends where its framing says, in one packet or in many; the next request uses the same connection."""
    async with wired(say(data), say(*in_bytes(data)), say(data)) as (server, client, transport):
        for _ in range(3):
            response = await client.request(method, server.url)
            assert (response.status_code, response.content) == (status, body)
            assert transport.statistics() == ONE_IDLE
    assert (len(server.requests), server.connections) == (3, 1)


@pytest.mark.parametrize("data", CLOSED.values(), ids=CLOSED)
async def test_connection_is_closed_as_the_answer_says(data: bytes) -> None:
    """A connection that the server will not use again is closed once the answer is there, if the server does not."""
    async with wired(say(data)) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
            assert transport.statistics() == NOTHING
    assert server.connections == 2


@pytest.mark.parametrize("data", UNTIL_CLOSE.values(), ids=UNTIL_CLOSE)
async def test_answer_ends_with_its_connection(data: bytes) -> None:
    """An answer without a length ends where the server closes the connection."""
    async with wired(say_and_close(data), say_and_close(*in_bytes(data))) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
            assert transport.statistics() == NOTHING


@pytest.mark.parametrize("option", ["close", "Close", "keep-alive, close"])
async def test_connection_is_closed_as_the_request_says(option: str) -> None:
    """A request with ``Connection: close`` is the last one on its connection."""
    async with wired(answer(body=b"hello")) as (server, client, transport):
        for _ in range(2):
            response = await client.get(server.url, headers={"Connection": option})
            assert response.content == b"hello"
            assert transport.statistics() == NOTHING
    assert server.connections == 2


async def test_hundred_interim_answers_are_skipped() -> None:
    """A hundred interim answers before the answer are skipped; one more is too many."""
    end = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    async with wired(say(MANY_HINTS + end), say(MANY_HINTS + MANY_HINTS[:51] + end)) as (server, client, transport):
        assert (await client.get(server.url)).content == b"hello"
        with pytest.raises(httpx.RemoteProtocolError, match="interim"):
            await client.get(server.url)
        assert transport.statistics() == NOTHING


async def test_head_tells_what_the_server_said() -> None:
    """The status, the reason, the version and the headers are given as they came."""
    data = b"HTTP/1.0 418 I'm a\tteapot\r\nX-A:  1 \r\nx-a: \xe9\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    async with wired(say(data)) as (server, client, _):
        response = await client.get(server.url)
    assert response.extensions["reason_phrase"] == b"I'm a\tteapot"
    assert response.extensions["http_version"] == b"HTTP/1.0"
    assert response.headers.raw == [(b"X-A", b"1"), (b"x-a", b"\xe9"), (b"X-Empty", b""), (b"Content-Length", b"0")]


# What comes behind an answer


@each_kept
async def test_bytes_behind_an_answer_close_the_connection(method: str, data: bytes, status: int, body: bytes) -> None:
    """A byte behind an answer closes the connection, and the next request gets an answer of its own."""
    script = [say(data[:cut], data[cut:] + junk) for junk in JUNK for cut in (0, -1)]
    async with wired(*script) as (server, client, transport):
        for _ in script:
            response = await client.request(method, server.url)
            assert (response.status_code, response.content) == (status, body)
            assert transport.statistics() == NOTHING
    assert len(server.requests) == server.connections == len(script)


@each_kept
async def test_later_bytes_behind_an_answer_close_the_connection(
    method: str, data: bytes, status: int, body: bytes
) -> None:
    """What comes behind an answer while the connection is idle closes it before the next request."""
    has_read, has_sent = anyio.Event(), anyio.Event()

    def say_later(junk: bytes) -> Act:
        async def act(stream: anyio.abc.ByteStream) -> None:
            nonlocal has_read
            await stream.send(data)
            await has_read.wait()
            has_read = anyio.Event()
            await stream.send(junk)
            has_sent.set()

        return act

    script = [say_later(junk) for junk in JUNK]
    async with wired(*script) as (server, client, transport):
        for _ in script:
            response = await client.request(method, server.url)
            assert (response.status_code, response.content) == (status, body)
            assert transport.statistics() == ONE_IDLE
            has_sent = anyio.Event()
            has_read.set()
            await has_sent.wait()
    assert len(server.requests) == server.connections == len(script)


@pytest.mark.parametrize("name", ["length", "chunked", "HEAD", "204"])
async def test_bytes_behind_an_answer_are_never_the_next_answer(name: str) -> None:
    """However often a server sends two answers to one request, the next request at once never gets the second."""
    method, data, status, body = KEPT[name]
    async with wired(say(data + EVIL)) as (server, client, _):
        for _ in range(25):
            response = await client.request(method, server.url)
            assert (response.status_code, response.content) == (status, body)
    assert server.connections == 25


async def test_bytes_behind_an_answer_never_reach_a_waiting_request() -> None:
    """Requests that wait for the one connection never get what came behind another's answer."""
    bodies: list[bytes] = []
    _, data, *_ = KEPT["length"]

    async def get(client: httpx.AsyncClient, url: str) -> None:
        bodies.append((await client.get(url)).content)

    async with wired(say(data + EVIL), say(data)) as (server, client, _), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(get, client, server.url)
    assert bodies == [b"hello"] * 20


class Corked(anyio.abc.ByteStream):
    """A stream that sends in one packet what it has held back."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self.held: bytearray | None = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive as ever."""
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        """Send, or hold back."""
        if self.held is None:
            await self._stream.send(item)
        else:
            self.held += item

    async def uncork(self) -> None:
        """Send what has been held back."""
        held, self.held = bytes(self.held or b""), None
        await self._stream.send(held)

    async def send_eof(self) -> None:
        """Send the end."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close as ever."""
        await self._stream.aclose()


@pytest.mark.parametrize("size", [100, 30_000, 60_000, 65_000, 70_000])
async def test_bytes_behind_an_answer_over_tls_are_never_the_next_answer(
    tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int
) -> None:
    """Over TLS, too, what comes behind an answer is never the next one, whoever has received how much of it."""
    client_context, server_context = tls_contexts
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"E" * 40000

    async def serve(stream: anyio.abc.SocketStream) -> None:
        corked = Corked(stream)
        tls = await TLSStream.wrap(corked, server_side=True, ssl_context=server_context, standard_compatible=False)
        while True:
            await tls.receive()
            corked.held = bytearray()
            await tls.send(good)
            await tls.send(evil)
            await corked.uncork()

    transport = HTTPTransport(verify=client_context, limits=httpx.Limits(max_connections=1))
    async with byte_server(serve) as server, new_client(transport) as client:
        for _ in range(4):
            response = await client.get(f"https://localhost:{server.port}/")
            assert set(response.content) == {ord("x")}
            await settle()
    assert server.connections == 4


# Answers that are none


BAD = {
    "length-and-chunked": OK + LENGTH + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked-and-length": OK + CHUNKED + LENGTH + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "two-lengths": OK + LENGTH + b"Content-Length: 6\r\n\r\nhello!",
    "the-same-length-twice": OK + LENGTH + LENGTH + b"\r\nhello",
    "list-of-lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "negative-length": OK + b"Content-Length: -5\r\n\r\nhello",
    "signed-length": OK + b"Content-Length: +5\r\n\r\nhello",
    "hexadecimal-length": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "no-length": OK + b"Content-Length: \r\n\r\nhello",
    "huge-length": OK + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "length-with-underscore": OK + b"Content-Length: 0_5\r\n\r\nhello",
    "gzip-coding": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "gzip-chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked-gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked-twice": OK + CHUNKED + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "chunk-size-no-number": OK + CHUNKED + b"\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "chunk-size-empty": OK + CHUNKED + b"\r\n\r\nhello\r\n0\r\n\r\n",
    "chunk-size-negative": OK + CHUNKED + b"\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk-size-0x": OK + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "chunk-size-huge": OK + CHUNKED + b"\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk-size-too-small": OK + CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n",
    "chunk-size-space-before": OK + CHUNKED + b"\r\n 5\r\nhello\r\n0\r\n\r\n",
    "chunk-bare-line-feed": OK + CHUNKED + b"\r\n5\nhello\r\n0\r\n\r\n",
    "chunk-without-line-break": OK + CHUNKED + b"\r\n5\r\nhello0\r\n\r\n",
    "chunk-framing-endless": OK + CHUNKED + b"\r\n5;" + b"a" * 0x20000,
    "chunk-size-endless-zeros": OK + CHUNKED + b"\r\n" + b"0" * 0x20000,
    "trailers-too-long": OK + CHUNKED + b"\r\n0\r\nX: " + b"a" * 0x10000 + b"\r\n\r\n",
    "trailers-too-many": OK + CHUNKED + b"\r\n0\r\n" + b"X: a\r\n" * 257 + b"\r\n",
    "status-line-too-long": b"HTTP/1.1 200 " + b"a" * 0x10000 + b"\r\n" + LENGTH + b"\r\nhello",
    "status-line-endless": b"HTTP/1.1 200 " + b"a" * 0x20000,
    "head-too-long": OK + (b"X: " + b"a" * 1019 + b"\r\n") * 64 + LENGTH + b"\r\nhello",
    "head-too-long-without-body": OK + b"X: " + b"a" * 0x10000 + b"\r\nContent-Length: 0\r\n\r\n",
    "head-endless": OK + (b"X: " + b"a" * 4091 + b"\r\n") * 32,
    "too-many-fields": OK + b"X: a\r\n" * 256 + LENGTH + b"\r\nhello",
    "interim-head-too-long": b"HTTP/1.1 103 Early Hints\r\nX: "
    + b"a" * 0x10000
    + b"\r\n\r\n"
    + OK
    + LENGTH
    + b"\r\nhello",
    "blank-line-first": b"\r\n" + OK + LENGTH + b"\r\nhello",
    "space-first": b" " + OK + LENGTH + b"\r\nhello",
    "nonsense": b"220 smtp.example.org ESMTP\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n" + LENGTH + b"\r\nhello",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\nhello",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n" + LENGTH + b"\r\nhello",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + LENGTH + b"\r\nhello",
    "status-of-two-digits": b"HTTP/1.1 20 OK\r\n" + LENGTH + b"\r\nhello",
    "status-of-four-digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH + b"\r\nhello",
    "status-099": b"HTTP/1.1 099 OK\r\n" + LENGTH + b"\r\nhello",
    "request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare-line-feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare-line-feed-in-the-head": OK + b"X: a\n" + LENGTH + b"\r\nhello",
    "bare-carriage-return": OK + b"X: a\rY: b\r\n" + LENGTH + b"\r\nhello",
    "folded-header": OK + b"X: a\r\n b\r\n" + LENGTH + b"\r\nhello",
    "space-before-colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "header-without-colon": OK + b"Nonsense\r\n" + LENGTH + b"\r\nhello",
    "header-without-name": OK + b": a\r\n" + LENGTH + b"\r\nhello",
    "space-in-a-name": OK + b"X Y: a\r\n" + LENGTH + b"\r\nhello",
    "NUL-in-a-value": OK + b"X: a\0b\r\n" + LENGTH + b"\r\nhello",
    "control-character-in-a-value": OK + b"X: a\x01b\r\n" + LENGTH + b"\r\nhello",
}
TRUNCATED = {
    "nothing": b"",
    "status-line": b"HTTP/1.1 20",
    "head": OK + b"Content-Le",
    "head-without-its-end": OK + LENGTH + b"\r",
    "behind-interim": b"HTTP/1.1 100 Continue\r\n\r\n",
    "length-without-body": OK + LENGTH + b"\r\n",
    "length": OK + LENGTH + b"\r\nhell",
    "chunked-without-body": OK + CHUNKED + b"\r\n",
    "chunk": OK + CHUNKED + b"\r\n5\r\nhel",
    "chunk-without-its-end": OK + CHUNKED + b"\r\n5\r\nhello",
    "between-chunks": OK + CHUNKED + b"\r\n5\r\nhello\r\n",
    "last-chunk": OK + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n",
    "last-chunk-without-its-end": OK + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r",
    "trailers": OK + CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX: a\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_bad_answer_is_an_error(data: bytes) -> None:
    """An answer that is not valid is a RemoteProtocolError, its connection is closed, and its place is free."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(data)
        await read_to_end(stream)

    async with wired(act, answer(body=b"fine")) as (server, client, transport):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.get(server.url)
        assert type(caught.value) is httpx.RemoteProtocolError
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"
    assert (len(server.requests), server.connections) == (2, 2)


@pytest.mark.parametrize(
    "name", ["length-and-chunked", "two-lengths", "chunk-size-empty", "nonsense", "blank-line-first", "status-099"]
)
async def test_bad_answer_on_a_used_connection_is_not_asked_for_again(name: str) -> None:
    """A bad answer is an answer: on a connection that served another request before, too, it is not asked for again."""
    async with wired(answer(), say(BAD[name]), answer(body=b"fine")) as (server, client, transport):
        await client.get(server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
        assert transport.statistics() == NOTHING
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("has_half_closed", [False, True], ids=["closed", "half-closed"])
@pytest.mark.parametrize("data", TRUNCATED.values(), ids=TRUNCATED)
async def test_truncated_answer_is_an_error(data: bytes, has_half_closed: bool) -> None:
    """An answer that breaks off is a RemoteProtocolError, whether the server closes the connection or stops talking."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(data)
        if has_half_closed:
            await stream.send_eof()
            await read_to_end(stream)
        else:
            await stream.aclose()

    async with wired(act, answer(body=b"fine")) as (server, client, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"


async def test_limits_are_reached() -> None:
    """A head of 64 KiB and one of 256 fields are taken."""
    rest = LENGTH + b"\r\n"
    long = OK + b"X: " + b"a" * (0x10000 - len(OK + rest) - 5) + b"\r\n" + rest
    assert len(long) == 0x10000
    many = OK + b"X: a\r\n" * 255 + rest
    async with wired(say(long + b"hello"), say(many + b"hello")) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
        assert transport.statistics() == ONE_IDLE


@pytest.mark.parametrize(
    "data", [OK + LENGTH + b"\r\nhello", OK + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n"], ids=["length", "chunked"]
)
async def test_server_that_stops_talking_behind_an_answer_gets_no_other_request(data: bytes) -> None:
    """A complete answer is good, though the server ends its side with it; the connection is not used again."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(data)
        await stream.send_eof()

    async with wired(act) as (server, client, _):
        for _ in range(3):
            assert (await client.get(server.url)).content == b"hello"
            await settle()
    assert (len(server.requests), server.connections) == (3, 3)


async def test_what_came_before_the_error_is_read() -> None:
    """What came of a body before it turned bad, in the same packet, is given; then the error."""
    chunks: list[bytes] = []
    async with wired(say(OK + CHUNKED + b"\r\n5\r\nhello\r\nxyz\r\n")) as (server, client, transport):
        async with client.stream("GET", server.url) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)  # noqa: PERF401, a comprehension would lose what came
        assert transport.statistics() == NOTHING
    assert chunks == [b"hello"]


# Requests that are none


URL = "http://127.0.0.1/"
HOST = (b"Host", b"x")
ILLEGAL: dict[str, tuple[str, bytes, list[tuple[bytes, bytes]]]] = {
    **{f"method-{method!r}": (method, b"/", [HOST]) for method in ["", "GE T", "GET\r\n", "G\0T", "GÉT", "GET/", "G:"]},
    **{
        f"target-{target!r}": ("GET", target, [HOST])
        for target in [b"", b"/ ", b"/a b", b"/\r\nX: y", b"/\n", b"/\0", b"/\x7f", b"/\xe9", b"/\t"]
    },
    **{
        f"name-{name!r}": ("GET", b"/", [HOST, (name, b"a")])
        for name in [b"", b"X Y", b"X:", b"X\r\nY", b"X\n", b"\0", b"X\xe9", b" X", b"X\t", b"(X)", b"X/Y"]
    },
    **{
        f"value-{value!r}": ("GET", b"/", [HOST, (b"X", value)])
        for value in [
            b"a\r\nY: b",
            b"a\n",
            b"\ra",
            b"a\rb",
            b"a\0b",
            b" a",
            b"a ",
            b"\ta",
            b"a\x01",
            b"a\x7f",
            b"\r\n a",
        ]
    },
    "no-host": ("GET", b"/", []),
    "two-hosts": ("GET", b"/", [HOST, HOST]),
    "two-lengths": ("POST", b"/", [HOST, (b"Content-Length", b"0"), (b"content-length", b"0")]),
    "bad-length": ("POST", b"/", [HOST, (b"Content-Length", b"-1")]),
    "list-of-lengths": ("POST", b"/", [HOST, (b"Content-Length", b"0, 0")]),
    "chunked-twice": ("POST", b"/", [HOST, (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")]),
    "other-coding": ("POST", b"/", [HOST, (b"Transfer-Encoding", b"gzip, chunked")]),
}


@pytest.mark.parametrize("is_first", [True, False], ids=["new", "used"])
async def test_nothing_illegal_is_sent(is_first: bool) -> None:
    """A request that cannot be sent is a LocalProtocolError, the server sees no byte of it, and no place is taken."""
    seen: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        if not is_first:
            await read_head(stream)
            await stream.send(OK + b"Content-Length: 0\r\n\r\n")
        seen.append(await read_to_end(stream))

    async with byte_server(serve) as server:
        async with new_transport() as transport:
            url = httpx.URL(server.url)
            if not is_first:
                await (await transport.handle_async_request(httpx.Request("GET", url))).aclose()
            for name, (method, target, headers) in ILLEGAL.items():
                request = httpx.Request("GET", url, extensions={"target": target})
                request.method, request.headers = method, httpx.Headers(headers)
                with pytest.raises(httpx.LocalProtocolError):
                    await transport.handle_async_request(request)
                assert transport.statistics() == (NOTHING if is_first else ONE_IDLE), name
            # What is wrong with a body shows later.
            request = httpx.Request("POST", url, headers={"Content-Length": "2"}, content=b"x")
            with pytest.raises(httpx.LocalProtocolError):
                await transport.handle_async_request(request)
            assert transport.statistics() == NOTHING
        await server.over.wait()
    assert b"".join(seen) == b""
    assert server.connections == 1


@pytest.mark.parametrize("target", [b"*", b"/x?y#z", b"http://example.org/", b"%00", "/text"])
async def test_target_is_sent_as_it_is(target: bytes | str) -> None:
    """The ``target`` extension takes the place of the URL's path, as bytes or, as with httpx, as a string."""
    async with wired(answer()) as (server, client, _):
        await client.request("OPTIONS", server.url, extensions={"target": target})
    assert server.requests[0].target == (target if isinstance(target, str) else target.decode())


# Tunnels


UPGRADE = {"Connection": "upgrade", "Upgrade": "echo"}
TUNNELS = {
    "101": ("GET", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"),
    "101-with-length": (
        "GET",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nContent-Length: 5\r\n\r\n",
    ),
    "101-behind-100": (
        "GET",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    ),
    "CONNECT": ("CONNECT", b"HTTP/1.1 200 Connection established\r\n\r\n"),
    "CONNECT-with-length": ("CONNECT", b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n"),
    "CONNECT-with-chunked": ("CONNECT", b"HTTP/1.1 299 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "CONNECT-1.0": ("CONNECT", b"HTTP/1.0 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("leading", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n\r\n"], ids=["", "answer", "line-breaks"])
@pytest.mark.parametrize(("method", "head"), TUNNELS.values(), ids=TUNNELS)
async def test_tunnel(method: str, head: bytes, leading: bytes) -> None:
    """Behind a 101, or a 2xx to CONNECT, the network stream gives all that comes, and takes what is written."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(head + leading)
        heard.append(await stream.receive())
        await stream.send(b"pong")
        heard.append(await read_to_end(stream))

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        extensions = {"target": b"x:1"} if method == "CONNECT" else {}
        async with client.stream(method, server.url, headers=UPGRADE, extensions=extensions) as response:
            assert not response.is_error
            stream = response.extensions["network_stream"]
            came = b""
            while len(came) < len(leading):
                came += await stream.read(max_bytes=3, timeout=5)
            assert came == leading
            await stream.write(b"", timeout=5)
            await stream.write(b"ping", timeout=5)
            assert await stream.read(max_bytes=100, timeout=5) == b"pong"
            assert not stream.get_extra_info("is_readable")
            assert transport.statistics().connections == 1
        assert transport.statistics() == NOTHING
        with pytest.raises(httpx.ReadError):
            await stream.read(max_bytes=1, timeout=5)
        with pytest.raises(httpx.WriteError):
            await stream.write(b"late", timeout=5)
        await server.over.wait()
    assert heard == [b"ping", b""]


async def test_tunnel_that_was_not_asked_for_is_an_error() -> None:
    """A 101 to a request that asks for no other protocol is a RemoteProtocolError."""
    async with wired(say(TUNNELS["101"][1])) as (server, client, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
        assert transport.statistics() == NOTHING


async def test_tunnel_times_out() -> None:
    """The network stream's timeouts are httpx's, and its end is an empty read."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await stream.send_eof()
        await anyio.sleep_forever()

    async def stay_open(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await anyio.sleep_forever()

    transport = new_transport()
    async with byte_server(serve, stay_open) as server, new_client(transport) as client:
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            assert await stream.read(max_bytes=1, timeout=5) == b""
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            with pytest.raises(httpx.ReadTimeout):
                await stream.read(max_bytes=1, timeout=0.01)
            with pytest.raises(httpx.WriteTimeout):
                await stream.write(b"x" * 20_000_000, timeout=0.01)
        assert transport.statistics() == NOTHING


async def test_closing_the_network_stream_leaves_the_place_to_the_response() -> None:
    """Who closes the network stream ends the connection; the place is free once the response is closed."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await read_to_end(stream)

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            await stream.aclose()
            await stream.aclose()
            await server.over.wait()
        assert transport.statistics() == NOTHING


async def test_network_stream_tells_of_its_socket() -> None:
    """The network stream of any response can be asked for its addresses and its socket."""
    async with wired(answer(body=b"hello")) as (server, client, _), client.stream("GET", server.url) as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket").getsockname() == stream.get_extra_info("client_addr")
        assert stream.get_extra_info("socket").family is socket.AF_INET
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("nonsense") is None


async def test_tls_through_a_tunnel(tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """TLS can be put on a tunnel; closing the response closes it."""
    client_context, server_context = tls_contexts

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["CONNECT"][1])
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context, standard_compatible=False)
        await tls.send(b"<" + await tls.receive() + b">")
        await read_to_end(tls)

    transport = new_transport()
    async with byte_server(serve) as server, new_client(transport) as client:
        async with client.stream("CONNECT", server.url, extensions={"target": b"localhost:443"}) as response:
            plain = response.extensions["network_stream"]
            stream = await plain.start_tls(client_context, server_hostname="localhost", timeout=5)
            await stream.write(b"secret", timeout=5)
            assert await stream.read(max_bytes=100, timeout=5) == b"<secret>"
            assert isinstance(stream.get_extra_info("ssl_object"), ssl.SSLObject)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert transport.statistics() == NOTHING
        await server.over.wait()


async def test_tls_that_fails_in_a_tunnel_closes_it(tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A handshake that fails, or takes too long, is a ConnectError or a ConnectTimeout, and ends the tunnel."""

    async def babble(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["CONNECT"][1])
        await stream.receive()
        await stream.send(b"this is no TLS" * 10)
        await read_to_end(stream)

    async def keep_silent(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["CONNECT"][1])
        await read_to_end(stream)

    transport = new_transport()
    async with byte_server(babble, keep_silent) as server, new_client(transport) as client:
        for error, timeout in [(httpx.ConnectError, 5), (httpx.ConnectTimeout, 0.01)]:
            async with client.stream("CONNECT", server.url, extensions={"target": b"localhost:443"}) as response:
                with pytest.raises(error):
                    await response.extensions["network_stream"].start_tls(tls_contexts[0], "localhost", timeout)
                await server.over.wait()
            assert transport.statistics() == NOTHING
