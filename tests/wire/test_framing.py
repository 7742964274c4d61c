"""Where responses end: each framing of HTTP/1.1, data after a response, and invalid responses and requests."""

from __future__ import annotations

import itertools
import socket
import ssl

import anyio
import anyio.abc
import httpx
import pytest
from anyio.streams.tls import TLSStream
from support.rows import each_row
from support.scripted_servers import (
    byte_server,
    new_client,
    one_connection,
    read_head,
    read_to_end,
    send,
    send_and_close,
    settle,
    wired,
)
from support.servers import Act, answer
from support.tls_servers import server_context
from support.wire import NOTHING, ONE_IDLE, trusting_context

from prefect_http import InvalidResponse

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 5\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
MANY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * 100

JUNK = [EVIL, b"\r\n", b"\n", b"X", b"H", b"\0"]

# Responses after which both sides keep the connection: method, response, status code, body.
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
    "1.2": ("GET", b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello"),
    "same-length-twice": ("GET", OK + LENGTH + LENGTH + b"\r\nhello", 200, b"hello"),
    "folded": ("GET", OK + b"X-A: b\r\n\tc\r\n" + LENGTH + b"\r\nhello", 200, b"hello"),
    "control-character": ("GET", OK + b"X-A: b\x01c\r\n" + LENGTH + b"\r\nhello", 200, b"hello"),
    "blanks-around-extensions": (
        "GET",
        OK + CHUNKED + b"\r\n3 \r\nhel\r\n2; a=b\r\nlo\r\n0 ;sig=x\r\n\r\n",
        200,
        b"hello",
    ),
    "no-reason": ("GET", b"HTTP/1.1 299 \r\nContent-Length: 5\r\n\r\nhello", 299, b"hello"),
}
# Responses after which the connection is closed, though the server keeps it.
CLOSED = {
    "close": OK + b"Connection: close\r\n" + LENGTH + b"\r\nhello",
    "Close-in-a-list": OK + b"Connection: x, Close\r\n" + LENGTH + b"\r\nhello",
    "close-in-a-second-line": OK + b"Connection: x\r\nConnection: close\r\n" + LENGTH + b"\r\nhello",
    "close-chunked": OK + b"Connection: close\r\n" + CHUNKED + b"\r\n" + IN_CHUNKS,
    "1.0": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\nhello",
    "length-beside-chunks": OK + LENGTH + CHUNKED + b"\r\n" + IN_CHUNKS,
    "chunks-beside-a-length": OK + CHUNKED + b"Content-Length: 0\r\n\r\n" + IN_CHUNKS,
    "bare-line-feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare-line-feed-in-the-head": OK + b"X: a\n" + LENGTH + b"\r\nhello",
    "1.0-chunked": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + CHUNKED + b"\r\n" + IN_CHUNKS,
}
UNTIL_CLOSE = {
    "1.1": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "1.1-keep-alive": b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
    "1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "1.0-keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello",
}


def in_bytes(data: bytes) -> list[bytes]:
    """Cut data into packets of one byte."""
    return [data[index : index + 1] for index in range(len(data))]


# Framings


async def test_response_ends_where_it_says() -> None:
    """A response ends where its framing says, in one packet or in many; the next request uses the same connection."""
    script = [send(*packets) for _, data, _, _ in KEPT.values() for packets in ([data], in_bytes(data), [data])]
    async with wired(*script) as (server, client, transport):
        for name, (method, _, status, body) in KEPT.items():
            for _ in range(3):
                response = await client.request(method, server.url)
                assert (response.status_code, response.content) == (status, body), name
                assert transport.statistics() == ONE_IDLE, name
    assert (len(server.requests), server.connections) == (len(script), 1)


@each_row("data", CLOSED.values(), ids=CLOSED)
async def test_connection_is_closed_as_the_response_says(data: bytes) -> None:
    """If the response says so, the connection is closed after it, even if the server keeps it open."""
    async with wired(send(data)) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
            assert transport.statistics() == NOTHING
    assert server.connections == 2


@pytest.mark.parametrize("data", UNTIL_CLOSE.values(), ids=UNTIL_CLOSE)
async def test_response_ends_with_its_connection(data: bytes) -> None:
    """A response without a length ends where the server closes the connection."""
    async with wired(send_and_close(data), send_and_close(*in_bytes(data))) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
            assert transport.statistics() == NOTHING


@each_row("option", ["close", "Close", "keep-alive, close"])
async def test_connection_is_closed_as_the_request_says(option: str) -> None:
    """A request with ``Connection: close`` is the last one on its connection."""
    async with wired(answer(body=b"hello")) as (server, client, transport):
        for _ in range(2):
            response = await client.get(server.url, headers={"Connection": option})
            assert response.content == b"hello"
            assert transport.statistics() == NOTHING
    assert server.connections == 2


async def test_informational_responses_are_skipped() -> None:
    """A hundred informational responses are skipped; one more is an error."""
    end = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    async with wired(send(MANY_HINTS + end), send(MANY_HINTS + MANY_HINTS[:51] + end)) as (server, client, transport):
        assert (await client.get(server.url)).content == b"hello"
        with pytest.raises(httpx.RemoteProtocolError, match="informational"):
            await client.get(server.url)
        assert transport.statistics() == NOTHING


async def test_head_is_returned_unchanged() -> None:
    """The status code, the reason phrase, the version and the headers are returned unchanged."""
    data = b"HTTP/1.0 418 I'm a\tteapot\r\nX-A:  1 \r\nx-a: \xe9\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n"
    async with wired(send(data)) as (server, client, _):
        response = await client.get(server.url)
    assert response.extensions["reason_phrase"] == b"I'm a\tteapot"
    assert response.extensions["http_version"] == b"HTTP/1.0"
    assert response.headers.raw == [(b"X-A", b"1"), (b"x-a", b"\xe9"), (b"X-Empty", b""), (b"Content-Length", b"0")]


# Data after a response


async def test_trailing_data_closes_the_connection() -> None:
    """A byte after a response closes the connection, and the next request gets a response of its own."""
    junk = list(zip(JUNK, itertools.cycle((0, -1)), strict=False))
    script = [send(data[:cut], data[cut:] + trailing) for _, data, _, _ in KEPT.values() for trailing, cut in junk]
    async with wired(*script) as (server, client, transport):
        for name, (method, _, status, body) in KEPT.items():
            for trailing in JUNK:
                response = await client.request(method, server.url)
                assert (response.status_code, response.content) == (status, body), (name, trailing)
                assert transport.statistics() == NOTHING, (name, trailing)
    assert len(server.requests) == server.connections == len(script)


async def test_data_on_an_idle_connection_closes_it() -> None:
    """Data that arrives while the connection is idle closes it before the next request."""
    has_read, has_sent = anyio.Event(), anyio.Event()

    def send_later(data: bytes, trailing: bytes) -> Act:
        async def act(stream: anyio.abc.ByteStream) -> None:
            nonlocal has_read
            await stream.send(data)
            await has_read.wait()
            has_read = anyio.Event()
            await stream.send(trailing)
            has_sent.set()

        return act

    script = [send_later(data, trailing) for _, data, _, _ in KEPT.values() for trailing in JUNK]
    async with wired(*script) as (server, client, transport):
        for name, (method, _, status, body) in KEPT.items():
            for trailing in JUNK:
                response = await client.request(method, server.url)
                assert (response.status_code, response.content) == (status, body), (name, trailing)
                assert transport.statistics() == ONE_IDLE, (name, trailing)
                has_sent = anyio.Event()
                has_read.set()
                await has_sent.wait()
    assert len(server.requests) == server.connections == len(script)


@pytest.mark.parametrize("name", ["length", "chunked", "HEAD", "204"])
async def test_trailing_data_is_never_the_next_response(name: str) -> None:
    """However often a server sends two responses to one request, the second is never that of the next request."""
    method, data, status, body = KEPT[name]
    async with wired(send(data + EVIL)) as (server, client, _):
        for _ in range(25):
            response = await client.request(method, server.url)
            assert (response.status_code, response.content) == (status, body)
    assert server.connections == 25


async def test_trailing_data_never_reaches_a_waiting_request() -> None:
    """Requests that wait for a connection never get data that follows another request's response."""
    bodies: list[bytes] = []
    _, data, *_ = KEPT["length"]

    async def get(client: httpx.AsyncClient, url: str) -> None:
        bodies.append((await client.get(url)).content)

    async with wired(send(data + EVIL), send(data)) as (server, client, _), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(get, client, server.url)
    assert bodies == [b"hello"] * 20


class Corked(anyio.abc.ByteStream):
    """A stream that can hold data back, to send it all in one packet."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self.held: bytearray | None = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive from the stream below."""
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
        """Send the end of the stream."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()


@pytest.mark.parametrize("size", [100, 30_000, 60_000, 65_000, 70_000])
async def test_trailing_data_over_tls_is_never_the_next_response(size: int) -> None:
    """Over TLS, too, data after a response is never the next one, whether it is in the socket or in TLS."""
    context = server_context()
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"E" * 40000

    async def serve(stream: anyio.abc.SocketStream) -> None:
        corked = Corked(stream)
        tls = await TLSStream.wrap(corked, server_side=True, ssl_context=context, standard_compatible=False)
        while True:
            await tls.receive()
            corked.held = bytearray()
            await tls.send(good)
            await tls.send(evil)
            await corked.uncork()

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        for _ in range(4):
            response = await client.get(f"https://localhost:{server.port}/")
            assert set(response.content) == {ord("x")}
            await settle()
    assert server.connections == 4


# Invalid responses


BAD = {
    "two-lengths": OK + LENGTH + b"Content-Length: 6\r\n\r\nhello!",
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
    "chunk-size-not-a-number": OK + CHUNKED + b"\r\nxyz\r\nhello\r\n0\r\n\r\n",
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
    "trailers-too-long": OK + CHUNKED + b"\r\n0\r\nX: " + b"a" * 0x19000 + b"\r\n\r\n",
    "trailers-too-many": OK + CHUNKED + b"\r\n0\r\n" + b"X: a\r\n" * 257 + b"\r\n",
    "status-line-too-long": b"HTTP/1.1 200 " + b"a" * 0x19000 + b"\r\n" + LENGTH + b"\r\nhello",
    "status-line-endless": b"HTTP/1.1 200 " + b"a" * 0x20000,
    "head-too-long": OK + (b"X: " + b"a" * 1019 + b"\r\n") * 100 + LENGTH + b"\r\nhello",
    "head-too-long-without-body": OK + b"X: " + b"a" * 0x19000 + b"\r\nContent-Length: 0\r\n\r\n",
    "head-endless": OK + (b"X: " + b"a" * 4091 + b"\r\n") * 32,
    "too-many-fields": OK + b"X: a\r\n" * 256 + LENGTH + b"\r\nhello",
    "informational-head-too-long": b"HTTP/1.1 103 Early Hints\r\nX: "
    + b"a" * 0x19000
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
    "status-of-two-digits": b"HTTP/1.1 20 OK\r\n" + LENGTH + b"\r\nhello",
    "status-of-four-digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH + b"\r\nhello",
    "status-099": b"HTTP/1.1 099 OK\r\n" + LENGTH + b"\r\nhello",
    "request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "bare-carriage-return": OK + b"X: a\rY: b\r\n" + LENGTH + b"\r\nhello",
    "space-before-colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "header-without-colon": OK + b"Nonsense\r\n" + LENGTH + b"\r\nhello",
    "header-without-name": OK + b": a\r\n" + LENGTH + b"\r\nhello",
    "space-in-a-name": OK + b"X Y: a\r\n" + LENGTH + b"\r\nhello",
    "NUL-in-a-value": OK + b"X: a\0b\r\n" + LENGTH + b"\r\nhello",
}
TRUNCATED = {
    "nothing": b"",
    "status-line": b"HTTP/1.1 20",
    "head": OK + b"Content-Le",
    "head-without-its-end": OK + LENGTH + b"\r",
    "after-informational": b"HTTP/1.1 100 Continue\r\n\r\n",
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


async def test_invalid_response_is_an_error() -> None:
    """An invalid response is an InvalidResponse, and its connection is closed."""

    def send_and_stay(data: bytes) -> Act:
        async def act(stream: anyio.abc.ByteStream) -> None:
            await stream.send(data)
            await read_to_end(stream)

        return act

    script = [act for data in BAD.values() for act in (send_and_stay(data), answer(body=b"fine", connection="close"))]
    async with wired(*script) as (server, client, transport):
        for name in BAD:
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await client.get(server.url)
            assert type(caught.value) is InvalidResponse, name
            assert transport.statistics() == NOTHING, name
            assert (await client.get(server.url)).content == b"fine", name
    assert len(server.requests) == server.connections == len(script)


@each_row("name", ["two-lengths", "chunk-size-empty", "nonsense", "blank-line-first", "status-099"])
async def test_invalid_response_on_a_reused_connection(name: str) -> None:
    """A request that gets an invalid response on a reused connection is not sent again."""
    async with wired(answer(), send(BAD[name]), answer(body=b"fine")) as (server, client, transport):
        await client.get(server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
        assert transport.statistics() == NOTHING
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("has_half_closed", [False, True], ids=["closed", "half-closed"])
async def test_truncated_response_is_an_error(has_half_closed: bool) -> None:
    """A truncated response is a RemoteProtocolError, whether the server closes the connection or only its side."""

    def truncated(data: bytes) -> Act:
        async def act(stream: anyio.abc.ByteStream) -> None:
            await stream.send(data)
            if has_half_closed:
                await stream.send_eof()
                await read_to_end(stream)
            else:
                await stream.aclose()

        return act

    script = [act for data in TRUNCATED.values() for act in (truncated(data), answer(body=b"fine", connection="close"))]
    async with wired(*script) as (server, client, transport):
        for name in TRUNCATED:
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await client.get(server.url)
            assert type(caught.value) is httpx.RemoteProtocolError, name
            assert transport.statistics() == NOTHING, name
            assert (await client.get(server.url)).content == b"fine", name


async def test_limits_are_reached() -> None:
    """A head of 100 KiB and one of 256 headers are accepted."""
    rest = LENGTH + b"\r\n"
    long = OK + b"X: " + b"a" * (0x19000 - len(OK + rest) - 5) + b"\r\n" + rest
    assert len(long) == 0x19000
    many = OK + b"X: a\r\n" * 255 + rest
    async with wired(send(long + b"hello"), send(many + b"hello")) as (server, client, transport):
        for _ in range(2):
            assert (await client.get(server.url)).content == b"hello"
        assert transport.statistics() == ONE_IDLE


@pytest.mark.parametrize(
    "data", [OK + LENGTH + b"\r\nhello", OK + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n"], ids=["length", "chunked"]
)
async def test_server_that_ends_its_side(data: bytes) -> None:
    """A complete response is valid even if the server ends its side of the connection, which is not reused."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(data)
        await stream.send_eof()

    async with wired(act) as (server, client, _):
        for _ in range(3):
            assert (await client.get(server.url)).content == b"hello"
            await settle()
    assert (len(server.requests), server.connections) == (3, 3)


async def test_data_before_the_error_is_read() -> None:
    """Data that arrived before an error, in the same packet, is returned; then the error is raised."""
    chunks: list[bytes] = []
    async with wired(send(OK + CHUNKED + b"\r\n5\r\nhello\r\nxyz\r\n")) as (server, client, transport):
        async with client.stream("GET", server.url) as response:
            with pytest.raises(httpx.RemoteProtocolError):
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)  # noqa: PERF401, a comprehension would lose what received
        assert transport.statistics() == NOTHING
    assert chunks == [b"hello"]


# Invalid requests


URL = "http://127.0.0.1/"
HOST = (b"Host", b"x")
INVALID: dict[str, tuple[str, bytes, list[tuple[bytes, bytes]]]] = {
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
async def test_invalid_requests_are_not_sent(is_first: bool) -> None:
    """A request that cannot be sent is a LocalProtocolError, not a byte of it is sent, and it holds no connection."""
    seen: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        if not is_first:
            await read_head(stream)
            await stream.send(OK + b"Content-Length: 0\r\n\r\n")
        seen.append(await read_to_end(stream))

    async with byte_server(serve) as server:
        async with one_connection() as transport:
            url = httpx.URL(server.url)
            if not is_first:
                await (await transport.handle_async_request(httpx.Request("GET", url))).aclose()
            for name, (method, target, headers) in INVALID.items():
                request = httpx.Request("GET", url, extensions={"target": target})
                request.method, request.headers = method, httpx.Headers(headers)
                with pytest.raises(httpx.LocalProtocolError):
                    await transport.handle_async_request(request)
                assert transport.statistics() == (NOTHING if is_first else ONE_IDLE), name
            # An invalid body is found later.
            request = httpx.Request("POST", url, headers={"Content-Length": "2"}, content=b"x")
            with pytest.raises(httpx.LocalProtocolError):
                await transport.handle_async_request(request)
            assert transport.statistics() == NOTHING
        await server.all_closed.wait()
    assert b"".join(seen) == b""
    assert server.connections == 1


@each_row("target", [b"*", b"/x?y#z", b"http://example.org/", b"%00", "/text"])
async def test_target(target: bytes | str) -> None:
    """The ``target`` extension is sent in place of the URL's path; it may be bytes or, as in httpx, a string."""
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
    "101-after-100": (
        "GET",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switch\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    ),
    "CONNECT": ("CONNECT", b"HTTP/1.1 200 Connection established\r\n\r\n"),
    "CONNECT-with-length": ("CONNECT", b"HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n"),
    "CONNECT-with-chunked": ("CONNECT", b"HTTP/1.1 299 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "CONNECT-1.0": ("CONNECT", b"HTTP/1.0 200 OK\r\n\r\n"),
}


@each_row("trailing", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n\r\n"], ids=["", "response", "line-breaks"])
@each_row(("method", "head"), TUNNELS.values(), ids=TUNNELS)
async def test_tunnel(method: str, head: bytes, trailing: bytes) -> None:
    """After a 101, or a 2xx to CONNECT, the network stream leads to the server."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(head + trailing)
        heard.append(await stream.receive())
        await stream.send(b"pong")
        heard.append(await read_to_end(stream))

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        extensions = {"target": b"x:1"} if method == "CONNECT" else {}
        async with client.stream(method, server.url, headers=UPGRADE, extensions=extensions) as response:
            assert not response.is_error
            stream = response.extensions["network_stream"]
            received = b""
            while len(received) < len(trailing):
                received += await stream.read(max_bytes=3, timeout=5)
            assert received == trailing
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
        await server.all_closed.wait()
    assert heard == [b"ping", b""]


async def test_unexpected_tunnel_is_an_error() -> None:
    """A 101 to a request that asks for no other protocol is a RemoteProtocolError."""
    async with wired(send(TUNNELS["101"][1])) as (server, client, transport):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url)
        assert transport.statistics() == NOTHING


async def test_tunnel_times_out() -> None:
    """The timeouts of the network stream are httpx's errors, and at its end it reads nothing."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await stream.send_eof()
        await anyio.sleep_forever()

    async def stay_open(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await anyio.sleep_forever()

    transport = one_connection()
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


async def test_closing_the_network_stream() -> None:
    """Closing the network stream ends the connection; another one may be opened once the response is closed."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["101"][1])
        await read_to_end(stream)

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        async with client.stream("GET", server.url, headers=UPGRADE) as response:
            stream = response.extensions["network_stream"]
            await stream.aclose()
            await stream.aclose()
            await server.all_closed.wait()
        assert transport.statistics() == NOTHING


async def test_network_stream_of_any_response() -> None:
    """The network stream of any response knows its addresses and its socket."""
    async with wired(answer(body=b"hello")) as (server, client, _), client.stream("GET", server.url) as response:
        stream = response.extensions["network_stream"]
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert stream.get_extra_info("client_addr")[0] == "127.0.0.1"
        assert stream.get_extra_info("socket").getsockname() == stream.get_extra_info("client_addr")
        assert stream.get_extra_info("socket").family is socket.AF_INET
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("nonsense") is None


async def test_tls_through_a_tunnel() -> None:
    """TLS can be started on a tunnel; closing the response closes it."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(TUNNELS["CONNECT"][1])
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context(), standard_compatible=False)
        await tls.send(b"<" + await tls.receive() + b">")
        await read_to_end(tls)

    transport = one_connection()
    async with byte_server(serve) as server, new_client(transport) as client:
        async with client.stream("CONNECT", server.url, extensions={"target": b"localhost:443"}) as response:
            plain = response.extensions["network_stream"]
            stream = await plain.start_tls(trusting_context(), server_hostname="localhost", timeout=5)
            await stream.write(b"secret", timeout=5)
            assert await stream.read(max_bytes=100, timeout=5) == b"<secret>"
            assert isinstance(stream.get_extra_info("ssl_object"), ssl.SSLObject)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert transport.statistics() == NOTHING
        await server.all_closed.wait()


async def test_tls_that_fails_in_a_tunnel() -> None:
    """A handshake that fails or takes too long is a ConnectError or a ConnectTimeout, and closes the tunnel."""

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

    transport = one_connection()
    async with byte_server(babble, keep_silent) as server, new_client(transport) as client:
        for error, timeout in [(httpx.ConnectError, 5), (httpx.ConnectTimeout, 0.01)]:
            async with client.stream("CONNECT", server.url, extensions={"target": b"localhost:443"}) as response:
                with pytest.raises(error):
                    await response.extensions["network_stream"].start_tls(trusting_context(), "localhost", timeout)
                await server.all_closed.wait()
            assert transport.statistics() == NOTHING
