"""Requests through proxies, compared with httpx's own transport: what proxy and origin see, and what the user sees."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
from support.proxies import SCHEMES, Asked, ProxyServer, running_proxy
from support.scripted_servers import read_head, read_to_end
from support.servers import Received, answer, half_answer, raw_server, refusing_port
from support.tls_servers import listening, server_context, tls_server
from support.wire import trusting_context

from prefect_http import HTTPTransport

pytestmark = [pytest.mark.anyio, pytest.mark.no_cover]

NAME, LOGIN = "origin.test", "user:p@ss w\u00f6rd"
# httpx 0.27 does not use the ssl_context of an https:// proxy.
SECURE = ["https"] if "socks5h" in SCHEMES else []
KINDS = [
    *((proxy, origin, "url") for proxy in ("http", *SECURE, "socks5") for origin in ("http", "https")),
    *[("http", "http", "argument"), ("http", "https", "argument"), ("socks5", "http", "argument")],
    *[("http", "https", "open"), ("socks5", "http", "open")],
]
"""Of the proxy and of the origin, and where the credentials are."""

NewTransport = Callable[..., httpx.AsyncBaseTransport]
TRANSPORTS: tuple[NewTransport, NewTransport] = (httpx.AsyncHTTPTransport, HTTPTransport)


@dataclass
class Seen:
    """What can be observed of a few requests.

    Attributes:
        by_proxy: what the proxy was asked for.
        by_origin: what the origin has received.
        by_user: the responses, or the classes of the exceptions.
        events: the names of the trace events.
        connections: the number of the proxy's connections.
    """

    by_proxy: list[Asked]
    by_origin: list[Received]
    by_user: list[object]
    events: list[str]
    connections: int


async def _parts() -> AsyncIterator[bytes]:
    for part in (b"one", b"two"):
        yield part


def requests(url: str) -> list[dict[str, Any]]:
    """Return what is requested, as the arguments of ``request()``."""
    return [
        {"method": "GET", "url": url + "a%20b/%C3%A4?c=d&e#f"},
        {"method": "POST", "url": url, "json": {"a": 1}},
        {"method": "PUT", "url": url, "content": _parts()},
        {"method": "GET", "url": url, "headers": [("X-Twice", "1"), ("x-twice", "2"), ("Accept", "text/html")]},
        {"method": "GET", "url": url.replace("//", "//me:secret@"), "headers": {"Cookie": "a=b"}},
        {"method": "GET", "url": url.replace(NAME, NAME.upper())},
    ]


@contextlib.asynccontextmanager
async def network(
    kind: tuple[str, str, str], login: str | None
) -> AsyncGenerator[tuple[ProxyServer, list[Received], str]]:
    """Run an origin and a proxy; yield the proxy, what the origin receives, and the origin's URL."""
    act = answer(body=b"fine", x_own="1")
    running = tls_server(act, context=server_context(NAME)) if kind[1] == "https" else raw_server(act)
    async with running as origin:
        context = server_context() if kind[0] == "https" else None
        async with running_proxy(kind[0], {NAME: origin.port}, credentials=login, context=context) as proxy:
            yield proxy, origin.requests, f"{kind[1]}://{NAME}:{origin.port}/"


async def observe(new_transport: NewTransport, kind: tuple[str, str, str]) -> Seen:
    """Make the requests."""
    form = kind[2]
    events: list[str] = []
    by_user: list[object] = []

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        events.append(name)

    async with network(kind, None if form == "open" else LOGIN) as (proxy, by_origin, url):
        given: dict[str, Any] = {"ssl_context": trusting_context()} if kind[0] == "https" else {}
        place = f"{kind[0]}://127.0.0.1:{proxy.port}"
        if form == "argument":
            user, _, password = LOGIN.partition(":")
            given |= {"auth": (user, password), "headers": {"X-Proxy": "1", "ACCEPT": "proxy/own"}}
        else:
            place = proxy.url()
        transport = new_transport(verify=trusting_context(), proxy=httpx.Proxy(place, **given))
        async with httpx.AsyncClient(transport=transport, timeout=5, trust_env=False) as client:
            for arguments in requests(url):
                response = await client.request(**arguments, extensions={"trace": trace})
                by_user.append((response.status_code, response.headers.raw, response.content, response.http_version))
    port = str(proxy.port), url.rpartition(":")[2].strip("/")
    return Seen(
        [Asked(each.method, without(each.target, *port), headers_of(each.headers, *port)) for each in proxy.asked],
        [
            Received(each.method, each.target, dict(headers_of(tuple(each.headers.items()), *port)), each.body)
            for each in by_origin
        ],
        by_user,
        events,
        proxy.connections,
    )


def without(text: str, *ports: str) -> str:
    """Replace ports, which differ from run to run."""
    return re.sub("|".join(ports), "PORT", text)


def headers_of(headers: tuple[tuple[str, str], ...], *ports: str) -> tuple[tuple[str, str], ...]:
    """Return headers without ports."""
    return tuple((name, without(text, *ports)) for name, text in headers)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
async def test_the_same_as_httpx(kind: tuple[str, str, str]) -> None:
    """Proxy, origin and user see the same as with httpx, to the header; so does a trace, to the event."""
    httpxs, ours = [await observe(new_transport, kind) for new_transport in TRANSPORTS]
    assert ours.by_proxy == httpxs.by_proxy
    assert ours.by_origin == httpxs.by_origin
    assert ours.by_user == httpxs.by_user
    assert ours.events == httpxs.events
    assert ours.connections == httpxs.connections == 1


# --- Failures

Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]


def reply(*replies: bytes) -> Serve:
    """Make a proxy that sends these replies, each after it has received something, and then closes the connection."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            for each in replies:
                await stream.receive()
                await stream.send(each)

    return serve


async def close_at_once(stream: anyio.abc.ByteStream) -> None:
    """Close the connection when the request has come."""
    async with stream:
        await read_head(stream)


async def hang(stream: anyio.abc.ByteStream) -> None:
    """Do nothing."""
    async with stream:
        await read_to_end(stream)


async def hang_in_connect(stream: anyio.abc.ByteStream) -> None:
    """Do nothing, where a tunnel is asked for."""
    await hang(stream)


async def half_of_it(stream: anyio.abc.ByteStream) -> None:
    """Promise more than there is."""
    await read_head(stream)
    await half_answer()(stream)


HTML = b"Content-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
FAILURES: list[tuple[str, str, Serve]] = [
    ("http", "https", reply(b"HTTP/1.1 403 Forbidden\r\n" + HTML)),
    ("http", "https", reply(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")),
    ("http", "https", reply(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")),
    ("http", "https", reply(b"HTTP/1.1 502 Bad Gateway\r\n" + HTML)),
    ("http", "https", reply(b"<html>\r\n\r\n")),
    ("http", "https", reply(b"HTTP/1.1 200 OK\r\n\r\n", b"this is not TLS")),
    ("http", "https", reply(b"HTTP/1.1 200 OK\r\n\r\n", b"")),
    ("http", "http", reply(b"HTTP/1.1 403 Forbidden\r\n" + HTML)),
    ("http", "http", reply(b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")),
    ("http", "http", reply(b"<html>\r\n\r\n")),
    ("http", "http", close_at_once),
    ("http", "http", half_of_it),
    ("http", "http", hang),
    ("https", "http", reply(b"this is not TLS")),
    ("socks5", "http", reply(b"\5\xff")),
    ("socks5", "https", reply(b"\5\2")),
    ("socks5", "http", reply(b"\5\0", b"\5\5\0\1" + bytes(6))),
    ("socks5", "http", reply(b"\5\0", b"\5\1\0\1" + bytes(6))),
    ("socks5", "https", reply(b"\5\0", b"\5\0\0\1" + bytes(6), b"this is not TLS")),
    ("socks5", "http", reply(b"\5\0", b"\5\0\0\1" + bytes(6), b"")),
    ("nowhere", "http", close_at_once),
    ("nowhere", "https", close_at_once),
]

# Where the classes differ, on purpose: a request that has never left is not one that may have been answered.
DIFFERENT: list[tuple[str, str, Serve, type[Exception], type[Exception]]] = [
    ("http", "https", close_at_once, httpx.RemoteProtocolError, httpx.ConnectError),
    ("http", "https", reply(b"HTTP/1.1 200"), httpx.RemoteProtocolError, httpx.ConnectError),
]


async def outcome(new_transport: NewTransport, proxy: str, origin: str, serve: Serve) -> object:
    """Return what becomes of a request: the status and the body, or the class of the exception."""
    async with listening(serve) as port:
        url = f"http://127.0.0.1:{refusing_port()}" if proxy == "nowhere" else f"{proxy}://127.0.0.1:{port}"
        transport = new_transport(verify=trusting_context(), proxy=url)
        timeout = httpx.Timeout(5, read=0.05 if serve is hang else 5, connect=0.05 if serve is hang_in_connect else 5)
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
            try:
                response = await client.get(f"{origin}://{NAME}/")
            except Exception as error:
                return next(kind for kind in type(error).__mro__ if kind.__module__.startswith("httpx"))
            return response.status_code, response.text


async def outcomes(failures: Sequence[tuple[str, str, Serve, *tuple[object, ...]]]) -> list[list[object]]:
    """Return what becomes of a request through each proxy, with both transports; all at once."""
    found: list[list[object]] = [[None, None] for _ in failures]

    async def find(number: int, which: int) -> None:
        found[number][which] = await outcome(TRANSPORTS[which], *failures[number][:3])

    async with anyio.create_task_group() as tasks:
        for number in range(len(failures)):
            for which in (0, 1):
                tasks.start_soon(find, number, which)
    gc.collect()  # now, while the warnings of what httpx leaves open on asyncio are ignored
    return found


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # httpx's, on asyncio
async def test_failures() -> None:
    """What a proxy does wrong is the same exception, and what it answers the same response, as in httpx."""
    for (proxy, origin, _), (httpxs, ours) in zip(FAILURES, await outcomes(FAILURES), strict=True):
        assert ours == httpxs, (proxy, origin)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_differences() -> None:
    """Where the exceptions differ, they are these."""
    assert await outcome(httpx.AsyncHTTPTransport, "http", "https", hang) is httpx.ReadTimeout
    assert await outcome(HTTPTransport, "http", "https", hang_in_connect) is httpx.ConnectTimeout
    assert await outcomes(DIFFERENT) == [list(expected) for _, _, _, *expected in DIFFERENT]
