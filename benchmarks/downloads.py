"""download() of 200 MiB over loopback: how fast it is beside reading the stream, and how much memory it adds.

It is measured at 1 Gbit/s, and at full speed, where writing takes longer than receiving. A loop that writes each chunk,
without a thread, is what it would be by hand, and with a flush of the file to the disk at the end, as download() makes
it, what that may take. The files are in the folder for temporary files; in the last row, they are in /dev/shm, if there
is one, so without a disk.

Each is measured in a new process, since a process does not forget its peak.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from benchmarks._loopback import running_server
from benchmarks._measure import ratio
from benchmarks._memory import peak_mib
from benchmarks._speed import Sample, median
from benchmarks._table import print_checked
from prefect_http import DownloadError, PrefectHttpxClient

_LONG, _SHORT = 200 * 1024**2, 8 * 1024**2
_ROUNDS, _TIMEOUT = 3, 60.0
_MAX_ADDED_MIB, _MIN_RATE = 4, 0.8
_MEMORY = Path("/dev/shm")

_PLAIN = "read and dropped"
_BY_HAND = "written by a loop"
_FLUSHED = "written and flushed by a loop"
_DOWNLOAD = "download()"
_DIGEST = "download(sha256=)"
_IN_MEMORY = "download() into memory"
_KINDS = {
    "paced/125000000": ("1 Gbit/s", (_PLAIN, _DOWNLOAD, _DIGEST)),
    "paced/1250000000": ("10 Gbit/s", (_PLAIN, _DOWNLOAD, _DIGEST)),
    "length": ("as fast as loopback is", (_PLAIN, _BY_HAND, _FLUSHED, _DOWNLOAD, _DIGEST, _IN_MEMORY)),
}


def run() -> None:
    """Measure all of them in turns, on both backends, and print it."""
    with running_server() as server:
        for kind, (title, ways) in _KINDS.items():
            for backend in ("trio", "asyncio"):
                there = [way for way in ways if way != _IN_MEMORY or _MEMORY.exists()]
                samples: dict[str, list[Sample]] = {way: [] for way in there}
                added: dict[str, float] = dict.fromkeys(there, 0.0)
                for number in range(_ROUNDS):
                    for way in there if number % 2 else reversed(there):
                        elapsed, processor, mib = _in_new_process(backend, way, f"{server.url}{kind}/")
                        samples[way].append(Sample(elapsed, processor, 0.0))
                        added[way] = max(added[way], mib)
                _print(f"{title}, {backend}", samples, added)


def _in_new_process(backend: str, way: str, url: str) -> tuple[float, float, float]:
    """Return the seconds that it took, those of processor time, and how many MiB it added to the peak memory."""
    command = [sys.executable, "-m", "benchmarks.downloads", backend, way, url]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    elapsed, processor, mib = map(float, printed.split())
    return elapsed, processor, mib


def _print(title: str, samples: dict[str, list[Sample]], added: dict[str, float]) -> None:
    print(f"\n200 MiB over loopback, {title}: added peak memory, and seconds (processor time)")
    for way, each in samples.items():
        elapsed, processor, _ = median(each)
        result = f"{added[way]:.1f} MiB   {elapsed:.2f} s ({processor:.2f})"
        is_ours = way in (_DOWNLOAD, _DIGEST) and sys.platform == "linux"
        print_checked(way, result, added[way], _MAX_ADDED_MIB if is_ours else None, " MiB")
    print("  how long it takes, times reading; the rate is the reciprocal, so that at most 1.25 is at least 0.8 of it")
    plain = [sample.elapsed for sample in samples[_PLAIN]]
    for way, each in samples.items():
        if way != _PLAIN:
            took = ratio(plain, [sample.elapsed for sample in each])
            result = f"{took.median:.2f}   {took.low:.2f}-{took.high:.2f}"
            print_checked(way, result, took.median, 1 / _MIN_RATE if way == _DOWNLOAD else None)


async def _measure(way: str, url: str) -> None:
    """Print what it takes; what is allocated once, or only loaded, does not count."""
    parent = _MEMORY if way == _IN_MEMORY else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        async with PrefectHttpxClient(timeout=_TIMEOUT) as client:
            transfer = _transfer(client, way, url, Path(folder))
            await transfer(_SHORT)
            before = peak_mib(), time.perf_counter(), time.process_time()
            await transfer(_LONG)
            print(time.perf_counter() - before[1], time.process_time() - before[2], peak_mib() - before[0])


def _transfer(client: PrefectHttpxClient, way: str, url: str, folder: Path) -> Callable[[int], Awaitable[None]]:
    async def read(length: int) -> None:
        async with client.stream("GET", f"{url}{length}") as response:
            received = 0
            async for chunk in response.aiter_bytes():
                received += len(chunk)
        assert received == length

    async def write(length: int) -> None:
        with (folder / f"{length}").open("wb", buffering=0) as file:
            async with client.stream("GET", f"{url}{length}") as response:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
            if way == _FLUSHED:
                os.fsync(file.fileno())

    async def download(length: int) -> None:
        result = await client.download(f"{url}{length}", folder / f"{length}")
        assert result.bytes == length

    async def download_with_digest(length: int) -> None:
        try:
            await client.download(f"{url}{length}", folder / f"{length}", sha256="0" * 64)
        except DownloadError:
            return
        raise AssertionError

    others = {_PLAIN: read, _BY_HAND: write, _FLUSHED: write, _DIGEST: download_with_digest}
    return others.get(way, download)


if __name__ == "__main__":
    if sys.argv[1:]:
        anyio.run(_measure, sys.argv[2], sys.argv[3], backend=sys.argv[1])
    else:
        run()
