"""One HTTPTransport and what it shares: closed by two at once, by another loop, in a busy loop, with others."""

from __future__ import annotations

import asyncio
import gc
import math
import ssl
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.servers import answer, raw_server

from prefect_http import HTTPTransport, PrefectHttpxClient


@pytest.mark.anyio
async def test_two_close_it_at_once() -> None:
    """Whoever closes a transport that another one is closing waits until it is closed, and no longer."""
    transport = HTTPTransport()
    with anyio.fail_after(5):
        async with raw_server(answer(), answer()) as server:
            async with httpx.AsyncClient(transport=transport) as client:
                await client.get(server.url)
                async with anyio.create_task_group() as tasks:
                    for _ in range(3):
                        tasks.start_soon(transport.aclose)
    assert transport.statistics().connections == 0


@pytest.mark.filterwarnings("ignore:unclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_closing_in_another_loop() -> None:
    """Connections of a loop that has ended are forgotten in another one, with an error; without any there is none."""

    async def get(url: str) -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(url)

    async def use_it_and_leave_it() -> None:
        async with raw_server(answer()) as server:
            response = await transport.handle_async_request(httpx.Request("GET", server.url))
            await response.aread()

    async def use_and_close_it() -> None:
        async with raw_server(answer()) as server:
            await get(server.url)

    transport = HTTPTransport()
    trio.run(use_it_and_leave_it)
    assert transport.statistics().idle == 1
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(transport.aclose())
    assert transport.statistics().connections == 0
    asyncio.run(transport.aclose())
    asyncio.run(use_and_close_it())
    trio.run(transport.aclose)
    trio.run(use_and_close_it)
    gc.collect()  # what was forgotten


@pytest.mark.anyio
async def test_busy_loop_is_no_slow_server() -> None:
    """A response that has arrived in time is read, even if the loop was too busy to look before the time was over."""
    sent_at = math.inf

    async def answer_and_block(stream: anyio.abc.ByteStream) -> None:
        nonlocal sent_at
        sent_at = anyio.current_time()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.35)  # noqa: ASYNC251  # the server runs in the client's loop

    timeout = httpx.Timeout(10, read=0.3)
    with anyio.fail_after(10):
        async with raw_server(answer_and_block) as server:
            async with httpx.AsyncClient(transport=HTTPTransport(), timeout=timeout) as client:
                started = anyio.current_time()
                try:
                    assert (await client.get(server.url)).status_code == 200
                except httpx.ReadTimeout:  # right only if the machine is so slow that the response was late
                    assert sent_at > started + 0.2


@pytest.mark.anyio
async def test_context_is_told_of_http_1_each_time() -> None:
    """A context that others use for HTTP/2 in the meantime offers HTTP/1.1 alone in each of our handshakes."""
    told: list[list[str]] = []

    class Context(ssl.SSLContext):
        def set_alpn_protocols(self, alpn_protocols: object) -> None:
            assert isinstance(alpn_protocols, list)
            told.append(alpn_protocols)

    async def hang_up(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.aclose()

    transport = HTTPTransport(verify=Context(ssl.PROTOCOL_TLS_CLIENT))
    with anyio.fail_after(5):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, hang_up)
            url = f"https://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
            async with httpx.AsyncClient(transport=transport) as client:
                for _ in range(2):
                    with pytest.raises(httpx.ConnectError):
                        await client.get(url)
            tasks.cancel_scope.cancel()
    assert told == [["http/1.1"]] * 2


class Progress(httpx.ByteStream):
    """A body of bytes that tells how much of it has been asked for."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._content = content
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("an async client asks in another way")
        yield

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in (self._content[:3], self._content[3:]):
            self.given += len(part)
            yield part


@pytest.mark.anyio
async def test_body_that_tells_its_progress() -> None:
    """A subclass of httpx.ByteStream is asked for its parts, as httpx asks it."""
    body = Progress(b"hello")
    with anyio.fail_after(5):
        async with raw_server(answer()) as server, HTTPTransport() as transport:
            headers = {"Host": "server", "Content-Length": "5"}
            request = httpx.Request("POST", server.url, headers=headers, stream=body)
            await (await transport.handle_async_request(request)).aclose()
        assert [received.body for received in server.requests] == [b"hello"]
    assert body.given == 5


@pytest.mark.anyio
async def test_credentials_are_forgotten_when_it_is_closed() -> None:
    """A closed transport keeps no headers of requests."""
    transport = HTTPTransport()
    with anyio.fail_after(5):
        async with raw_server(answer()) as server, httpx.AsyncClient(transport=transport) as client:
            await client.get(server.url, headers={"Authorization": "Bearer secret"})
            assert transport._sender._encode_headers.cache_info().currsize == 1
    assert transport._sender._encode_headers.cache_info().currsize == 0


@pytest.mark.anyio
async def test_streamed_small_response_is_kept_once() -> None:
    """A response that came whole, and is streamed, does not keep a second copy of its body."""
    with anyio.fail_after(5):
        async with raw_server(answer(body=b"hello")) as server, PrefectHttpxClient() as client:
            async with client.stream("GET", server.url) as response:
                assert b"".join([chunk async for chunk in response.aiter_raw()]) == b"hello"
                assert not any(isinstance(value, httpx.ByteStream) for value in vars(response).values())


@pytest.mark.anyio
async def test_url_without_a_host() -> None:
    """A URL with a scheme and no host says so."""
    async with HTTPTransport() as transport:
        with pytest.raises(httpx.UnsupportedProtocol, match="no host"):
            await transport.handle_async_request(httpx.Request("GET", "http://"))
