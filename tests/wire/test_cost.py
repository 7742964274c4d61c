"""What a warm request costs: the calls of this package's functions, which neither the machine nor its load changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
from support.calls import calls_of
from support.h2_peers import h2_server, h2_transport, serve_paths
from support.servers import answer, raw_server
from support.wire import new_request, new_transport


@pytest.mark.anyio
async def test_calls_of_a_warm_request() -> None:
    """A small request on a connection that is open takes few calls; a few more than today are let pass."""
    async with raw_server(answer(body=b"fine")) as server, new_transport() as transport:
        counts = [await calls_of(transport, new_request(server.url)) for _ in range(5)]
    assert server.connections == 1
    assert sum(counts[-1].values()) <= 66, counts[-1]


@pytest.mark.anyio
async def test_calls_of_a_warm_request_over_http2() -> None:
    """Over HTTP/2, it takes twice as many, those of the tasks that read and write included."""
    async with h2_server(serve_paths) as server, h2_transport() as transport:
        counts = [await calls_of(transport, new_request(server.url)) for _ in range(20)]
    assert server.bytes_server.connections == 1
    least = min(counts, key=Counter.total)  # a frame that comes by itself wakes the reader once more
    assert least.total() <= 130, least


async def upload_of(parts: int) -> AsyncIterator[bytes]:
    """Make a body of small parts."""
    for _ in range(parts):
        yield b"part"


@pytest.mark.anyio
async def test_calls_of_an_upload() -> None:
    """Each part of a body that the network takes at once is framed, and sent without an await, in four calls."""
    async with raw_server(answer(body=b"fine")) as server, new_transport() as transport:
        few, many = [
            await calls_of(transport, new_request(server.url, "POST", upload_of(parts))) for parts in (20, 220)
        ]
    each = (many - few).total() / 200
    assert each <= 5.5, many  # and one for the turns that other tasks get
