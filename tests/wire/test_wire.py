"""HTTPTransport's pool, seen from outside: which request gets which connection, and what becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Set
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
import trio.testing
from support.servers import Act, answer, free_port, raw_server
from support.sockets import open_sockets, reset_on_close, sockets_closed
from support.wire import (
    fetch,
    figures,
    new_request,
    new_transport,
    request_targets,
    until,
    until_readable,
    until_waiting,
)

from prefect_http import HTTPTransport, PrefectHttpxClient, RetryPolicy

FINE = answer(body=b"fine")
BACKENDS = ["asyncio", "trio"]


async def open_responses(transport: HTTPTransport, *urls: str) -> list[httpx.Response]:
    """Send requests one after the other, and leave their responses open."""
    return [await transport.handle_async_request(new_request(url)) for url in urls]


def source(stream: Any) -> int:
    """Give the client's port of a connection."""
    address: tuple[str, int] = stream.get_extra_info("client_addr")
    return address[1]


def ports(*responses: httpx.Response) -> list[int]:
    """Tell connections apart: give the client's port of each."""
    return [source(response.extensions["network_stream"]) for response in responses]


async def port_of(transport: HTTPTransport, url: str, method: str = "GET") -> int:
    """Send a request, read the response, and give the client's port of the connection."""
    response = await transport.handle_async_request(new_request(url, method))
    await response.aread()
    return ports(response)[0]


# --- Reuse


@pytest.mark.anyio
async def test_connection_is_reused() -> None:
    """One request after the other takes one connection; the statistics tell of it at each stage."""
    async with raw_server(FINE) as server:
        async with new_transport() as transport:
            assert figures(transport) == (0, 0, 0)
            for _ in range(5):
                response = await transport.handle_async_request(new_request(server.url))
                assert figures(transport) == (1, 0, 0)
                await response.aread()
                assert figures(transport) == (1, 1, 0)
                await response.aclose()
                assert figures(transport) == (1, 1, 0)
        assert figures(transport) == (0, 0, 0)
    assert (server.connections, len(server.requests)) == (1, 5)


@pytest.mark.anyio
async def test_last_used_is_reused_first() -> None:
    """Of several idle connections, the one used last is the next."""
    async with raw_server(FINE) as server, new_transport() as transport:
        responses = await open_responses(transport, *[server.url] * 3)
        for index in (1, 2, 0):
            await responses[index].aclose()
        again = await open_responses(transport, *[server.url] * 3)
        assert ports(*again) == [ports(*responses)[index] for index in (0, 2, 1)]
    assert server.connections == 3


@pytest.mark.anyio
async def test_response_that_is_not_read_gives_its_place_back() -> None:
    """A response that is closed before it is through closes its connection."""

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
async def test_request_that_asks_for_the_end(headers: dict[str, str]) -> None:
    """A request that says ``Connection: close`` is the last on its connection."""
    async with raw_server(FINE) as server, new_transport() as transport:
        request = new_request(server.url)
        request.headers.update(headers)
        await fetch(transport, request)
        assert figures(transport) == (0, 0, 0)


# --- Limits


@pytest.mark.anyio
async def test_first_come_first_served() -> None:
    """Requests beyond max_connections wait, and get their turn in the order in which they came."""
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
    """Who comes just when a connection becomes free stands behind those who wait."""
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
    """A request that stops waiting takes nobody's turn."""
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
async def test_failure_gives_its_place_to_the_next() -> None:
    """A request that fails while others wait lets the next of them open a connection."""
    limits = httpx.Limits(max_connections=1)
    errors: list[Exception] = []

    async def fail() -> None:
        try:
            await fetch(transport, f"http://127.0.0.1:{free_port()}/")
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
@pytest.mark.parametrize("kept", [0, 1, 2, 3, None])
async def test_max_keepalive_connections(kept: int | None) -> None:
    """No more connections stay idle than max_keepalive_connections, those used last."""
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
@pytest.mark.parametrize(("expiry", "connections"), [(0, 3), (0.02, 2), (None, 1), (1000, 1)])
async def test_keepalive_expiry(expiry: float | None, connections: int) -> None:
    """A connection that has been idle for keepalive_expiry seconds is closed, and not used again."""
    limits = httpx.Limits(keepalive_expiry=expiry)
    async with raw_server(FINE) as server, new_transport(limits) as transport:
        first = await port_of(transport, server.url)
        assert (await port_of(transport, server.url) == first) == (expiry != 0)
        await anyio.sleep(0.03)
        await fetch(transport, server.url)
        assert figures(transport) == (1, 1, 0)
    assert server.connections == connections


@pytest.mark.anyio
async def test_another_origin_makes_room() -> None:
    """At the limit, the connection that has been idle longest is closed for another origin."""
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
async def test_place_goes_over_to_another_origin() -> None:
    """A place that becomes free goes to the one who waits first, whatever their origin."""
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
async def test_origins_are_apart() -> None:
    """A connection serves its own scheme, host, port and TLS name only."""
    async with raw_server(FINE) as one, raw_server(FINE) as two, new_transport() as transport:
        named = one.url.replace("127.0.0.1", "localhost")
        found = [await port_of(transport, url) for url in (one.url, two.url, named, named.upper().lower())]
        assert len(set(found)) == 3
        assert figures(transport) == (3, 3, 0)
        request = new_request(one.url, "GET", None, {"sni_hostname": "example.org"})
        await fetch(transport, request)
        assert figures(transport) == (4, 4, 0)


# --- Idle connections that have gone bad


class Streams:
    """An act: answers, and keeps its streams, which are those of the connections in the order of their requests."""

    def __init__(self) -> None:
        self.streams: list[anyio.abc.ByteStream] = []

    async def of(self, count: int) -> list[anyio.abc.ByteStream]:
        """Wait until so many requests have been answered, and nobody uses their streams any more."""
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
    """Say no more, but go on listening."""
    stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(socket.SHUT_WR)


async def write(stream: anyio.abc.ByteStream) -> None:
    """Write what looks like an answer."""
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")


async def write_blank_line(stream: anyio.abc.ByteStream) -> None:
    """Write a blank line, which llhttp would skip."""
    await stream.send(b"\r\n")


async def write_and_close(stream: anyio.abc.ByteStream) -> None:
    """Say goodbye, as many servers do."""
    await stream.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    await stream.aclose()


SPOILERS: list[Act] = [close, close_with_reset, half_close, write, write_blank_line, write_and_close]


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("spoil", SPOILERS)
async def test_idle_connection_that_has_gone_bad(spoil: Act, method: str) -> None:
    """An idle connection that the server has closed or written to is dropped, also for what is never sent again."""
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
@pytest.mark.parametrize("good", range(7))
async def test_good_one_below_bad_ones(good: int) -> None:
    """However many bad connections lie above a good one, they are all dropped, and the good one is taken."""
    act = Streams()
    async with raw_server(act) as server, new_transport() as transport:
        responses = await open_responses(transport, *[server.url] * 7)
        for response in responses:
            await response.aread()
        streams = await act.of(7)
        for index, spoil in zip([index for index in range(7) if index != good], SPOILERS, strict=True):
            await spoil(streams[index])
            await until_readable(responses[index])
        assert figures(transport) == (7, 7, 0)
        assert await port_of(transport, server.url, "POST") == ports(responses[good])[0]
        assert figures(transport) == (good + 1, good + 1, 0)  # what lies below has not been looked at
    assert server.connections == 7


@pytest.mark.anyio
async def test_all_have_gone_bad() -> None:
    """Where no idle connection is good, a fresh one is opened, and none of the others is left; at the limit as well."""
    act = Streams()
    limits = httpx.Limits(max_connections=len(SPOILERS))
    async with raw_server(act) as server, new_transport(limits) as transport:
        responses = await open_responses(transport, *[server.url] * len(SPOILERS))
        for response, stream, spoil in zip(responses, await act.of(len(SPOILERS)), SPOILERS, strict=True):
            await response.aread()
            await spoil(stream)
        for response in responses:
            await until_readable(response)
        assert await fetch(transport, new_request(server.url, "POST")) == b"fine"
        assert figures(transport) == (1, 1, 0)
    assert server.connections == len(SPOILERS) + 1


@pytest.mark.anyio
@pytest.mark.parametrize("spoil", SPOILERS)
async def test_connection_that_has_gone_bad_is_not_handed_over(spoil: Act) -> None:
    """A connection that goes bad between a response's end and its close is not given to the one who waits."""
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
    """Run a request beside the block; at its end it must have failed; give what it raises."""
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
    """Give a body without an end."""
    while True:
        yield b"x" * 65536


@contextlib.asynccontextmanager
async def silent_server(ends: anyio.Event | None = None) -> AsyncGenerator[list[str]]:
    """Run a server that reads a little and then nothing; give where it listens, and an entry for each connection."""
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


async def say_nothing(stream: anyio.abc.ByteStream) -> None:
    """Send nothing."""


async def usable(transport: HTTPTransport, sockets: Set[int] | None = None) -> None:
    """Check that a closed transport holds nothing, and can be used again."""
    assert figures(transport) == (0, 0, 0)
    if sockets is not None:
        await sockets_closed(sockets)
    async with raw_server(FINE) as server:
        assert await fetch(transport, server.url) == b"fine"
        assert figures(transport) == (1, 1, 0)
        await transport.aclose()
    assert figures(transport) == (0, 0, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("act", [say_nothing, stall_in_head, stall_in_body])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("is_reused", [False, True], ids=["fresh", "reused"])
async def test_closing_under_a_request(act: Act, method: str, is_reused: bool) -> None:
    """Closing the transport ends a request that waits for its answer; nothing is sent again, and nothing opened."""
    gc.collect()
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
async def test_closing_under_an_upload(make_content: Callable[[], Any]) -> None:
    """Closing the transport ends a request whose body the server does not take."""
    gc.collect()
    transport, sockets = new_transport(), open_sockets()
    async with silent_server() as seen:
        async with asking(transport, new_request(f"http://{seen[0]}", "POST", make_content())) as errors:
            await until(lambda: len(seen) == 2)
            await anyio.sleep(0.02)  # until the buffers are full
            await transport.aclose()
        assert isinstance(errors[0], httpx.ReadError | httpx.WriteError)
    await usable(transport, sockets)


@pytest.mark.anyio
async def test_closing_under_those_who_wait() -> None:
    """Closing the transport refuses those who wait for a connection, with a ConnectError that says so."""
    transport = new_transport(httpx.Limits(max_connections=1))
    async with raw_server(FINE) as server:
        [response] = await open_responses(transport, server.url)
        async with asking(transport, server.url) as one, asking(transport, server.url) as two:
            await until(lambda: figures(transport) == (1, 0, 2))
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
        for errors in (one, two):
            assert type(errors[0]) is httpx.ConnectError
            assert "closed" in str(errors[0])
        assert (await response.aread()) == b"fine"  # it was there already
        assert figures(transport) == (0, 0, 0)
    await usable(transport)


@pytest.mark.anyio
async def test_closing_under_a_handshake() -> None:
    """A request that is connecting when the transport is closed fails, and leaves no connection."""
    gc.collect()
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
async def test_closing_under_one_who_connects() -> None:
    """A connection that is there only after the transport has been closed is closed, and its request fails."""
    gc.collect()
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
async def test_closing_under_all_of_them() -> None:
    """Closing the transport ends requests in every state at once."""
    gc.collect()
    transport, sockets = new_transport(httpx.Limits(max_connections=5)), open_sockets()
    async with (
        raw_server(FINE) as idle,
        raw_server(say_nothing) as asked,
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
            waiting = new_request(f"https://{greeting[0]}", connect=0.05)  # takes the place of the idle one
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
    """Closing waits for no request that begins while connections are being closed, however long that one takes."""
    transport = new_transport()
    errors: list[Exception] = []

    async def come() -> None:
        try:
            await fetch(transport, new_request(silent.url, read=0.3))
        except httpx.TransportError as error:
            errors.append(error)

    async with raw_server(FINE) as server, raw_server(say_nothing) as silent:
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
    """A transport with very many idle connections can be closed."""
    count = 1000  # as deep as Python's stack is
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * count:
        pytest.skip("not so many connections can be opened")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * count), hard))
    try:
        gc.collect()
        transport, sockets = new_transport(httpx.Limits()), open_sockets()
        async with raw_server(FINE) as server:
            for response in await open_responses(transport, *[server.url] * count):
                await response.aclose()
            assert figures(transport) == (count, count, 0)
            await transport.aclose()
            assert figures(transport) == (0, 0, 0)
            await sockets_closed(sockets, but=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.anyio
async def test_closing_twice_and_unused() -> None:
    """A transport may be closed without having been used, and twice."""
    transport = new_transport()
    await transport.aclose()
    await transport.aclose()
    async with transport:
        assert figures(transport) == (0, 0, 0)


# --- Statistics of what is httpx's


@pytest.mark.parametrize(
    "arguments",
    [{"http2": True}, {"http1": False, "http2": True}, {"proxy": "http://127.0.0.1:1"}, {"uds": "/no/such/socket"}],
    ids=["http2", "no-http1", "proxy", "uds"],
)
def test_no_statistics_where_it_has_handed_over(arguments: dict[str, Any]) -> None:
    """Where httpx's own transport does the work, asking for statistics says why there are none."""
    with pytest.raises(RuntimeError, match="http2=, http1=False, proxy= or uds="):
        HTTPTransport(verify=False, **arguments).statistics()


# --- Other event loops


TWO_LOOPS = pytest.mark.parametrize("second", BACKENDS)


@pytest.mark.parametrize("first", BACKENDS)
@TWO_LOOPS
def test_one_loop_after_the_other(first: str, second: str) -> None:
    """A transport that has been closed can be used in another event loop."""
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


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # who leaves them open is told of it by Python
@pytest.mark.parametrize("first", BACKENDS)
@TWO_LOOPS
@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "in-use"])
def test_connections_left_over_in_another_loop(first: str, second: str, is_idle: bool) -> None:
    """With connections left over from another event loop, a request is refused, and closing makes it usable again."""
    transport = new_transport()

    async def leave() -> None:
        async with raw_server(FINE) as server:
            [response] = await open_responses(transport, server.url)
            if is_idle:
                await response.aread()
            responses.append(response)

    async def use() -> None:
        async with raw_server(FINE) as server:
            with anyio.fail_after(5):
                with pytest.raises(RuntimeError, match="another event loop"):
                    await fetch(transport, server.url)
                assert server.connections == 0
                with contextlib.suppress(RuntimeError, trio.ClosedResourceError):  # their loop may be gone
                    await transport.aclose()
                assert figures(transport) == (0, 0, 0)
                assert await fetch(transport, server.url) == b"fine"
            await transport.aclose()

    responses: list[httpx.Response] = []
    anyio.run(leave, backend=first)
    anyio.run(use, backend=second)
    responses.clear()
    gc.collect()


@pytest.mark.parametrize("backend", BACKENDS)
def test_loop_that_ends_in_mid_request(backend: str) -> None:
    """A loop that ends with a request under way leaves a transport that can be used in the next one."""
    transport = new_transport()

    async def leave() -> None:
        async with raw_server(say_nothing) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, transport, server.url)
            await until(lambda: server.requests)
            tasks.cancel_scope.cancel()

    async def use() -> None:
        async with raw_server(FINE) as server, transport:
            assert await fetch(transport, server.url) == b"fine"

    anyio.run(leave, backend=backend)
    assert figures(transport) == (0, 0, 0)
    anyio.run(use, backend="trio" if backend == "asyncio" else "asyncio")


# --- Sockets


class Peers:
    """An act: answers, and notes where the connection comes from."""

    def __init__(self) -> None:
        self.hosts: list[object] = []

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        self.hosts.append(stream.extra(anyio.abc.SocketAttribute.remote_address)[0])
        await FINE(stream)


@pytest.mark.anyio
async def test_local_address() -> None:
    """Connections come from local_address."""
    act = Peers()
    async with raw_server(act) as server, HTTPTransport(verify=False, local_address="127.0.0.2") as transport:
        await fetch(transport, server.url)
    assert act.hosts == ["127.0.0.2"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), 1),
        ((socket.SOL_SOCKET, socket.SO_KEEPALIVE, b"\1\0\0\0"), 1),
        ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 0), 0),
    ],
)
async def test_socket_options(option: Any, expected: int) -> None:
    """Each socket gets the options; TCP_NODELAY is on unless they say otherwise."""
    transport = HTTPTransport(verify=False, socket_options=[option])
    async with raw_server(FINE) as server, transport:
        for _ in range(2):
            [response] = await open_responses(transport, server.url)
            raw_socket = response.extensions["network_stream"].get_extra_info("socket")
            assert raw_socket.getsockopt(*option[:2]) == expected
            await response.aclose()


@pytest.mark.anyio
async def test_no_delay() -> None:
    """Small packets go out at once."""
    async with raw_server(FINE) as server, new_transport() as transport:
        [response] = await open_responses(transport, server.url)
        raw_socket = response.extensions["network_stream"].get_extra_info("socket")
        assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await response.aclose()


@pytest.mark.anyio
async def test_ipv6() -> None:
    """An address of IPv6 stands in brackets in a URL, and is connected to without them."""
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
async def test_transports_are_apart() -> None:
    """Several transports share no connections and no limits."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server, new_transport(limits) as one, new_transport(limits) as two:
        [response] = await open_responses(one, server.url)
        assert await fetch(two, server.url) == b"fine"
        assert (figures(one), figures(two)) == ((1, 0, 0), (1, 1, 0))
        await two.aclose()
        assert await response.aread() == b"fine"
    assert server.connections == 2


# --- Trying again to connect


class Attempts:
    """A trace extension: notes when a connection was tried, and does something before one of them."""

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
    """A connection that is refused is tried again after 0, 0.5, 1, 2, ... seconds, as with httpx."""
    attempts, start = Attempts(), trio.current_time()
    async with new_transport(retries=retries) as transport:
        request = new_request(f"http://127.0.0.1:{free_port()}/", "GET", None, {"trace": attempts})
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
    """Retries are for connections only: what fails later is not tried again."""

    async def drop_it(stream: anyio.abc.ByteStream) -> None:
        await stream.aclose()

    async with raw_server(drop_it) as server, new_transport(retries=3) as transport:
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, server.url)
    assert server.connections == 1


# --- The client's transport


def maker(response: httpx.Response) -> str:
    """Say which package made the connection of a response."""
    return type(response.extensions["network_stream"]).__module__.partition(".")[0]


class Mounted(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="mounted")


@contextlib.contextmanager
def proxies(**variables: str) -> Generator[None]:
    """Set these variables, and no others that name proxies."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        for name, text in variables.items():
            patch.setenv(name, text)
        yield


@pytest.mark.anyio
async def test_client_uses_it() -> None:
    """A PrefectHttpxClient uses an HTTPTransport by itself."""
    with proxies():
        async with raw_server(FINE) as server, PrefectHttpxClient() as client:
            assert maker(await client.get(server.url)) == "prefect_http"
            assert maker(await client.get(server.url)) == "prefect_http"
    assert server.connections == 1


@pytest.mark.anyio
async def test_client_uses_it_with_the_clients_arguments() -> None:
    """The transport of a client has the client's limits and its timeouts."""
    limits = httpx.Limits(max_connections=1)
    async with raw_server(FINE) as server:
        retry = RetryPolicy(max_retries=0)
        async with PrefectHttpxClient(retry=retry, limits=limits, trust_env=False) as client:
            async with client.stream("GET", server.url):
                with pytest.raises(httpx.PoolTimeout):
                    await client.get(server.url, timeout=httpx.Timeout(5, pool=0.01))


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["transport", "mounts"])
async def test_client_with_another_transport(how: str) -> None:
    """A client that is given a transport, or one for some URLs, uses that."""
    arguments: Any = {"transport": Mounted()} if how == "transport" else {"mounts": {"http://": Mounted()}}
    with proxies():
        async with PrefectHttpxClient(**arguments) as client:
            assert (await client.get("http://127.0.0.1:1/")).text == "mounted"


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["argument", "environment"])
async def test_client_with_a_proxy(how: str) -> None:
    """A client with a proxy, given or of the environment, has httpx talk to that."""
    async with raw_server(FINE) as server:
        with proxies(**({"HTTP_PROXY": server.url} if how == "environment" else {})):
            arguments: Any = {"proxy": server.url} if how == "argument" else {}
            async with PrefectHttpxClient(**arguments) as client:
                assert maker(await client.get("http://example.org/")) != "prefect_http"
    assert request_targets(server) == ["http://example.org/"]


@pytest.mark.anyio
async def test_client_with_no_proxy_for_a_host() -> None:
    """A host that the environment exempts from its proxies is reached by an HTTPTransport."""
    async with raw_server(FINE) as server:
        with proxies(HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="127.0.0.1"):
            async with PrefectHttpxClient() as client:
                assert maker(await client.get(server.url)) == "prefect_http"


@pytest.mark.anyio
async def test_client_with_http2() -> None:
    """A client that may speak HTTP/2 leaves all to httpx."""
    pytest.importorskip("h2")
    async with raw_server(FINE) as server, PrefectHttpxClient(http2=True, trust_env=False) as client:
        assert maker(await client.get(server.url)) != "prefect_http"


def test_asyncio_run_twice() -> None:
    """One client object may serve one asyncio.run() after the other, if it is closed in between."""
    transport = new_transport()

    async def use() -> None:
        async with raw_server(FINE) as server, transport:
            assert await fetch(transport, server.url) == b"fine"

    asyncio.run(use())
    asyncio.run(use())
    assert figures(transport) == (0, 0, 0)
