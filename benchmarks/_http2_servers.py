"""Starting a server that speaks HTTP/2 over TLS: nginx, if it is installed, or else hypercorn (_http2_app.py).

It answers ``/`` with a few bytes, ``/download`` with `DOWNLOAD` bytes, a POST of ``/upload`` once it has received the
body, and, if it is nginx, ``/hold`` never.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

from benchmarks._loopback import Server, own_core

DOWNLOAD = 100 * 1024**2
MAX_STREAMS = 1_000  # that may be held on a connection

# Addresses that lead to the same server: to a client, each is an origin, and needs a connection. Only Linux has them.
ADDRESSES = [f"127.0.0.{number}" for number in range(1, 102 if sys.platform == "linux" else 2)]

_MAX_START = 20.0

# One process, so that its processor time is the server's. It passes uploads and what it holds on to another server,
# since that is how nginx gets to read bodies, and to wait. The second server ends each connection after 100 requests.
_NGINX = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    client_body_buffer_size 4m;
    keepalive_timeout 1h;
    ssl_certificate certificate.pem;
    ssl_certificate_key certificate.pem;
    root .;
    server {{
        {listen}
        keepalive_requests 1000000000;
        http2_max_concurrent_streams {max_streams};
        location = / {{ return 200 "Hello, world!"; }}
        location = /download {{ }}
        location = /upload {{ proxy_pass http://unix:nginx.sock:/; }}
        location = /hold {{ proxy_pass http://127.0.0.1:{silent}/; proxy_read_timeout 1h; }}
    }}
    server {{
        listen 127.0.0.1:{limited} ssl http2;
        keepalive_requests 100;
        location = / {{ return 200 "Hello, world!"; }}
    }}
    server {{
        listen unix:nginx.sock;
        location / {{ return 200 "received"; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class HTTP2Server:
    """A server, in a process of its own.

    Attributes:
        name: which one it is, and its version.
        server: how to reach it.
        limited: the same with a limit of 100 requests for each connection, if it is nginx.
    """

    name: str
    server: Server
    limited: Server | None

    @property
    def is_nginx(self) -> bool:
        """Whether it is nginx, and not hypercorn."""
        return self.limited is not None


@contextlib.contextmanager
def running_http2_server() -> Generator[HTTP2Server]:
    """Run the server on one core, and meanwhile this process on another one, if there are two."""
    # A listener that accepts nothing holds requests: the system completes the connections.
    with (
        tempfile.TemporaryDirectory() as name,
        own_core() as other_core,
        socket.create_server(("127.0.0.1", 0), backlog=4096) as silent,
    ):
        directory = Path(name)
        authority, certificate = directory / "authority.pem", directory / "certificate.pem"
        issuer = trustme.CA()
        issuer.cert_pem.write_to_path(str(authority))
        issuer.issue_cert(*ADDRESSES).private_key_and_cert_chain_pem.write_to_path(str(certificate))
        port, limited = _free_ports(2)
        if nginx := shutil.which("nginx"):
            _write_for_nginx(directory, port, limited, silent.getsockname()[1])
            command = [nginx, "-p", name, "-c", "nginx.conf"]
            printed = subprocess.run([nginx, "-v"], check=True, stderr=subprocess.PIPE, text=True).stderr
            name_of_server = printed.rpartition(" ")[2].strip().replace("/", " ")
        else:
            command, name_of_server = _hypercorn(directory, port, certificate), "hypercorn"
        with _running(command, name, other_core, port) as pid:
            yield HTTP2Server(
                name_of_server,
                Server(f"https://127.0.0.1:{port}/", pid, authority),
                Server(f"https://127.0.0.1:{limited}/", pid, authority) if nginx else None,
            )


def _write_for_nginx(directory: Path, port: int, limited: int, silent: int) -> None:
    listen = "\n        ".join(f"listen {address}:{port} ssl http2;" for address in ADDRESSES)
    config = _NGINX.format(listen=listen, limited=limited, silent=silent, max_streams=MAX_STREAMS)
    (directory / "nginx.conf").write_text(config)
    with (directory / "download").open("wb") as file:
        file.truncate(DOWNLOAD)


def _hypercorn(directory: Path, port: int, certificate: Path) -> list[str]:
    lines = {
        "bind": [f"{address}:{port}" for address in ADDRESSES],
        "certfile": str(certificate),
        "keyfile": str(certificate),
        "h2_max_concurrent_streams": MAX_STREAMS,
        "keep_alive_max_requests": 10**9,
        "loglevel": "error",
        "workers": 0,  # it serves in its only process
    }
    config = directory / "hypercorn.toml"
    config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return [sys.executable, "-m", "hypercorn", "--config", str(config), "benchmarks._http2_app:app"]


@contextlib.contextmanager
def _running(command: Sequence[str], directory: str, core: str, port: int) -> Generator[int]:
    """Run a server until it is no longer needed, and yield its process."""
    is_nginx = "nginx.conf" in command
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=directory if is_nginx else None) as process:
        try:
            if core:
                os.sched_setaffinity(process.pid, {int(core)})
            _wait_until_open(process, port)
            yield process.pid
        finally:
            process.kill()


def _wait_until_open(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _MAX_START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _free_ports(number: int) -> list[int]:
    """Return ports that nothing uses. Something else might take one in the next moment, but hardly does."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]
