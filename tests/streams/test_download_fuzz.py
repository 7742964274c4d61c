"""Downloads from servers that misbehave at random: a file that is there is one version of the file, and whole."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.servers import retrying_at_once

from prefect_http import PrefectHttpxClient

URL = "https://files.example.com/f"
ACTS = (
    *("honest", "honest", "honest", "changed", "no ranges", "wrong start", "wrong total", "other version", "multipart"),
    *("416", "416 with another size", "a beginning", "without a total", "short", "long", "long rest", "encoded"),
    *("weak", "500", "202", "no Content-Range", "not asked for", "lost"),
)


class Body(httpx.AsyncByteStream):
    """A body that may break off."""

    def __init__(self, content: bytes, cut: int | None) -> None:
        self.content = content
        self.cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        content = self.content if self.cut is None else self.content[: self.cut]
        for start in range(0, len(content), 7):
            yield content[start : start + 7]
        if self.cut is not None and self.cut < len(self.content):
            raise httpx.ReadError("broken off")


class Server:
    """Acts by a script, and honestly when that is over."""

    def __init__(self, script: list[tuple[str, int | None]]) -> None:
        self.script = script
        self.version = 0

    def content(self, version: int) -> bytes:
        return b"".join(b"%d:%d " % (version, number) for number in range(10 + version % 3))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        act, cut = self.script.pop(0) if self.script else ("honest", None)
        if act == "changed":
            self.version += 1
        content, etag = self.content(self.version), f'"{self.version}"'
        total, asked = len(content), request.headers.get("Range")
        start = 0
        if asked is not None and act != "no ranges" and request.headers["If-Range"] == etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        end = total
        headers = {"ETag": etag}

        def part(start: int, end: int, total: object = total) -> httpx.Response:
            headers.setdefault("Content-Range", f"bytes {start}-{end - 1}/{total}")
            return httpx.Response(206, headers=headers, stream=Body(content[start:end], cut))

        if act == "lost":
            raise httpx.ReadError("lost")
        if act in ("500", "202"):
            return httpx.Response(int(act), content=b"not the file")
        if act == "encoded":
            headers["Content-Encoding"] = "gzip"
            return httpx.Response(200, headers=headers, stream=Body(gzip.compress(content), cut))
        if act == "not asked for" and asked is None:
            return part(3, total)
        if start == 0:
            if act == "weak":
                headers["ETag"] = f"W/{etag}"
            whole = content[:-3] if act == "short" else content + b"more" if act == "long" else content
            headers["Content-Length"] = str(total)
            return httpx.Response(200, headers=headers, stream=Body(whole, cut))
        if start >= total or act.startswith("416"):
            size = {"416": "", "416 with another size": f"bytes */{total + 5}"}.get(act, f"bytes */{total}")
            return httpx.Response(416, headers={"Content-Range": size})
        if act == "wrong start":
            start -= 1
        if act == "a beginning":
            end = start + 1
        if act == "wrong total":
            return part(start, end, total + 1)
        if act == "other version":
            content, headers["ETag"] = self.content(self.version + 3), f'"{self.version + 3}"'
        if act in ("multipart", "no Content-Range"):
            headers["Content-Range"] = ""
        if act == "without a total":
            return part(start, end, "*")
        if act == "long rest":
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
            return httpx.Response(206, headers=headers, stream=Body(content[start:] + b"more", cut))
        return part(start, end)


async def check(script: list[tuple[str, int | None]], path: Path) -> None:
    """Download a file as often as it takes."""
    server = Server(script)
    transport = httpx.MockTransport(server)
    async with PrefectHttpxClient(transport=transport, retry=retrying_at_once(1)) as client:
        for _ in range(len(script) + 3):
            try:
                result = await client.download(URL, path)
            except httpx.HTTPError:
                assert not path.exists()
            else:
                versions = {server.content(version) for version in range(server.version + 1)}
                assert path.read_bytes() in versions
                assert result.bytes == path.stat().st_size
                assert [each.name for each in path.parent.iterdir()] == ["f"]
                return
    raise AssertionError("it never succeeds")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(ACTS), st.none() | st.integers(0, 60)), max_size=8))
def test_any_server(script: list[tuple[str, int | None]]) -> None:
    """Whatever a server does, short of calling two versions by one name, there is a whole file or none."""
    with tempfile.TemporaryDirectory() as folder:
        trio.run(check, script, Path(folder, "f"))
