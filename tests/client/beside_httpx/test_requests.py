"""Requests are built and sent as by httpx.AsyncClient: methods, URLs, parameters, headers, bodies and timeouts."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.beside_httpx import URL, Run, beside_httpx, describe_error, describe_request, in_both_modes


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one-"
    yield b"two"


def _sync_chunks() -> Iterator[bytes]:
    yield b"one"


# --- Methods


@pytest.mark.trio
@beside_httpx
async def test_verbs(run: Run) -> None:
    """Each verb sends its method, with all arguments that the verbs have in common."""
    arguments = {"params": {"a": 1}, "headers": {"X-A": "1"}, "auth": ("user", "pw"), "follow_redirects": True}
    client = run.client(lambda _: httpx.Response(200, text="fine"))
    for verb in ("get", "options", "head", "post", "put", "patch", "delete"):
        await run.outcome(getattr(client, verb)(URL))
        await run.outcome(getattr(client, verb)(httpx.URL(URL), timeout=3, extensions={"own": 1}, **arguments))


@pytest.mark.trio
@in_both_modes
async def test_methods(run: Run) -> None:
    """Any method may be sent."""
    async with run.client(lambda _: httpx.Response(200)) as client:
        for method in ("GET", "get", "QUERY", "Purge", "CONNECT", "TRACE"):
            await run.request(client, method)


@pytest.mark.trio
@beside_httpx
async def test_arguments_that_do_not_exist(run: Run) -> None:
    """What httpx does not know is a TypeError."""
    async with run.client() as client:
        for method in ("get", "request", "stream"):
            with pytest.raises(TypeError):
                await getattr(client, method)("GET", URL, nonsense=1)
        with pytest.raises(TypeError):
            await client.get(URL, json={})  # type: ignore[call-arg]


# --- URLs

BASES = ["", "http://server", "http://server/", "http://server/api", "http://server/api/", "http://server/a%2Fb?q=1"]
JOINED = [
    *("", "/", "x", "/x", "x/", "../x", "/x:1", "/x%2Fy", "?q=2", "/x?q=2#f", "#f"),
    *("http://other/y", "//other/z", "https://Server:443/", "http://server:80/p"),
]


@pytest.mark.trio
@beside_httpx
async def test_base_url(run: Run) -> None:
    """URLs are joined to the base URL."""
    for base in BASES:
        client = run.client(base_url=base)
        for url in JOINED:
            run.case(base, url)
            run.note(str(client.build_request("GET", url).url))
    client = run.client()
    client.base_url = "http://new/base"
    run.note(describe_request(client.build_request("GET", "/x")), str(client.base_url))


URLS: list[Any] = [
    *("http://server", "HTTP://SERVER/Ä?q=ö#ü", "http://[::1]:8080/", "http://bücher.example/", "http://server/a b"),
    *("http://user:p%40ss@server/", "http://user@server/", "http://:pw@server/", "custom://server/", "http://"),
    *("://server", "/relative", "", "http://server:port/", "http://server/\n", "http://xn--/", "http://[x/"),
    *(None, 7, b"http://server/"),
]


@pytest.mark.trio
@beside_httpx
async def test_urls(run: Run) -> None:
    """URLs are sent as httpx does, and refused as httpx does."""
    async with run.client(lambda _: httpx.Response(200)) as client:
        for url in URLS:
            run.case(url)
            await run.request(client, url=url)
            await run.request(client, url=url)  # a second time: it may be cached


_PARAMS = [None, {}, "a=1&b=2", b"a=1", {"a": [1, 2], "b": None}, [("b", True), ("b", "ü&")], httpx.QueryParams("x=y")]


@pytest.mark.trio
@beside_httpx
async def test_params(run: Run) -> None:
    """Parameters of the client and of the request are merged, and replace those of the URL."""
    for of_client in (None, {"a": 0, "c": "3"}):
        client = run.client(lambda _: httpx.Response(200), params=of_client)
        for params in _PARAMS:
            run.case(of_client, params)
            await run.request(client, params=params)
            await run.request(client, url=f"{URL}?u=1", params=params)
        client.params = {"new": 1}
        await run.request(client, params={"a": 1})


# --- Headers


_HEADERS: list[Any] = [
    None,
    {},
    {"X-One": "1"},
    {"accept": "text/plain", "USER-AGENT": "mine"},
    {b"X-Bytes": b"\xff"},
    [("X-Twice", "1"), ("x-twice", "2"), ("ACCEPT", "a"), ("accept", "b")],
    httpx.Headers({"Host": "elsewhere", "connection": "close"}),
    {"X-Latin": "é", "X-Empty": ""},
    {"Content-Length": "0", "Transfer-Encoding": "chunked"},
    {"Cookie": "by=hand", "Authorization": "Mine"},
    {"X-None": None},
    {"X-Int": 1},
    "no headers",
]


@pytest.mark.trio
@pytest.mark.parametrize(
    "of_client", [None, {"x-one": "0", "Accept": "image/png"}, [("X-Twice", "8"), ("X-Twice", "9")]], ids=repr
)
@beside_httpx
async def test_headers(run: Run, of_client: Any) -> None:
    """Headers of the client and of the request are merged."""
    async with run.client(lambda _: httpx.Response(200), headers=of_client) as client:
        for headers in _HEADERS:
            run.case(headers)
            await run.request(client, "POST", headers=headers)


@pytest.mark.trio
@beside_httpx
async def test_headers_that_are_assigned(run: Run) -> None:
    """Headers that are assigned to a client replace those of before, but for the defaults; each may be changed."""
    client = run.client(lambda _: httpx.Response(200), headers={"X-First": "1"})
    for headers in _HEADERS:
        run.case(headers)
        try:
            client.headers = headers
        except Exception as error:
            run.note(describe_error(error))
        await run.request(client, headers={"X-Last": "z"})
    client.headers["X-Later"] = "1"
    client.headers.pop("Accept", None)
    await run.request(client)


# --- Bodies

_BODIES: dict[str, Any] = {
    "nothing": dict,
    "bytes": lambda: {"content": b"\x00\xff"},
    "str": lambda: {"content": "ü"},
    "empty": lambda: {"content": b""},
    "generator": lambda: {"content": _chunks()},
    "generator and length": lambda: {"content": _chunks(), "headers": {"Content-Length": "7"}},
    "sync generator": lambda: {"content": _sync_chunks()},
    "file": lambda: {"content": io.BytesIO(b"file")},
    "stream": lambda: {"content": httpx.ByteStream(b"stream")},
    "json": lambda: {"json": {"a": [1, None, "ü"]}},
    "json null": lambda: {"json": None},
    "json false": lambda: {"json": False},
    "json NaN": lambda: {"json": float("nan")},
    "no json": lambda: {"json": object},
    "form": lambda: {"data": {"a": "1", "b": ["2", "3"], "c": None, "d": True}},
    "form of bytes": lambda: {"data": {"a": b"1"}},
    "multipart": lambda: {"files": {"f": ("name.txt", b"data", "text/plain")}, "data": {"a": "1"}},
    "multipart of a file": lambda: {"files": [("f", io.BytesIO(b"x")), ("g", ("n", io.BytesIO(b"y")))]},
    "multipart with a boundary": lambda: {
        "files": {"f": b"1"},
        "headers": {"Content-Type": "multipart/form-data; boundary=mine"},
    },
    "own type": lambda: {"content": b"{}", "headers": {"Content-Type": "application/x-own"}},
    "no body": lambda: {"content": 7},
    "text file": lambda: {"files": {"f": io.StringIO("text")}},
}


@pytest.mark.trio
@in_both_modes
async def test_bodies(run: Run) -> None:
    """Each kind of body is sent with the same headers."""
    async with run.client(lambda _: httpx.Response(200)) as client:
        for kind, arguments in _BODIES.items():
            run.case(kind)
            await run.request(client, "POST", **arguments())
            await run.request(client, "GET", **arguments())


@pytest.mark.trio
@beside_httpx
async def test_a_body_that_fails(run: Run) -> None:
    """What the body raises is raised."""

    async def failing() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ZeroDivisionError("in the body")

    async with run.client(200) as client:
        await run.request(client, "POST", content=failing())


@pytest.mark.trio
@beside_httpx
async def test_the_content_of_a_request_with_a_stream(run: Run) -> None:
    """It cannot be had before it has been read."""
    async with run.client(lambda _: httpx.Response(200)) as client:
        request = client.build_request("POST", URL, content=_chunks())
        run.note(describe_request(request))
        run.note(await request.aread())
        await run.send(client, request)
        run.note(describe_request(request))


# --- Timeouts and extensions

_TIMEOUTS = {
    "default": httpx.USE_CLIENT_DEFAULT,
    "None": None,
    "number": 3,
    "tuple": (1, None, 3, 4.5),
    "Timeout": httpx.Timeout(5, connect=None),
    "str": "soon",
}


@pytest.mark.trio
@beside_httpx
async def test_timeouts(run: Run) -> None:
    """The timeouts of the request, of the client and of the extensions reach the transport."""
    async with run.client(lambda _: httpx.Response(200), timeout=9) as client:
        for name, value in _TIMEOUTS.items():
            run.case(name)
            await run.request(client, timeout=value)
            await run.request(client, timeout=value, extensions={"timeout": {"read": 1}, "own": 2})
        client.timeout = httpx.Timeout(8)
        await run.request(client)
        await run.send(client, httpx.Request("GET", URL, extensions={"own": 1}))
        await run.send(client, httpx.Request("GET", URL, extensions={"timeout": {"connect": 2}}))


@pytest.mark.trio
@beside_httpx
async def test_extensions_are_not_changed(run: Run) -> None:
    """Neither the caller's mapping nor that of a request object is another afterwards, but for the timeout."""
    extensions = {"own": 1}
    request = httpx.Request("GET", URL, extensions=extensions)
    async with run.client(lambda _: httpx.Response(200)) as client:
        await run.request(client, extensions=extensions)
        run.note(extensions)
        before = request.extensions
        await run.send(client, request)
        run.note(extensions, before, describe_request(request))


# --- Requests that the client has not built


@pytest.mark.trio
@beside_httpx
async def test_a_request_object_is_sent_as_it_is(run: Run) -> None:
    """The client adds no headers, cookies or parameters to it."""
    settings = {"headers": {"X-Client": "1"}, "cookies": {"c": "1"}, "params": {"p": "1"}, "base_url": "http://base"}
    async with run.client(lambda _: httpx.Response(200), **settings) as client:
        await run.send(client, httpx.Request("GET", URL))
        await run.send(client, httpx.Request("POST", URL, json={"a": 1}, headers={"Host": "h"}, cookies={"o": "2"}))
        built = client.build_request("PUT", "/x", content=b"body", headers={"X-Own": "2"})
        built.headers["X-Later"] = "3"
        del built.headers["X-Client"]
        await run.send(client, built)
        await run.send(client, built)  # may be sent again


@pytest.mark.trio
@in_both_modes
async def test_a_sync_body_is_refused(run: Run) -> None:
    """A body that can only be read synchronously is a RuntimeError."""

    class Sync(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

    async with run.client(200) as client:
        await run.send(client, httpx.Request("POST", URL, stream=Sync()))
        await run.send(client, client.build_request("POST", URL, content=_sync_chunks()))


@pytest.mark.trio
@beside_httpx
async def test_the_properties_of_a_client(run: Run) -> None:
    """What is assigned to a client is converted as in httpx."""
    client = run.client(200)
    client.headers = {"X-A": "b"}
    client.params = {"a": "b"}
    client.timeout = 3
    client.cookies = {"a": "b"}
    client.base_url = "http://base"
    client.auth = ("user", "pw")
    client.event_hooks = {"request": [print]}
    run.note(type(client.headers), client.params, client.timeout, client.base_url, type(client.auth))
    run.note(client.event_hooks, client.trust_env, client.follow_redirects, client.max_redirects)
    run.note(list(client.cookies.items()), client.cookies is client.cookies)
    for name in ("auth", "params", "base_url"):
        try:
            setattr(client, name, object())
        except Exception as error:
            run.note(name, type(error).__name__)


# --- Transports that read the request, and several requests at once


@pytest.mark.trio
@in_both_modes
async def test_mock_transports(run: Run) -> None:
    """httpx.MockTransport reads the body first, so that it can be sent again; its handler may be async."""

    def handle(request: httpx.Request) -> httpx.Response:
        run.note(describe_request(request))
        return (
            httpx.Response(307, headers={"Location": "/next"}) if request.url.path == "/path" else httpx.Response(200)
        )

    async def handle_later(request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        return handle(request)

    for handler in (handle, handle_later):
        client = run.client(transport=httpx.MockTransport(handler), follow_redirects=True)
        await run.request(client, "POST", content=_chunks())
        await run.request(client, "POST", json={"a": 1})


@pytest.mark.anyio
@in_both_modes
async def test_several_requests_at_once(run: Run) -> None:
    """They share cookies and the auth of the client, and nothing else."""
    order: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path[1:]
        await anyio.wait_all_tasks_blocked()
        order.append(name)
        if request.url.query:
            return httpx.Response(200, text=name)
        return httpx.Response(302, headers={"Location": f"/{name}?again", "Set-Cookie": f"{name}=1"})

    transport = httpx.MockTransport(answer)
    client = run.client(transport=transport, follow_redirects=True, auth=("user", "pw"), max_redirects=1)
    responses: dict[str, httpx.Response] = {}

    async def get(name: str) -> None:
        responses[name] = await client.get(f"http://server/{name}")

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b", "c"):
            tasks.start_soon(get, name)
    run.notes.sort(key=repr)  # trio's scheduler is random
    run.note(sorted(order), sorted(client.cookies))
    for name in sorted(responses):
        run.note(name, responses[name].text, [each.url.path for each in responses[name].history])
