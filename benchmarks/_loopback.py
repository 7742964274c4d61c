"""Starting the server that the clients are measured with (_loopback_server.py), and keeping it out of their way.

So with the proxy (_loopback_proxy.py).
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import trustme


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs in a process of its own.

    Attributes:
        url: its address, which ends with a slash.
        pid: its process.
        authority: who has issued its certificate, as PEM, if it speaks TLS.
        proxy: the URL of the proxy to reach it through; None: directly.
    """

    url: str
    pid: int
    authority: Path | None = None
    proxy: str | None = None

    def processor_time(self) -> float:
        """Return the seconds of processor time that the server has used, or NaN where that is unknown."""
        # clock_getcpuclockid(3), which Python does not have, computes the clock of a process like this.
        return time.clock_gettime((~self.pid << 3) | 2) if sys.platform == "linux" else math.nan


@contextlib.contextmanager
def running_server(*, tls: bool = False, proxy: bool = False) -> Generator[Server]:
    """Run the server, and a proxy, on one core, and meanwhile this process on another one, if there are two."""
    with tempfile.TemporaryDirectory() as directory, own_core() as other_core:
        authority = certificate = None
        if tls:
            authority, certificate = Path(directory, "authority.pem"), Path(directory, "certificate.pem")
            issuer = trustme.CA()
            issuer.cert_pem.write_to_path(str(authority))
            issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(_running("_loopback_server", other_core, str(certificate or "")))
            url = f"{'https' if tls else 'http'}://{server.address}/"
            proxy_url = None
            if proxy:
                proxy_url = f"http://{stack.enter_context(_running('_loopback_proxy', other_core)).address}"
            yield Server(url, server.pid, authority, proxy_url)


class _Program(NamedTuple):
    address: str
    pid: int


@contextlib.contextmanager
def _running(name: str, *arguments: str) -> Generator[_Program]:
    """Run a program that prints its port."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield _Program(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
        finally:
            process.kill()


@contextlib.contextmanager
def own_core() -> Generator[str]:
    """Keep this process, with all its threads and children, on one core; yield the number of another one, or "".

    Otherwise a client with threads would take the server's core as well.
    """
    if sys.platform != "linux" or len(cores := sorted(os.sched_getaffinity(0))) == 1:
        yield ""
        return
    os.sched_setaffinity(0, cores[:1])
    try:
        yield str(cores[1])
    finally:
        os.sched_setaffinity(0, cores)
