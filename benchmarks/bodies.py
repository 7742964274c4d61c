"""Bodies of 1 GiB over loopback, down and up: how fast they are, and how much memory they take.

Each is measured in a new process, since a process does not forget its peak.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from benchmarks._http_clients import CLIENT, Contestant
from benchmarks._loopback import running_server
from benchmarks._memory import peak_mib
from benchmarks._speed import Sample, median, print_faster
from benchmarks._table import print_checked, print_speedup_header
from prefect_http import PrefectHttpxClient

_LONG, _SHORT = 1024**3, 8 * 1024**2
_PIECE = 64 * 1024
_ROUNDS, _TIMEOUT = 5, 60.0
_MAX_ADDED_MIB = 24

_AIOHTTP = Contestant("aiohttp", "asyncio")
_OURS = [Contestant(CLIENT, backend) for backend in ("trio", "asyncio", "uvloop")]
_TARGETS = {Contestant(CLIENT, backend): 1.0 for backend in ("trio", "asyncio")}
_UPLOAD = "upload"
_KINDS = {"length": "down, with Content-Length", "chunked": "down, chunked", _UPLOAD: "up, chunked"}

# A transfer of so many bytes.
_Transfer = Callable[[int], Awaitable[None]]


def run() -> None:
    """Measure all contestants in turns, and print it."""
    contestants = [one for one in (*_OURS, _AIOHTTP) if one.is_available]
    with running_server() as server:
        for kind, title in _KINDS.items():
            samples: dict[Contestant, list[Sample]] = {one: [] for one in contestants}
            added: dict[Contestant, float] = dict.fromkeys(contestants, 0.0)
            for number in range(_ROUNDS):
                for one in contestants if number % 2 else reversed(contestants):
                    before = server.processor_time()
                    elapsed, processor, mib = _in_new_process(one, kind, server.url)
                    samples[one].append(Sample(elapsed, processor, server.processor_time() - before))
                    added[one] = max(added[one], mib)
            _print(title, samples, added)


def _in_new_process(contestant: Contestant, kind: str, url: str) -> tuple[float, float, float]:
    """Return the seconds that it took, those of processor time, and how many MiB it added to the peak memory."""
    command = [sys.executable, "-m", "benchmarks.bodies", *contestant[:2], kind, url]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    elapsed, processor, mib = map(float, printed.split())
    return elapsed, processor, mib


def _print(title: str, samples: dict[Contestant, list[Sample]], added: dict[Contestant, float]) -> None:
    print(f"\n1 GiB over loopback, {title}: what it adds to the peak memory, and seconds (client, server)")
    for one, each in samples.items():
        elapsed, processor, server = median(each)
        result = f"{added[one]:.1f} MiB   {elapsed:.2f} s ({processor:.2f}, {server:.2f})"
        checked = one in _OURS and sys.platform == "linux"
        print_checked(str(one), result, added[one], _MAX_ADDED_MIB if checked else None, " MiB")
    print_speedup_header()
    for one in samples:
        if one != _AIOHTTP:
            print_faster(f"{one} / {_AIOHTTP}", samples[one], samples[_AIOHTTP], _TARGETS.get(one))


async def _measure(client: str, kind: str, url: str) -> None:
    """Print what a long transfer takes; what is allocated once, or only loaded, does not count."""
    async with _OPEN[client](kind, url) as transfer:
        await transfer(_SHORT)
        before = peak_mib(), time.perf_counter(), time.process_time()
        await transfer(_LONG)
        print(time.perf_counter() - before[1], time.process_time() - before[2], peak_mib() - before[0])


@contextlib.asynccontextmanager
async def _open_ours(kind: str, url: str) -> AsyncGenerator[_Transfer]:
    async with PrefectHttpxClient(timeout=_TIMEOUT) as client:

        async def download(length: int) -> None:
            async with client.stream("GET", f"{url}{kind}/{length}") as response:
                received = 0
                async for chunk in response.aiter_bytes():
                    received += len(chunk)
            assert received == length

        async def upload(length: int) -> None:
            response = await client.post(url, content=_body(length))
            assert int(response.text) >= length

        yield upload if kind == _UPLOAD else download


@contextlib.asynccontextmanager
async def _open_aiohttp(kind: str, url: str) -> AsyncGenerator[_Transfer]:
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(sock_read=_TIMEOUT)) as session:

        async def download(length: int) -> None:
            async with session.get(f"{url}{kind}/{length}") as response:
                received = 0
                async for chunk in response.content.iter_any():
                    received += len(chunk)
            assert received == length

        async def upload(length: int) -> None:
            async with session.post(url, data=_body(length)) as response:
                assert int(await response.text()) >= length

        yield upload if kind == _UPLOAD else download


async def _body(length: int) -> AsyncIterator[bytes]:
    piece = b"x" * _PIECE
    for _ in range(length // _PIECE):
        yield piece


_OPEN = {CLIENT: _open_ours, _AIOHTTP.client: _open_aiohttp}

if __name__ == "__main__":
    if sys.argv[1:]:
        Contestant(*sys.argv[1:3]).run(_measure, sys.argv[1], *sys.argv[3:])
    else:
        run()
