"""What a client takes besides the time for a request: its construction, and memory for tasks that wait and over time.

Memory is measured in new processes.
"""

from __future__ import annotations

import contextlib
import gc
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator

import anyio
import httpx

from benchmarks._apps import hello
from benchmarks._contestant import get_at_once
from benchmarks._http_clients import CLIENT, Contestant, Get, open_client
from benchmarks._loopback import Server, running_server
from benchmarks._measure import compare
from benchmarks._memory import resident_mib
from benchmarks._table import print_checked, print_table
from prefect_http import PrefectHttpxClient

_MAX_CONSTRUCTION = 1.5

_WAITING, _MAX_KIB_EACH = 10_000, 8.0
_ASLEEP, _FOR_POOL, _FOR_SERVER = "asleep", "pool", "server"
_HELD = {_ASLEEP: 0, _FOR_POOL: 1, _FOR_SERVER: _WAITING}  # by the server, which does not answer

_REQUESTS, _BLOCK, _TASKS = 200_000, 20_000, 100
_MAX_SECONDS = 90.0  # on a slow machine, the requests are fewer
_MAX_GROWTH_MIB = 1.0  # 5 bytes a request; memory that is freed is not always given back
_LOOPBACK, _APP = "loopback", "app="

_BACKENDS = "trio", "asyncio"


def run() -> None:
    """Measure all three."""
    anyio.run(_measure_construction, backend="trio")
    if sys.platform != "linux":
        return  # see _memory.py
    _allow_many_files()
    with running_server() as server:
        print(f"\n{_WAITING:,} tasks, asleep, or waiting for the pool or the server: memory for each")
        for contestant in (*(Contestant(CLIENT, backend) for backend in _BACKENDS), Contestant("aiohttp", "asyncio")):
            asleep = 0.0
            for kind in _HELD:
                mib, _ = _in_new_process(contestant, kind, server.url)
                kib = mib * 1024 / _WAITING
                asleep = asleep or kib
                is_checked = contestant.client == CLIENT and kind != _ASLEEP
                result = f"{kib:.1f} KiB" + f"   {kib - asleep:.1f} more than asleep" * (kind != _ASLEEP)
                print_checked(f"{contestant}, {kind}", result, kib, _MAX_KIB_EACH if is_checked else None, " KiB")
        print(f"\nMany requests by {_TASKS} tasks: by how much memory grows")
        for backend, kind in zip(_BACKENDS, (_LOOPBACK, _APP), strict=True):
            mib, requests = _in_new_process(Contestant(CLIENT, backend), kind, server.url)
            print_checked(f"{kind}, {backend}", f"{mib:.2f} MiB   {requests:,.0f}", mib, _MAX_GROWTH_MIB, " MiB")


def _allow_many_files() -> None:
    """Raise the limit, here and in the processes that are started, for a connection for each task."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _measure_construction() -> None:
    context = ssl.create_default_context()

    async def theirs() -> None:
        httpx.AsyncClient(verify=context)

    async def ours() -> None:
        PrefectHttpxClient(verify=context)

    results = await compare(theirs, {CLIENT: ours}, rounds=100, calls=20)
    print_table("Construction, with the same SSLContext", "httpx.AsyncClient", results, {CLIENT: _MAX_CONSTRUCTION})


def _in_new_process(contestant: Contestant, kind: str, url: str) -> tuple[float, int]:
    """Return by how many MiB its memory grew, and for how many requests."""
    command = [sys.executable, "-m", "benchmarks.resources", *contestant[:2], kind, url]
    mib, requests = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(mib), int(requests)


async def _measure_memory(client: str, kind: str, url: str) -> None:
    server = Server(url, 0)
    print(*await (_wait(client, kind, server) if kind in _HELD else _repeat(client, kind, server)))


async def _wait(client: str, kind: str, server: Server) -> tuple[float, int]:
    """Return by how much memory has grown when all tasks wait, and their number."""
    connections, grown = 1 if kind == _FOR_POOL else _WAITING, 0.0
    async with httpx.AsyncClient() as control, open_client(client, server, connections, "hold") as get:
        async with open_client(client, server, 1) as one:
            await one()  # what is allocated only once does not count
        all_held = await _held(control, server) + _HELD[kind]
        gc.collect()
        before = resident_mib()
        async with anyio.create_task_group() as tasks:
            for _ in range(_WAITING):
                tasks.start_soon(anyio.sleep_forever if kind == _ASLEEP else get)
            await anyio.wait_all_tasks_blocked()
            while await _held(control, server) < all_held:  # noqa: ASYNC110 - the server is another process
                await anyio.sleep(0.1)
            gc.collect()
            grown = resident_mib() - before
            tasks.cancel_scope.cancel()
    return grown, _WAITING


async def _held(control: httpx.AsyncClient, server: Server) -> int:
    """Return how many requests the server has received that it never answers."""
    return int((await control.get(f"{server.url}held")).text)


async def _repeat(client: str, kind: str, server: Server) -> tuple[float, int]:
    """Return by how much memory has grown after many requests, since the first ones, and their number."""
    opened = _open_in_process() if kind == _APP else open_client(client, server, _TASKS)
    async with opened as get:
        await get_at_once(get, _TASKS, _BLOCK // _TASKS)
        gc.collect()
        before, requests, end = resident_mib(), 0, anyio.current_time() + _MAX_SECONDS
        while requests < _REQUESTS and anyio.current_time() < end:
            await get_at_once(get, _TASKS, _BLOCK // _TASKS)
            requests += _BLOCK
        gc.collect()
        return resident_mib() - before, requests


@contextlib.asynccontextmanager
async def _open_in_process() -> AsyncGenerator[Get]:
    async with PrefectHttpxClient(app=hello) as client:
        yield lambda: client.get("http://localhost/")


if __name__ == "__main__":
    if sys.argv[1:]:
        Contestant(*sys.argv[1:3]).run(_measure_memory, sys.argv[1], *sys.argv[3:])
    else:
        run()
