"""Requests through the client's own ``send()``: what others change on the way counts, and everything is closed."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from support.garbage import responding_server
from support.scripted_transport import AT_ONCE, URL, Server

from prefect_http import HTTPTransport, PrefectHttpxClient


class Upper(httpx.AsyncByteStream):
    """A stream that changes what another one yields."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk.upper()

    async def aclose(self) -> None:
        self.is_closed = True
        await self._stream.aclose()


class Wrapper(httpx.AsyncBaseTransport):
    """A transport that puts another stream in the place of a response's own, as caches do."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = self.stream = Upper(response.stream)
        return response


def answer(body: bytes = b"body") -> httpx.Response:
    """Return a response that has not been read yet, but whose body is at hand."""
    return httpx.Response(200, stream=httpx.ByteStream(body))


@pytest.mark.anyio
async def test_a_hook_that_replaces_the_stream() -> None:
    """What an event hook puts in the place of a response's stream is what is read."""

    async def hook(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Upper(response.stream)

    async with PrefectHttpxClient(transport=Server(answer()), event_hooks={"response": [hook]}) as client:
        response = await client.get(URL)
    assert response.content == b"BODY"
    assert isinstance(response.stream, Upper)
    assert response.stream.is_closed


@pytest.mark.anyio
async def test_a_hook_that_changes_the_encoding() -> None:
    """An event hook may name the encoding that a server has forgotten to name."""

    async def hook(response: httpx.Response) -> None:
        response.headers["Content-Encoding"] = "gzip"

    server = Server(answer(gzip.compress(b"body")))
    async with PrefectHttpxClient(transport=server, event_hooks={"response": [hook]}) as client:
        assert (await client.get(URL)).content == b"body"


@pytest.mark.anyio
@pytest.mark.parametrize("client_class", [httpx.AsyncClient, PrefectHttpxClient])
async def test_a_transport_around_ours_that_replaces_the_stream(client_class: type[httpx.AsyncClient]) -> None:
    """Its stream is read and closed, although the whole response has arrived."""

    transport = Wrapper(HTTPTransport())
    with anyio.fail_after(5), responding_server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody") as port:
        async with client_class(transport=transport) as client:
            response = await client.get(f"http://127.0.0.1:{port}/")
    assert response.content == b"BODY"
    assert transport.stream.is_closed


@pytest.mark.anyio
async def test_a_transport_that_has_been_replaced() -> None:
    """Tests, and some tracers, put another transport in the place of a client's: requests go through that one."""
    server = Server()
    async with PrefectHttpxClient(transport=server) as client:
        vars(client)["_transport"] = Server(503, 200)
        response = await client.get(URL, retry=AT_ONCE)
        assert [attempt.status_code for attempt in response.attempts] == [503, 200]
        vars(client)["_transport"] = server
    assert server.count == 0


class Numbered(httpx.AsyncClient):
    """A client that numbers its requests."""

    count = 0

    def build_request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        request = super().build_request(method, url, **arguments)
        self.count += 1
        request.headers["X-Number"] = str(self.count)
        return request


class NumberedOurs(PrefectHttpxClient, Numbered):  # type: ignore[misc]
    pass


def test_another_build_request_builds_each_request() -> None:
    """What another base class adds to a request is not copied to the next one."""
    client = NumberedOurs()
    assert [client.build_request("GET", URL).headers["X-Number"] for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_a_replaced_build_request_builds_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is what a tracer adds that has replaced httpx's own method."""
    numbers = itertools.count()
    build = httpx.AsyncClient.build_request

    def replacement(self: httpx.AsyncClient, *args: Any, **arguments: Any) -> httpx.Request:
        request = build(self, *args, **arguments)
        request.headers["X-Number"] = str(next(numbers))
        return request

    server = Server(200, ...)
    async with PrefectHttpxClient(transport=server) as client:
        await client.get(URL)
        monkeypatch.setattr(httpx.AsyncClient, "build_request", replacement)
        await client.get(URL)
        await client.get(URL)
        monkeypatch.undo()
        await client.get(URL)
    assert [seen.headers.get("X-Number") for seen in server.seen] == [None, "0", "1", None]
