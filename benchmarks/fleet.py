"""What ``Throttle(shared=)`` does for several processes that call one server with a limit, through a real Redis.

See _fleet_job.py for what is real. Without redis-server, this is left out. Processes with and without ``shared=`` run
at the same time, each kind with a bucket of its own; most of the time all of them wait.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks._fleet_job import (
    PATIENCE,
    Servers,
    begin,
    bucket_server,
    end_of,
    redis_server,
    report,
    start_member,
    wait_until_ready,
)
from benchmarks._table import print_checked

_REQUESTS, _RATE, _BURST = 600, 50, 50
_IDEAL = (_REQUESTS - _BURST) / _RATE  # seconds
# By the number of processes, the number of jobs of each kind; those in one pair of braces run at the same time.
_ROUNDS = {1: 6, 4: 1}, {8: 1}
_CHECKED = 8
_ALONE, _SHARED = "a throttle each", "shared="
_MAX_REJECTED, _MAX_RATIO, _MAX_SPREAD = 0.05, 1.15, 1.4
_MAX_COST_OF_ONE = 1.05

_FAST_REQUESTS, _FAST_RATE, _FAST_PROCESSES = 4_000, 500, 8
_MAX_CALLS = 0.1

_PROBING, _MAX_GAP = 4, 3.0


@dataclass(frozen=True, slots=True)
class _Run:
    """How a job ended.

    Attributes:
        rejected: requests, for each accepted one.
        ratio: its time over the ideal.
        spread: the time of the slowest process over that of the fastest.
        failed: how many requests failed.
    """

    rejected: float
    ratio: float
    spread: float
    failed: float

    def __str__(self) -> str:
        return f"{self.rejected:8.1%}{self.ratio:9.2f}{self.spread:9.2f}{self.failed:9.0f}"

    @property
    def is_fine(self) -> bool:
        """Whether it meets the targets."""
        is_quick = self.ratio <= _MAX_RATIO and self.spread <= _MAX_SPREAD
        return is_quick and self.rejected <= _MAX_REJECTED and not self.failed


def run() -> None:
    """Measure all of it, in less than 90 s."""
    with redis_server() as redis, bucket_server() as url:
        if redis is None:
            print("\nOne throttle for several processes: left out, since redis-server is not installed")
            return
        servers = Servers(url, str(redis.socket))
        _measure_jobs(servers)
        _measure_calls(servers)
        _kill_who_probes(servers)


class _Job:
    """Processes that share a bucket, and perhaps a throttle; they begin when all are ready.

    Args:
        name: of the job, unlike that of any other.
        servers: where the requests go.
        processes: how many.
        requests: of all of them.
        rate: that the server accepts, per second.
        burst: how many it accepts at once.
        is_shared: whether the processes share a throttle.
    """

    def __init__(
        self, name: str, servers: Servers, processes: int, requests: int, rate: int, burst: int, *, is_shared: bool
    ) -> None:
        self.name = name
        self._servers = servers
        self._each = requests // processes
        url, redis_socket = f"{servers.url}/{name}/{rate}/{burst}", servers.redis_socket if is_shared else ""
        self.processes = [
            start_member(url, self._each, redis_socket, name, number=number) for number in range(processes)
        ]

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with process:
                process.kill()

    def wait_until_ready(self) -> None:
        """Wait until all could begin."""
        for process in self.processes:
            wait_until_ready(process)

    def begin(self) -> None:
        """Let all begin."""
        for process in self.processes:
            begin(process)

    def report(self) -> dict[str, float]:
        """Return what the server has received so far."""
        return report(self._servers, self.name)

    def wait(self) -> _Run:
        """Wait until all have ended, and return how."""
        deadline = time.monotonic() + PATIENCE
        ends = [end_of(process, deadline) or (PATIENCE, float(self._each)) for process in self.processes]
        seconds = [took for took, _ in ends]
        received = self.report()
        rejected = received["rejected"] / max(1, received["accepted"])
        return _Run(rejected, max(seconds) / _IDEAL, max(seconds) / min(seconds), sum(failed for _, failed in ends))


def _measure_jobs(servers: Servers) -> None:
    print(f"\n{_REQUESTS} requests by several processes to a server that accepts {_RATE}/s, burst {_BURST}")
    print(f"  {'':28}{'rejected':>8}{'x ideal':>9}{'spread':>9}{'failed':>9}   (spread: slowest / fastest process)")
    of_one: dict[str, float] = {}
    for rounds in _ROUNDS:
        for (processes, kind), result in _run_at_once(servers, rounds).items():
            is_checked = processes == _CHECKED and kind == _SHARED
            verdict = f"   {'ok' if result.is_fine else 'MISSED'}" if is_checked else ""
            print(f"  {f'{processes}, {kind}':28}{result}{verdict}", flush=True)
            of_one.setdefault(kind, result.ratio)
    print(f"  targets: rejected {_MAX_REJECTED:.0%}, x ideal {_MAX_RATIO}, spread {_MAX_SPREAD}, failed 0")
    cost = of_one[_SHARED] / of_one[_ALONE]
    print_checked("one process, shared=", f"{cost:.3f} x the time without", cost, _MAX_COST_OF_ONE)


def _run_at_once(servers: Servers, rounds: Mapping[int, int]) -> dict[tuple[int, str], _Run]:
    """Run jobs of both kinds at the same time; return the means."""
    with contextlib.ExitStack() as stack:
        jobs = {
            (processes, kind): [
                stack.enter_context(_new_job(f"{processes}-{kind == _SHARED:d}-{number}", servers, processes, kind))
                for number in range(count)
            ]
            for processes, count in rounds.items()
            for kind in (_ALONE, _SHARED)
        }
        every = [job for of_kind in jobs.values() for job in of_kind]
        for job in every:
            job.wait_until_ready()
        for job in every:
            job.begin()
        return {kind: _mean([job.wait() for job in of_kind]) for kind, of_kind in jobs.items()}


def _new_job(name: str, servers: Servers, processes: int, kind: str) -> _Job:
    return _Job(name, servers, processes, _REQUESTS, _RATE, _BURST, is_shared=kind == _SHARED)


def _mean(runs: list[_Run]) -> _Run:
    return _Run(
        rejected=statistics.fmean(run.rejected for run in runs),
        ratio=statistics.fmean(run.ratio for run in runs),
        spread=statistics.fmean(run.spread for run in runs),
        failed=sum(run.failed for run in runs),
    )


def _measure_calls(servers: Servers) -> None:
    """Count how often processes ask Redis while they are busy."""
    before = _calls(servers.redis_socket)
    fast = _FAST_PROCESSES, _FAST_REQUESTS, _FAST_RATE, _FAST_RATE // 10
    with _Job("fast", servers, *fast, is_shared=True) as job:
        job.wait_until_ready()
        job.begin()
        result = job.wait()
    calls = (_calls(servers.redis_socket) - before) / _FAST_REQUESTS
    title = f"{_FAST_PROCESSES} processes, {_FAST_RATE}/s"
    print_checked(title, f"{calls:.3f} calls per request", calls, _MAX_CALLS)
    print_checked("", f"{result.rejected:.1%} rejected, {result.failed:.0f} failed", result.failed, 0)


def _calls(redis_socket: str) -> int:
    """Return how many scripts have been called, each of which is a round trip."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb") as stream:
        client.connect(redis_socket)
        stream.write(b"INFO commandstats\r\n")
        stream.flush()
        length = int(stream.readline()[1:])
        found = re.search(rb"^cmdstat_evalsha:calls=(\d+)", stream.read(length), re.MULTILINE)
    return int(found[1]) if found else 0


def _kill_who_probes(servers: Servers) -> None:
    """Kill the process that has just sent the probe, and measure when another one sends the next request."""
    with _Job("probe", servers, _PROBING, _REQUESTS, _RATE, _BURST, is_shared=True) as job:
        job.wait_until_ready()
        job.begin()
        prober = int(_wait_for(job, "probed_by", 0))
        os.kill(prober, signal.SIGKILL)
        killed_at = time.monotonic()
        gap = _wait_for(job, "next_at", float("inf")) - killed_at
    print_checked("process with the probe killed", f"{gap:.2f} s until the next request", gap, _MAX_GAP, " s")


def _wait_for(job: _Job, name: str, before: float) -> float:
    """Return what the server reports as soon as it has changed."""
    end = time.monotonic() + 15
    while (value := job.report()[name]) == before and time.monotonic() < end:
        time.sleep(0.01)
    return value


if __name__ == "__main__":
    run()
