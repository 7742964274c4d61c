"""Requests through tinyproxy, where that is installed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import anyio
import httpx
import pytest
from support.servers import answer, free_port, raw_server, refusing_port
from support.tls_servers import tls_server, url_of
from support.wire import figures, trusting_context

from prefect_http import HTTPTransport

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("tinyproxy") is None, reason="tinyproxy is not installed"),
]

FINE = answer(body=b"fine")


@contextlib.contextmanager
def running(*command: str) -> Generator[None]:
    """Run a program during the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def tinyproxy(directory: Path) -> AsyncGenerator[int]:
    """Run tinyproxy with credentials; yield its port."""
    port = free_port()
    config = directory / "tinyproxy.conf"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nTimeout 5\nMaxClients 20\nBasicAuth user p4ssw0rd\nDisableViaHeader Yes\n"
    )
    with running("tinyproxy", "-d", "-c", str(config)), anyio.fail_after(10):
        while True:
            with contextlib.suppress(OSError):
                async with await anyio.connect_tcp("127.0.0.1", port):
                    break
            await anyio.sleep(0.01)
        yield port


async def test_tinyproxy(tmp_path: Path) -> None:
    """Tunnels and forwarded requests work, are used again where the proxy allows it, and are refused in its words."""
    async with tinyproxy(tmp_path) as port, raw_server(FINE) as plain, tls_server(FINE) as secure:
        proxy = f"http://user:p4ssw0rd@127.0.0.1:{port}"
        transport = HTTPTransport(verify=trusting_context(), proxy=proxy)
        async with httpx.AsyncClient(transport=transport, timeout=5, trust_env=False) as client:
            for _ in range(3):
                assert (await client.get(url_of(secure))).text == "fine"
            assert (secure.connections, figures(transport)) == (1, (1, 1, 0))
            for _ in range(2):
                assert (await client.get(plain.url)).text == "fine"
            closed = f"127.0.0.1:{refusing_port()}"
            with pytest.raises(httpx.ProxyError, match=rf"^the proxy http://127\.0\.0\.1:{port} .* {closed}: 50\d "):
                await client.get(f"https://{closed}/")
        transport = HTTPTransport(verify=trusting_context(), proxy=proxy.replace("p4ssw0rd", "wr0ng"))
        async with httpx.AsyncClient(transport=transport, timeout=5, trust_env=False) as client:
            with pytest.raises(httpx.ProxyError, match=r"refused a tunnel to .*: 40[17] ") as caught:
                await client.get(url_of(secure))
            assert (await client.get(plain.url)).status_code in {401, 407}
        assert "wr0ng" not in str(caught.value)
    assert not [request for request in plain.requests + secure.requests if "proxy-authorization" in request.headers]
