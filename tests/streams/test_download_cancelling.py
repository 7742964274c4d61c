"""Downloads that are cancelled at each of their scheduling points, with threads, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from support.cancelling import MOST, WAYS, Way, When, run_cancelled
from support.file_server import CONTENT, ETAG, FileServer
from support.servers import retrying_at_once

from prefect_http import PrefectHttpxClient
from prefect_http._streams import download
from prefect_http.testing import FakeNetwork

URL = "https://files.example.com/f"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


async def cancel_at(number: int, way: Way, when: When, path: Path) -> bool:
    """Cancel a download at one of its scheduling points; then download the file, with what is there."""
    network = FakeNetwork()
    api = network.serve("https://files.example.com")
    api.get("/f").drop(after=6000, content=CONTENT, headers={"ETag": ETAG}).call(FileServer())
    async with network.client(PrefectHttpxClient, retry=retrying_at_once()) as client:

        async def fetch() -> None:
            await client.download(URL, path, sha256=DIGEST)

        was_there = await run_cancelled(number, way, when, fetch)
        part = path.parent / "f.part"
        if not path.exists():
            assert not part.exists() or CONTENT.startswith(part.read_bytes())
            result = await client.download(URL, path, sha256=DIGEST)
            assert result.bytes == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert {each.name for each in path.parent.iterdir()} == {"f"}
    path.unlink()
    return was_there


@WAYS
@pytest.mark.parametrize("when", ["waiting", "woken"])
@pytest.mark.parametrize("block", [4096, 8192], ids=["chunks are written", "chunks are held"])
@pytest.mark.anyio
async def test_cancelling(way: Way, when: When, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a download is cancelled, nothing stays locked or open, and what is there is a beginning of the file."""
    monkeypatch.setattr(download, "_BLOCK", block)
    with anyio.fail_after(30):
        for number in range(1, MOST):
            if not await cancel_at(number, way, when, tmp_path / "f"):
                break
        else:
            pytest.fail("it never ended")
    assert number > 10
    gc.collect()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_cancelled_twice(tmp_path: Path) -> None:
    """A task that is cancelled once more while it closes the part leaves nothing open, and loses nothing."""

    async def body() -> AsyncIterator[bytes]:
        yield CONTENT[:5000]
        await anyio.sleep_forever()

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"ETag": ETAG, "Content-Length": str(len(CONTENT))}, content=body())

    async def cancel_twice(client: PrefectHttpxClient, number: int) -> None:
        received = anyio.Event()

        def note(size: int, _: int | None) -> None:
            if size == 5000:
                received.set()

        task = asyncio.create_task(client.download(URL, tmp_path / str(number), progress=note))
        await received.wait()
        await asyncio.sleep(0)
        task.cancel()
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (tmp_path / f"{number}.part").read_bytes() == CONTENT[:5000]

    async with PrefectHttpxClient(transport=httpx.MockTransport(answer)) as client:
        for number in range(20):
            await cancel_twice(client, number)
    gc.collect()
