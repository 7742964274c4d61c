"""ResponseBody: it is received while it is read, and ending it early closes its connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from support.rows import each_row
from support.scripted_servers import byte_server, one_connection, read_head, send, settle, wired
from support.servers import Flood, answer, stall
from support.sockets import open_sockets, reset, sockets_closed
from support.wire import NOTHING, ONE_IDLE, until

from prefect_http import HTTPTransport

pytestmark = pytest.mark.anyio

BIG = 0x200000
# More than the buffers of a socket hold.
PLENTY = 0x1000000

Trace = Callable[[str, Mapping[str, object]], Awaitable[None]]


async def idle_trace(_event: str, _info: Mapping[str, object]) -> None:
    """Listen, and let other tasks run meanwhile."""
    await anyio.lowlevel.checkpoint()


def endless(head: bytes, sent: list[int]) -> Callable[[anyio.abc.ByteStream], Awaitable[None]]:
    """Make an act that sends an endless body, and counts the bytes that were accepted."""

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(head)
        while True:
            await stream.send(b"x" * 0x10000)
            sent[0] += 0x10000

    return act


@contextlib.asynccontextmanager
async def opened(transport: HTTPTransport, url: str, **extensions: Trace) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Open a response for reading; without httpx's generators, since trio warns if they are left early."""
    response = await transport.handle_async_request(httpx.Request("GET", url, extensions=extensions))
    async with contextlib.aclosing(response):
        assert isinstance(response.stream, httpx.AsyncByteStream)
        yield aiter(response.stream)


async def until_stuck(sent: Callable[[], int]) -> int:
    """Wait until nothing more is sent, and return how much has been."""
    before = -1
    while sent() != before:
        before = sent()
        await settle()
    return before


@pytest.mark.parametrize("headers", [b"", b"Content-Length: 1000000000000\r\n"], ids=["until-close", "length"])
async def test_backpressure(headers: bytes) -> None:
    """A server that sends without end is held back while nothing is read, and goes on when something is."""
    sent = [0]
    async with wired(endless(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n", sent)) as (server, _, transport):
        async with opened(transport, server.url) as chunks:
            assert await until_stuck(lambda: sent[0]) < PLENTY
            read = 0
            while read < BIG:
                chunk = await anext(chunks)
                assert 0 < len(chunk) <= 0x40000
                read += len(chunk)
            assert await until_stuck(lambda: sent[0]) < PLENTY + BIG
        assert transport.statistics() == NOTHING


async def test_backpressure_with_chunks() -> None:
    """A chunked body, too, is received while it is read, and closing it refuses the rest."""
    async with wired(flood := Flood(200)) as (server, client, transport):
        async with client.stream("GET", server.url):
            assert await until_stuck(lambda: flood.sent) < PLENTY
            assert not flood.refused.is_set()
            assert transport.statistics().connections == 1
        assert transport.statistics() == NOTHING
        await flood.refused.wait()


@each_row("size", [0, 1, 0x10000, 0x10001, 0x40001, 5_000_000])
@each_row("is_chunked", [False, True], ids=["length", "chunked"])
async def test_body_is_whole(size: int, is_chunked: bool) -> None:
    """A body of any size arrives as it was sent, and the connection is reused."""
    body = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    framed = b"Content-Length: %d\r\n\r\n" % size + body
    if is_chunked:
        parts = [body[start : start + 70_001] for start in range(0, size, 70_001)]
        framed = b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts])
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    async with wired(send(b"HTTP/1.1 200 OK\r\n" + framed), answer()) as (server, client, transport):
        assert (await client.get(server.url)).content == body
        assert transport.statistics() == ONE_IDLE
        await client.get(server.url)
    assert server.connections == 1


async def test_body_is_read_in_pieces() -> None:
    """Reading a byte at a time returns the whole body, and the connection is reused."""
    async with wired(answer(body=b"hello" * 100)) as (server, client, transport):
        for _ in range(2):
            async with client.stream("GET", server.url) as response:
                pieces = [piece async for piece in response.aiter_bytes(1)]
            assert b"".join(pieces) == b"hello" * 100
            assert len(pieces) == 500
            assert transport.statistics() == ONE_IDLE
    assert server.connections == 1


async def test_body_arrives_as_it_is_sent() -> None:
    """A part of a body is returned when it arrives, without waiting for the next one."""
    may_go_on = anyio.Event()

    async def act(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await may_go_on.wait()
        for part in (b"one", b"two"):
            await stream.send(part)
            await settle()

    async with wired(act) as (server, client, _), client.stream("GET", server.url) as response:
        may_go_on.set()
        assert [chunk async for chunk in response.aiter_raw()] == [b"one", b"two"]


@each_row("is_traced", [False, True], ids=["", "traced"])
@each_row("has_started", [False, True], ids=["unread", "started"])
async def test_closing_early_closes_the_connection(has_started: bool, is_traced: bool) -> None:
    """A response that is closed before its end closes its connection, which makes room for another one."""
    extensions = {"trace": idle_trace} if is_traced else {}
    async with wired(flood := Flood(200, size=PLENTY), answer(body=b"fine")) as (server, client, transport):
        async with opened(transport, server.url, **extensions) as chunks:
            if has_started:
                await anext(chunks)
        assert transport.statistics() == NOTHING
        await flood.refused.wait()
        assert (await client.get(server.url)).content == b"fine"


async def test_closing_after_the_last_byte_keeps_the_connection() -> None:
    """If a response is closed unread, but all of its body has arrived, the connection is reused."""
    async with wired(answer(body=b"hello")) as (server, client, transport):
        for _ in range(3):
            async with client.stream("GET", server.url):
                pass
            assert transport.statistics() == ONE_IDLE
    assert server.connections == 1


@pytest.mark.parametrize("is_traced", [False, True], ids=["", "traced"])
async def test_cancelled_read_closes_the_connection(is_traced: bool) -> None:
    """A cancelled read closes the connection, and leaves nothing behind."""
    extensions = {"trace": idle_trace} if is_traced else {}
    before = open_sockets()
    async with wired(stall, answer(body=b"fine")) as (server, client, transport):
        with anyio.CancelScope() as scope:
            async with client.stream("GET", server.url, extensions=extensions) as response:
                async for _ in response.aiter_raw():
                    scope.deadline = anyio.current_time() + 0.01
        assert scope.cancelled_caught
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"
    await sockets_closed(before)


@pytest.mark.parametrize("is_traced", [False, True], ids=["", "traced"])
async def test_cancelled_request_closes_the_connection(is_traced: bool) -> None:
    """A request that is cancelled while its body arrives closes the connection."""
    extensions = {"trace": idle_trace} if is_traced else {}
    async with wired(stall, answer(body=b"fine")) as (server, client, transport):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.get, server.url, extensions=extensions))
            await until(lambda: server.requests)
            await settle()
            tasks.cancel_scope.cancel()
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_native_cancellation_closes_the_connection() -> None:
    """So does the cancellation of an asyncio task, as by wait_for()."""
    async with wired(stall, answer(body=b"fine")) as (server, client, transport):
        task = asyncio.create_task(client.get(server.url))
        await until(lambda: server.requests)
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"


@pytest.mark.parametrize("is_traced", [False, True], ids=["", "traced"])
async def test_exception_in_the_reader_closes_the_connection(is_traced: bool) -> None:
    """An exception in the block that reads is raised unchanged, and the connection is closed."""
    extensions = {"trace": idle_trace} if is_traced else {}
    async with wired(flood := Flood(200), answer(body=b"fine")) as (server, client, transport):
        with pytest.raises(ZeroDivisionError):
            async with opened(transport, server.url, **extensions) as chunks:
                await anext(chunks)
                raise ZeroDivisionError
        assert transport.statistics() == NOTHING
        await flood.refused.wait()
        assert (await client.get(server.url)).content == b"fine"


@pytest.mark.parametrize("is_traced", [False, True], ids=["", "traced"])
async def test_read_timeout_closes_the_connection(is_traced: bool) -> None:
    """A body that arrives too slowly is a ReadTimeout, and the connection is closed."""
    extensions = {"trace": idle_trace} if is_traced else {}
    async with wired(stall, answer(body=b"fine")) as (server, client, transport):
        with pytest.raises(httpx.ReadTimeout):
            await client.get(server.url, timeout=httpx.Timeout(5, read=0.02), extensions=extensions)
        assert transport.statistics() == NOTHING
        assert (await client.get(server.url)).content == b"fine"


async def test_reset_in_the_middle_of_a_body() -> None:
    """If the connection is reset, that is a ReadError, even if the body ends only with the connection."""
    has_read = anyio.Event()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await has_read.wait()
        await reset(stream)

    transport = one_connection()
    async with byte_server(serve) as server, transport:
        async with opened(transport, server.url) as chunks:
            assert await anext(chunks) == b"hello"
            has_read.set()
            with pytest.raises(httpx.ReadError):
                await anext(chunks)
        assert transport.statistics() == NOTHING


async def test_reading_a_closed_body() -> None:
    """A stream that was closed early raises StreamClosed; one that was read to its end is exhausted."""
    async with wired(answer(body=b"hello"), Flood(200)) as (server, _, _), one_connection() as transport:
        for is_whole in (True, False):
            response = await transport.handle_async_request(
                httpx.Request("GET", server.url, extensions={"trace": idle_trace})
            )
            assert isinstance(response.stream, httpx.AsyncByteStream)
            chunks: AsyncIterator[bytes] = aiter(response.stream)
            if is_whole:
                assert [chunk async for chunk in chunks] == [b"hello"]
            await response.aclose()
            await response.aclose()
            with pytest.raises(StopAsyncIteration if is_whole else httpx.StreamClosed):
                await anext(chunks)


async def test_closing_the_transport_ends_the_read_of_another_task() -> None:
    """If the transport is closed while a body is being read, that is a ReadError."""
    errors: list[BaseException] = []

    async def read(response: httpx.Response) -> None:
        with pytest.raises(httpx.ReadError) as caught:
            await response.aread()
        errors.append(caught.value)

    async with wired(stall) as (server, client, transport), anyio.create_task_group() as tasks:
        response = await client.send(client.build_request("GET", server.url), stream=True)
        tasks.start_soon(read, response)
        await settle()
        await transport.aclose()
        assert transport.statistics() == NOTHING
    assert len(errors) == 1


EVENTS = [
    f"{step}.{end}"
    for step in [
        "connection.connect_tcp",
        "http11.send_request_headers",
        "http11.send_request_body",
        "http11.receive_response_headers",
        "http11.receive_response_body",
        "http11.response_closed",
    ]
    for end in ("started", "complete")
]


@each_row("failing", EVENTS)
async def test_trace_that_fails_leaves_nothing_behind(failing: str) -> None:
    """An exception of the trace extension is raised unchanged, and no connection is left open."""

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == failing:
            raise ZeroDivisionError

    async with wired(answer(body=b"hello", connection="close"), answer(body=b"fine")) as (server, client, transport):
        before = open_sockets()
        with pytest.raises(ZeroDivisionError):
            await client.get(server.url, extensions={"trace": trace})
        assert transport.statistics() == NOTHING
        await sockets_closed(before)


@each_row("last", EVENTS)
async def test_cancellation_leaves_nothing_behind(last: str) -> None:
    """A request that is cancelled at any event of its trace leaves no connection open."""
    scope = anyio.CancelScope()

    async def trace(event: str, _: Mapping[str, object]) -> None:
        if event == last:
            scope.cancel()
        await anyio.lowlevel.checkpoint()

    async with wired(answer(body=b"hello", connection="close"), answer(body=b"fine")) as (server, client, transport):
        before = open_sockets()
        with scope:
            await client.get(server.url, extensions={"trace": trace})
        assert scope.cancelled_caught
        assert transport.statistics() == NOTHING
        await sockets_closed(before)
