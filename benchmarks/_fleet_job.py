"""What the benchmarks of shared throttles have in common: redis-server, the server on loopback, and jobs of processes.

All is real: the clock, redis-server, a server on loopback with a token bucket (_bucket_server.py), and the processes
(_fleet_member.py), every other one of which runs on trio and the others on asyncio.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

PATIENCE = 60.0
"""Seconds after which a process is ended."""


class Servers(NamedTuple):
    """Where requests go.

    Attributes:
        url: of the server with the token buckets.
        redis_socket: the path of the socket of redis-server.
    """

    url: str
    redis_socket: str


class RedisServer:
    """A redis-server that keeps nothing on disk.

    Attributes:
        socket: the path of its socket.
        process: the process that runs.
    """

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self._folder = folder
        self.start()

    @staticmethod
    def is_installed() -> bool:
        """Return whether there is one."""
        return shutil.which("redis-server") is not None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        command = ["redis-server", *options, "--dir", str(self._folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not self.socket.exists():
            assert time.monotonic() < end, "redis-server has not started"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does; what it held is lost."""
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)


@contextlib.contextmanager
def redis_server() -> Generator[RedisServer | None]:
    """Run redis-server; None if it is not installed."""
    if not RedisServer.is_installed():
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def bucket_server() -> Generator[str]:
    """Run the server with the token buckets, and yield its URL."""
    command = [sys.executable, "-m", "benchmarks._bucket_server"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def start_member(url: str, requests: int, redis_socket: str, name: str, *, number: int) -> subprocess.Popen[str]:
    """Start a process; see _fleet_member.py. Those with an even number run on trio."""
    backend = ("trio", "asyncio")[number % 2]
    command = [sys.executable, "-m", "benchmarks._fleet_member", backend, url, str(requests), redis_socket, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a process could begin."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", "a process has ended too early"


def begin(process: subprocess.Popen[str]) -> None:
    """Let a process begin."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def end_of(process: subprocess.Popen[str], deadline: float) -> tuple[float, float] | None:
    """Return how many seconds a process took, and how many of its requests failed; None if it is not done by then."""
    try:
        output, _ = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return None
    took, failures = map(float, output.split())
    return took, failures


def report(servers: Servers, name: str) -> dict[str, float]:
    """Return what the server has received so far of a job."""
    with urlopen(f"{servers.url}/report/{name}", timeout=10) as response:
        received: dict[str, float] = json.load(response)
    return received
