"""Downloads that are cancelled at each of their scheduling points, with threads, and what is left of them."""

from __future__ import annotations

import gc
import hashlib
from pathlib import Path

import anyio
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
@pytest.mark.anyio
async def test_cancelling(way: Way, when: When, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a download is cancelled, nothing stays locked or open, and what is there is a beginning of the file."""
    monkeypatch.setattr(download, "_BLOCK", 4096)
    with anyio.fail_after(30):
        for number in range(1, MOST):
            if not await cancel_at(number, way, when, tmp_path / "f"):
                break
        else:
            pytest.fail("it never ended")
    assert number > 10
    gc.collect()
