"""Wire: which request gets which connection, and what happens to the others; closing; and several event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
import trio.testing
from support.rows import each_row
from support.scripted_servers import new_client
from support.servers import Act, answer, free_port, raw_server, refusing_port, stall, upgrade_to_echo
from support.sockets import open_sockets, reset_on_close, sockets_closed
from support.systems import needs_local_addresses
from support.wire import (
    HELD,
    fetch,
    figures,
    new_request,
    new_transport,
    request_targets,
    until,
    until_readable,
    until_waiting,
)

from prefect_http import HTTPTransport, InvalidResponse, PrefectHttpxClient
from prefect_http._wire.connection import Connection
from prefect_http._wire.connector import Connector
from prefect_http._wire.wire import Wire

FINE = answer(body=b"fine")
BACKENDS = ["asyncio", "trio"]


async def open_responses(transport: HTTPTransport, *urls: str) -> list[httpx.Response]:
    """Send requests one after the other, and leave their responses open."""
    return [await transport.handle_async_request(new_request(url, "GET", None, HELD)) for url in urls]


def source(stream: Any) -> int:
    """Return the client's port of a connection."""
    address: tuple[str, int] = stream.get_extra_info("client_addr")
    return address[1]


def ports(*responses: httpx.Response) -> list[int]:
    """Return the client's ports of the connections of responses, to tell them apart."""
    return [source(response.extensions["network_stream"]) for response in responses]


async def port_of(transport: HTTPTransport, url: str, method: str = "GET") -> int:
    """Send a request, read the response, and return the client's port of the connection."""
    response = await transport.handle_async_request(new_request(url, method))
    await response.aread()
    return ports(response)[0]


# --- Reuse


@pytest.mark.anyio
async def test_connection_is_reused() -> None:
    """Requests that follow each other use one connection; the statistics are right at each stage."""
    async with raw_server(FINE) as server:
        async with new_transport() as transport:
            assert figures(transport) == (0, 0, 0)
            for _ in range(5):
                [response] = await open_responses(transport, server.url)
                assert figures(transport) == (1, 0, 0)
                await response.aread()
                assert figures(transport) == (1, 1, 0)
                await response.aclose()
                assert figures(transport) == (1, 1, 0)
        assert figures(transport) == (0, 0, 0)
    assert (server.connections, len(server.requests)) == (1, 5)


@pytest.mark.anyio
async def test_whole_response_releases_its_connection() -> None:
    """If all of a response has arrived along with its head, its connection can be used at once, before it is read."""
    async with raw_server(FINE) as server, new_transport() as transport:
        responses = [await transport.handle_async_request(new_request(server.url)) for _ in range(3)]
        assert figures(transport) == (1, 1, 0)
        assert [await response.aread() for response in responses] == [b"fine"] * 3
    assert server.connections == 1


@pytest.mark.anyio
async def test_last_used_is_reused_first() -> None:
    """Of several idle connections, the one used last is used next."""
    async with raw_server(FINE) as server, new_transport() as transport:
        responses = await open_responses(transport, *[server.url] * 3)
        for index in (1, 2, 0):
            await responses[index].aclose()
        again = await open_responses(transport, *[server.url] * 3)
        assert ports(*again) == [ports(*responses)[index] for index in (0, 2, 1)]
    assert server.connections == 3


@pytest.mark.anyio
async def test_response_that_is_not_read() -> None:
    """A response that is closed before its end closes its connection."""

    async def two_parts(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")

    async with raw_server(two_parts, FINE) as server, new_transport() as transport:
        [response] = await open_responses(transport, server.url)
        await response.aclose()
        assert figures(transport) == (0, 0, 0)
        assert await fetch(transport, server.url) == b"fine"
    assert server.connections == 2


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"Connection": "close"}, {"Connection": "Keep-Alive, Close"}])
async def test_connection_close(headers: dict[str, str]) -> None:
    """A request with ``Connection: close`` is the last one on its connection."""
    async with raw_server(FINE) as server, new_transport() as transport:
        request = new_request(server.url)
        request.headers.update(headers)
        await fetch(transport, request)
        assert figures(transport) == (0, 0, 0)


# --- Limits


@pytest.mark.anyio
async def test_first_come_first_served() -> None:
    """Requests beyond max_connections wait, and are served in the order in which they came."""
    served: list[int] = []

    async def ask(number: int) -> None:
        await fetch(transport, f"{server.url}{number}")
        served.append(number)

    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        [response] = await open_responses(transport, server.url)
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(ask, number)
                await until_waiting(transport, number + 1)
            await response.aread()
        assert figures(transport) == (1, 1, 0)
    assert served == list(range(6))
    assert request_targets(server) == ["/", *[f"/{number}" for number in range(6)]]
    assert server.connections == 1


@pytest.mark.anyio
async def test_newcomer_does_not_overtake() -> None:
    """A request that comes just when a connection becomes free does not overtake those that wait."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        [response] = await open_responses(transport, server.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, server.url + "waiting")
            await until_waiting(transport, 1)
            await response.aread()
            await fetch(transport, server.url + "new")
    assert request_targets(server) == ["/", "/waiting", "/new"]


@pytest.mark.anyio
async def test_waiter_that_leaves_is_skipped() -> None:
    """A request that gives up waiting is skipped."""
    scopes = [anyio.CancelScope() for _ in range(4)]

    async def ask(number: int) -> None:
        with scopes[number]:
            await fetch(transport, f"{server.url}{number}")

    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        [response] = await open_responses(transport, server.url)
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(ask, number)
                await until_waiting(transport, number + 1)
            for number in (0, 2):
                scopes[number].cancel()
            await response.aread()
    assert request_targets(server) == ["/", "/1", "/3"]


@pytest.mark.anyio
async def test_failure_makes_room_for_the_next() -> None:
    """If a request fails while others wait, the next one opens a connection."""
    limits = httpx.Limits(max_connections=1)
    errors: list[Exception] = []

    async def fail() -> None:
        try:
            await fetch(transport, f"http://127.0.0.1:{refusing_port()}/")
        except httpx.ConnectError as error:
            errors.append(error)

    async with raw_server(FINE) as server, new_transport(limits) as transport:
        [response] = await open_responses(transport, server.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            await until_waiting(transport, 1)
            tasks.start_soon(fetch, transport, server.url)
            await until_waiting(transport, 2)
            await response.aread()
        assert figures(transport) == (1, 1, 0)
    assert len(errors) == 1


@pytest.mark.anyio
@each_row("kept", [0, 1, 2, 3, None])
async def test_max_keepalive_connections(kept: int | None) -> None:
    """At most max_keepalive_connections stay idle: those used last."""
    limits = httpx.Limits(max_keepalive_connections=kept)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        responses = await open_responses(transport, *[server.url] * 3)
        before = ports(*responses)
        for response in responses:
            await response.aread()
        left = 3 if kept is None else kept
        assert figures(transport) == (left, left, 0)
        again = await open_responses(transport, *[server.url] * 3)
        assert ports(*again)[:left] == before[::-1][:left]
    assert server.connections == 6 - left


@pytest.mark.anyio
async def test_no_keepalive_connections() -> None:
    """With max_keepalive_connections=0, each request has a connection of its own, even if it waits for one."""
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=0)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(fetch, transport, server.url)
        assert figures(transport) == (0, 0, 0)
    assert server.connections == 5


async def _stream() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.mark.anyio
@each_row("status", [413, 500, 503, 599])
@each_row(
    ("method", "content", "is_reused"),
    [("GET", None, True), ("PUT", b"x", True), ("POST", b"x", False), ("PATCH", b"x", False), ("PUT", _stream, False)],
    ids=["GET", "PUT", "POST", "PATCH", "PUT-stream"],
)
async def test_connection_behind_a_5xx_or_413(status: int, method: str, content: Any, is_reused: bool) -> None:
    """Some servers close the connection after these, so it serves only requests that may be sent again."""
    async with raw_server(answer(status), FINE) as server, new_transport() as transport:
        first = await port_of(transport, server.url)
        content = content() if callable(content) else content
        response = await transport.handle_async_request(new_request(server.url, method, content))
        await response.aread()
        assert (ports(response) == [first]) is is_reused
        # The first connection is still good for a GET, and for anything once it has served that.
        for again in "GET", "GET", "POST", "POST":
            await port_of(transport, server.url, again)
    assert server.connections == (1 if is_reused else 2)


@pytest.mark.anyio
@each_row("status", [200, 302, 404, 499])
async def test_connection_behind_any_other_status(status: int) -> None:
    """Behind any other status, a connection serves any request."""
    async with raw_server(answer(status), FINE) as server, new_transport() as transport:
        assert await port_of(transport, server.url, "POST") == await port_of(transport, server.url, "POST")


@pytest.mark.anyio
async def test_post_does_not_get_the_connection_of_a_5xx_while_it_waits() -> None:
    """A POST that waits for a connection is not sent on one that the server closes after its 5xx."""

    async def fail_and_close(stream: anyio.abc.ByteStream) -> None:
        await answer(500)(stream)
        await stream.aclose()

    limits, fetched = httpx.Limits(max_connections=1), list[bytes]()

    async def post() -> None:
        fetched.append(await fetch(transport, new_request(server.url, "POST", b"x")))

    async with raw_server(fail_and_close) as server, new_transport(limits) as transport:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(post)
    assert (fetched, server.connections) == ([b""] * 10, 10)


@pytest.mark.anyio
@each_row(("expiry", "connections"), [(0, 3), (0.2, 2), (None, 1), (1000, 1)])
async def test_keepalive_expiry(expiry: float | None, connections: int) -> None:
    """A connection that has been idle for keepalive_expiry seconds is closed, and not reused."""
    limits = httpx.Limits(keepalive_expiry=expiry)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        first = await port_of(transport, server.url)
        assert (await port_of(transport, server.url) == first) == (expiry != 0)
        await anyio.sleep(0.21 if expiry == 0.2 else 0.03)
        await fetch(transport, server.url)
        assert figures(transport) == (1, 1, 0)
    assert server.connections == connections


@pytest.mark.anyio
async def test_another_origin_makes_room() -> None:
    """At max_connections, the connection that has been idle longest is closed for another origin."""
    limits = httpx.Limits(max_connections=2)
    async with raw_server(FINE) as one, raw_server(FINE) as two, new_transport(limits) as transport:
        responses = await open_responses(transport, one.url, one.url)
        old, young = ports(*responses)
        for response in responses:
            await response.aread()
        await fetch(transport, two.url)
        assert figures(transport) == (2, 2, 0)
        assert await port_of(transport, one.url) == young != old
        await fetch(transport, two.url)
        assert (one.connections, two.connections) == (2, 1)


@pytest.mark.anyio
async def test_waiting_for_another_origin() -> None:
    """A connection that becomes free makes room for the first request that waits, whatever its origin."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as one, raw_server(FINE) as two, new_transport(limits) as transport:
        [response] = await open_responses(transport, one.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, two.url)
            await until_waiting(transport, 1)
            tasks.start_soon(fetch, transport, one.url)
            await until_waiting(transport, 2)
            await response.aread()
        assert figures(transport) == (1, 1, 0)
        assert (one.connections, two.connections) == (2, 1)


@pytest.mark.anyio
async def test_origins_are_separate() -> None:
    """A connection serves only its own scheme, host, port and TLS name."""
    async with raw_server(FINE) as one, raw_server(FINE) as two, new_transport() as transport:
        named = one.url.replace("127.0.0.1", "localhost")
        found = [await port_of(transport, url) for url in (one.url, two.url, named, named.upper().lower())]
        assert len(set(found)) == 3
        assert figures(transport) == (3, 3, 0)
        request = new_request(one.url, "GET", None, {"sni_hostname": "example.org"})
        await fetch(transport, request)
        assert figures(transport) == (4, 4, 0)


# --- Stale connections


class Streams:
    """An act: responds, and keeps its streams, in the order of the requests."""

    def __init__(self) -> None:
        self.streams: list[anyio.abc.ByteStream] = []

    async def of(self, count: int) -> list[anyio.abc.ByteStream]:
        """Wait until so many requests have been answered, and return their streams."""
        await until(lambda: len(self.streams) == count)
        return self.streams

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        await FINE(stream)
        self.streams.append(stream)


async def close(stream: anyio.abc.ByteStream) -> None:
    """Close an idle connection."""
    await stream.aclose()


async def close_with_reset(stream: anyio.abc.ByteStream) -> None:
    """Reset an idle connection."""
    reset_on_close(stream)
    await stream.aclose()


async def half_close(stream: anyio.abc.ByteStream) -> None:
    """Send the end of the stream, but go on reading."""
    stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)


async def write(stream: anyio.abc.ByteStream) -> None:
    """Send what looks like a response."""
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")


async def write_blank_line(stream: anyio.abc.ByteStream) -> None:
    """Send a blank line, which some parsers would skip."""
    await stream.send(b"\r\n")


async def write_and_close(stream: anyio.abc.ByteStream) -> None:
    """Send a 408 and close, as many servers do."""
    await stream.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await stream.aclose()


SPOIL: list[Act] = [close, close_with_reset, half_close, write, write_blank_line, write_and_close]


@pytest.mark.anyio
@each_row("method", ["GET", "POST"])
@each_row("spoil", SPOIL)
async def test_stale_connection(spoil: Act, method: str) -> None:
    """An idle connection that the server has closed or written to is dropped before it is used."""
    act = Streams()
    async with raw_server(act) as server, new_transport() as transport:
        [response] = await open_responses(transport, server.url)
        await response.aread()
        await spoil((await act.of(1))[0])
        await until_readable(response)
        assert figures(transport) == (1, 1, 0)
        assert await fetch(transport, new_request(server.url, method)) == b"fine"
        assert figures(transport) == (1, 1, 0)
    assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.anyio
@each_row("good", range(7))
async def test_good_connection_below_stale_ones(good: int) -> None:
    """All stale connections above a good one are dropped, and the good one is used."""
    act = Streams()
    async with raw_server(act) as server, new_transport() as transport:
        responses = await open_responses(transport, *[server.url] * 7)
        for response in responses:
            await response.aread()
        streams = await act.of(7)
        for index, spoil in zip([index for index in range(7) if index != good], SPOIL, strict=True):
            await spoil(streams[index])
            await until_readable(responses[index])
        assert figures(transport) == (7, 7, 0)
        assert await port_of(transport, server.url, "POST") == ports(responses[good])[0]
        assert figures(transport) == (good + 1, good + 1, 0)  # those below were not looked at
    assert server.connections == 7


@pytest.mark.anyio
async def test_all_stale() -> None:
    """If all idle connections are stale, they are dropped, and a fresh one is opened, even at the limit."""
    act = Streams()
    limits = httpx.Limits(max_connections=len(SPOIL))
    async with raw_server(act) as server, new_transport(limits) as transport:
        responses = await open_responses(transport, *[server.url] * len(SPOIL))
        for response, stream, spoil in zip(responses, await act.of(len(SPOIL)), SPOIL, strict=True):
            await response.aread()
            await spoil(stream)
        for response in responses:
            await until_readable(response)
        assert await fetch(transport, new_request(server.url, "POST")) == b"fine"
        assert figures(transport) == (1, 1, 0)
    assert server.connections == len(SPOIL) + 1


@pytest.mark.anyio
@each_row("spoil", SPOIL)
async def test_stale_connection_is_not_handed_on(spoil: Act) -> None:
    """A connection that becomes stale before its response is closed is not handed on to a request that waits."""
    act, limits = Streams(), httpx.Limits(max_connections=1)
    async with raw_server(act) as server, new_transport(limits) as transport:
        [response] = await open_responses(transport, server.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, new_request(server.url, "POST"))
            await until_waiting(transport, 1)
            await spoil((await act.of(1))[0])
            await until_readable(response)
            await response.aread()
        assert figures(transport) == (1, 1, 0)
    assert server.connections == 2


# --- Closing


@contextlib.asynccontextmanager
async def asking(transport: HTTPTransport, request: httpx.Request | str) -> AsyncGenerator[list[httpx.TransportError]]:
    """Run a request beside the block, by whose end it must have failed; yield its exception."""
    errors: list[httpx.TransportError] = []

    async def ask() -> None:
        try:
            await fetch(transport, request)
        except httpx.TransportError as error:
            errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            yield errors
    assert len(errors) == 1


async def endless() -> AsyncIterator[bytes]:
    """Generate an endless body."""
    while True:
        yield b"x" * 65536


@contextlib.asynccontextmanager
async def silent_server(ends: anyio.Event | None = None) -> AsyncGenerator[list[str]]:
    """Run a server that reads a little and then nothing; yield where it listens, and an entry for each connection."""
    seen: list[str] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive(1)
            seen.append("connection")
            await (ends or anyio.Event()).wait()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        seen.append(f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/")
        yield seen
        tasks.cancel_scope.cancel()


async def stall_in_head(stream: anyio.abc.ByteStream) -> None:
    """Send half a head."""
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-")


async def stall_in_body(stream: anyio.abc.ByteStream) -> None:
    """Send half a body."""
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfi")


async def stay_quiet(stream: anyio.abc.ByteStream) -> None:
    """Send nothing."""


async def usable(transport: HTTPTransport, sockets: frozenset[int]) -> None:
    """Check that a closed transport has left nothing behind, and can be used again."""
    assert figures(transport) == (0, 0, 0)
    await sockets_closed(sockets)
    async with raw_server(FINE) as server:
        assert await fetch(transport, server.url) == b"fine"
        assert figures(transport) == (1, 1, 0)
        await transport.aclose()
    assert figures(transport) == (0, 0, 0)


@pytest.mark.anyio
@each_row("act", [stay_quiet, stall_in_head, stall_in_body])
@each_row("method", ["GET", "POST"])
@each_row("is_reused", [False, True], ids=["fresh", "reused"])
async def test_closing_ends_a_request(act: Act, method: str, is_reused: bool) -> None:
    """Closing ends a request that waits for its response; it is not sent again."""
    transport, sockets = new_transport(), open_sockets()
    async with raw_server(*[FINE] * is_reused, act) as server:
        if is_reused:
            await fetch(transport, server.url)
        async with asking(transport, new_request(server.url, method)) as errors:
            await until(lambda: len(server.requests) == 1 + is_reused)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
        assert isinstance(errors[0], httpx.ReadError | httpx.ConnectError)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert (server.connections, len(server.requests)) == (1, 1 + is_reused)
    await usable(transport, sockets)


@pytest.mark.anyio
@pytest.mark.parametrize("make_content", [endless, lambda: b"x" * 20_000_000], ids=["stream", "bytes"])
async def test_closing_ends_an_upload(make_content: Callable[[], Any]) -> None:
    """Closing ends a request whose body the server does not read."""
    transport, sockets = new_transport(), open_sockets()
    async with silent_server() as seen:
        async with asking(transport, new_request(f"http://{seen[0]}", "POST", make_content())) as errors:
            await until(lambda: len(seen) == 2)
            await anyio.sleep(0.02)  # until the buffers are full
            await transport.aclose()
        assert isinstance(errors[0], httpx.ReadError | httpx.WriteError)
    await usable(transport, sockets)


@pytest.mark.anyio
async def test_closing_refuses_waiting_requests() -> None:
    """Closing refuses requests that wait for a connection, with a ConnectError that says so."""
    transport, sockets = new_transport(httpx.Limits(max_connections=1)), open_sockets()
    async with raw_server(FINE) as server:
        [response] = await open_responses(transport, server.url)
        async with asking(transport, server.url) as one, asking(transport, server.url) as two:
            await until(lambda: figures(transport) == (1, 0, 2))
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
        for errors in (one, two):
            assert type(errors[0]) is httpx.ConnectError
            assert "closed" in str(errors[0])
        assert (await response.aread()) == b"fine"  # it had arrived already
        assert figures(transport) == (0, 0, 0)
    await usable(transport, sockets)


@pytest.mark.anyio
async def test_closing_ends_a_handshake() -> None:
    """Closing ends a request that is doing the TLS handshake."""
    transport, sockets, ends = new_transport(), open_sockets(), anyio.Event()
    async with silent_server(ends) as seen:
        async with asking(transport, f"https://{seen[0]}") as errors:
            await until(lambda: len(seen) == 2)
            assert figures(transport) == (1, 0, 0)
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
            ends.set()
        assert type(errors[0]) is httpx.ConnectError
    await usable(transport, sockets)


@pytest.mark.anyio
async def test_closing_while_connecting() -> None:
    """A connection that is opened only after the transport was closed is closed, and its request fails."""
    transport, sockets = new_transport(), open_sockets()

    async def close_now(event: str, _: object) -> None:
        if event == "connection.connect_tcp.complete":
            await transport.aclose()

    async with raw_server(FINE) as server:
        async with asking(transport, new_request(server.url, "GET", None, {"trace": close_now})) as errors:
            pass
        assert type(errors[0]) is httpx.ConnectError
        assert "closed" in str(errors[0])
        assert server.requests == []
    await usable(transport, sockets)


@pytest.mark.anyio
@pytest.mark.parametrize("has_data", [True, False], ids=["data", "end"])
async def test_new_connection_with_data_on_it(has_data: bool) -> None:
    """A new connection is not used if data arrives on it before the request is sent; its end is an error as ever."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await (stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL") if has_data else stream.send_eof())
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    heard.append(await stream.receive())

    async def wait_for_data(event: str, info: Any) -> None:
        if event == "connection.connect_tcp.complete":
            await until(lambda: info["return_value"].get_extra_info("is_readable"))

    transport, sockets = new_transport(), open_sockets()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        with pytest.raises(InvalidResponse if has_data else httpx.RemoteProtocolError) as caught:
            await fetch(transport, new_request(url, "POST", b"x", {"trace": wait_for_data}))
        assert type(caught.value) is InvalidResponse or not has_data
        assert (" sent data before the request was sent" in str(caught.value)) is has_data
        tasks.cancel_scope.cancel()
    assert heard == [] or not has_data
    assert figures(transport) == (0, 0, 0)
    await sockets_closed(sockets)


@pytest.mark.anyio
async def test_closing_in_all_states() -> None:
    """Closing ends requests in all states at once."""
    transport, sockets = new_transport(httpx.Limits(max_connections=5)), open_sockets()
    async with (
        raw_server(FINE) as idle,
        raw_server(stay_quiet) as asked,
        raw_server(stall_in_body) as answering,
        silent_server() as taking,
        silent_server() as greeting,
    ):
        responses = await open_responses(transport, idle.url, idle.url)
        await responses[0].aread()
        del responses[0]
        async with contextlib.AsyncExitStack() as stack:
            for request in (
                new_request(f"http://{taking[0]}", "POST", endless()),
                asked.url,
                answering.url,
            ):
                await stack.enter_async_context(asking(transport, request))
            await until(lambda: len(taking) == 2 and asked.requests and answering.requests)
            assert figures(transport) == (5, 1, 0)
            waiting = new_request(f"https://{greeting[0]}", connect=0.5)  # in place of the idle one
            await stack.enter_async_context(asking(transport, waiting))
            await until(lambda: len(greeting) == 2)
            await stack.enter_async_context(asking(transport, idle.url))
            await until(lambda: figures(transport) == (5, 0, 1))
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
        await responses[0].aclose()
    await usable(transport, sockets)


@pytest.mark.anyio
async def test_closing_while_others_go_on() -> None:
    """Closing does not wait for requests that start meanwhile."""
    transport = new_transport()
    errors: list[Exception] = []

    async def come() -> None:
        try:
            await fetch(transport, new_request(silent.url, read=0.3))
        except httpx.TransportError as error:
            errors.append(error)

    async with raw_server(FINE) as server, raw_server(stay_quiet) as silent:
        async with anyio.create_task_group() as tasks:
            for response in await open_responses(transport, *[server.url] * 50):
                await response.aread()
            tasks.start_soon(come)
            await transport.aclose()
            assert errors == []
            tasks.cancel_scope.cancel()
        await transport.aclose()
    assert figures(transport) == (0, 0, 0)


@pytest.mark.anyio
async def test_closing_very_many() -> None:
    """Closing does not use more of the stack for more connections."""
    count, sockets, limit = 200, open_sockets(), sys.getrecursionlimit()
    transport = new_transport(httpx.Limits(max_keepalive_connections=count))
    async with raw_server(FINE) as server:
        for response in await open_responses(transport, *[server.url] * count):
            await response.aclose()
        assert figures(transport) == (count, count, 0)
        sys.setrecursionlimit(sum(1 for _ in traceback.walk_stack(None)) + count // 2)
        try:
            await transport.aclose()
        finally:
            sys.setrecursionlimit(limit)
        assert figures(transport) == (0, 0, 0)
    await sockets_closed(sockets)


@pytest.mark.anyio
async def test_closing_twice_at_once() -> None:
    """If two tasks close a transport at once, both wait until it is closed."""
    transport = HTTPTransport()
    with anyio.fail_after(5):
        async with raw_server(answer(), answer()) as server:
            async with httpx.AsyncClient(transport=transport) as client:
                await client.get(server.url)
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(transport.aclose)
    assert transport.statistics().connections == 0


@pytest.mark.anyio
async def test_closing_twice_and_unused() -> None:
    """A transport may be closed without having been used, and twice."""
    transport = new_transport()
    await transport.aclose()
    await transport.aclose()
    async with transport:
        assert figures(transport) == (0, 0, 0)


# --- Other event loops


TWO_LOOPS = pytest.mark.parametrize("second", BACKENDS)


@pytest.mark.parametrize("first", BACKENDS)
@TWO_LOOPS
def test_one_loop_after_the_other(first: str, second: str) -> None:
    """A transport that was closed can be used in another event loop."""
    transport = new_transport()

    async def use() -> None:
        async with raw_server(FINE) as server:
            with anyio.fail_after(5):
                assert await fetch(transport, server.url) == b"fine"
                assert await fetch(transport, server.url) == b"fine"
            assert figures(transport) == (1, 1, 0)
            await transport.aclose()

    for backend in (first, second, first):
        anyio.run(use, backend=backend)


UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # Python warns of what is left open


@UNCLOSED
@each_row("first", BACKENDS)
@TWO_LOOPS
@each_row("state", ["idle", "in-use", "closed-first"])
def test_connections_left_over_by_a_loop(first: str, second: str, state: str) -> None:
    """What an event loop that has ended leaves open is dropped by the next request, or by closing the transport."""
    transport = new_transport(httpx.Limits(max_connections=1))
    responses: list[httpx.Response] = []

    async def leave() -> None:
        async with raw_server(FINE) as server:
            [response] = await open_responses(transport, server.url)
            if state == "idle":
                await response.aread()
            responses.append(response)

    async def use() -> None:
        async with raw_server(FINE) as server:
            if state == "closed-first":
                await transport.aclose()
                assert figures(transport) == (0, 0, 0)
            assert await fetch(transport, server.url) == b"fine"
            assert figures(transport) == (1, 1, 0)
            for response in responses:
                await response.aclose()
            assert figures(transport) == (1, 1, 0)
            await transport.aclose()

    anyio.run(leave, backend=first)
    anyio.run(use, backend=second)
    responses.clear()
    gc.collect()


@UNCLOSED
def test_waiting_requests_left_over_by_a_loop() -> None:
    """So are the requests that still wait for a connection in a loop that is closed without having ended its tasks."""
    transport = new_transport(httpx.Limits(max_connections=1))
    loop = asyncio.new_event_loop()

    async def leave(port: int) -> None:
        tasks.extend(asyncio.create_task(fetch(transport, f"http://127.0.0.1:{port}/")) for _ in range(2))
        await until_waiting(transport, 1)

    async def use() -> None:
        async with raw_server(FINE) as server, transport:
            assert await fetch(transport, server.url) == b"fine"

    tasks: list[asyncio.Task[bytes]] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        loop.run_until_complete(leave(silent.getsockname()[1]))
    loop.close()
    anyio.run(use, backend="trio")
    assert figures(transport) == (0, 0, 0)


@UNCLOSED
def test_two_loops_at_once() -> None:
    """With open connections of an event loop that has not ended, requests are refused; closing drops them, too."""
    transport = new_transport()
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        async with raw_server(FINE) as server:
            assert await fetch(transport, server.url) == b"fine"

    async def use() -> None:
        async with raw_server(FINE) as server:
            with pytest.raises(RuntimeError, match="another event loop, which has not ended"):
                await fetch(transport, server.url)
            assert figures(transport) == (1, 1, 0)
            with pytest.raises(RuntimeError, match="another event loop, which has not ended"):
                await transport.aclose()
            assert figures(transport) == (0, 0, 0)
            assert await fetch(transport, server.url) == b"fine"
            await transport.aclose()

    for backend in BACKENDS:
        loop.run_until_complete(leave())
        anyio.run(use, backend=backend)
    loop.close()
    gc.collect()


@pytest.mark.parametrize("backend", BACKENDS)
def test_loop_that_ends_in_mid_request(backend: str) -> None:
    """A loop that ends during a request leaves a transport that can be used in the next one."""
    transport = new_transport()

    async def leave() -> None:
        async with raw_server(stay_quiet) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, server.url)
            await until(lambda: server.requests)
            tasks.cancel_scope.cancel()

    async def use() -> None:
        async with raw_server(FINE) as server, transport:
            assert await fetch(transport, server.url) == b"fine"

    anyio.run(leave, backend=backend)
    assert figures(transport) == (0, 0, 0)
    anyio.run(use, backend="trio" if backend == "asyncio" else "asyncio")


def test_asyncio_run_twice() -> None:
    """A transport may serve several asyncio.run() in turn, if it is closed in between."""
    transport = new_transport()

    async def use() -> None:
        async with raw_server(FINE) as server, transport:
            assert await fetch(transport, server.url) == b"fine"

    asyncio.run(use())
    asyncio.run(use())
    assert figures(transport) == (0, 0, 0)


# --- Responses that are dropped


def drop(responses: list[httpx.Response]) -> None:
    """Drop responses, which are parts of cycles."""
    responses.clear()
    gc.collect()


def drop_in_a_thread(responses: list[httpx.Response]) -> None:
    """Drop responses, and let another thread collect them, as may happen in any program with threads."""
    responses.clear()
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()


DROPPED = pytest.mark.filterwarnings("ignore:unclosed response:ResourceWarning")


@pytest.mark.anyio
@each_row("drop", [drop, drop_in_a_thread])
@each_row("act", [FINE, stall], ids=["complete", "half"])
async def test_dropped_response(act: Act, drop: Callable[[list[httpx.Response]], None]) -> None:
    """A response that is dropped without being closed gives up its connection when it is collected, with a warning."""
    transport, sockets = new_transport(httpx.Limits(max_connections=1)), open_sockets()
    async with raw_server(act, FINE) as server, new_client(transport) as client, anyio.create_task_group() as tasks:
        request = client.build_request("GET", server.url, extensions=dict(HELD))
        responses = [await client.send(request, stream=True)]
        tasks.start_soon(fetch, transport, server.url)
        await until_waiting(transport, 1)
        with pytest.warns(ResourceWarning, match=rf"unclosed response from 127\.0\.0\.1:{server.port}; its connection"):
            drop(responses)
        await until(lambda: figures(transport) == (1, 1, 0))
        assert server.connections == 2
    await sockets_closed(sockets)


@pytest.mark.anyio
async def test_responses_that_are_not_dropped() -> None:
    """A response that was closed, read to its end, or whose transport was closed, is collected without a warning."""
    async with raw_server(FINE) as server:
        async with new_transport() as transport:
            for response in await open_responses(transport, *[server.url] * 2):
                await response.aread()
            [response] = await open_responses(transport, server.url)
            await response.aclose()
            [response] = await open_responses(transport, server.url)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del response
            gc.collect()


@pytest.mark.anyio
@DROPPED
async def test_dropped_response_whose_connection_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If closing the connection fails, that is logged: there is nobody to raise it to."""
    caplog.set_level("DEBUG", "prefect_http")
    transport = new_transport()

    async def fail(connection: Connection) -> None:
        monkeypatch.undo()
        await connection.aclose()
        raise OSError("broken")

    async with raw_server(FINE) as server, transport:
        await open_responses(transport, server.url)
        monkeypatch.setattr(Connection, "aclose", fail)
        gc.collect()
        await until(lambda: figures(transport) == (0, 0, 0) and "closing a connection failed" in caplog.text)


@pytest.mark.parametrize("backend", BACKENDS)
@UNCLOSED
def test_response_that_is_dropped_after_its_loop(backend: str) -> None:
    """If its event loop has ended, there is only the warning."""
    transport = new_transport()
    responses: list[httpx.Response] = []

    async def leave() -> None:
        async with raw_server(FINE) as server:
            responses.extend(await open_responses(transport, server.url))

    anyio.run(leave, backend=backend)
    with pytest.warns(ResourceWarning, match="unclosed response"):
        drop(responses)
    anyio.run(transport.aclose, backend=backend)
    assert figures(transport) == (0, 0, 0)


@pytest.mark.anyio
@DROPPED
async def test_dropped_response_of_a_tunnel() -> None:
    """The connection of a tunnel stays open while its network stream is in use, even if the response is dropped."""
    transport = new_transport()
    async with raw_server(upgrade_to_echo) as server, transport:
        headers = {"Connection": "upgrade", "Upgrade": "echo"}
        request = httpx.Request("GET", server.url, headers=headers)
        stream = (await transport.handle_async_request(request)).extensions["network_stream"]
        gc.collect()
        await stream.write(b"ping", 5)
        assert await stream.read(4, 5) == b"ping"
        assert figures(transport) == (1, 0, 0)
        del stream
        gc.collect()
        await until(lambda: figures(transport) == (0, 0, 0))


# --- Sockets


class Peers:
    """An act: responds, and keeps where the connection comes from."""

    def __init__(self) -> None:
        self.hosts: list[object] = []

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        self.hosts.append(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])
        await FINE(stream)


@pytest.mark.anyio
@needs_local_addresses
async def test_local_address() -> None:
    """Connections come from local_address."""
    act = Peers()
    async with raw_server(act) as server, HTTPTransport(verify=False, local_address="127.0.0.2") as transport:
        await fetch(transport, server.url)
    assert act.hosts == ["127.0.0.2"]


@pytest.mark.anyio
@each_row(
    ("option", "expected"),
    [
        ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), 1),
        ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, b"\1\0\0\0"), 1),
        ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 0), 0),
    ],
)
async def test_socket_options(option: Any, expected: int) -> None:
    """Each socket has the options; TCP_NODELAY is on unless they say otherwise."""
    transport = HTTPTransport(verify=False, socket_options=[option])
    async with raw_server(FINE) as server, transport:
        for _ in range(2):
            [response] = await open_responses(transport, server.url)
            raw_socket = response.extensions["network_stream"].get_extra_info("socket")
            assert raw_socket.getsockopt(*option[:2]) == expected
            await response.aclose()


@pytest.mark.anyio
async def test_no_delay() -> None:
    """Small packets are sent at once."""
    async with raw_server(FINE) as server, new_transport() as transport:
        [response] = await open_responses(transport, server.url)
        raw_socket = response.extensions["network_stream"].get_extra_info("socket")
        assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await response.aclose()


@pytest.mark.anyio
async def test_ipv6() -> None:
    """An IPv6 address is in brackets in a URL, and is connected to."""
    try:
        listener = await anyio.create_tcp_listener(local_host="::1")
    except OSError:
        pytest.skip("there is no IPv6 here")

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await FINE(stream)

    async with listener, anyio.create_task_group() as tasks, new_transport() as transport:
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(5):
            assert await fetch(transport, f"http://[::1]:{port}/") == b"fine"
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_transports_are_separate() -> None:
    """Transports share neither connections nor limits."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server, new_transport(limits) as one, new_transport(limits) as two:
        [response] = await open_responses(one, server.url)
        assert await fetch(two, server.url) == b"fine"
        assert (figures(one), figures(two)) == ((1, 0, 0), (1, 1, 0))
        await two.aclose()
        assert await response.aread() == b"fine"
    assert server.connections == 2


# --- Retries


class Attempts:
    """A trace extension: keeps when connections were attempted, and may do something before an attempt."""

    def __init__(self, before: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.times: list[float] = []
        self.before = before

    async def __call__(self, event: str, _: object) -> None:
        if event == "connection.connect_tcp.started":
            self.times.append(anyio.current_time())
            if self.before is not None:
                await self.before(len(self.times))


@pytest.mark.trio
@pytest.mark.parametrize(("retries", "times"), [(0, [0]), (1, [0, 0]), (2, [0, 0, 0.5]), (4, [0, 0, 0.5, 1.5, 3.5])])
async def test_retries_wait(autojump_clock: trio.testing.MockClock, retries: int, times: list[float]) -> None:
    """A refused connection is retried after 0, 0.5, 1, 2, ... seconds, as with httpx."""
    attempts, start = Attempts(), trio.current_time()
    async with new_transport(retries=retries) as transport:
        request = new_request(f"http://127.0.0.1:{refusing_port()}/", "GET", None, {"trace": attempts})
        with pytest.raises(httpx.ConnectError):
            await fetch(transport, request)
        assert figures(transport) == (0, 0, 0)
    assert [time - start for time in attempts.times] == times


@pytest.mark.anyio
async def test_retry_finds_a_server() -> None:
    """A server that comes up between two attempts is found."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack, new_transport(retries=1) as transport:

        async def come_up(attempt: int) -> None:
            if attempt == 2:
                await stack.enter_async_context(raw_server(FINE, port=port))

        attempts = Attempts(come_up)
        request = new_request(f"http://127.0.0.1:{port}/", "GET", None, {"trace": attempts})
        assert await fetch(transport, request) == b"fine"
    assert len(attempts.times) == 2


@pytest.mark.anyio
async def test_requests_are_not_retried() -> None:
    """Only connections are retried, and not requests that fail later."""

    async def drop_it(stream: anyio.abc.ByteStream) -> None:
        await stream.aclose()

    async with raw_server(drop_it) as server, new_transport(retries=3) as transport:
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
    assert server.connections == 1


# --- A loop that is blocked


async def get_while_blocked(block: Callable[[], None]) -> bytes:
    """Send a request whose response arrives in time, while the event loop is blocked until after the timeout."""
    bodies: list[bytes] = []

    async def get() -> None:
        bodies.append(await fetch(transport, new_request(url, read=5)))

    def has_read() -> bytes:
        try:
            return connections[0].recv(1000)
        except BlockingIOError:
            return b""

    def has_accepted() -> bool:
        with contextlib.suppress(BlockingIOError):
            connections.append(listener.accept()[0])
            connections[0].setblocking(False)
        return bool(connections)

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with new_transport() as transport, anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await until(has_accepted)
            with connections[0]:
                await until(has_read)
                connections[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
                block()
                await until(lambda: bodies)
    return bodies[0]


@pytest.mark.trio
async def test_blocked_trio(mock_clock: trio.testing.MockClock) -> None:
    """A response that arrived in time is read, even if the loop could not look before its timeout."""
    for _ in range(10):  # trio runs tasks in any order
        assert await get_while_blocked(lambda: mock_clock.jump(10)) == b"fine"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_blocked_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is on asyncio."""
    loop, offset = asyncio.get_running_loop(), 0.0
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + offset)

    def block() -> None:
        nonlocal offset
        offset += 10

    assert await get_while_blocked(block) == b"fine"


# --- What is kept


@pytest.mark.anyio
async def test_closing_drops_credentials() -> None:
    """A closed transport keeps no headers of requests, and none of responses."""
    transport = Wire(Connector(), httpx.Limits())
    with anyio.fail_after(5):
        async with raw_server(answer(set_cookie="secret")) as server, httpx.AsyncClient(transport=transport) as client:
            await client.get(server.url, headers={"Authorization": "Bearer secret"})
            assert transport._encode_headers.cache_info().currsize == transport._encode_line.cache_info().currsize == 1
            assert len(transport._heads._heads) == 1
    assert transport._encode_headers.cache_info().currsize == transport._encode_line.cache_info().currsize == 0
    assert transport._heads._heads == {}


@pytest.mark.anyio
async def test_responses_with_the_same_head_have_headers_of_their_own() -> None:
    """What a program does to the headers of one, or to what a trace event tells, does not show in another."""
    told: list[tuple[bytes, bytes]] = []

    async def spoil(event: str, info: Mapping[str, Any]) -> None:
        if event == "http11.receive_response_headers.complete":
            headers = info["return_value"][3]
            told.append(headers.pop())

    async with raw_server(answer(set_cookie="a=1")) as server, PrefectHttpxClient() as client:
        for extensions in ({}, {"trace": spoil}, {"trace": spoil}, {}):
            async with client.stream("GET", server.url, extensions=extensions) as response:
                assert response.headers["Set-Cookie"] == "a=1"
                del response.headers["Set-Cookie"]
                response.headers["Content-Type"] = "none"
    assert len(set(told)) == 1


@pytest.mark.anyio
async def test_small_response_is_kept_once() -> None:
    """A small response that is streamed does not keep a second copy of its body."""
    with anyio.fail_after(5):
        async with raw_server(answer(body=b"hello")) as server, PrefectHttpxClient() as client:
            async with client.stream("GET", server.url) as response:
                assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"hello"
                assert not any(isinstance(value, httpx.ByteStream) for value in vars(response).values())
