"""Downloads from real servers, and by processes that are killed."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.abc
import pytest
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Route
from support.nginx import nginx
from support.servers import RawServer, raw_server, retrying_at_once, uvicorn_on_asyncio

from prefect_http import DownloadError, PrefectHttpxClient

pytestmark = pytest.mark.anyio

CONTENT = random.Random(3).randbytes(1_500_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the servers serve."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module", params=["nginx", "starlette"])
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Run a server of files; yield the URL of one of them."""
    if request.param == "nginx":
        with nginx(folder) as url:
            yield f"{url}/file"
    else:
        app = Starlette(routes=[Route("/file", lambda _: FileResponse(folder / "file"))])
        with uvicorn_on_asyncio(app) as url:
            yield f"{url}/file"


def stop_at(size: int) -> Callable[[int, int | None], None]:
    """Return a progress function that ends a download after so many bytes."""

    def stop(received: int, total: int | None) -> None:
        if received >= size:
            raise InterruptedError

    return stop


async def test_file_server(url: str, folder: Path, tmp_path: Path) -> None:
    """A download that was interrupted is continued, ends when all is there, and begins anew when the file changes."""
    served, path = folder / "file", tmp_path / "file"
    served.write_bytes(CONTENT)
    async with PrefectHttpxClient(trust_env=False) as client:
        with anyio.fail_after(20):
            with pytest.raises(InterruptedError):
                await client.download(url, path, progress=stop_at(HALF))
            assert CONTENT.startswith((tmp_path / "file.part").read_bytes())
            result = await client.download(url, path, sha256=DIGEST)
            assert (result.resumed, result.response.status_code, result.bytes) == (True, 206, len(CONTENT))

            with pytest.raises(InterruptedError):
                await client.download(url, path, progress=stop_at(len(CONTENT)), overwrite=True)
            result = await client.download(url, path, sha256=DIGEST, overwrite=True)
            assert (result.resumed, result.response.status_code, result.bytes) == (True, 416, len(CONTENT))

            with pytest.raises(InterruptedError):
                await client.download(url, path, progress=stop_at(HALF), overwrite=True)
            served.write_bytes(b"new" * 1000)
            result = await client.download(url, path, overwrite=True)
            assert (result.resumed, result.response.status_code, result.bytes) == (False, 200, 3000)
    assert path.read_bytes() == b"new" * 1000
    assert {each.name for each in tmp_path.iterdir()} == {"file"}


class Breaking:
    """Acts of a server that sends a file, or the rest of it, and at most so many bytes at once.

    Args:
        size: after how many bytes it stops.
        closes: whether it closes the connection then; otherwise it falls silent.
    """

    def __init__(self, size: int, *, closes: bool) -> None:
        self.size = size
        self.closes = closes
        self.server: RawServer

    async def __call__(self, stream: anyio.abc.ByteStream) -> None:
        asked, total = self.server.requests[-1].headers.get("range"), len(CONTENT)
        start = 0 if asked is None else int(asked.removeprefix("bytes=").removesuffix("-"))
        head = [f"HTTP/1.1 {206 if start else 200} Fine", 'ETag: "v1"', f"Content-Length: {total - start}"]
        if start:
            head.append(f"Content-Range: bytes {start}-{total - 1}/{total}")
        await stream.send("\r\n".join([*head, "", ""]).encode() + CONTENT[start : start + self.size])
        if self.closes:
            await stream.aclose()
        else:
            await anyio.sleep_forever()


async def test_server_that_drops_each_100_kb(tmp_path: Path) -> None:
    """A server that breaks off again and again ends up with the whole file, without waits, and without retries left."""
    act = Breaking(100_000, closes=True)
    async with raw_server(act) as act.server, PrefectHttpxClient(trust_env=False) as client:
        result = await client.download(act.server.url, tmp_path / "file", sha256=DIGEST, retry=retrying_at_once(1))
    assert (result.resumed, result.bytes) == (True, len(CONTENT))
    assert len(act.server.requests) == 15


PROGRAM = """
import sys
import anyio
from prefect_http import PrefectHttpxClient

async def main():
    async with PrefectHttpxClient(trust_env=False) as client:
        await client.download(*sys.argv[1:], progress=lambda received, _: print(received, flush=True), timeout=60)

anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_process_that_is_killed(tmp_path: Path) -> None:
    """Two processes cannot download to one path; when one is killed, the other goes on from there."""
    act, path = Breaking(1_200_000, closes=False), tmp_path / "file"
    async with raw_server(act) as act.server, PrefectHttpxClient(trust_env=False) as client:
        command = [sys.executable, "-P", "-c", PROGRAM, act.server.url, str(path)]
        async with await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None) as process:
            assert process.stdout is not None
            received = b""
            while b"1200000" not in received:
                received += await process.stdout.receive()
            with pytest.raises(DownloadError, match=r"another download to this path is running"):
                await client.download(act.server.url, path)
            process.kill()
            await process.wait()
        left = (tmp_path / "file.part").read_bytes()
        assert len(left) >= 1_000_000
        assert CONTENT.startswith(left)
        act.size = len(CONTENT)
        result = await client.download(act.server.url, path, sha256=DIGEST, timeout=5)
    assert result.resumed
    assert re.fullmatch(rf"bytes={len(left)}-", act.server.requests[-1].headers["range"])
    assert {each.name for each in tmp_path.iterdir()} == {"file"}
