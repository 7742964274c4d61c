"""How many requests a second go over the wire, by client and by the number of tasks.

A uvicorn with httptools, in a process of its own, answers with a few bytes, so what is measured is the client. Each
contestant first opens its connections, one for each task. They take turns, and ratios are of neighbours. What is
counted is wall-clock time, since two processes work at once; on a machine with fewer than two processors free, the
faster clients look slower than they are.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple

import anyio
import httpx

from benchmarks._pictures import draw_wire
from benchmarks._table import print_at_least
from prefect_http import HTTPTransport, PrefectHttpxClient

Get = Callable[[], Awaitable[object]]


class Contestant(NamedTuple):
    """A client on a backend."""

    client: str
    backend: str

    def __str__(self) -> str:
        return f"{self.client}, {self.backend}"


_CLIENT, _TRANSPORT = "PrefectHttpxClient", "httpx on HTTPTransport"
_OURS = _CLIENT, _TRANSPORT
_CONTESTANTS = [
    *(Contestant(client, backend) for client in (*_OURS, "httpx", "httpx2") for backend in ("trio", "asyncio")),
    Contestant("aiohttp", "asyncio"),
]
# By the number of tasks: how many requests each of them makes in a round, so that it takes half a second or so, and
# fewer with those that slow down; and how many rounds there are.
_EACH = {1: 800, 10: 150, 100: 20, 1_000: 3}
_EACH_OF_SLOW = {1: 400, 10: 30, 100: 4, 1_000: 1}
_SLOW = "httpx", "httpx2"
_ROUNDS = {1: 9, 10: 7, 100: 7, 1_000: 2}
# By the number of tasks: ours on a backend makes so many times as many requests as another one.
_TARGETS = {
    1: [("trio", Contestant("httpx", "trio"), 1.6), ("asyncio", Contestant("httpx", "asyncio"), 1.6)],
    100: [
        ("trio", Contestant("httpx", "trio"), 5.0),
        ("trio", Contestant("httpx2", "trio"), 2.5),
        ("trio", Contestant("aiohttp", "asyncio"), 0.5),
        ("asyncio", Contestant("httpx", "asyncio"), 4.0),
    ],
    1_000: [("trio", Contestant("httpx", "trio"), 5.0), ("asyncio", Contestant("httpx", "asyncio"), 5.0)],
}
_FEW, _MANY, _MIN_KEPT = 10, 1_000, 2 / 3

_SERVER = """
import uvicorn

async def app(scope, receive, send):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

# The socket is asyncio's: one that socket.create_server() makes has no TCP_NODELAY, and each answer takes 40 ms.
options = {"loop": "asyncio", "http": "httptools", "lifespan": "off", "log_level": "error", "access_log": False}
Server(uvicorn.Config(app, port=0, backlog=4096, timeout_keep_alive=600, **options)).run()
"""


def run() -> None:
    """Measure all, print it, and draw it."""
    rates: dict[Contestant, dict[int, list[float]]] = {contestant: {} for contestant in _CONTESTANTS}
    with _server() as url:
        for tasks, rounds in _ROUNDS.items():
            for number in range(rounds):
                for contestant in _CONTESTANTS if number % 2 else reversed(_CONTESTANTS):
                    rate = anyio.run(_requests_per_second, contestant, url, tasks, backend=contestant.backend)
                    rates[contestant].setdefault(tasks, []).append(rate)
            _print_rates(tasks, {contestant: by_tasks[tasks] for contestant, by_tasks in rates.items()})
    print("\nRequests a second that are left with 1,000 tasks of those with 10")
    for contestant, by_tasks in rates.items():
        kept = statistics.median(by_tasks[_MANY]) / statistics.median(by_tasks[_FEW])
        print_at_least(str(contestant), f"{kept:.2f}", kept, _MIN_KEPT if contestant.client in _OURS else None)
    draw_wire(
        {
            str(contestant): {tasks: statistics.median(each) for tasks, each in by_tasks.items()}
            for contestant, by_tasks in rates.items()
        }
    )


def _print_rates(tasks: int, rates: dict[Contestant, list[float]]) -> None:
    print(f"\nRequests a second, {tasks:,} {'task' if tasks == 1 else 'tasks'}")
    for contestant, each in rates.items():
        rate = statistics.median(each)
        print_at_least(str(contestant), f"{rate:8,.0f}   {1e6 / rate:,.0f} us")
    for backend, other, target in _TARGETS.get(tasks, ()):
        for client in _OURS:
            ours = rates[Contestant(client, backend)]
            ratios = [our / their for our, their in zip(ours, rates[other], strict=True)]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            name = f"{client}, {backend}, to {other}"
            print_at_least(name, f"{ratio:.2f} x   {low:.2f}-{high:.2f}", ratio, target)


async def _requests_per_second(contestant: Contestant, url: str, tasks: int) -> float:
    each = (_EACH_OF_SLOW if contestant.client in _SLOW else _EACH)[tasks]
    async with _client(contestant.client, url, tasks) as get:
        await _get_at_once(get, tasks, 1)  # opens the connections
        started = time.perf_counter()
        await _get_at_once(get, tasks, each)
        return tasks * each / (time.perf_counter() - started)


async def _get_at_once(get: Get, tasks: int, each: int) -> None:
    async def repeat() -> None:
        for _ in range(each):
            await get()

    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(repeat)


@contextlib.asynccontextmanager
async def _client(name: str, url: str, tasks: int) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=tasks, max_keepalive_connections=tasks)
    match name:
        case "aiohttp":
            import aiohttp

            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=tasks)) as session:

                async def get() -> None:
                    async with session.get(url) as response:
                        await response.read()

                yield get
        case "httpx2":
            import httpx2

            limits2 = httpx2.Limits(max_connections=tasks, max_keepalive_connections=tasks)
            async with httpx2.AsyncClient(limits=limits2, timeout=60) as client2:
                yield lambda: client2.get(url)
        case _:
            clients: dict[str, Callable[[], httpx.AsyncClient]] = {
                _CLIENT: lambda: PrefectHttpxClient(limits=limits, timeout=60),
                _TRANSPORT: lambda: httpx.AsyncClient(transport=HTTPTransport(limits=limits), timeout=60),
                "httpx": lambda: httpx.AsyncClient(limits=limits, timeout=60),
            }
            async with clients[name]() as client:
                yield lambda: client.get(url)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """Run the server in a process of its own, which tells its port when it is up."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()


if __name__ == "__main__":
    run()
