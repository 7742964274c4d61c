"""One of the contestants of _speed.py, in a process of its own: a program that measures when it is told to.

It reads lines, each of which says who is measured, with which server, with how many tasks, and how many requests each
of them makes; and answers each with a line that says how many seconds a request took.
"""

from __future__ import annotations

import base64
import gc
import pickle
import sys
import time

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


def as_line(value: object) -> str:
    """Return a line that stands for a value."""
    return base64.b64encode(pickle.dumps(value)).decode() + "\n"


def from_line(line: str) -> object:
    """Return the value that a line stands for."""
    value: object = pickle.loads(base64.b64decode(line))
    return value


def main() -> None:
    """Measure until there is nothing more to be measured."""
    is_warm = False
    for line in sys.stdin:
        question = from_line(line)
        assert isinstance(question, tuple)
        contestant, server, tasks, each = question
        assert isinstance(contestant, Contestant)
        if not is_warm:
            contestant.run(_measure, contestant.client, server, tasks, each)
            is_warm = True
        times = contestant.run(_measure, contestant.client, server, tasks, each)
        print(as_line(times), end="", flush=True)


if __name__ == "__main__":
    main()
