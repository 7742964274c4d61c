"""Apps on Starlette, FastAPI, Quart-Trio and without a framework, and a wrapper that records what they see."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Self, cast

import anyio.lowlevel
import pydantic
import quart
from fastapi import BackgroundTasks, Depends, FastAPI, Header
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router

from prefect_http._types import ASGIApp, Message, Receive, Scope, Send
from support.lifespan_apps import Boom


@dataclass
class Call:
    """One request as an app saw it.

    Attributes:
        scope: what it was called with, without the client's address and the server's own extensions.
        body: what it received of the request body.
        notes: what the app itself noted, in the list ``scope["notes"]``.
        outcome: how its call ended: "raised" or "returned".
        ended: set when it has ended.
    """

    scope: Scope
    body: bytes = b""
    notes: list[str] = field(default_factory=list[str])
    outcome: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


class WatchedApp:
    """Wraps an app, and records the requests that it gets.

    Attributes:
        app: the app.
        calls: the requests.
        received_content: set when it has received content of a request body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.calls: list[Call] = []
        self.received_content = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, and record what it sees."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def watched_receive() -> Message:
            message = await receive()
            if message.get("body"):
                call.body += message["body"]
                self.received_content.set()
            return message

        hidden = ("client", "extensions")
        call = Call({key: value for key, value in scope.items() if key not in hidden})
        self.calls.append(call)
        try:
            await self.app({**scope, "notes": call.notes}, watched_receive, send)
        except BaseException:
            call.outcome = "raised"
            raise
        else:
            call.outcome = "returned"
        finally:
            call.ended.set()


async def two_parts() -> AsyncIterator[bytes]:
    """Yield a body of two parts."""
    yield b"first "
    await anyio.lowlevel.checkpoint()
    yield b"second"


async def part_and_boom() -> AsyncIterator[bytes]:
    """Yield the first part of a body, and fail."""
    yield b"first "
    await anyio.lowlevel.checkpoint()
    raise Boom


@dataclass
class Events:
    """A number of server-sent events. Not a generator, because Starlette does not close one if it is left early."""

    count: float
    sent: int = 0

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> str:
        """Return the next event."""
        await anyio.lowlevel.checkpoint()
        if self.sent == self.count:
            raise StopAsyncIteration
        self.sent += 1
        return f"id: {self.sent}\ndata: tick\n\n"


async def note(notes: list[str], line: str) -> None:
    """Add a note, after a few steps of the event loop."""
    for _ in range(5):
        await anyio.lowlevel.checkpoint()
    notes.append(line)


@asynccontextmanager
async def _greeting(_: object) -> AsyncGenerator[dict[str, str], None]:
    yield {"greeting": "hello"}


# Starlette.


async def _describe(request: Request) -> Response:
    facts = {
        "method": request.method,
        "url": str(request.url),
        "base_url": str(request.base_url),
        "path": request.path_params,
        "query": request.query_params.multi_items(),
        "cookies": request.cookies,
        "x-many": request.headers.getlist("x-many"),
    }
    return JSONResponse(facts)


async def _two_cookies(_: Request) -> Response:
    response = Response("two")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True, max_age=60)
    return response


async def _background(request: Request) -> Response:
    return JSONResponse({}, background=BackgroundTask(note, request.scope["notes"], "done in the background"))


async def _echo(request: Request) -> Response:
    return Response(await request.body(), media_type=request.headers.get("content-type"))


async def _echo_parts(request: Request) -> Response:
    body = b""
    try:
        async for part in request.stream():
            body += part
    except ClientDisconnect:
        request.scope["notes"].append("disconnect")
        raise
    return Response(body)


async def _boom(_: Request) -> Response:
    raise Boom


def _answering(make: Callable[[], Response]) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return make()

    return endpoint


async def _send_events(request: Request) -> Response:
    count = float(request.query_params.get("count", "inf"))
    return StreamingResponse(Events(count), media_type="text/event-stream")


async def _greet(request: Request) -> Response:
    return JSONResponse(request.state.greeting)


_ROUTES = [
    Route("/json", _answering(lambda: JSONResponse({"answer": 42, "ü": None}))),
    Route("/stream", _answering(lambda: StreamingResponse(two_parts()))),
    Route("/events", _send_events),
    Route("/file", _answering(lambda: FileResponse(__file__))),
    Route("/background", _background),
    Route("/state", _greet),
    Route("/boom", _boom),
    Route("/boom/late", _answering(lambda: StreamingResponse(part_and_boom()))),
    Route("/cookies", _two_cookies),
    Route("/empty", _answering(lambda: Response(status_code=204))),
    Route("/redirect", _answering(lambda: RedirectResponse("/json"))),
    Route("/busy", _answering(lambda: Response("busy", 503, {"Retry-After": "0"}))),
    Route("/echo", _echo, methods=["POST", "PUT"]),
    Route("/echo/parts", _echo_parts, methods=["POST"]),
    Route("/describe/{name:path}", _describe),
    Route("/slash/", _answering(lambda: Response("slash"))),
    Mount(
        "/zipped",
        GZipMiddleware(
            Router(
                [
                    Route("/whole", _answering(lambda: Response(b"zip" * 1000))),
                    Route("/stream", _answering(lambda: StreamingResponse(two_parts()))),
                ]
            )
        ),
    ),
]


def starlette_app() -> ASGIApp:
    """Return an app on Starlette, which answers exceptions of its handlers with a status of 500, then raises them."""
    return Starlette(routes=_ROUTES, lifespan=_greeting)


def router_app() -> ASGIApp:
    """Return an app that is a bare router of Starlette, which lets exceptions of its handlers through."""
    return Router(_ROUTES, lifespan=_greeting)


# FastAPI.


class Item(pydantic.BaseModel):
    """What the FastAPI app takes and returns."""

    name: str
    count: int = 1


async def _noted_dependency(request: Request) -> AsyncIterator[list[str]]:
    notes: list[str] = request.scope["notes"]
    notes.append("dependency set up")
    yield notes
    notes.append("dependency torn down")


Notes = Annotated[list[str], Depends(_noted_dependency)]


def fastapi_app() -> ASGIApp:
    """Return an app on FastAPI."""
    app = FastAPI(lifespan=_greeting)

    async def double(item: Item, x_token: Annotated[str, Header()] = "") -> Item:
        return Item(name=item.name + x_token, count=item.count * 2)

    async def use_dependency(notes: Notes) -> list[str]:
        return notes

    async def fail_with_dependency(notes: Notes) -> None:
        notes.append("about to fail")
        raise Boom

    async def add_background(request: Request, tasks: BackgroundTasks) -> dict[str, str]:
        tasks.add_task(note, request.scope["notes"], "done in the background")
        return {}

    async def stream() -> StreamingResponse:
        return StreamingResponse(two_parts())

    async def greet(request: Request) -> str:
        greeting: str = request.state.greeting
        return greeting

    app.post("/double")(double)
    app.get("/dependency")(use_dependency)
    app.get("/boom")(fail_with_dependency)
    app.get("/background")(add_background)
    app.get("/stream", response_class=StreamingResponse)(stream)
    app.get("/state")(greet)
    return app


# Quart-Trio.


def quart_app() -> ASGIApp:
    """Return an app on Quart-Trio, which runs on trio only, and logs exceptions rather than raise them."""
    app = QuartTrio(__name__)

    @app.post("/json")
    async def double() -> dict[str, int]:
        return {"count": (await quart.request.get_json())["count"] * 2}

    @app.post("/echo")
    async def echo() -> str | bytes:
        return await quart.request.get_data()

    @app.get("/stream")
    async def stream() -> quart.Response:
        return quart.Response(two_parts(), mimetype="text/plain")

    @app.get("/events")
    async def send_events() -> quart.Response:
        response = quart.Response(Events(math.inf), mimetype="text/event-stream")
        response.timeout = None
        return response

    @app.get("/boom")
    async def boom() -> str:
        raise Boom

    @app.get("/boom/late")
    async def boom_late() -> quart.Response:
        return quart.Response(part_and_boom())

    @app.get("/describe/<path:name>")
    async def describe(name: str) -> dict[str, object]:
        return {"url": quart.request.url, "name": name, "arguments": quart.request.args.to_dict(flat=False)}

    # Its own type of a scope is a union of TypedDicts.
    return cast(ASGIApp, app)


# No framework.


def raw_app() -> ASGIApp:
    """Return an app without a framework. It sends the messages for its path, or a description of an unknown path."""
    return _raw_app


async def _raw_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _run_lifespan(receive, send)
    elif scope["path"] in _MESSAGES:
        for message in _MESSAGES[scope["path"]]:
            if isinstance(message, Exception):
                raise Boom
            await send(message)
    elif scope["path"] == "/wait":
        await send(_start(200))
        await send(_part(b"first "))
        while (await receive())["type"] != "http.disconnect":
            pass
        scope["notes"].append("disconnect")
    else:
        body = f"{scope['method']} {scope['path']} {scope['raw_path']} {scope['query_string']}".encode()
        await send(_start(200))
        await send({**_END, "body": body})


async def _run_lifespan(receive: Receive, send: Send) -> None:
    for stage in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{stage}"
        await send({"type": f"lifespan.{stage}.complete"})


def _start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


_END: Message = {"type": "http.response.body"}
_TEN_BYTES = (b"content-length", b"10")

# What the app without a framework sends, by path. An exception is raised.
_MESSAGES: dict[str, list[Message | Exception]] = {
    "/chunked": [_start(200), _part(b"first "), _part(b""), {**_END, "body": b"second"}],
    "/length": [_start(200, _TEN_BYTES), _part(b"12345"), _part(b"67890"), _END],
    "/headers": [
        _start(
            200,
            (b"X-Odd-CASE", b"1"),
            (b"x-odd-case", b"2"),
            (b"x-latin", "ü".encode("latin-1")),
            (b"x-empty", b""),
            (b"link", b"</a>; rel=next, </b>; rel=prev"),
        ),
        _END,
    ],
    "/created": [_start(201, (b"location", b"/there")), _END],
    "/odd-status": [_start(299), {**_END, "body": b"odd"}],
    "/teapot": [_start(418, (b"content-length", b"3")), {**_END, "body": b"tea"}],
    "/not-modified": [_start(304, (b"etag", b'"1"'), _TEN_BYTES), _END],
    "/no-content": [_start(204), _END],
    "/cut/length": [_start(200, _TEN_BYTES), _part(b"12345")],
    "/cut/chunked": [_start(200), _part(b"12345")],
    "/cut/short": [_start(200, _TEN_BYTES), {**_END, "body": b"12345"}],
    "/cut/long": [_start(200, _TEN_BYTES), {**_END, "body": b"1234567890123"}],
    "/boom": [Boom()],
    "/boom/started": [_start(200), Boom()],
    "/boom/late": [_start(200), _part(b"first "), Boom()],
    "/boom/ended": [_start(200, _TEN_BYTES), {**_END, "body": b"1234567890"}, Boom()],
    "/nothing": [],
    "/only-start": [_start(200)],
    "/body-first": [_END],
    "/unknown": [{"type": "http.response.nonsense"}],
    "/twice": [_start(200), _start(200), _END],
}

APPS: dict[str, Callable[[], ASGIApp]] = {
    "starlette": starlette_app,
    "router": router_app,
    "fastapi": fastapi_app,
    "quart": quart_app,
    "raw": raw_app,
}
