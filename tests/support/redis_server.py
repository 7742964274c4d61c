"""redis-server, if it is installed, on loopback."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from support.servers import free_port

REDIS_SERVER = shutil.which("redis-server")


class RedisServer:
    """A redis-server that keeps nothing on disk.

    Args:
        folder: where it runs.
        arguments: further ones, for all its runs.
    """

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Start it, with nothing in it, and wait until it listens.

        Args:
            arguments: further ones, for this run.
        """
        assert REDIS_SERVER is not None
        assert self.process is None
        command = [REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--logfile", "redis.log", *self.arguments, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        give_up_at = time.monotonic() + 10
        while True:
            assert self.process.poll() is None, (self.folder / "redis.log").read_text("utf-8")
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up_at, "the server has not started"
                time.sleep(0.005)
            else:
                return

    def kill(self) -> None:
        """End it at once, as a crash does; what it held is lost."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()  # also ends one that is stopped
            process.wait(10)

    def pause(self) -> None:
        """Stop it; the system still accepts connections for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path, *arguments: str) -> Generator[RedisServer]:
    """Run redis-server. The test is skipped if it is not installed.

    Args:
        folder: where it runs.
        arguments: further ones, such as ``"--maxmemory", "1mb"``.
    """
    if REDIS_SERVER is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, arguments)
    try:
        server.start()
        yield server
    finally:
        server.kill()
