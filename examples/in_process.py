"""Server-sent events from a Starlette app that runs in this process, and a client that disconnects in the middle.

Look at the order of the lines: each event is read as soon as it is sent, although the stream never ends. When the
client disconnects, the app receives ``http.disconnect``, and Starlette closes the generator. The client runs the app's
startup before the first request and its shutdown at the end. The clock is trio's virtual one: waiting takes no time.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import trio
from starlette.applications import Starlette  # pip install starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from trio.testing import MockClock

from prefect_http import PrefectHttpxClient


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, str]]:
    print("the app starts up")
    yield {"market": "Chicago"}
    print("the app shuts down")


async def prices(request: Request) -> StreamingResponse:
    async def events() -> AsyncGenerator[str]:
        price = 100
        try:
            while True:
                print(f"  the app sends {price}")
                yield f"data: {price} in {request.state.market}\n\n"
                await anyio.sleep(0.1)
                price += 1
        finally:
            print("  the app sees that the client has disconnected")

    return StreamingResponse(events(), media_type="text/event-stream")


app = Starlette(routes=[Route("/prices", prices)], lifespan=lifespan)


async def main() -> None:
    async with PrefectHttpxClient(app=app) as client:
        async with client.stream("GET", "/prices") as response:
            print(f"  the headers have arrived: {response.headers['content-type']}")
            with trio.move_on_after(0.25):
                async for line in response.aiter_lines():
                    if line:
                        print(f"  the client reads {line!r}")
            print("  the client disconnects")


trio.run(main, clock=MockClock(autojump_threshold=0))
