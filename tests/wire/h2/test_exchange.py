"""Requests over HTTP/2 to servers that follow a script, on both backends."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.h2_frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    data,
    frame,
    goaway,
    headers,
    reset,
    settings,
    trailers,
    window,
)
from support.h2_peers import (
    H2Server,
    Peer,
    Script,
    SecureServer,
    h2_server,
    h2_transport,
    respond,
    secure_server,
    serve_paths,
)
from support.rows import each_row
from support.scripted_servers import settle
from support.wire import fetch, new_request, until

from prefect_http import HTTPTransport, InvalidResponse

PROTOCOL_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 1, 2, 8, 11


@contextlib.asynccontextmanager
async def serving(
    *scripts: Script, first: bytes | None = None, limits: httpx.Limits | None = None
) -> AsyncGenerator[tuple[H2Server, HTTPTransport]]:
    """Run a server, and a transport that must have nothing open at the end."""
    async with h2_server(*scripts, first=first) as server, h2_transport(limits) as transport:
        yield server, transport
        await until(lambda: transport.statistics().streams == 0)


def answering(*frames_after_head: bytes, then: Script = Peer.wait_closed) -> Script:
    """Make a script that reads a request and sends these frames for stream 1."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*frames_after_head)
        await then(peer)

    return script


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    """Yield the parts of a body."""
    for part in parts:
        await anyio.lowlevel.checkpoint()
        yield part


# --- Requests and responses


@pytest.mark.anyio
async def test_a_request() -> None:
    """A request has its head on a stream, and the response tells of the stream and of HTTP/2."""
    async with serving(serve_paths) as (server, transport):
        request = httpx.Request("GET", f"{server.url}x?y=1", headers={"X-Name": "Value", "Connection": "close"})
        response = await transport.handle_async_request(request)
        assert (response.status_code, await response.aread()) == (200, b"/x?y=1")
        assert response.http_version == "HTTP/2"
        assert response.extensions["stream_id"] == 1
        assert response.extensions["trailing_headers"] == []
        assert response.reason_phrase == "OK"
        server_address = response.extensions["network_stream"].get_extra_info("server_addr")
        assert server_address == ("127.0.0.1", server.bytes_server.port)
        assert (await transport.handle_async_request(new_request(server.url))).extensions["stream_id"] == 3
        (peer,) = server.peers
        assert [each.kind for each in peer.frames[:3]] == [SETTINGS, WINDOW_UPDATE, HEADERS]


@pytest.mark.anyio
async def test_many_at_once_share_a_connection() -> None:
    """A hundred requests at once go over one connection, and each gets its own response."""
    found: dict[int, bytes] = {}
    async with serving(serve_paths) as (server, transport), anyio.create_task_group() as tasks:

        async def get(number: int) -> None:
            found[number] = await fetch(transport, f"{server.url}{number}")

        for number in range(100):
            tasks.start_soon(get, number)
        await until(lambda: len(found) == 100)
        assert server.bytes_server.connections == 1
        statistics = transport.statistics()
        assert (statistics.connections, statistics.idle, statistics.streams) == (1, 1, 0)
    assert found == {number: b"/%d" % number for number in range(100)}


@pytest.mark.anyio
@each_row("size", [0, 5, 200_000])
async def test_body_of_bytes(size: int) -> None:
    """A body of bytes is sent whole, as the windows allow."""

    async def serve(peer: Peer) -> None:
        await peer.send(window(0, 1_000_000), settings(s4=1_000_000))
        await serve_paths(peer)

    async with serving(serve) as (server, transport):
        body = b"x" * size
        assert await fetch(transport, new_request(server.url, "POST", body)) == (body or b"/")


@pytest.mark.anyio
async def test_body_of_a_stream() -> None:
    """A body that is made while it is sent goes out in parts; empty ones are left out."""
    async with serving(serve_paths) as (server, transport):
        request = new_request(server.url, "POST", chunks(b"one", b"", b"two"))
        assert await fetch(transport, request) == b"onetwo"
        assert server.peers[0].count(DATA) == 3


@pytest.mark.anyio
async def test_uploads_share_fairly() -> None:
    """Of several large uploads at once, none has to wait for the end of another."""

    async def serve(peer: Peer) -> None:
        await peer.send(window(0, 1_000_000), respond((await peer.request()).stream_id))
        await serve_paths(peer)

    async with serving(serve, first=settings(s4=200_000)) as (server, transport):
        await fetch(transport, server.url)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(fetch, transport, new_request(server.url, "POST", b"x" * 100_000))
        uploaded = [each.stream_id for each in server.peers[0].frames if each.kind == DATA]
        last_to_begin = max(uploaded.index(number) for number in (3, 5, 7, 9, 11))
        first_to_end = len(uploaded) - max(uploaded[::-1].index(number) for number in (3, 5, 7, 9, 11))
        assert last_to_begin < len(uploaded) / 3 < 2 * len(uploaded) / 3 < first_to_end


LENGTHS = {"longer": (b"abcd", 3), "shorter": (b"ab", 3)}


@pytest.mark.anyio
async def test_wrong_length() -> None:
    """A body that is not as long as the headers say is not sent whole, and resets the stream, not the connection."""
    async with serving(serve_paths) as (server, transport):
        for name, (body, length) in LENGTHS.items():
            for content in (body, chunks(body)):
                sent = {"Host": "a", "Content-Length": str(length)}
                request = httpx.Request("POST", server.url, headers=sent, stream=_stream_of(content))
                with pytest.raises(httpx.LocalProtocolError, match=f"the request body is {name} than"):
                    await transport.handle_async_request(request)
        assert await fetch(transport, server.url) == b"/"
        assert server.bytes_server.connections == 1


def _stream_of(content: bytes | AsyncIterator[bytes]) -> httpx.AsyncByteStream | httpx.SyncByteStream:
    if isinstance(content, bytes):
        return httpx.ByteStream(content)
    stream = httpx.Request("POST", "http://a", content=content).stream
    assert isinstance(stream, httpx.AsyncByteStream)
    return stream


@pytest.mark.anyio
async def test_head_and_no_content() -> None:
    """Responses without a body have none, whatever their length says."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(headers(1, ("content-length", "5"), end=True))
        await peer.request()
        await peer.send(headers(3, status="204", end=True))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url, "HEAD"))
        assert (await response.aread(), response.headers["content-length"]) == (b"", "5")
        assert await fetch(transport, server.url) == b""


@pytest.mark.anyio
async def test_informational_responses_and_trailers() -> None:
    """Informational responses are passed over; trailers are in the extensions, once the body has been read."""
    frames = (headers(1, status="103"), headers(1), data(1, b"one"))

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(*frames)
        await peer.request()
        await peer.send(data(1, b"two"), trailers(1, ("x-sum", "5")))
        await peer.send(headers(3), data(3, b"all"), trailers(3, ("x-sum", "6")))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url))
        whole = await transport.handle_async_request(new_request(server.url))
        assert whole.extensions["trailing_headers"] == [(b"x-sum", b"6")]
        assert response.extensions["trailing_headers"] == []
        assert await response.aread() == b"onetwo"
        assert response.extensions["trailing_headers"] == [(b"x-sum", b"5")]
        await response.aclose()


@pytest.mark.anyio
async def test_unread_response_holds_up_no_other() -> None:
    """A response that nobody reads fills its window, and others go on."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(headers(1), *[data(1, b"x" * 16_384) for _ in range(4)])
        await serve_paths(peer)

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url))
        for _ in range(5):
            assert await fetch(transport, server.url) == b"/"
        await response.aclose()
        await until(lambda: server.peers[0].resets() == [(1, CANCEL)])


@pytest.mark.anyio
async def test_place_of_an_unread_response_is_free() -> None:
    """A response that has arrived whole needs no stream any more, even if nobody has read it."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(headers(1), data(1, b"on"))
        await peer.request()
        await peer.send(data(1, b"e", end=True), respond(3, b"two"))
        await serve_paths(peer)

    async with serving(serve, first=settings(s3=2), limits=httpx.Limits(max_connections=1)) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url))
        assert await fetch(transport, server.url) == b"two"
        assert transport.statistics().streams == 0
        assert await response.aread() == b"one"
        await response.aclose()
        assert server.peers[0].resets() == []


@pytest.mark.anyio
async def test_body_read_after_the_end() -> None:
    """A body that has been read yields nothing more; one that was closed before its end cannot be read."""
    async with serving(answering(headers(1), data(1, b"x"))) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url))
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        iterator = aiter(stream)
        assert await anext(iterator) == b"x"
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(httpx.StreamClosed):
            await anext(iterator)


# --- Early ends


@pytest.mark.anyio
@pytest.mark.parametrize("with_reset", [True, False])
async def test_early_response_ends_the_upload(with_reset: bool) -> None:
    """A response with an error ends the upload; a RST_STREAM with NO_ERROR behind it is no failure."""
    has_ended = anyio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
                await anyio.lowlevel.checkpoint()
        finally:
            has_ended.set()

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.until(DATA)
        await peer.send(respond(1, b"too large", status="413"), reset(1, 0) if with_reset else b"")
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url, "POST", endless()))
        assert (response.status_code, await response.aread()) == (413, b"too large")
        await response.aclose()
        assert has_ended.is_set()
    assert server.peers[0].resets() == ([] if with_reset else [(1, CANCEL)])


@pytest.mark.anyio
async def test_response_before_the_end_of_the_upload() -> None:
    """A good response before the end of the upload does not end it."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(headers(1))
        request = await peer.request()
        await peer.send(data(1, request.body, end=True))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        request = new_request(server.url, "POST", chunks(*[b"x"] * 50))
        assert await fetch(transport, request) == b"x" * 50


@pytest.mark.anyio
async def test_complete_response_before_the_end_of_the_upload() -> None:
    """If the response is complete before the upload has ended, the place is free when it has."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(respond(1), frame(PING, 0, 0, bytes(8)))
        await peer.wait_closed()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await until(lambda: server.peers[0].count(PING) > 0)  # it is answered, so the response has arrived

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url, "POST", body()))
        assert (response.status_code, transport.statistics().streams) == (200, 0)


@pytest.mark.anyio
async def test_body_that_fails() -> None:
    """What the stream of a body raises is raised, and resets the stream."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("no more")

    async with serving(serve_paths) as (server, transport):
        with pytest.raises(ValueError, match="no more"):
            await transport.handle_async_request(new_request(server.url, "POST", failing()))
        assert await fetch(transport, server.url) == b"/"
        assert server.peers[0].resets() == [(1, CANCEL)]


# --- What servers do wrong

WRONG: Mapping[str, tuple[tuple[bytes, ...], type[Exception], str, bool]] = {
    "reset": ((reset(1, INTERNAL_ERROR),), httpx.RemoteProtocolError, "reset the stream with INTERNAL_ERROR", True),
    "reset in the body": (
        (headers(1), data(1, b"x"), reset(1, CANCEL)),
        httpx.RemoteProtocolError,
        "reset the stream with CANCEL",
        True,
    ),
    "no status": ((trailers(1, ("a", "b"), end=False),), InvalidResponse, "", True),
    "too short": (
        (headers(1, ("content-length", "5")), data(1, b"abc", end=True)),
        InvalidResponse,
        "shorter than its Content-Length",
        True,
    ),
    "upper case": ((headers(1, ("Upper", "case")),), InvalidResponse, "", True),
    "not HTTP/2": ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), httpx.RemoteProtocolError, "", False),
    "push": ((frame(5, 4, 1, bytes(4)),), httpx.RemoteProtocolError, "PUSH_PROMISE", False),
    "compression": ((frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff"),), httpx.RemoteProtocolError, "", False),
}


def is_closed(server: H2Server) -> bool:
    """Return whether a server has seen its first connection end."""
    return server.bytes_server.closed == 1


@pytest.mark.anyio
async def test_errors_of_servers() -> None:
    """An error in a stream fails that request alone; any other ends the connection, with a GOAWAY."""
    for name, (frames, error, message, goes_on) in WRONG.items():
        async with serving(answering(*frames, then=serve_paths), serve_paths) as (server, transport):
            with pytest.raises(error) as caught:
                await fetch(transport, new_request(server.url, "POST", b""))
            assert message in str(caught.value), name
            assert f"127.0.0.1:{server.bytes_server.port}" in str(caught.value), name
            assert await fetch(transport, server.url) == b"/", name
            assert server.bytes_server.connections == (1 if goes_on else 2), name
            if not goes_on:
                await until(partial(is_closed, server))
                assert server.peers[0].count(GOAWAY) == 1, name


@pytest.mark.anyio
async def test_headers_that_the_server_does_not_accept() -> None:
    """A request with larger headers than the server accepts is not sent."""
    async with serving(serve_paths, first=settings(s6=200)) as (server, transport):
        assert await fetch(transport, httpx.Request("GET", server.url, headers={"Host": "a"})) == b"/"
        large = httpx.Request("GET", server.url, headers={"Host": "a", "X": "x" * 300})
        with pytest.raises(httpx.LocalProtocolError, match="larger than the 200 bytes"):
            await transport.handle_async_request(large)
        assert await fetch(transport, httpx.Request("GET", server.url, headers={"Host": "a"})) == b"/"
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
@each_row("frames", [(), (headers(1), data(1, b"x")), (goaway(1),)])
async def test_server_that_closes_the_connection(frames: tuple[bytes, ...]) -> None:
    """If the server closes the connection, requests without a response fail, and those in the body."""

    async def close(peer: Peer) -> None:
        await peer.stream.send_eof()
        await peer.wait_closed()

    async with serving(answering(*frames, then=close), serve_paths) as (server, transport):
        with pytest.raises(httpx.RemoteProtocolError, match=r"^[0-9.:]+ closed the connection before the response was"):
            await fetch(transport, server.url)
        assert await fetch(transport, server.url) == b"/"


# --- Timeouts


async def silent(peer: Peer) -> None:
    """Read, and say nothing."""
    await peer.wait_closed()


@pytest.mark.anyio
@pytest.mark.parametrize("in_body", [False, True])
async def test_read_timeout(in_body: bool) -> None:
    """A read timeout resets the stream. If nothing has arrived at all, the next request uses another connection."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(respond(1))
        await peer.request()
        if in_body:
            await peer.send(headers(3), data(3, b"x"))
        await peer.wait_closed()

    async with serving(serve, serve_paths) as (server, transport):
        assert await fetch(transport, server.url) == b""
        with pytest.raises(httpx.ReadTimeout, match=r"sent no data for 0\.1 s"):
            await fetch(transport, new_request(server.url, read=0.1))
        assert await fetch(transport, server.url) == b"/"
        await until(lambda: server.bytes_server.closed)
        assert server.peers[0].resets() == [(3, CANCEL)]
        assert server.bytes_server.connections == 2


@pytest.mark.anyio
async def test_read_timeout_beside_others() -> None:
    """A read timeout of one request changes nothing for others, if data does arrive on the connection."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.request()
        await peer.send(headers(3))
        while (1, CANCEL) not in peer.resets():
            await peer.send(data(3, b"x"))
            with anyio.move_on_after(0.01):
                await peer.until(RST_STREAM)
        await peer.send(data(3, b"end", end=True))
        await serve_paths(peer)

    async with serving(serve) as (server, transport), anyio.create_task_group() as tasks:
        found: list[bytes] = []

        async def get() -> None:
            found.append(await fetch(transport, server.url))

        async def get_in_vain() -> None:
            with pytest.raises(httpx.ReadTimeout):
                await fetch(transport, new_request(server.url, read=0.05))
            found.append(b"timeout")

        tasks.start_soon(get_in_vain)
        await until(lambda: transport.statistics().streams == 1)
        tasks.start_soon(get)
        await until(lambda: len(found) == 2)
        assert found[0] == b"timeout"
        assert found[1].endswith(b"xend")
        assert await fetch(transport, server.url) == b"/"
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
@pytest.mark.parametrize("is_stream", [False, True])
async def test_write_timeout(is_stream: bool) -> None:
    """A body that the server does not accept times out; one that it accepts slowly does not."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        for _ in range(4):
            await anyio.sleep(0.03)
            await peer.send(window(1, 10))
        await peer.wait_closed()

    body = b"x" * 65_535 + b"y" * 100
    async with serving(serve, first=settings()) as (server, transport):
        began = anyio.current_time()
        request = new_request(server.url, "POST", chunks(body) if is_stream else body, write=0.08, read=None)
        with pytest.raises(httpx.WriteTimeout, match=r"accepted no data for 0\.08 s"):
            await fetch(transport, request)
        assert anyio.current_time() - began > 0.15
        await until(server.peers[0].resets)
    assert server.peers[0].resets() == [(1, CANCEL)]


@pytest.mark.anyio
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(("name", "expected"), [("read", httpx.ReadTimeout), ("write", httpx.WriteTimeout)])
@each_row("content", [None, b"small", b"x" * 100_000, chunks], ids=["none", "small", "large", "parts"])
async def test_a_timeout_of_zero(
    content: bytes | Callable[[bytes], AsyncIterator[bytes]] | None,
    name: str,
    expected: type[Exception],
    is_secure: bool,
) -> None:
    """It has always passed, however quick the server is; the connection is as good as before."""
    async with contextlib.AsyncExitStack() as stack:
        server: SecureServer | H2Server
        if is_secure:
            server = await stack.enter_async_context(secure_server("h2", script=serve_paths, act=None))
        else:
            server = await stack.enter_async_context(h2_server(serve_paths))
        transport = await stack.enter_async_context(h2_transport())
        for _ in range(5):
            body = content(b"part") if callable(content) else content
            with pytest.raises(expected, match=r" no data for 0 s$"):
                await fetch(transport, new_request(server.url, "POST", body, **{name: 0}))
            assert await fetch(transport, server.url) == b"/"
            assert (transport.statistics().streams, transport.statistics().connections) == (0, 1)
        assert len(server.peers) == 1
        assert server.peers[0].count(HEADERS) == (10 if name == "read" else 5)


@pytest.mark.anyio
async def test_pool_timeout() -> None:
    """A request that finds no free stream in time raises a PoolTimeout; one that waits for a handshake does not."""
    async with serving(silent, first=settings(s3=1), limits=httpx.Limits(max_connections=1)) as (server, transport):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, server.url)
            await until(lambda: server.peers and server.peers[0].count(HEADERS))
            await until(lambda: transport.statistics().streams == 1)
            await settle()
            with pytest.raises(httpx.PoolTimeout, match=r"no connection became free within 0\.05 s"):
                await fetch(transport, new_request(server.url, pool=0.05))
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_stream_that_is_withdrawn() -> None:
    """A request that is promised a stream just when the server allows fewer waits for the next one."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.request()
        await peer.send(headers(1), headers(3))
        await until(lambda: transport.statistics().waiting == 1)
        await peer.send(data(3, b"x", end=True), settings(s3=1), frame(PING, 0, 0, bytes(8)))
        await peer.until(PING)
        await settle()
        assert transport.statistics().waiting == 1
        await peer.send(data(1, b"x", end=True))
        await serve_paths(peer)

    async with serving(serve, first=settings(s3=2), limits=httpx.Limits(max_connections=1)) as (server, transport):
        responses: list[httpx.Response] = []

        async def get() -> None:
            responses.append(await transport.handle_async_request(new_request(server.url)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            tasks.start_soon(get)
        assert await fetch(transport, server.url) == b"/"
        for response in responses:
            await response.aclose()
        assert server.bytes_server.connections == 1


# --- Giving up


@pytest.mark.anyio
@each_row("when", ["head", "body", "upload"])
async def test_cancelled_request_resets_its_stream(when: str) -> None:
    """A cancelled request resets its stream, once, and the connection serves others; what comes late is ignored."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await anyio.lowlevel.checkpoint()

    async def serve(peer: Peer) -> None:
        await peer.head()
        if when == "body":
            await peer.send(headers(1), data(1, b"x"))
        await peer.until(RST_STREAM)
        await peer.send(headers(1) if when != "body" else b"", data(1, b"late"), data(1, b"", end=True))
        await serve_paths(peer)

    async with serving(serve) as (server, transport):
        request = new_request(server.url, "POST", endless()) if when == "upload" else new_request(server.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, request)
            await until(lambda: server.peers and server.peers[0].count(HEADERS))
            await settle()
            tasks.cancel_scope.cancel()
        assert await fetch(transport, server.url) == b"/"
        assert (server.peers[0].resets(), server.bytes_server.connections) == ([(1, CANCEL)], 1)


@pytest.mark.anyio
async def test_cancelled_stream_counts_until_the_server_knows() -> None:
    """A cancelled request keeps its stream's place until the server has answered the PING behind the RST_STREAM."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        ping = await peer.until(PING)
        peer.whole.clear()
        await peer.request()
        await peer.send(headers(3))
        await until(lambda: transport.statistics().waiting == 1)
        await settle()
        assert peer.count(HEADERS) == 2
        await peer.send(frame(PING, ACK, 0, ping.payload))
        await serve_paths(peer)

    async with serving(serve, first=settings(s3=2), limits=httpx.Limits(max_connections=1)) as (server, transport):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, server.url)
            await until(lambda: server.peers and server.peers[0].count(HEADERS))
            await settle()
            tasks.cancel_scope.cancel()
        response = await transport.handle_async_request(new_request(server.url))
        assert await fetch(transport, server.url) == b"/"
        await response.aclose()
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
async def test_dropped_response() -> None:
    """A response that is dropped without being closed gives up its stream, and a warning says so."""
    async with serving(answering(headers(1), data(1, b"x"), then=serve_paths)) as (server, transport):
        responses = [await transport.handle_async_request(new_request(server.url))]
        assert transport.statistics().streams == 1
        with pytest.warns(ResourceWarning, match=r"unclosed response from 127\.0\.0\.1:.*its stream is given up"):
            responses.clear()
        await until(lambda: transport.statistics().streams == 0)
        assert await fetch(transport, server.url) == b"/"
        assert (server.peers[0].resets(), server.bytes_server.connections) == ([(1, CANCEL)], 1)


@pytest.mark.anyio
async def test_dropped_response_that_is_complete() -> None:
    """A response that has arrived whole can be dropped: nothing is left to give up."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(headers(1))
        await peer.request()
        await peer.send(data(1, b"x", end=True), respond(3))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        response = await transport.handle_async_request(new_request(server.url))
        await fetch(transport, server.url)
        del response
        gc.collect()


# --- Trace events


@pytest.mark.anyio
@pytest.mark.parametrize("is_stream", [False, True])
async def test_trace_events(is_stream: bool) -> None:
    """The events are httpcore's, and say which stream it is."""
    events: list[tuple[str, object]] = []

    async def listen(event: str, info: Mapping[str, object]) -> None:
        events.append((event, info.get("stream_id")))
        if event == "http2.receive_response_headers.complete":
            assert info["return_value"] == (200, [(b"a", b"b")])

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id, b"fine", ("a", "b")))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        content = chunks(b"x") if is_stream else b"x"
        assert await fetch(transport, new_request(server.url, "POST", content, {"trace": listen})) == b"fine"
    assert events == [
        ("connection.connect_tcp.started", None),
        ("connection.connect_tcp.complete", None),
        ("http2.send_connection_init.started", None),
        ("http2.send_connection_init.complete", None),
        ("http2.send_request_headers.started", 1),
        ("http2.send_request_headers.complete", None),
        ("http2.send_request_body.started", 1),
        ("http2.send_request_body.complete", None),
        ("http2.receive_response_headers.started", 1),
        ("http2.receive_response_headers.complete", None),
        ("http2.receive_response_body.started", 1),
        ("http2.receive_response_body.complete", None),
        ("http2.response_closed.started", 1),
        ("http2.response_closed.complete", None),
    ]


@pytest.mark.anyio
async def test_the_log_has_no_headers(caplog: pytest.LogCaptureFixture) -> None:
    """Of the response's head, only the status is logged."""
    caplog.set_level(logging.DEBUG, logger="prefect_http.wire")

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id, b"fine", ("set-cookie", "a=s3cret")))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        await fetch(transport, server.url)
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect_http.wire"]
    assert f"GET {server.url}: http2.receive_response_headers.complete 200" in lines
    assert "s3cret" not in "".join(lines)


@pytest.mark.anyio
async def test_trace_events_of_failures() -> None:
    """A step that fails has its event, and so has the closing."""
    events: list[str] = []

    async def listen(event: str, _: object) -> None:
        events.append(event)

    head = (headers(1), data(1, b"x"))
    for step, frames in (("receive_response_headers", ()), ("receive_response_body", head)):
        async with serving(answering(*frames, reset(1, CANCEL))) as (server, transport):
            with pytest.raises(httpx.RemoteProtocolError):
                await fetch(transport, new_request(server.url, "GET", None, {"trace": listen}))
        assert events[-4:] == [
            f"http2.{step}.started",
            f"http2.{step}.failed",
            "http2.response_closed.started",
            "http2.response_closed.complete",
        ]


@pytest.mark.anyio
@pytest.mark.parametrize("event", ["http2.send_connection_init.started", "http2.send_request_body.complete"])
async def test_trace_that_fails(event: str) -> None:
    """What the extension raises ends the request, and nothing else."""

    async def listen(name: str, _: object) -> None:
        if name == event:
            raise ValueError(name)

    async with serving(serve_paths) as (server, transport):
        with pytest.raises(ValueError, match=event):
            await fetch(transport, new_request(server.url, "GET", None, {"trace": listen}))
        assert await fetch(transport, server.url) == b"/"


# --- Answers to the server


@pytest.mark.anyio
async def test_ping_is_answered() -> None:
    """A PING is answered on an idle connection as well."""

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id))
        await peer.send(frame(PING, 0, 0, b"12345678"))
        await peer.until(PING)
        request = await peer.request()
        await peer.send(respond(request.stream_id, b"pong"))
        await peer.wait_closed()

    async with serving(serve) as (server, transport):
        await fetch(transport, server.url)
        assert await fetch(transport, server.url) == b"pong"


@pytest.mark.anyio
async def test_goaway_and_idle() -> None:
    """A connection that is idle when the server says GOAWAY is closed at once, and not used again."""

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id), goaway(1))
        await peer.wait_closed()

    async with serving(serve, serve_paths) as (server, transport):
        await fetch(transport, server.url)
        await until(lambda: server.bytes_server.closed == 1)
        assert transport.statistics().connections == 0
        assert await fetch(transport, server.url) == b"/"
