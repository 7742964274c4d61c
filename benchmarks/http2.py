"""HTTP/2 over TLS: how fast requests go, how bodies share a connection, what it takes in memory, and what fails.

The server is nginx if it is installed, or else hypercorn (see _http2_servers.py). With 100 tasks, HTTP/2 takes one
connection, and HTTP/1.1, for comparison, 100. See _speed.py for how the speed is measured. hypercorn takes longer than
our client: with it, only the ratios of processor time mean anything.

``python -m benchmarks.http2 --quick`` measures the speed with 100 tasks only, and does not draw it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx

from benchmarks._http2_servers import ADDRESSES, DOWNLOAD, MAX_STREAMS, HTTP2Server, running_http2_server
from benchmarks._http_clients import CLIENT, HTTP2, Contestant, tls_context
from benchmarks._loopback import Server
from benchmarks._measure import ratio
from benchmarks._memory import resident_mib
from benchmarks._pictures import draw_http2
from benchmarks._speed import Sample, Target, median, own_processes, print_faster, print_speeds
from benchmarks._table import print_checked, print_speedup_header
from prefect_http import PrefectHttpxClient, RetryPolicy

_BACKENDS = "trio", "asyncio"
_OURS, _HTTPX, _HTTPX2 = f"{CLIENT}{HTTP2}", f"httpx{HTTP2}", f"httpx2{HTTP2}"
_CONTESTANTS = [Contestant(client, backend) for client in (_OURS, CLIENT, _HTTPX, _HTTPX2) for backend in _BACKENDS]
_TIMEOUT = 60.0

# By the number of tasks: how many requests each of them makes in a round.
_EACH = {1: 200, 10: 60, 100: 20}
_EACH_OF_SLOW = {1: 100, 10: 15, 100: 4}
_SLOW = _HTTPX, _HTTPX2
_ROUNDS = {1: 5, 10: 5, 100: 9}
_MANY = 100
_TARGETS = [
    *(Target(Contestant(_OURS, backend), Contestant(_HTTPX, backend), 4.0) for backend in _BACKENDS),
    *(Target(Contestant(_OURS, backend), Contestant(_HTTPX2, backend), 3.0) for backend in _BACKENDS),
    *(Target(Contestant(_OURS, backend), Contestant(CLIENT, backend)) for backend in _BACKENDS),
]
_MAX_PROCESSOR = 1.3

_DOWNLOADS = 7
_OF_CURL = {"HTTP/1.1, curl": "--http1.1", "HTTP/2, curl": "--http2"}
_UPLOADS, _UPLOAD, _UPLOAD_ROUNDS, _MAX_SPREAD = 50, 1024**2, 5, 0.5
_GETS, _BY_TASKS = 2_000, 50

_MAX_SECONDS = 120.0
_IDLE, _IDLE_HTTP1, _STREAMS, _ASLEEP = "idle", "idle-http1", "streams", "asleep"


def run() -> None:
    """Measure everything, print it, and draw the speed."""
    with running_http2_server() as server:
        _measure_speed(server, list(_EACH))
        _measure_downloads(server)
        _measure_uploads(server)
        _measure_memory(server)
        _count_failures(server)


def run_quick() -> None:
    """Measure the speed with many tasks."""
    with running_http2_server() as server:
        _measure_speed(server, [_MANY])


# --- Speed


def _measure_speed(server: HTTP2Server, numbers: Sequence[int]) -> None:
    samples: dict[int, dict[Contestant, list[Sample]]] = {
        tasks: {contestant: [] for contestant in _CONTESTANTS} for tasks in numbers
    }
    with own_processes() as measure:
        for number in range(max(_ROUNDS.values())):
            for tasks, by_contestant in samples.items():
                for contestant in list(by_contestant) if number % 2 else reversed(by_contestant):
                    if number < _ROUNDS[tasks]:
                        each = (_EACH_OF_SLOW if contestant.client in _SLOW else _EACH)[tasks]
                        by_contestant[contestant].append(measure(contestant, server.server, tasks, each))
    for tasks, by_contestant in samples.items():
        title = f"Small requests over TLS to {server.name}, {tasks} {'task' if tasks == 1 else 'tasks'}"
        print_speeds(title, by_contestant, _TARGETS if tasks == _MANY else [])
    _print_processor_time(samples[_MANY])
    if len(numbers) > 1:
        rates = {
            str(contestant): {
                tasks: 1 / statistics.median(one.elapsed for one in samples[tasks][contestant]) for tasks in numbers
            }
            for contestant in _CONTESTANTS
        }
        draw_http2(rates, server.name)


def _print_processor_time(samples: Mapping[Contestant, Sequence[Sample]]) -> None:
    print("  processor time of the client, HTTP/2 relative to HTTP/1.1")
    for backend in _BACKENDS:
        http1, http2 = ([one.processor for one in samples[Contestant(name, backend)]] for name in (CLIENT, _OURS))
        result = ratio(http1, http2)
        print_checked(
            backend, f"{result.median:.2f}   {result.low:.2f}-{result.high:.2f}", result.median, _MAX_PROCESSOR
        )


# --- Bodies


def _measure_downloads(server: HTTP2Server) -> None:
    """Measure a long download over HTTP/2, also beside a stream that nobody reads, and over HTTP/1.1, in turns.

    What the server takes, and curl, if it is installed, show how much of the difference is ours. curl is written in C.
    """
    print(f"\nA download of {DOWNLOAD // 1024**2} MiB: seconds (client, server)")
    kinds = ("HTTP/1.1", False, False), ("HTTP/2", True, False), ("HTTP/2 beside unread", True, True)
    samples: dict[str, list[Sample]] = {f"{name}, {backend}": [] for backend in _BACKENDS for name, _, _ in kinds}
    for number in range(_DOWNLOADS):
        for backend in _BACKENDS:
            for name, http2, beside in kinds if number % 2 else reversed(kinds):
                contestant = Contestant(_OURS if http2 else CLIENT, backend)
                sample = contestant.run(_download, contestant.client, server.server, beside)
                samples[f"{name}, {backend}"].append(sample)
        for name, option in _OF_CURL.items() if _curl_has_http2() else ():
            samples.setdefault(name, []).append(_download_with_curl(option, server.server))
    for name, each in samples.items():
        elapsed, processor, of_server = median(each)
        print_checked(name, f"{elapsed:.2f} s ({processor:.2f}, {of_server:.2f})")
    print_speedup_header()
    for backend in _BACKENDS:
        for name, http2, _ in kinds:
            if http2:
                one, other = f"{name}, {backend}", f"HTTP/1.1, {backend}"
                print_faster(f"{one} / {other}", samples[one], samples[other], 1.0)
    if _curl_has_http2():
        one, other = reversed(_OF_CURL)
        print_faster(f"{one} / {other}", samples[one], samples[other], None)
    print("  processor time of the server, HTTP/2 relative to HTTP/1.1")
    for backend in _BACKENDS:
        of_http1, of_http2 = ([one.server for one in samples[f"{name}, {backend}"]] for name, _, _ in kinds[:2])
        took = ratio(of_http1, of_http2)
        print_checked(backend, f"{took.median:.2f}   {took.low:.2f}-{took.high:.2f}")


async def _download(client_name: str, server: Server, beside: bool) -> Sample:
    async with _new_client(client_name, server) as client, contextlib.AsyncExitStack() as stack:
        await client.get(server.url)
        if beside:
            await stack.enter_async_context(client.stream("GET", f"{server.url}download"))
            await anyio.sleep(0.05)  # until the server has sent what the window allows
        gc.collect()
        before = time.perf_counter(), time.process_time(), server.processor_time()
        received = 0
        async with client.stream("GET", f"{server.url}download") as response:
            async for chunk in response.aiter_bytes():
                received += len(chunk)
        after = time.perf_counter(), time.process_time(), server.processor_time()
    assert received == DOWNLOAD
    return Sample(*(end - start for start, end in zip(before, after, strict=True)))


@functools.cache
def _curl_has_http2() -> bool:
    if shutil.which("curl") is None:
        return False
    printed = subprocess.run(["curl", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return "HTTP2" in printed.split()


def _download_with_curl(option: str, server: Server) -> Sample:
    command = ["curl", option, "--silent", "--fail", "--cacert", str(server.authority), "--output", os.devnull]
    command += ["--write-out", "%{size_download} %{time_total}", f"{server.url}download"]
    before = _processor_time_of_children(), server.processor_time()
    size, elapsed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    after = _processor_time_of_children(), server.processor_time()
    assert int(size) == DOWNLOAD
    return Sample(float(elapsed), *(end - start for start, end in zip(before, after, strict=True)))


def _processor_time_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _measure_uploads(server: HTTP2Server) -> None:
    """Measure how fairly uploads share a connection that begin at once.

    The spread is the time from the end of the first to the end of the last, as a part of the time of the last. If they
    share fairly, all end at about the same time; one after the other, it would be 98 %.
    """
    print(f"\n{_UPLOADS} uploads of {_UPLOAD // 1024} KiB at once: seconds until the last ends, and the spread of ends")
    contestants = [one for one in _CONTESTANTS if one.client.endswith(HTTP2)]
    results: dict[Contestant, list[tuple[float, float]]] = {one: [] for one in contestants}
    for number in range(_UPLOAD_ROUNDS):
        for one in contestants if number % 2 else reversed(contestants):
            if one.client == _OURS or number < 2:
                results[one].append(one.run(_upload_at_once, one.client, server.server))
    for one, each in results.items():
        last, spread = (statistics.median(values) for values in zip(*each, strict=True))
        checked = _MAX_SPREAD * 100 if one.client == _OURS else None
        print_checked(str(one), f"{last:.2f} s   {spread:.0%}", spread * 100, checked, " %")


async def _upload_at_once(name: str, server: Server) -> tuple[float, float]:
    """Return when the last upload ended, and the spread."""
    content, ends = bytes(_UPLOAD), list[float]()
    async with _new_client(name, server, 1) as client:
        await client.get(server.url)
        gc.collect()
        started = time.perf_counter()

        async def upload() -> None:
            response = await client.post(f"{server.url}upload", content=content)
            assert response.status_code == 200
            ends.append(time.perf_counter() - started)

        async with anyio.create_task_group() as tasks:
            for _ in range(_UPLOADS):
                tasks.start_soon(upload)
    return ends[-1], (ends[-1] - ends[0]) / ends[-1]


# --- Memory


def _measure_memory(server: HTTP2Server) -> None:
    if sys.platform != "linux":
        return  # see _memory.py
    connections = len(ADDRESSES) - 1
    print(f"\nMemory for each of {connections} idle connections over TLS, and of {MAX_STREAMS:,} streams that wait")
    for backend in _BACKENDS:
        http1, http2 = (_in_new_process(backend, kind, server.server) for kind in (_IDLE_HTTP1, _IDLE))
        print_checked(f"connection, HTTP/1.1, {backend}", f"{http1:.1f} KiB")
        print_checked(f"connection, HTTP/2, {backend}", f"{http2:.1f} KiB   {http2 - http1:.1f} more")
        if server.is_nginx:
            asleep, streams = (_in_new_process(backend, kind, server.server) for kind in (_ASLEEP, _STREAMS))
            result = f"{streams:.1f} KiB   {streams - asleep:.1f} more than asleep"
            print_checked(f"stream and its task, {backend}", result)


def _in_new_process(backend: str, kind: str, server: Server) -> float:
    """Return by how many KiB the memory grew for each connection or stream."""
    command = [sys.executable, "-m", "benchmarks.http2", backend, kind, server.url, str(server.authority)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=_MAX_SECONDS).stdout)


async def _print_memory(kind: str, url: str, authority: str) -> None:
    server = Server(url, 0, Path(authority))
    async with _new_client(CLIENT if kind == _IDLE_HTTP1 else _OURS, server, MAX_STREAMS) as client:
        print(await (_add_streams(client, url, kind) if kind in {_ASLEEP, _STREAMS} else _add_connections(client, url)))


async def _add_connections(client: httpx.AsyncClient, url: str) -> float:
    first, *others = (httpx.URL(url).copy_with(host=address) for address in ADDRESSES)
    await client.get(first)
    gc.collect()
    before = resident_mib()
    for each in others:
        await client.get(each)
    gc.collect()
    return (resident_mib() - before) * 1024 / len(others)


async def _add_streams(client: httpx.AsyncClient, url: str, kind: str) -> float:
    await client.get(url)
    gc.collect()
    before, grown = resident_mib(), 0.0
    async with anyio.create_task_group() as tasks:
        for _ in range(MAX_STREAMS - 1):
            if kind == _ASLEEP:
                tasks.start_soon(anyio.sleep_forever)
            else:
                tasks.start_soon(client.get, f"{url}hold")
        await anyio.wait_all_tasks_blocked()
        await client.get(url)  # its answer comes after all of them have been sent
        gc.collect()
        grown = (resident_mib() - before) * 1024 / (MAX_STREAMS - 1)
        tasks.cancel_scope.cancel()
    return grown


# --- Failures


def _count_failures(server: HTTP2Server) -> None:
    """Count the requests that fail because the server ends connections. Nothing is retried by a policy."""
    if server.limited is None:
        return
    print(f"\n{_GETS:,} GETs by {_BY_TASKS} tasks; {server.name} ends each connection after 100: failures, and seconds")
    for one in _CONTESTANTS:
        failed, seconds = one.run(_get_all, one.client, server.limited)
        checked = 0.0 if one.client in {_OURS, CLIENT} else None
        print_checked(str(one), f"{failed:,}   {seconds:.2f} s", failed, checked)


async def _get_all(name: str, server: Server) -> tuple[int, float]:
    failed = 0
    async with _new_client(name, server, _BY_TASKS) as client:

        async def get_each() -> None:
            nonlocal failed
            for _ in range(_GETS // _BY_TASKS):
                try:
                    response = await client.get(server.url)
                    assert response.status_code == 200
                except Exception:  # httpx has let errors of h2 through
                    failed += 1

        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(_BY_TASKS):
                tasks.start_soon(get_each)
        return failed, time.perf_counter() - started


def _new_client(name: str, server: Server, connections: int = 10) -> Any:
    """Return a client, which makes one attempt for each request."""
    name, http2 = name.removesuffix(HTTP2), name.endswith(HTTP2)
    context = tls_context(server.authority)
    if name == "httpx2":
        import httpx2

        limits2 = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        return httpx2.AsyncClient(verify=context, http2=http2, limits=limits2, timeout=_TIMEOUT)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    if name == "httpx":
        return httpx.AsyncClient(verify=context, http2=http2, limits=limits, timeout=_TIMEOUT)
    retry = RetryPolicy(max_retries=0)
    return PrefectHttpxClient(verify=context, http2=http2, limits=limits, timeout=_TIMEOUT, retry=retry)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [backend, kind, url, authority]:
            anyio.run(_print_memory, kind, url, authority, backend=backend)
        case ["--quick"]:
            run_quick()
        case _:
            run()
