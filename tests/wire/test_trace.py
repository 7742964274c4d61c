"""The ``trace`` extension, compared with httpx's; extensions that fail; and the DEBUG log of the wire."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from support.rows import each_row
from support.servers import Act, RawServer, answer, drop, half_answer, raw_server, refusing_port, stall, stay_silent
from support.sockets import open_sockets, sockets_closed
from support.tls_servers import server_context, tls_server, url_of
from support.wire import trusting_context

from prefect_http import HTTPTransport, PrefectHttpxClient

BIG = b"x" * 300_000
COMPARABLE = ("host", "port", "local_address", "timeout", "server_hostname", "ssl_context")

Event = tuple[str, Mapping[str, Any]]


class Recorder:
    """A trace extension that keeps the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        self.events.append((name, info))

    @property
    def names(self) -> list[str]:
        """The names of the events."""
        return [name for name, _ in self.events]

    def comparable(self) -> list[tuple[str, object]]:
        """Return what two libraries can have in common of the events."""
        return [
            (name, {key: _comparable(name, key, value) for key, value in info.items()}) for name, info in self.events
        ]


def _comparable(name: str, key: str, value: object) -> object:
    if key == "exception":
        return type(value).__name__
    if key in COMPARABLE:
        return value
    if key == "return_value" and name == "http11.receive_response_headers.complete":
        version, status, reason, headers = cast("tuple[object, object, object, list[tuple[bytes, bytes]]]", value)
        return type(value), version, status, reason, list(headers)
    if key == "return_value" and name.startswith("connection."):
        methods = ("read", "write", "aclose", "start_tls", "get_extra_info")
        return value and [callable(getattr(value, each)) for each in methods]
    if key == "return_value":
        return value
    return None  # the request is httpcore's there, and httpx's here


Use = Callable[[httpx.AsyncClient, str, Mapping[str, Any]], Awaitable[object]]
"""Sends a request or more, with these extensions."""


async def get(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send a GET request."""
    return await client.get(url, extensions=dict(extensions), headers={"X-One": "1"})


async def get_twice(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send two GET requests over one connection."""
    await client.get(url, extensions=dict(extensions))
    return await client.get(url, extensions=dict(extensions))


async def head(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send a HEAD request."""
    return await client.head(url, extensions=dict(extensions))


async def _parts() -> AsyncIterator[bytes]:
    yield b"one"
    yield BIG


async def post_a_stream(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send a POST request with a stream."""
    return await client.post(url, content=_parts(), extensions=dict(extensions))


async def post_bytes(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send a POST request with a few bytes."""
    return await client.post(url, content=b"body", extensions=dict(extensions))


async def post_much(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Send a POST request with many bytes."""
    return await client.post(url, content=BIG, extensions=dict(extensions))


async def leave_unread(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Close a response before its body is read."""
    async with client.stream("GET", url, extensions=dict(extensions)) as response:
        return response.status_code


SUCCESSES: dict[str, tuple[Act, Use]] = {
    "GET": (answer(body=b"body", x_two="2"), get),
    "GET of nothing": (answer(), get),
    "GET of much": (answer(body=BIG), get),
    "204": (answer(204), get),
    "HEAD": (answer(), head),
    "reused": (answer(body=b"body"), get_twice),
    "POST": (answer(body=b"body"), post_bytes),
    "POST of a stream": (answer(body=b"body"), post_a_stream),
    "POST of much": (answer(body=b"body"), post_much),
    "left unread": (answer(body=BIG), leave_unread),
}
FAILURES: dict[str, tuple[Act, Use]] = {
    "dropped": (drop, get),
    "half a body": (half_answer(), get),
    "no answer in time": (stay_silent, get),
    "half a body in time": (stall, get),
    "stream dropped": (drop, post_a_stream),
}


def httpxs() -> httpx.AsyncHTTPTransport:
    """Make httpx's transport."""
    return httpx.AsyncHTTPTransport(verify=trusting_context())


def ours(**arguments: Any) -> HTTPTransport:
    """Make our transport."""
    return HTTPTransport(verify=trusting_context(), **arguments)


async def record(transport: httpx.AsyncBaseTransport, use: Use, url: str, *, timeout: httpx.Timeout) -> Recorder:
    """Record the events of a request."""
    recorder = Recorder()

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        await recorder(name, info)

    with anyio.fail_after(10):
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
            with contextlib.suppress(httpx.TransportError):
                await use(client, url, {"trace": trace})
    return recorder


# --- Compared with httpx


@pytest.mark.anyio
@each_row("name", SUCCESSES)
async def test_events(name: str) -> None:
    """The events, their order and their info are httpx's."""
    act, use = SUCCESSES[name]
    async with raw_server(act) as server:
        expected = await record(httpxs(), use, server.url, timeout=httpx.Timeout(5))
        seen = await record(ours(), use, server.url, timeout=httpx.Timeout(5))
    assert seen.names == expected.names
    assert seen.comparable() == expected.comparable()


@pytest.mark.anyio
@each_row("name", FAILURES)
async def test_events_of_failures(name: str) -> None:
    """If a request fails, the events and the types of the exceptions are httpx's."""
    act, use = FAILURES[name]
    timeout = httpx.Timeout(5, read=0.03 if name.endswith("in time") else 5)
    async with raw_server(act) as server:
        expected = await record(httpxs(), use, server.url, timeout=timeout)
        seen = await record(ours(), use, server.url, timeout=timeout)
    assert seen.names == expected.names
    assert seen.comparable() == expected.comparable()


@pytest.mark.anyio
@pytest.mark.parametrize("use", [get, get_twice])
async def test_events_of_tls(use: Use) -> None:
    """The events of TLS are httpx's."""
    async with tls_server(answer(body=b"body")) as server:
        expected = await record(httpxs(), use, url_of(server), timeout=httpx.Timeout(5))
        seen = await record(ours(), use, url_of(server), timeout=httpx.Timeout(5))
    assert seen.names[:4] == [f"connection.{step}.{end}" for step in ("connect_tcp", "start_tls") for end in ENDS]
    assert seen.names == expected.names
    assert [set(info) for _, info in seen.events] == [set(info) for _, info in expected.events]


ENDS = ("started", "complete")


@pytest.mark.anyio
async def test_events_of_bad_tls() -> None:
    """The events of a failed handshake are httpx's."""
    context = server_context("other.test")
    async with tls_server(answer(), context=context) as server:
        expected = await record(httpxs(), get, url_of(server), timeout=httpx.Timeout(5))
        seen = await record(ours(), get, url_of(server), timeout=httpx.Timeout(5))
    assert seen.names == expected.names
    assert seen.names[-1] == "connection.start_tls.failed"
    assert type(seen.events[-1][1]["exception"]) is httpx.ConnectError


@pytest.mark.anyio
async def test_events_of_a_refused_connection() -> None:
    """The events of a refused connection are httpx's."""
    url = f"http://127.0.0.1:{refusing_port()}/"
    expected = await record(httpxs(), get, url, timeout=httpx.Timeout(5))
    seen = await record(ours(), get, url, timeout=httpx.Timeout(5))
    assert seen.comparable() == expected.comparable()
    assert seen.names == ["connection.connect_tcp.started", "connection.connect_tcp.failed"]
    assert type(seen.events[-1][1]["exception"]) is httpx.ConnectError


@pytest.mark.anyio
async def test_events_of_retries() -> None:
    """The events of a retried connection are httpx's."""
    url = f"http://127.0.0.1:{refusing_port()}/"
    expected = await record(httpx.AsyncHTTPTransport(retries=1), get, url, timeout=httpx.Timeout(5))
    seen = await record(ours(retries=1), get, url, timeout=httpx.Timeout(5))
    assert seen.names == expected.names
    assert seen.comparable() == expected.comparable()


@pytest.mark.anyio
async def test_socket_options_in_the_info() -> None:
    """The info of a new connection has the socket options, or None without any, as in httpx."""
    async with raw_server(answer()) as server:
        expected = await record(httpxs(), get, server.url, timeout=httpx.Timeout(5))
        seen = await record(ours(), get, server.url, timeout=httpx.Timeout(5))
    assert seen.events[0][1]["socket_options"] == expected.events[0][1]["socket_options"]


@pytest.mark.anyio
async def test_the_head_of_a_response() -> None:
    """The return value of the head is a tuple of the version, the status code, the reason phrase and the headers."""
    async with raw_server(answer(404, X_Cased="Value")) as server:
        seen = await record(ours(), get, server.url, timeout=httpx.Timeout(5))
    heads = [info["return_value"] for name, info in seen.events if name == "http11.receive_response_headers.complete"]
    assert heads == [(b"HTTP/1.1", 404, b"Whatever", [(b"content-length", b"0"), (b"X-Cased", b"Value")])]


@pytest.mark.anyio
async def test_each_request_has_its_own_extension() -> None:
    """The events of each request go to its own extension, and to none if it has none."""
    recorders = Recorder(), Recorder()
    async with raw_server(answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        for recorder in recorders:
            await client.get(server.url, extensions={"trace": recorder})
        await client.get(server.url)
    assert [len(recorder.names) for recorder in recorders] == [12, 10]  # the second opens no connection


@pytest.mark.anyio
async def test_events_of_a_request_that_is_sent_again() -> None:
    """A request that is sent again has the events of both attempts, where httpx would fail."""
    recorder = Recorder()
    async with raw_server(answer(), drop, answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        await client.get(server.url)
        await client.get(server.url, extensions={"trace": recorder})
    assert recorder.names.count("http11.receive_response_headers.failed") == 1
    assert recorder.names.count("http11.receive_response_headers.complete") == 1
    assert recorder.names.count("connection.connect_tcp.complete") == 1


# --- Extensions that fail


@pytest.mark.anyio
async def test_extension_that_is_not_async() -> None:
    """An extension that is not async is a TypeError, as in httpx, and leaves no connection open."""
    calls: list[str] = []

    def trace(name: str, _: Mapping[str, Any]) -> None:
        calls.append(name)

    async with raw_server(answer()) as server:
        for transport in (httpxs(), ours()):
            async with httpx.AsyncClient(transport=transport) as client:
                with pytest.raises(TypeError, match="async"):
                    await client.get(server.url, extensions={"trace": trace})
                if isinstance(transport, HTTPTransport):
                    assert transport.statistics().connections == 0
    assert calls == ["connection.connect_tcp.started"] * 2


class TraceError(Exception):
    pass


class Failing:
    """A trace extension that raises, or never returns, at the n-th event.

    Attributes:
        fails_on: whether it goes on failing afterwards.
        is_there: set when it has reached that event.
    """

    def __init__(self, number: int, *, fails_on: bool, hangs: bool = False) -> None:
        self._left = number
        self._fails_on = fails_on
        self._hangs = hangs
        self.is_there = anyio.Event()

    async def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        self._left -= 1
        if self._left == 0 or (self._left < 0 and self._fails_on):
            self.is_there.set()
            if self._hangs:
                await anyio.sleep_forever()
            raise TraceError(name)


USES: dict[str, tuple[Act, Use, bool]] = {
    "GET": (answer(body=b"body"), get, False),
    "TLS": (answer(body=b"body"), get, True),
    "POST of a stream": (answer(body=b"body"), post_a_stream, False),
    "left unread": (answer(body=BIG), leave_unread, False),
    "half a body": (half_answer(), get, False),
    "dropped": (drop, get, False),
}


async def raised_by(use: Use, transport: HTTPTransport, url: str, trace: Failing) -> str:
    """Return the event at which an extension raised. The client is not closed, since that would close the transport."""
    client = httpx.AsyncClient(transport=transport)
    with pytest.raises(TraceError) as caught:
        await use(client, url, {"trace": trace})
    return str(caught.value)


def new_server(act: Act, *, is_secure: bool) -> Any:
    """Make a server."""
    return tls_server(act) if is_secure else raw_server(act)


def _url(server: RawServer, *, is_secure: bool) -> str:
    return url_of(server) if is_secure else server.url


@pytest.mark.anyio
@pytest.mark.parametrize("fails_on", [False, True], ids=["once", "from there on"])
@pytest.mark.parametrize("name", USES)
async def test_extension_that_raises(name: str, fails_on: bool) -> None:
    """Whichever event an extension raises at, its exception is raised, and no connection is lost or left open."""
    act, use, is_secure = USES[name]
    lost, sockets = list[str](), open_sockets()
    async with new_server(act, is_secure=is_secure) as server, ours() as transport:
        url = _url(server, is_secure=is_secure)
        recorded = (await record(ours(), use, url, timeout=httpx.Timeout(5))).names
        for number, event in enumerate(recorded, 1):
            raised = await raised_by(use, transport, url, Failing(number, fails_on=fails_on))
            assert fails_on or raised == event
            statistics = transport.statistics()
            if statistics.connections != statistics.idle:
                lost.append(event)
            await transport.aclose()
    assert lost == []
    await sockets_closed(sockets)


@pytest.mark.anyio
@pytest.mark.parametrize("name", USES)
async def test_extension_that_is_cancelled(name: str) -> None:
    """Whichever event an extension is cancelled at, no connection is lost or left open."""
    act, use, is_secure = USES[name]
    lost, sockets = list[str](), open_sockets()
    async with new_server(act, is_secure=is_secure) as server, ours() as transport:
        url = _url(server, is_secure=is_secure)
        recorded = (await record(ours(), use, url, timeout=httpx.Timeout(5))).names
        for number, event in enumerate(recorded, 1):
            trace = Failing(number, fails_on=False, hangs=True)
            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(raised_by, use, transport, url, trace)
                    await trace.is_there.wait()
                    tasks.cancel_scope.cancel()
            statistics = transport.statistics()
            if statistics.connections != statistics.idle:
                lost.append(event)
            await transport.aclose()
    assert lost == []
    await sockets_closed(sockets)


# --- The log

SECRETS = ("hunter2", "dXNlcjpodW50ZXIy", "s3cr3t", "t0k3n")


async def send_secrets(client: httpx.AsyncClient, port: int) -> None:
    """Send credentials of all kinds, and get some back."""
    await client.get(f"http://user:hunter2@127.0.0.1:{port}/path?q=1", headers={"X-Other": "1"})
    await client.post(f"http://127.0.0.1:{port}/", content=b"body", headers={"Authorization": "Bearer t0k3n"})
    await client.put(f"http://127.0.0.1:{port}/", content=_parts(), headers={"Cookie": "session=s3cr3t"})


@pytest.mark.anyio
@pytest.mark.parametrize("new_client", [lambda: httpx.AsyncClient(transport=ours()), lambda: PrefectHttpxClient()])
async def test_the_log_has_no_credentials(
    new_client: Callable[[], httpx.AsyncClient], caplog: pytest.LogCaptureFixture
) -> None:
    """At level DEBUG, each step is a line in the log, without credentials."""
    caplog.set_level(logging.DEBUG, logger="prefect_http.wire")
    async with raw_server(answer(body=b"body", set_cookie="session=s3cr3t")) as server, new_client() as client:
        await send_secrets(client, server.port)
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect_http.wire"]
    assert {record.levelno for record in caplog.records if record.name == "prefect_http.wire"} == {logging.DEBUG}
    start = f"GET http://127.0.0.1:{server.port}/path?q=1: "
    assert [line.removeprefix(start) for line in lines if line.startswith(start)] == [
        f"connection.connect_tcp.started host='127.0.0.1' port={server.port}",
        "connection.connect_tcp.complete",
        "http11.send_request_headers.started",
        "http11.send_request_headers.complete",
        "http11.send_request_body.started",
        "http11.send_request_body.complete",
        "http11.receive_response_headers.started",
        "http11.receive_response_headers.complete 200",
        "http11.receive_response_body.started",
        "http11.receive_response_body.complete",
        "http11.response_closed.started",
        "http11.response_closed.complete",
    ]
    assert not [line for line in lines for secret in SECRETS if secret in line]


@pytest.mark.anyio
async def test_failures_are_logged_without_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """A failed step is one line in the log, without what the server echoes."""
    caplog.set_level(logging.DEBUG, logger="prefect_http.wire")

    async def echo_badly(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nAuthorization Bearer t0k3n\r\n\r\n")
        await stream.aclose()

    async with raw_server(echo_badly) as server, httpx.AsyncClient(transport=ours()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url.replace("//", "//user:hunter2@"))
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect_http.wire"]
    assert [line for line in lines if "http11.receive_response_headers.failed InvalidResponse: " in line]
    assert not [line for line in lines if "\n" in line or any(secret in line for secret in SECRETS)]


@pytest.mark.anyio
async def test_nothing_is_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Above DEBUG, nothing is logged, with or without an extension."""
    caplog.set_level(logging.INFO, logger="prefect_http.wire")
    recorder = Recorder()
    async with raw_server(answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        await client.get(server.url)
        await client.get(server.url, extensions={"trace": recorder})
    assert recorder.names
    assert [record for record in caplog.records if record.name.startswith("prefect_http")] == []
