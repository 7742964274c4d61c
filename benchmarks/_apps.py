"""The apps that are called. Each is as small as possible, so that the client takes most of the time."""

from __future__ import annotations

import anyio

from prefect_http._types import ASGIApp, Receive, Scope, Send


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def starlette_app() -> ASGIApp:
    """Return an app with one JSON endpoint."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def endpoint(request: Request) -> JSONResponse:
        return JSONResponse({"hello": "world"})

    return Starlette(routes=[Route("/", endpoint)])


class Download:
    """Answers with many chunks. Each is a new object, so that those that are kept take up memory."""

    def __init__(self, chunks: int, chunk_bytes: int) -> None:
        self._chunks = chunks
        self._chunk_bytes = chunk_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self._chunks):
            await send({"type": "http.response.body", "body": b"x" * self._chunk_bytes, "more_body": True})
        await send({"type": "http.response.body"})


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the request body."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % length})


class TwoChunks:
    """Sends a chunk, waits to be released, sends another, and then waits for its client to disconnect.

    Attributes:
        released: set it to let all calls send their second chunk.
    """

    def __init__(self) -> None:
        self.released = anyio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await self.released.wait()
        await send({"type": "http.response.body", "body": b"second", "more_body": True})
        await receive()


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Start and stop without any hooks."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
