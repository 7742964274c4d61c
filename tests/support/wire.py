"""Requests to a transport, and what they leave behind."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import AsyncIterable, Callable, Mapping

import anyio
import anyio.lowlevel
import httpx

from prefect_http import HTTPTransport, TransportStatistics
from support.servers import RawServer
from support.tls_servers import client_context

NOTHING = TransportStatistics(connections=0, idle=0, waiting=0)
ONE_IDLE = TransportStatistics(connections=1, idle=1, waiting=0)


@functools.cache
def trusting_context() -> ssl.SSLContext:
    """Return a context that trusts the servers of the tests; not to be changed."""
    return client_context()


def new_transport(limits: httpx.Limits | None = None, *, retries: int = 0) -> HTTPTransport:
    """Make a transport that trusts the servers of the tests."""
    return HTTPTransport(verify=trusting_context(), limits=limits or httpx.Limits(), retries=retries)


# Most tests send many requests to the same URL, and to parse it takes longer than to make the rest of a request.
_parsed = functools.cache(httpx.URL)


def new_request(
    url: str,
    method: str = "GET",
    content: bytes | AsyncIterable[bytes] | None = None,
    extensions: Mapping[str, object] | None = None,
    /,
    **timeouts: float | None,
) -> httpx.Request:
    """Make a request as a client would, with timeouts of 5 s, except those that are given."""
    timeout = httpx.Timeout(5).as_dict() | timeouts
    return httpx.Request(method, _parsed(url), content=content, extensions={"timeout": timeout, **(extensions or {})})


async def ignore(event: str, info: Mapping[str, object]) -> None:
    """Listen to the events of a request, and do nothing."""


# Extensions of a request whose response holds its connection until it is closed, even if all of it has arrived.
HELD: Mapping[str, object] = {"trace": ignore}


async def fetch(transport: httpx.AsyncBaseTransport, request: httpx.Request | str) -> bytes:
    """Send a request, and return the body of its response."""
    if isinstance(request, str):
        request = new_request(request)
    response = await transport.handle_async_request(request)
    try:
        return await response.aread()
    finally:
        await response.aclose()


async def fetch_at_once(transport: httpx.AsyncBaseTransport, url: str, count: int) -> list[tuple[str, bytes]]:
    """Send requests at once, and return the protocols and the bodies of the responses."""
    seen: list[tuple[str, bytes]] = []

    async def get() -> None:
        response = await transport.handle_async_request(new_request(url))
        seen.append((response.http_version, await response.aread()))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(get)
    return seen


def figures(transport: HTTPTransport) -> tuple[int, int, int]:
    """Return the number of a transport's connections, of the idle ones among them, and of waiting requests."""
    statistics = transport.statistics()
    return statistics.connections, statistics.idle, statistics.waiting


def is_asyncio() -> bool:
    """Return whether the running backend is asyncio."""
    return anyio.get_cancelled_exc_class() is asyncio.CancelledError


async def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Let other tasks run until a condition is true."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def until_waiting(transport: HTTPTransport, count: int) -> None:
    """Wait until so many requests wait for a connection."""
    await until(lambda: figures(transport)[2] == count)


async def until_readable(response: httpx.Response) -> None:
    """Wait until data has arrived on the connection of a response that has been read."""
    await until(lambda: response.extensions["network_stream"].get_extra_info("is_readable"))


def request_targets(server: RawServer) -> list[str]:
    """Return the targets of the requests that a server has read, in order."""
    return [received.target for received in server.requests]
