"""Real apps, called in this process and over a socket: both look the same to the client and to the app."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from support.lifespan_apps import Boom
from support.real_apps import APPS, WatchedApp, two_parts
from support.rows import each_row
from support.servers import hypercorn_on_trio, retrying_at_once, uvicorn_on_asyncio

from prefect_http import ASGITransport, PrefectHTTPStatusError, PrefectHttpxClient, app_lifespan_context
from prefect_http._types import ASGIApp, Scope

pytestmark = pytest.mark.anyio


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=fixed"}
# How the app is called here: by PrefectHttpxClient.get() in the caller's task, or by a stream of httpx's own client
# on ASGITransport in a root task.
WAYS = ["inline", "streamed"]


@dataclass(frozen=True)
class Case:
    """A request to an app.

    Attributes:
        app: its name in APPS.
        path: the path and query of the URL.
        method: the method of the request.
        make_arguments: returns further arguments for each request.
        what: what is special about them.
        leaves: whether the client leaves the response without reading it.
        raises: the exception that the client gets in this process, if a server gives it something else.
        served: what it gets from a server in that case: an exception, or a status.
        lost: what a server still sends of a body that it cannot complete.
    """

    app: str
    path: str
    method: str = "GET"
    make_arguments: Callable[[], Mapping[str, Any]] = dict
    what: str = ""
    leaves: bool = False
    raises: str = ""
    served: str | int = ""
    lost: bytes = b""

    def __str__(self) -> str:
        return " ".join(filter(None, [self.app, self.method, self.path, self.what]))


def having(what: str, **arguments: Any) -> dict[str, Any]:
    """Return the fields of a Case with further arguments; if the content is a function, it is called each time."""
    content = arguments.pop("content", None)

    def make() -> Mapping[str, Any]:
        return arguments if content is None else {**arguments, "content": content() if callable(content) else content}

    return {"what": what, "make_arguments": make}


CASES = [
    Case("starlette", "/json"),
    Case("starlette", "/json", "HEAD"),
    Case("starlette", "/json", "POST"),
    Case("starlette", "/missing"),
    Case("starlette", "/stream"),
    Case("starlette", "/events?count=3"),
    Case("starlette", "/events", leaves=True),
    Case("starlette", "/file"),
    Case("starlette", "/file", "HEAD"),
    Case("starlette", "/file", **having("a range", headers={"Range": "bytes=10-19"})),
    Case("starlette", "/background"),
    Case("starlette", "/state"),
    Case("starlette", "/cookies"),
    Case("starlette", "/empty"),
    Case("starlette", "/redirect"),
    Case("starlette", "/redirect", **having("to follow", follow_redirects=True)),
    Case("starlette", "/slash", **having("to follow", follow_redirects=True)),
    Case("starlette", "/slash/"),
    Case("starlette", "/busy"),
    Case("starlette", "/zipped/whole"),
    Case("starlette", "/zipped/stream"),
    Case("starlette", "/describe/a%20b/c%2Fd?x=1&x=2&y=%C3%BC", **having("a cookie", headers={"Cookie": "c=3"})),
    Case("starlette", "/describe/", **having("repeated headers", headers=[("X-Many", "1"), ("x-many", "2")])),
    Case("starlette", "/echo", "POST", **having("bytes", content=b"bytes")),
    Case("starlette", "/echo", "PUT", **having("JSON", json={"answer": 42})),
    Case("starlette", "/echo", "POST", **having("a form", data={"a": "1 ü"})),
    Case("starlette", "/echo", "POST", **having("a file", files={"f": ("n.txt", b"file")}, headers=BOUNDARY)),
    Case("starlette", "/echo", "POST", **having("200 kB", content=lambda: io.BytesIO(b"file" * 50_000))),
    Case("starlette", "/echo", "POST", **having("a stream", content=two_parts)),
    Case("starlette", "/echo", "POST"),
    Case("starlette", "/echo/parts", "POST", **having("a stream", content=two_parts)),
    Case("starlette", "/echo/parts", "POST", **having("bytes", content=b"bytes")),
    Case("starlette", "/boom", raises="Boom", served=500),
    Case("starlette", "/boom/late", raises="Boom", served="RemoteProtocolError"),
    Case("router", "/boom", raises="Boom", served=500),
    Case("router", "/boom/late", raises="Boom", served="RemoteProtocolError"),
    Case("router", "/state"),
    Case("router", "/missing"),
    Case("fastapi", "/double", "POST", **having("a model", json={"name": "n", "count": 2}, headers={"X-Token": "t"})),
    Case("fastapi", "/double", "POST", **having("a bad model", json={"count": "many"})),
    Case("fastapi", "/double", "POST", **having("no JSON", content=b"{")),
    Case("fastapi", "/dependency"),
    Case("fastapi", "/boom", raises="Boom", served=500),
    Case("fastapi", "/background"),
    Case("fastapi", "/stream"),
    Case("fastapi", "/state"),
    Case("fastapi", "/openapi.json"),
    Case("raw", ""),
    Case("raw", "/a"),
    Case("raw", "/a/"),
    Case("raw", "//a//b"),
    Case("raw", "/a/../b/./c"),
    Case("raw", "/a%2Fb%20c%25%C3%BC%ff;p=1"),
    Case("raw", "/ü é"),
    Case("raw", "/a?"),
    Case("raw", "/a?b=%20+&b=%C3%BC&c#fragment"),
    Case("raw", "/a?b=ü é"),
    Case("raw", "/a", "PURGE"),
    Case("raw", "/a", "OPTIONS"),
    Case("raw", "/a", **having("odd headers", headers={"X-Odd-CASE": "1", "x-empty": "", "X-Latin": "ü"})),
    Case("raw", "/a", **having("a Host", headers=[("Cookie", "a=1"), ("Cookie", "b=2"), ("Host", "example.org:81")])),
    Case("raw", "/a", **having("credentials", auth=("me", "secret"))),
    Case("raw", "/chunked"),
    Case("raw", "/chunked", "HEAD"),
    Case("raw", "/length"),
    Case("raw", "/length", "HEAD"),
    Case("raw", "/headers"),
    Case("raw", "/created"),
    Case("raw", "/odd-status"),
    Case("raw", "/teapot"),
    Case("raw", "/not-modified"),
    Case("raw", "/no-content"),
    Case("raw", "/wait", leaves=True),
    Case("raw", "/cut/length"),
    Case("raw", "/cut/chunked"),
    Case("raw", "/cut/long"),
    Case("raw", "/cut/short", raises="RemoteProtocolError", served="RemoteProtocolError", lost=b"12345"),
    Case("raw", "/only-start"),
    Case("raw", "/twice"),
    Case("raw", "/boom", raises="Boom", served=500),
    Case("raw", "/boom/started", raises="Boom", served="RemoteProtocolError"),
    Case("raw", "/boom/late", raises="Boom", served="RemoteProtocolError"),
    Case("raw", "/boom/ended", raises="Boom", served=200),
    Case("raw", "/nothing", raises="RemoteProtocolError", served=500),
    Case("raw", "/body-first", raises="RemoteProtocolError", served=500),
    Case("raw", "/unknown", raises="RemoteProtocolError", served=500),
]

QUART_CASES = [
    Case("quart", "/json", "POST", **having("JSON", json={"count": 2})),
    Case("quart", "/echo", "POST", **having("a stream", content=two_parts)),
    Case("quart", "/stream"),
    Case("quart", "/stream", "HEAD"),
    Case("quart", "/events", leaves=True),
    Case("quart", "/describe/a%20b/c?x=1&x=2"),
    Case("quart", "/missing"),
    Case("quart", "/boom"),
    # The group comes from the nursery in which Quart-Trio runs a request.
    Case("quart", "/boom/late", raises="ExceptionGroup", served="RemoteProtocolError"),
]


@dataclass
class Seen:
    """What a client saw of a response."""

    error: str = ""
    status: int | None = None
    http_version: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    cookies: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    path: bytes = b""
    history: list[int] = field(default_factory=list[int])

    def note_head(self, response: httpx.Response) -> None:
        """Record all but the body, and without the headers that a server adds."""
        self.status = response.status_code
        self.http_version = response.http_version
        added = (b"date", b"server", b"transfer-encoding", b"connection")
        lowered = [(name.lower(), value) for name, value in response.headers.raw]
        self.headers = [(name, value) for name, value in lowered if name not in added]
        self.cookies = dict(response.cookies)
        self.path = response.url.raw_path
        self.history = [answer.status_code for answer in response.history]


async def send(client: httpx.AsyncClient, case: Case, url: str, way: str) -> Seen:
    """Send a request, and return what the client saw of the response."""
    seen, arguments = Seen(), case.make_arguments()
    client.cookies.clear()
    try:
        if way == "streamed":
            async with client.stream(case.method, url + case.path, **arguments) as response:
                seen.note_head(response)
                if not case.leaves:
                    async for part in response.aiter_bytes():
                        seen.body += part
        else:
            response = await client.request(case.method, url + case.path, **arguments)
            seen.note_head(response)
            seen.body = response.content
    except PrefectHTTPStatusError as error:
        seen.error = type(error).__name__
        seen.note_head(error.response)
        seen.body = error.response.content
    except Exception as error:
        seen.error = type(error).__name__
    return seen


@dataclass
class Pair:
    """An app in this process, the same app at a server, and the URL of the server."""

    here: WatchedApp
    there: WatchedApp
    url: str


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run the tests on one backend after the other, so that its servers are started once."""
    return str(request.param)


@pytest.fixture(scope="module")
def pair_of(anyio_backend: str) -> Iterator[Callable[[str], Pair]]:
    """Return a function that returns a Pair by the name of its app, with a server of the backend's kind."""
    serve = hypercorn_on_trio if anyio_backend == "trio" else uvicorn_on_asyncio
    pairs: dict[str, Pair] = {}
    with contextlib.ExitStack() as servers:

        def get(name: str) -> Pair:
            if name not in pairs:
                here, there = (WatchedApp(APPS[name]()) for _ in range(2))
                pairs[name] = Pair(here, there, servers.enter_context(serve(there)))
            return pairs[name]

        yield get


class Clients:
    """The clients of a module: one for each way, app and server.

    Args:
        stack: leaves the clients.
    """

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self._clients: dict[tuple[object, ...], httpx.AsyncClient] = {}

    async def get(self, way: str, app: ASGIApp | None, *, quiet: bool = False) -> httpx.AsyncClient:
        """Return a client of an app, or of servers if there is none; a quiet one does not raise app exceptions."""
        key = way, app, quiet
        if key not in self._clients:
            self._clients[key] = await self._enter(way, app, quiet)
        return self._clients[key]

    async def _enter(self, way: str, app: ASGIApp | None, quiet: bool) -> httpx.AsyncClient:
        enter = self._stack.enter_async_context
        if way == "inline":
            return await enter(PrefectHttpxClient(app=app, retry=retrying_at_once(1), verify=False, trust_env=False))
        if app is None:
            # Behind an app's exception uvicorn closes the connection unannounced: no request may be sent there.
            no_reuse = httpx.Limits(max_keepalive_connections=0)
            return await enter(httpx.AsyncClient(verify=False, trust_env=False, limits=no_reuse))
        lifespan = await enter(app_lifespan_context(app))
        return await enter(httpx.AsyncClient(transport=ASGITransport(app, not quiet, state=lifespan.state)))


@pytest.fixture(scope="module")
async def clients(anyio_backend: str) -> AsyncIterator[Clients]:
    """Return the clients of the module, which are closed in the end."""
    async with contextlib.AsyncExitStack() as stack:
        yield Clients(stack)


async def views_of(app: WatchedApp) -> list[tuple[Scope, bytes, list[str], str]]:
    """Return what the app has seen of its calls since the last time, once they have ended."""
    calls, app.calls = app.calls, []
    for call in calls:
        if not call.ended.is_set():
            assert await anyio.to_thread.run_sync(call.ended.wait, 5)
    return [(_comparable(call.scope), call.body, call.notes, call.outcome) for call in calls]


def _comparable(scope: Scope) -> Scope:
    # Servers differ in the version of the spec. Clients put Host first, wherever it was.
    headers = sorted(scope["headers"], key=lambda header: header[0] != b"host")
    return {**scope, "asgi": scope["asgi"]["version"], "headers": headers}


async def compare(clients: Clients, pair: Pair, case: Case, way: str) -> None:
    """Send a request to both, and compare what the client and the app saw of it."""
    here = await send(await clients.get(way, pair.here), case, pair.url, way)
    there = await send(await clients.get(way, None), case, pair.url, way)
    seen_here, seen_there = await views_of(pair.here), await views_of(pair.there)
    if not case.raises:
        assert here == there
        assert seen_here == seen_there
        return
    assert here.error == case.raises
    assert case.served in (there.error, there.status)
    if here.status is not None:
        assert replace(here, error=there.error, body=here.body + case.lost) == there
    # A failure that only one of them has may have been retried.
    assert seen_here[-1] == seen_there[-1]


def _in_all_ways(cases: list[Case]) -> list[object]:
    ways = [(case, way) for case in cases for way in (WAYS[1:] if case.leaves else WAYS)]
    return [pytest.param(case, way, id=f"{case}, {way}") for case, way in ways]


@each_row(("case", "way"), _in_all_ways(CASES))
async def test_same_as_from_a_server(clients: Clients, pair_of: Callable[[str], Pair], case: Case, way: str) -> None:
    """Client and app see the same of a request in this process and over a socket, unless the table says otherwise."""
    with anyio.fail_after(10):
        await compare(clients, pair_of(case.app), case, way)


@each_row(("case", "way"), _in_all_ways(QUART_CASES))
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True, scope="module")
async def test_same_on_quart_trio(clients: Clients, pair_of: Callable[[str], Pair], case: Case, way: str) -> None:
    """The same holds for an app that runs on trio only."""
    with anyio.fail_after(10):
        await compare(clients, pair_of(case.app), case, way)


@pytest.mark.parametrize("case", [case for case in CASES if case.raises == "Boom"], ids=str)
async def test_app_exceptions_that_are_not_raised(clients: Clients, pair_of: Callable[[str], Pair], case: Case) -> None:
    """With raise_app_exceptions=False, a failure looks as it does from a server, but for the server's error page."""
    pair = pair_of(case.app)
    with anyio.fail_after(10):
        here = await send(await clients.get("streamed", pair.here, quiet=True), case, pair.url, "streamed")
        there = await send(await clients.get("streamed", None), case, pair.url, "streamed")
        assert await views_of(pair.here) == await views_of(pair.there)
    if here.status == 500 and not here.body:
        here = replace(here, headers=there.headers, body=there.body)
    assert here == there


@pytest.mark.parametrize("way", WAYS)
async def test_request_body_that_fails(clients: Clients, pair_of: Callable[[str], Pair], way: str) -> None:
    """If a request body fails, the client gets its exception, and the app what there was of it and a disconnect."""
    pair = pair_of("starlette")
    for app, client_app in ((pair.here, pair.here), (pair.there, None)):

        async def body(received_content: threading.Event = app.received_content) -> AsyncIterator[bytes]:
            received_content.clear()
            yield b"first "
            assert await anyio.to_thread.run_sync(received_content.wait, 5)
            raise Boom

        case = Case("starlette", "/echo/parts", "POST", **having("", content=body))
        with anyio.fail_after(10):
            assert await send(await clients.get(way, client_app), case, pair.url, way) == Seen(error="Boom")
            [view] = await views_of(app)
        assert view[1:] == (b"first ", ["disconnect"], "raised")
