"""A library function that works under any event loop.

Look at ``fetch_all``: it uses only anyio and the client that it is given. ``main`` runs it on asyncio and on trio, with
the same results. On both, "/busy" comes last: while its task waits for a retry, the others continue.
"""

from __future__ import annotations

from collections.abc import Iterable

import anyio
import httpx

from prefect_http import PrefectHttpxClient, RetryPolicy


async def fetch_all(client: httpx.AsyncClient, paths: Iterable[str]) -> dict[str, str]:
    """Fetch all paths concurrently.

    Returns:
        The text for each path, in the order of arrival.

    Raises:
        ExceptionGroup: if a request fails; it holds that error, and the other requests are cancelled.
    """
    texts: dict[str, str] = {}

    async def fetch(path: str) -> None:
        response = await client.get(path)
        texts[path] = response.text

    async with anyio.create_task_group() as tasks:
        for path in paths:
            tasks.start_soon(fetch, path)
    return texts


async def main(backend: str) -> None:
    visits: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        visits.append(request.url.path)
        is_busy = request.url.path == "/busy" and visits.count("/busy") < 3
        return httpx.Response(503) if is_busy else httpx.Response(200, text=f"visit {len(visits)}")

    policy = RetryPolicy(max_backoff=0.2)
    transport = httpx.MockTransport(serve)
    async with PrefectHttpxClient(retry=policy, transport=transport, base_url="http://library") as client:
        texts = await fetch_all(client, ["/busy", "/first", "/second"])
    print(f"{backend}: {texts}")


for backend in ("asyncio", "trio"):
    anyio.run(main, backend, backend=backend)
