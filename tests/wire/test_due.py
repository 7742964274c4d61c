"""A task that is cancelled, or whose deadline has passed, sends no request, and no connection is lost for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from support.h2_frames import HEADERS
from support.h2_peers import h2_server, serve_paths
from support.rows import each_row
from support.scripted_servers import settle
from support.servers import answer, raw_server
from support.wire import fetch, new_request, new_transport

from prefect_http import HTTPTransport

pytestmark = pytest.mark.anyio

Send = Callable[[], Awaitable[object]]
Setting = tuple[HTTPTransport, str, Callable[[], int]]
"""A transport, a URL, and a function that returns how many requests have arrived there."""


@contextlib.asynccontextmanager
async def http1() -> AsyncGenerator[Setting]:
    """Run a server that speaks HTTP/1.1."""
    async with raw_server(answer()) as server, new_transport() as transport:
        yield transport, server.url, lambda: len(server.requests)


@contextlib.asynccontextmanager
async def http2() -> AsyncGenerator[Setting]:
    """Run a server that speaks HTTP/2."""
    async with h2_server(serve_paths) as server, HTTPTransport(http1=False, http2=True) as transport:
        yield transport, server.url, lambda: sum(peer.count(HEADERS) for peer in server.peers)


def compute() -> None:
    """Keep the event loop from running for a moment."""
    time.sleep(0.002)


async def whose_time_has_passed(send: Send) -> None:
    """Send after the deadline, which the event loop has not noticed yet."""
    with anyio.move_on_after(0.001) as scope:
        compute()
        await send()
    assert scope.cancelled_caught


async def who_has_no_time(send: Send) -> None:
    """Send at the deadline."""
    with anyio.move_on_after(0) as scope:
        await send()
    assert scope.cancelled_caught


async def who_is_cancelled(send: Send) -> None:
    """Send in a scope that is cancelled."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await send()
    assert scope.cancelled_caught


@each_row("protocol", [http1, http2])
@each_row("sender", [whose_time_has_passed, who_has_no_time, who_is_cancelled])
async def test_what_is_due_is_not_sent(
    protocol: Callable[[], contextlib.AbstractAsyncContextManager[Setting]], sender: Callable[[Send], Awaitable[None]]
) -> None:
    """Even if the connection is open, and the network would take the request without a wait."""
    async with protocol() as (transport, url, arrived):
        await fetch(transport, url)
        await sender(lambda: fetch(transport, new_request(url, "POST")))
        await settle()
        assert arrived() == 1
        statistics = transport.statistics()
        assert (statistics.connections, statistics.idle) == (1, 1)
        await fetch(transport, url)
        assert arrived() == 2


@each_row("protocol", [http1, http2])
async def test_a_shield_lets_it_through(
    protocol: Callable[[], contextlib.AbstractAsyncContextManager[Setting]],
) -> None:
    """A task that cleans up may still send requests."""
    async with protocol() as (transport, url, arrived):
        await fetch(transport, url)
        with anyio.CancelScope() as scope:
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await fetch(transport, new_request(url, "DELETE"))
        assert arrived() == 2
