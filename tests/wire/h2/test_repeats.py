"""Requests that the server has not processed are sent again, on both backends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import anyio
import httpx
import pytest
from support.h2_frames import data, goaway, headers, reset, settings
from support.h2_peers import Peer, Script, h2_server, h2_transport, respond, secure_server, serve_paths
from support.servers import answer, retrying_at_once
from support.wire import fetch, new_request, trusting_context, until

from prefect_http import HTTPTransport, PrefectHttpxClient
from prefect_http._internal_errors import RequestNotProcessed
from prefect_http._wire.h2.repeats import MAX_REPEATS, delay_before

REFUSED_STREAM, HTTP_1_1_REQUIRED, INTERNAL_ERROR = 7, 13, 2


def test_delays() -> None:
    """The first repetition comes at once, the others after a pause that grows."""
    assert [delay_before(repeats) for repeats in range(MAX_REPEATS)] == [0, 0.1, 0.2, 0.4, 0.8, 1, 1, 1]


def no_delay(_: int) -> float:
    """Return no delay."""
    return 0.0


@contextlib.asynccontextmanager
async def no_delays() -> AsyncGenerator[None]:
    """Let the pauses take no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_http._wire.http2.delay_before", no_delay)
        yield


def refusing(times: int, refuse: Callable[[int], bytes]) -> Script:
    """Make a script that refuses so many requests, and answers the others."""

    async def script(peer: Peer) -> None:
        for _ in range(times):
            await peer.send(refuse((await peer.request()).stream_id))
        await serve_paths(peer)

    return script


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_refused_streams(method: str) -> None:
    """A request whose stream is refused is sent again, whatever its method, on the same connection."""
    script = refusing(MAX_REPEATS, lambda stream_id: reset(stream_id, REFUSED_STREAM))
    async with no_delays(), h2_server(script) as server, h2_transport() as transport:
        assert await fetch(transport, new_request(server.url, method, b"body" if method == "POST" else None))
        assert server.bytes_server.connections == 1
        assert len(server.peers[0].frames) > MAX_REPEATS


@pytest.mark.anyio
async def test_refused_too_often() -> None:
    """A request that is refused again and again fails as one that was not sent, and a client may retry it."""
    script = refusing(MAX_REPEATS + 1, lambda stream_id: reset(stream_id, REFUSED_STREAM))
    async with no_delays(), h2_server(script, script) as server:
        async with h2_transport() as transport:
            with pytest.raises(RequestNotProcessed, match="reset the stream with REFUSED_STREAM"):
                await fetch(transport, new_request(server.url, "POST", b"body"))
        async with PrefectHttpxClient(transport=h2_transport(), retry=retrying_at_once(1)) as client:
            assert (await client.post(server.url, content=b"body")).content == b"body"


@pytest.mark.anyio
async def test_body_that_cannot_be_sent_again() -> None:
    """A request whose body is a stream is not sent again."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    script = refusing(1, lambda stream_id: reset(stream_id, REFUSED_STREAM))
    async with h2_server(script) as server, h2_transport() as transport:
        with pytest.raises(RequestNotProcessed):
            await fetch(transport, new_request(server.url, "POST", body()))


@pytest.mark.anyio
async def test_streamed_bodies_wait_for_the_settings() -> None:
    """Bodies that can be sent only once are not sent before the server has said how many streams it accepts."""

    async def body() -> AsyncIterator[bytes]:
        yield b"streamed"

    async def serve(peer: Peer) -> None:
        await until(lambda: transport.statistics().streams == 4)
        await peer.send(settings(s3=2))
        await serve_paths(peer)

    found: list[bytes] = []
    async with h2_server(serve, first=b"") as server, h2_transport(httpx.Limits(max_connections=1)) as transport:

        async def post() -> None:
            found.append(await fetch(transport, new_request(server.url, "POST", body())))

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(4):
                    tasks.start_soon(post)
        assert found == [b"streamed"] * 4
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
async def test_no_settings() -> None:
    """A server that never sends its SETTINGS is a connect timeout for them; one that leaves is an error."""

    async def body() -> AsyncIterator[bytes]:
        yield b"streamed"

    async def leave(peer: Peer) -> None:
        await peer.stream.aclose()

    async with h2_server(Peer.wait_closed, leave, first=b"") as server:
        async with h2_transport() as transport:
            with pytest.raises(httpx.ConnectTimeout, match=r"sent no HTTP/2 SETTINGS for 0\.05 s"):
                await fetch(transport, new_request(server.url, "POST", body(), connect=0.05))
            assert transport.statistics().streams == 0
        async with h2_transport() as transport:
            with pytest.raises(RequestNotProcessed, match="ended the connection before the request was sent"):
                await fetch(transport, new_request(server.url, "POST", body()))


@pytest.mark.anyio
async def test_goaway() -> None:
    """Streams above the last of a GOAWAY are sent again on another connection; the others are answered."""

    async def serve(peer: Peer) -> None:
        requests = [await peer.request() for _ in range(4)]
        await peer.send(headers(1), goaway(2**31 - 1), goaway(3))
        await peer.send(*[respond(each.stream_id, b"old") for each in requests[1:2]], data(1, b"old", end=True))
        await peer.wait_closed()

    found: list[bytes] = []
    async with h2_server(serve, serve_paths) as server, h2_transport() as transport:
        async with anyio.create_task_group() as tasks:

            async def post() -> None:
                found.append(await fetch(transport, new_request(server.url, "POST", b"new")))

            for _ in range(4):
                tasks.start_soon(post)
        assert sorted(found) == [b"new", b"new", b"old", b"old"]
        await until(lambda: server.bytes_server.closed == 1)
        assert (server.bytes_server.connections, transport.statistics().connections) == (2, 1)


@pytest.mark.anyio
async def test_waiting_requests_move() -> None:
    """A request that waits for a stream goes to another connection when the server says GOAWAY."""

    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.send(headers(1))
        await until(lambda: transport.statistics().waiting == 1)
        await peer.send(goaway(1), data(1, b"old", end=True))
        await peer.wait_closed()

    found: list[bytes] = []
    limits = httpx.Limits(max_connections=1)
    async with h2_server(serve, serve_paths, first=settings(s3=1)) as server, h2_transport(limits) as transport:
        async with anyio.create_task_group() as tasks:

            async def get() -> None:
                found.append(await fetch(transport, server.url))

            tasks.start_soon(get)
            await until(lambda: transport.statistics().streams == 1)
            await until(lambda: server.peers and server.peers[0].frames)
            await anyio.sleep(0.01)
            tasks.start_soon(get)
        assert found == [b"old", b"/"]


@pytest.mark.anyio
@pytest.mark.parametrize(("method", "is_repeated"), [("GET", True), ("POST", False)])
async def test_connection_that_breaks_as_it_is_reused(method: str, is_repeated: bool) -> None:
    """If a used connection ends without a response, a request that is safe to repeat is sent again, once."""

    async def serve_one(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(respond(request.stream_id))
        await peer.request()

    scripts = [serve_one, serve_paths if is_repeated else serve_one]
    async with h2_server(*scripts) as server, h2_transport() as transport:
        await fetch(transport, server.url)
        if is_repeated:
            assert await fetch(transport, server.url) == b"/"
        else:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await fetch(transport, new_request(server.url, method, b"x"))


@pytest.mark.anyio
async def test_fresh_connection_that_breaks() -> None:
    """If a fresh connection ends without a response, the request fails."""

    async def serve(peer: Peer) -> None:
        await peer.request()

    async with h2_server(serve) as server, h2_transport() as transport:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await fetch(transport, server.url)
        assert server.bytes_server.connections == 1


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2])
async def test_misdirected(times: int) -> None:
    """A 421 sends a request again on another connection, once."""
    script = refusing(1, lambda stream_id: respond(stream_id, b"wrong", status="421"))
    async with h2_server(*[script] * times, serve_paths) as server, h2_transport() as transport:
        response = await transport.handle_async_request(new_request(server.url, "POST", b"body"))
        assert await response.aread() == (b"body" if times == 1 else b"wrong")
        assert (response.status_code, server.bytes_server.connections) == (200 if times == 1 else 421, 2)


@pytest.mark.anyio
async def test_http1_is_required() -> None:
    """A server that requires HTTP/1.1 gets the request, and those that follow, over HTTP/1.1."""

    async def refuse(peer: Peer) -> None:
        await peer.send(reset((await peer.request()).stream_id, HTTP_1_1_REQUIRED))
        await peer.wait_closed()

    async with secure_server("h2", "http/1.1", script=refuse, act=answer(body=b"one")) as server:
        async with HTTPTransport(verify=trusting_context(), http2=True) as transport:
            for _ in range(2):
                response = await transport.handle_async_request(new_request(server.url, "POST", b"x"))
                assert (response.extensions["http_version"], await response.aread()) == (b"HTTP/1.1", b"one")
            assert server.versions == ["h2", "http/1.1"]


@pytest.mark.anyio
async def test_http1_is_required_for_a_streamed_body() -> None:
    """A body that has been sent in part is not sent again. The error is that of any other refusal, and says what to do.

    The next request, and so the client's next attempt if the body is still there, uses HTTP/1.1.
    """

    async def body() -> AsyncIterator[bytes]:
        yield b"x"

    async def refuse(peer: Peer) -> None:
        await peer.send(reset((await peer.request()).stream_id, HTTP_1_1_REQUIRED))
        await peer.wait_closed()

    async with secure_server("h2", "http/1.1", script=refuse, act=answer(body=b"one")) as server:
        async with HTTPTransport(verify=trusting_context(), http2=True) as transport:
            with pytest.raises(httpx.ConnectError, match=r"_1_REQUIRED; .* further requests use HTTP/1\.1") as caught:
                await fetch(transport, new_request(server.url, "POST", body()))
            assert caught.type is RequestNotProcessed
            assert await fetch(transport, new_request(server.url, "POST", body())) == b"one"
        async with PrefectHttpxClient(
            transport=HTTPTransport(verify=trusting_context(), http2=True), retry=retrying_at_once(1)
        ) as client:
            assert (await client.post(server.url, files={"a": b"b"})).content == b"one"
        assert server.versions == ["h2", "http/1.1"] * 2


@pytest.mark.anyio
async def test_server_that_always_goes_away() -> None:
    """A server that ends each connection at once gets no endless connections for a body that can be sent only once."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise AssertionError

    async with no_delays(), h2_server(Peer.wait_closed, first=settings() + goaway(0)) as server:
        async with h2_transport() as transport:
            with pytest.raises(RequestNotProcessed, match="takes no more requests"):
                await fetch(transport, new_request(server.url, "POST", body()))
        assert server.bytes_server.connections == MAX_REPEATS + 1


@pytest.mark.anyio
async def test_http1_is_required_but_excluded() -> None:
    """Without HTTP/1.1, the request fails for good."""
    script = refusing(1, lambda stream_id: reset(stream_id, HTTP_1_1_REQUIRED))
    async with h2_server(script) as server, h2_transport() as transport:
        with pytest.raises(httpx.LocalProtocolError, match=r"HTTP_1_1_REQUIRED, and HTTP/1\.1 is switched off"):
            await fetch(transport, server.url)
