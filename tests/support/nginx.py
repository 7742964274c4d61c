"""nginx, if it is installed, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.servers import free_port

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
# All paths are relative to its prefix: only root may write to the default ones.
CONFIG = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    HTTP
    server {
        listen 127.0.0.1:PORT;
        root .;
        SERVER
    }
}
"""


@contextlib.contextmanager
def nginx(folder: Path, *, http: str = "", server: str = "") -> Iterator[str]:
    """Run nginx, which serves the files of a folder; yield its URL. The test is skipped if it is not installed.

    Args:
        folder: the files, to which it adds its own.
        http: lines of its configuration, for all servers.
        server: lines for the server.
    """
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    config = CONFIG.replace("PORT", str(port)).replace("HTTP", http).replace("SERVER", server)
    (folder / "nginx.conf").write_text(config, "ascii")
    with subprocess.Popen([NGINX, "-p", f"{folder}/", "-c", "nginx.conf"]) as process:
        try:
            _wait_until_it_listens(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server that is starting, for at most 10 s."""
    give_up_at = time.monotonic() + 10
    while True:
        assert process.poll() is None, "the server has exited"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < give_up_at, "the server has not started"
            time.sleep(0.01)
        else:
            return
