"""Event streams of apps in this process, and of real servers: uvicorn, and hypercorn on trio."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from support.asgi_apps import FakeApp, last, part, start, wait_until
from support.event_streams import data_of, event
from support.rows import each_row
from support.servers import hypercorn_on_trio, retrying_at_once, uvicorn_on_asyncio

from prefect_http import PrefectHttpxClient, RetryPolicy, ServerSentEvent
from prefect_http._types import Receive, Scope, Send

pytestmark = pytest.mark.anyio
HEADERS = [(b"Content-Type", b"text/event-stream")]


class Boom(Exception):
    """What an app raises."""


class Events:
    """The endpoints of an app with event streams.

    Attributes:
        has_left: set when the app has found out that the reader of an endless stream has left.
    """

    def __init__(self) -> None:
        self.has_left = threading.Event()
        self.last_ids: list[str | None] = []

    async def counted(self, request: Request) -> Response:
        """Send two events behind the last one, up to the sixth; then 204."""
        last_id = request.headers.get("Last-Event-ID")
        self.last_ids.append(last_id)
        first = int(last_id or 0) + 1
        if first > 6:
            return Response(status_code=204)

        async def events() -> AsyncIterator[dict[str, Any]]:
            yield {"comment": "hello", "retry": 0}
            for number in (first, first + 1):
                yield {"event": "count", "id": str(number), "data": f"line {number}\nand another"}

        return EventSourceResponse(events(), sep=request.query_params.get("sep"))

    async def endless(self, request: Request) -> Response:
        """Send an event every 10 ms, until the reader leaves."""

        async def events() -> AsyncIterator[dict[str, Any]]:
            try:
                while True:
                    yield {"data": "tick"}
                    await anyio.sleep(0.01)
            finally:
                self.has_left.set()

        return EventSourceResponse(events())

    async def chat(self, request: Request) -> Response:
        """Answer a prompt word by word, as an LLM does."""
        prompt = (await request.json())["prompt"]

        async def events() -> AsyncIterator[str]:
            for word in prompt.upper().split():
                yield f"data: {json.dumps({'delta': word})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    def app(self) -> Starlette:
        """Return the app."""
        return Starlette(
            routes=[
                Route("/counted", self.counted),
                Route("/endless", self.endless),
                Route("/chat", self.chat, methods=["POST"]),
            ],
            middleware=[Middleware(GZipMiddleware, minimum_size=1)],
        )


COUNTED = [ServerSentEvent("count", f"line {number}\nand another", str(number)) for number in range(1, 7)]


async def check_endpoints(client: PrefectHttpxClient, events: Events, *separators: str) -> None:
    """Check what a client reads from an app whose lines end in these ways."""
    for separator in separators:
        async with client.sse("GET", "/counted", params={"sep": separator}) as stream:
            assert [each async for each in stream] == COUNTED
            assert stream.response.status_code == 204
        assert events.last_ids == [None, "2", "4", "6"]
        events.last_ids.clear()

    words: list[str] = []
    async with client.sse("POST", "/chat", json={"prompt": "tell me more"}) as stream:
        async for each in stream:
            if each.data == "[DONE]":
                break
            words.append(json.loads(each.data)["delta"])
    assert words == ["TELL", "ME", "MORE"]


# --- In this process


async def test_apps_in_this_process() -> None:
    """sse-starlette's events and Starlette's, of an app in this process, compressed or not."""
    for encoding in ("gzip", "identity"):
        events = Events()
        client = PrefectHttpxClient(app=events.app(), retry=retrying_at_once(), headers={"Accept-Encoding": encoding})
        with anyio.fail_after(10):
            async with client:
                await check_endpoints(client, events, "\n", "\r\n", "\r")


async def test_leaving_an_app_in_this_process() -> None:
    """sse-starlette finds out that its reader has left."""
    events = Events()
    with anyio.fail_after(10):
        async with PrefectHttpxClient(app=events.app()) as client:
            async with client.sse("GET", "/endless") as stream:
                assert (await anext(stream)).data == "tick"
            await wait_until(events.has_left.is_set)


@each_row("kind", [Boom, httpx.ReadError])
async def test_app_that_crashes(kind: type[Exception]) -> None:
    """What an app raises in the middle of a stream reaches the reader plainly, and is no reason to connect again."""

    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=HEADERS))
        await send(part(event("a")))
        raise kind("the app is broken")

    app = FakeApp(crash)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(app=app) as client, client.sse("GET", "/") as events:
            assert (await anext(events)).data == "a"
            with pytest.raises(kind, match=r"^the app is broken$") as caught:
                await anext(events)
            assert not hasattr(caught.value, "__notes__")
            assert await data_of(events) == []
    assert len(app.scopes) == 1


async def test_app_that_crashes_behind_a_wrong_type() -> None:
    """What an app raises while the beginning of a wrong body is read comes first."""
    for kind in (Boom, httpx.ReadError):

        async def crash(scope: Scope, receive: Receive, send: Send, kind: type[Exception] = kind) -> None:
            await send(start())
            await send(part(b"oops"))
            raise kind("the app is broken")

        with anyio.fail_after(5):
            async with PrefectHttpxClient(app=FakeApp(crash)) as client:
                with pytest.raises(kind, match=r"^the app is broken$"):
                    await client.sse("GET", "/").__aenter__()


async def test_app_that_ends_its_stream() -> None:
    """The end of an app's response is followed by another call, behind the last event."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        ids = [value for name, value in scope["headers"] if name == b"last-event-id"]
        await send(start(204 if ids else 200, HEADERS))
        await send(last(b"" if ids else event("a", "\xe9", 0)))

    app = FakeApp(answer)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(app=app) as client, client.sse("GET", "/") as events:
            assert await data_of(events) == ["a"]
    assert [dict(scope["headers"]).get(b"last-event-id") for scope in app.scopes] == [None, "\xe9".encode()]


# --- Real servers


class Served:
    """An app that a server runs.

    Attributes:
        has_http2: whether the server knows HTTP/2.
    """

    def __init__(self, has_http2: bool) -> None:
        self.has_http2 = has_http2
        self.events = Events()
        self.app = self.events.app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module", params=[uvicorn_on_asyncio, hypercorn_on_trio], ids=["uvicorn", "hypercorn"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, Served]]:
    """Run the app under a server."""
    served = Served(has_http2=request.param is hypercorn_on_trio)
    with request.param(served) as url:
        yield url, served


async def test_real_servers(served: tuple[str, Served]) -> None:
    """sse-starlette's events and Starlette's, compressed, also over HTTP/2; leaving tells the server."""
    url, app = served
    app.events.last_ids.clear()
    for http2 in (False, True)[: 1 + app.has_http2]:
        with anyio.fail_after(10):
            async with PrefectHttpxClient(
                base_url=url, retry=retrying_at_once(), http1=not http2, http2=http2
            ) as client:
                await check_endpoints(client, app.events, "\r\n")
                async with client.sse("GET", "/endless") as stream:
                    assert [(await anext(stream)).data for _ in range(3)] == ["tick"] * 3
                    assert stream.response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                assert await anyio.to_thread.run_sync(app.events.has_left.wait, 5)
                app.events.has_left.clear()


async def test_beside_httpx_sse(served: tuple[str, Served]) -> None:
    """httpx-sse finds the same events in one connection."""
    url, _ = served
    with anyio.fail_after(10):
        async with PrefectHttpxClient(base_url=url, retry=RetryPolicy(max_retries=0)) as client:
            async with client.sse("GET", "/counted") as stream:
                ours = [(each.event, each.data, each.id) async for each in stream]
            async with httpx_sse.aconnect_sse(client, "GET", "/counted") as source:
                found = source.aiter_sse()
                theirs = [(each.event, each.data, each.id) async for each in found if each.data]
    assert ours == theirs == [(each.event, each.data, each.id) for each in COUNTED[:2]]
