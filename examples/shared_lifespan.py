"""One app, several users that enter and leave in any order, one startup and one shutdown.

Anna enters first, so she starts the app. She also leaves first, and the app keeps running for the others. Cleo enters
in one task and leaves in another; she is the last, so the app stops. Dora enters later, and starts it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
import trio

from prefect_http import PrefectHttpxClient, app_lifespan_context

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        print("the app starts")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the app stops")
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": f"hello {scope['path'][1:]}".encode()})


async def visit(name: str, seconds: float) -> None:
    client = PrefectHttpxClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app_lifespan_context(app), client:
        response = await client.get(f"/{name}")
        print(f"  {name} enters: {response.text}")
        await trio.sleep(seconds)
        print(f"  {name} leaves")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit, "Anna", 0.3)
        await trio.sleep(0.1)
        nursery.start_soon(visit, "Ben", 0.3)
        await trio.sleep(0.1)
        cleo = AsyncExitStack()
        await cleo.enter_async_context(app_lifespan_context(app))
        print("  Cleo enters")
        await trio.sleep(0.3)
        print("  Cleo leaves")
        nursery.start_soon(cleo.aclose)
    await visit("Dora", 0)


trio.run(main)
