"""One of the contestants of _speed.py, in a process of its own: a program that measures when it is told to.

What it measures is in its arguments. For each line that it reads, it prints how many seconds a request took.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path

import anyio

from benchmarks._http_clients import Contestant, Get, open_client
from benchmarks._loopback import Server

Times = tuple[float, float, float]
"""Seconds per request: wall-clock time, processor time of the client, and processor time of the server."""


async def _measure(client: str, server: Server, tasks: int, each: int) -> Times:
    async with open_client(client, server, tasks) as get:
        await get()  # with HTTP/2, clients have to find out that one connection will do
        await get_at_once(get, tasks, 1)  # opens the connections
        gc.collect()
        before = time.perf_counter(), time.process_time(), server.processor_time()
        await get_at_once(get, tasks, each)
        after = time.perf_counter(), time.process_time(), server.processor_time()
    elapsed, processor, of_server = ((end - start) / (tasks * each) for start, end in zip(before, after, strict=True))
    return elapsed, processor, of_server


async def get_at_once(get: Get, tasks: int, each: int) -> None:
    """Run so many tasks, each of which makes so many requests one after another."""

    async def repeat() -> None:
        for _ in range(each):
            await get()

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(repeat)


def arguments(contestant: Contestant, server: Server, tasks: int, each: int) -> list[str]:
    """Return the arguments of this program.

    Args:
        contestant: who is measured.
        server: with which server.
        tasks: with how many tasks.
        each: how many requests each of them makes.
    """
    authority = "" if server.authority is None else str(server.authority)
    return [*contestant, server.url, str(server.pid), authority, server.proxy or "", str(tasks), str(each)]


def main(client: str, backend: str, way: str, url: str, pid: str, authority: str, proxy: str, *counts: str) -> None:
    """Measure whenever a line arrives, until no more do."""
    contestant = Contestant(client, backend, way)
    server = Server(url, int(pid), Path(authority) if authority else None, proxy or None)
    tasks, each = map(int, counts)
    contestant.run(_measure, client, server, tasks, each)  # the first time takes longer
    for _ in sys.stdin:
        times = contestant.run(_measure, client, server, tasks, each)
        print(*times, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
