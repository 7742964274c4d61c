"""Several files at once, with progress bars, from a server that breaks off: each goes on from where it was.

Look at the requests: a file that broke off is asked for again from its last byte on. In a terminal there is a bar for
each file; elsewhere there is none. Run it twice with the same folder, and the second run sends nothing.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from prefect_http import PrefectHttpxClient
from prefect_http.progress import bars  # pip install rich
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply

FILES = {f"run-{number}.log": bytes([number]) * 400_000 * number for number in range(1, 5)}
URL = "https://logs.example.com"


def serve(request: ReceivedRequest) -> Reply:
    name = request.path_parameters["name"]
    content, asked = FILES[name], request.headers.get("Range", "bytes=0-")
    print(f"GET /{name}  {asked}")
    start, headers = int(asked[6:-1]), {"ETag": f'"{name}"'}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Reply(206 if start else 200, content=content[start:], headers=headers)


async def mirror(folder: Path) -> None:
    network = FakeNetwork()
    server = network.serve(URL)
    for name, content in FILES.items():  # the first attempt of each one breaks off
        server.get(f"/{name}").drop(after=len(content) // 2, content=content, headers={"ETag": f'"{name}"'})
    server.get("/{name}").call(serve)
    async with network.client(PrefectHttpxClient, base_url=URL) as client:
        with bars() as progress:
            async with trio.open_nursery() as nursery:
                for name, content in FILES.items():
                    if not (folder / name).exists():
                        digest = hashlib.sha256(content).hexdigest()
                        fetch = partial(client.download, sha256=digest, progress=progress.bar(name))
                        nursery.start_soon(fetch, f"/{name}", folder / name)
    for path in sorted(folder.glob("*")):
        print(f"{path.name}: {path.stat().st_size:,} bytes")


with tempfile.TemporaryDirectory() as temporary:
    trio.run(mirror, Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
