"""``client.send_many()``: what it costs beside a hand-written nursery with a limiter, and that memory stays flat.

The requests go over loopback. The nursery starts a task for each request at once, and keeps all responses; send_many()
does neither, but hands over each outcome as it comes. Another row is a nursery that does so as well, through a channel.
On asyncio, the nursery is anyio's, and asyncio's own stands beside it.

Memory is measured in a new process, with a transport that answers at once: ``python -m benchmarks.many_requests trio
1000000`` sends a million requests, and prints by how many MiB it grew after the first tenth.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator

import anyio
import anyio.lowlevel
import httpx
import trio
from anyio.streams.memory import MemoryObjectSendStream

from benchmarks._loopback import running_server
from benchmarks._measure import Call, compare
from benchmarks._memory import resident_mib
from benchmarks._table import print_checked, print_table
from prefect_http import PrefectHttpxClient

_AT_ONCE, _REQUESTS, _ROUNDS = 100, 1_000, 20
_BASE, _OWN = "a nursery with a CapacityLimiter", "asyncio.TaskGroup and Semaphore"
_CHANNEL = "the nursery, and a channel"
_OURS = "send_many()"
_TARGETS = {_OURS: 1.15}
_LIMITS = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
_MANY, _MAX_GROWTH_MIB = 50_000, 1.0


def run() -> None:
    """Measure the cost and the memory, on both backends."""
    for backend in ("trio", "asyncio"):
        anyio.run(_measure_cost, backend, backend=backend)
    if sys.platform != "linux":
        return  # see _memory.py
    print(f"\n{_MANY:,} requests from a generator: by how much memory grows")
    for backend in ("trio", "asyncio"):
        command = [sys.executable, "-m", "benchmarks.many_requests", backend, str(_MANY)]
        mib = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print_checked(f"{_OURS}, {backend}", f"{mib:.2f} MiB", mib, _MAX_GROWTH_MIB, " MiB")


async def _measure_cost(backend: str) -> None:
    with running_server() as server:
        async with PrefectHttpxClient(limits=_LIMITS) as client:

            def requests() -> Iterator[httpx.Request]:
                return (client.build_request("GET", server.url) for _ in range(_REQUESTS))

            async def in_async() -> AsyncIterator[httpx.Request]:
                for request in requests():
                    yield request

            others: dict[str, Call] = {
                _OURS: lambda: _send_many(client, requests()),
                "  ordered": lambda: _send_many(client, requests(), ordered=True),
                "  from an async generator": lambda: _send_many(client, in_async()),
            }
            if backend == "asyncio":
                others[_OWN] = lambda: _by_asyncio(client, requests())
            by_hand, by_channel = {"trio": (_by_trio, _by_trio_channel), "asyncio": (_by_anyio, _by_anyio_channel)}[
                backend
            ]
            others[_CHANNEL] = lambda: by_channel(client, requests())
            results = await compare(lambda: by_hand(client, requests()), others, rounds=_ROUNDS, calls=1, generation=2)
    print_table(f"{_REQUESTS:,} requests, {_AT_ONCE} at once, {backend}", _BASE, results, _TARGETS)


async def _send_many(
    client: PrefectHttpxClient, requests: Iterable[httpx.Request] | AsyncIterator[httpx.Request], **arguments: bool
) -> None:
    count = 0
    async with client.send_many(requests, max_at_once=_AT_ONCE, **arguments) as outcomes:
        async for outcome in outcomes:
            assert outcome.response is not None
            count += 1
    assert count == _REQUESTS


async def _by_trio(client: PrefectHttpxClient, requests: Iterable[httpx.Request]) -> None:
    limiter = trio.CapacityLimiter(_AT_ONCE)
    responses: list[httpx.Response] = []

    async def send(request: httpx.Request) -> None:
        async with limiter:
            responses.append(await client.send(request))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(send, request)
    assert len(responses) == _REQUESTS


async def _by_anyio(client: PrefectHttpxClient, requests: Iterable[httpx.Request]) -> None:
    limiter = anyio.CapacityLimiter(_AT_ONCE)
    responses: list[httpx.Response] = []

    async def send(request: httpx.Request) -> None:
        async with limiter:
            responses.append(await client.send(request))

    async with anyio.create_task_group() as tasks:
        for request in requests:
            tasks.start_soon(send, request)
    assert len(responses) == _REQUESTS


async def _by_trio_channel(client: PrefectHttpxClient, requests: Iterable[httpx.Request]) -> None:
    limiter = trio.CapacityLimiter(_AT_ONCE)
    sender, responses = trio.open_memory_channel[httpx.Response](0)
    count = 0

    async def send(request: httpx.Request, sender: trio.MemorySendChannel[httpx.Response]) -> None:
        async with sender, limiter:
            await sender.send(await client.send(request))

    async with trio.open_nursery() as nursery:
        async with sender:
            for request in requests:
                nursery.start_soon(send, request, sender.clone())
        async for _ in responses:
            count += 1
    assert count == _REQUESTS


async def _by_anyio_channel(client: PrefectHttpxClient, requests: Iterable[httpx.Request]) -> None:
    limiter = anyio.CapacityLimiter(_AT_ONCE)
    sender, responses = anyio.create_memory_object_stream[httpx.Response](0)
    count = 0

    async def send(request: httpx.Request, sender: MemoryObjectSendStream[httpx.Response]) -> None:
        async with sender, limiter:
            await sender.send(await client.send(request))

    async with anyio.create_task_group() as tasks, responses:
        async with sender:
            for request in requests:
                tasks.start_soon(send, request, sender.clone())
        async for _ in responses:
            count += 1
    assert count == _REQUESTS


async def _by_asyncio(client: PrefectHttpxClient, requests: Iterable[httpx.Request]) -> None:
    semaphore = asyncio.Semaphore(_AT_ONCE)
    responses: list[httpx.Response] = []

    async def send(request: httpx.Request) -> None:
        async with semaphore:
            responses.append(await client.send(request))

    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            tasks.create_task(send(request))
    assert len(responses) == _REQUESTS


class _Instant(httpx.AsyncBaseTransport):
    """Answers at once, after other tasks have run."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        return httpx.Response(200)


async def _measure_memory(requests: int) -> None:
    """Print by how many MiB memory grows behind the first tenth of the requests."""
    urls = (f"http://server/{number}" for number in range(requests))
    before, count = 0.0, 0
    async with PrefectHttpxClient(transport=_Instant()) as client, client.send_many(urls) as outcomes:
        async for outcome in outcomes:
            assert outcome.response is not None
            count += 1
            if count == requests // 10:
                gc.collect()
                before = resident_mib()
    gc.collect()
    print(resident_mib() - before)


if __name__ == "__main__":
    if sys.argv[1:]:
        anyio.run(_measure_memory, int(sys.argv[2]), backend=sys.argv[1])
    else:
        run()
