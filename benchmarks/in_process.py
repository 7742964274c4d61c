"""Calling an app in the same process: a small request, a long body, and many streams at once.

A small request is compared with httpx's own transport, which runs the app in the caller's task and keeps the whole
response. Nothing could do less.
"""

from __future__ import annotations

import gc
import math
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import anyio
import httpx

from benchmarks._apps import Download, TwoChunks, hello, starlette_app, upload
from benchmarks._measure import Ratio, compare
from benchmarks._memory import peak_mib
from benchmarks._table import print_checked, print_table
from prefect_http import ASGITransport, PrefectHttpxClient
from prefect_http._asgi.streamed_response import StreamedResponse
from prefect_http._types import ASGIApp

_URL = "http://localhost/"

_BASE = "httpx on httpx.ASGITransport"
_CLIENT, _TRANSPORT = "PrefectHttpxClient(app=...)", "httpx on ASGITransport"
_TARGETS = {_CLIENT: 0.7, _TRANSPORT: 2.0}

_CHUNK = 64 * 1024
_LONG, _SHORT = 1024**3, 8 * 1024**2
_MAX_ADDED_MIB = 24
_DIRECTIONS = "response", "request"

_STREAMS = {100: 20, 1_000: 4, 10_000: 1}  # how many, and how many times that is repeated
_MAX_GROWTH = 1.25


async def run(backend: str) -> None:
    """Measure all three."""
    for name, app in {"raw ASGI app": hello, "Starlette app": starlette_app()}.items():
        results = await _compare_gets(app)
        print_table(f"GET from an app in this process, {name}, {backend}", _BASE, results, _TARGETS)
    if sys.platform == "linux":
        print(f"\n1 GiB through ASGITransport in chunks of 64 KiB, {backend}: what it adds to the peak memory")
        for direction in _DIRECTIONS:
            added, seconds = _in_new_process(backend, direction)
            print_checked(f"{direction} body", f"{added:.1f} MiB   {seconds:.2f} s", added, _MAX_ADDED_MIB, " MiB")
    print(f"\nStreams open at once on one app, {backend}: the time for each, and its ratio to the first row's")
    for with_collector in (True, False):
        await _measure_growth(with_collector)


async def _compare_gets(app: ASGIApp) -> dict[str, Ratio]:
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app)) as theirs,
        PrefectHttpxClient(app=app) as client,
        httpx.AsyncClient(transport=ASGITransport(app)) as transport,
    ):
        others = {_CLIENT: lambda: client.get(_URL), _TRANSPORT: lambda: transport.get(_URL)}
        return await compare(lambda: theirs.get(_URL), others, rounds=80, calls=100)


def _in_new_process(backend: str, direction: str) -> tuple[float, float]:
    """Return how many MiB the long body added, and how many seconds it took. This process has been larger already."""
    command = [sys.executable, "-m", __name__, backend, direction]
    added, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(added), float(seconds)


async def _measure_memory(direction: str) -> None:
    send = {"response": _download, "request": _upload}[direction]
    await send(_SHORT)  # what is allocated only once does not count
    before, started = peak_mib(), time.perf_counter()
    await send(_LONG)
    print(peak_mib() - before, time.perf_counter() - started)


async def _download(length: int) -> None:
    async with httpx.AsyncClient(transport=ASGITransport(Download(length // _CHUNK, _CHUNK))) as client:
        async with client.stream("GET", _URL) as response:
            received = 0
            async for chunk in response.aiter_bytes():
                received += len(chunk)
    assert received == length


async def _upload(length: int) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(length // _CHUNK):
            yield b"x" * _CHUNK

    async with httpx.AsyncClient(transport=ASGITransport(upload)) as client:
        response = await client.post(_URL, content=body())
    assert int(response.text) == length


async def _measure_growth(with_collector: bool) -> None:
    """Measure whether a stream takes longer if there are many others.

    With the garbage collector it does, as any task would, because each full collection visits everything that is alive.
    What the transport itself does must not take longer.
    """
    first = math.nan
    for streams, rounds in _STREAMS.items():
        each = statistics.median([await _open_at_once(streams, with_collector) for _ in range(rounds)])
        first = each if math.isnan(first) else first
        name, result = f"{streams:,}", f"{each * 1e6:.1f} us   {each / first:.3f}"
        if with_collector:
            print_checked(name, result)
        else:
            print_checked(f"{name}, gc.disable()", result, each / first, _MAX_GROWTH)


async def _open_at_once(streams: int, with_collector: bool) -> float:
    """Open streams, read from each twice, and leave them. Return the seconds for each."""
    app = TwoChunks()
    transport = ASGITransport(app)
    gc.collect()
    if not with_collector:
        gc.disable()
    started = time.process_time()
    try:
        bodies = [await _open(transport) for _ in range(streams)]
        for body in bodies:
            assert await anext(body) == b"first"
        app.released.set()
        for body in bodies:
            assert await anext(body) == b"second"
        for body in bodies:
            await body.aclose()
        return (time.process_time() - started) / streams
    finally:
        gc.enable()


async def _open(transport: ASGITransport) -> StreamedResponse:
    # Without a client, which would add the same time to each.
    response = await transport.handle_async_request(httpx.Request("GET", _URL))
    body = response.stream
    assert isinstance(body, StreamedResponse)
    return body


if __name__ == "__main__":
    anyio.run(_measure_memory, sys.argv[2], backend=sys.argv[1])
