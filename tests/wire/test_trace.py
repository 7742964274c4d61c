"""The ``trace`` extension, beside httpx's; what happens when it fails; and the DEBUG log of the wire."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from support.servers import Act, RawServer, answer, drop, free_port, half_answer, raw_server, stall, stay_silent
from support.tls_servers import authority, client_context, server_context, tls_server, url_of

from prefect_http import HTTPTransport, PrefectHttpxClient

BIG = b"x" * 300_000
NO_RETRY_VALUES = ("host", "port", "local_address", "timeout", "server_hostname", "ssl_context")

Event = tuple[str, Mapping[str, Any]]


class Recorder:
    """A trace function that remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __call__(self, name: str, info: Mapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        self.events.append((name, info))

    @property
    def names(self) -> list[str]:
        """The names of the events."""
        return [name for name, _ in self.events]

    def head_for_trace(self) -> list[tuple[str, object]]:
        """Tell of the events what can be the same in two libraries."""
        return [
            (name, {key: _comparable(name, key, value) for key, value in info.items()}) for name, info in self.events
        ]


def _comparable(name: str, key: str, value: object) -> object:
    if key == "exception":
        return type(value).__name__
    if key in NO_RETRY_VALUES:
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
    """Get."""
    return await client.get(url, extensions=dict(extensions), headers={"X-One": "1"})


async def get_twice(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Get over one connection."""
    await client.get(url, extensions=dict(extensions))
    return await client.get(url, extensions=dict(extensions))


async def head(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Ask for the head."""
    return await client.head(url, extensions=dict(extensions))


async def _parts() -> AsyncIterator[bytes]:
    yield b"one"
    yield BIG


async def post_a_stream(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Post a stream."""
    return await client.post(url, content=_parts(), extensions=dict(extensions))


async def post_bytes(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Post bytes."""
    return await client.post(url, content=b"body", extensions=dict(extensions))


async def post_much(client: httpx.AsyncClient, url: str, extensions: Mapping[str, Any]) -> object:
    """Post many bytes."""
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
TIMEOUT = httpx.Timeout(5, read=0.03)


def httpxs() -> httpx.AsyncHTTPTransport:
    """Make the model."""
    return httpx.AsyncHTTPTransport(verify=client_context())


def ours(**arguments: Any) -> HTTPTransport:
    """Make what is tested."""
    return HTTPTransport(verify=client_context(), **arguments)


async def record(transport: httpx.AsyncBaseTransport, use: Use, url: str, *, timeout: httpx.Timeout) -> Recorder:
    """Record what a transport tells of a use."""
    recorder = Recorder()

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        await recorder(name, info)

    with anyio.fail_after(10):
        async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
            with contextlib.suppress(httpx.TransportError):
                await use(client, url, {"trace": trace})
    return recorder


# --- Beside httpx


@pytest.mark.anyio
@pytest.mark.parametrize("name", SUCCESSES)
async def test_events(name: str) -> None:
    """The events, their order and what comes with them are httpx's."""
    act, use = SUCCESSES[name]
    async with raw_server(act) as server:
        expected = await record(httpxs(), use, server.url, timeout=httpx.Timeout(5))
        told = await record(ours(), use, server.url, timeout=httpx.Timeout(5))
    assert told.names == expected.names
    assert told.head_for_trace() == expected.head_for_trace()


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAILURES)
async def test_events_of_failures(name: str) -> None:
    """Where a request fails on the way, the events and the kinds of the exceptions are httpx's."""
    act, use = FAILURES[name]
    async with raw_server(act) as server:
        expected = await record(httpxs(), use, server.url, timeout=TIMEOUT)
        told = await record(ours(), use, server.url, timeout=TIMEOUT)
    assert told.names == expected.names
    assert told.head_for_trace() == expected.head_for_trace()


@pytest.mark.anyio
@pytest.mark.parametrize("use", [get, get_twice])
async def test_events_of_tls(use: Use) -> None:
    """TLS has events of its own, which are httpx's."""
    async with tls_server(answer(body=b"body")) as server:
        expected = await record(httpxs(), use, url_of(server), timeout=httpx.Timeout(5))
        told = await record(ours(), use, url_of(server), timeout=httpx.Timeout(5))
    assert told.names[:4] == [f"connection.{step}.{end}" for step in ("connect_tcp", "start_tls") for end in ENDS]
    assert told.names == expected.names
    assert [set(info) for _, info in told.events] == [set(info) for _, info in expected.events]


ENDS = ("started", "complete")


@pytest.mark.anyio
async def test_events_of_bad_tls() -> None:
    """A handshake that fails is told of as in httpx."""
    context = server_context("other.test", authority=authority())
    async with tls_server(answer(), context=context) as server:
        expected = await record(httpxs(), get, url_of(server), timeout=httpx.Timeout(5))
        told = await record(ours(), get, url_of(server), timeout=httpx.Timeout(5))
    assert told.names == expected.names
    assert told.names[-1] == "connection.start_tls.failed"
    assert type(told.events[-1][1]["exception"]) is httpx.ConnectError


@pytest.mark.anyio
async def test_events_of_a_refused_connection() -> None:
    """A connection that cannot be made is told of as in httpx."""
    url = f"http://127.0.0.1:{free_port()}/"
    expected = await record(httpxs(), get, url, timeout=httpx.Timeout(5))
    told = await record(ours(), get, url, timeout=httpx.Timeout(5))
    assert told.head_for_trace() == expected.head_for_trace()
    assert told.names == ["connection.connect_tcp.started", "connection.connect_tcp.failed"]
    assert type(told.events[-1][1]["exception"]) is httpx.ConnectError


@pytest.mark.anyio
async def test_events_of_retries() -> None:
    """A connection that is tried again is told of as in httpx."""
    url = f"http://127.0.0.1:{free_port()}/"
    expected = await record(httpx.AsyncHTTPTransport(retries=1), get, url, timeout=httpx.Timeout(5))
    told = await record(ours(retries=1), get, url, timeout=httpx.Timeout(5))
    assert told.names == expected.names
    assert told.head_for_trace() == expected.head_for_trace()


@pytest.mark.anyio
async def test_socket_options_are_told() -> None:
    """What comes with the start of a connection are the options that were given, and None without, as in httpx."""
    async with raw_server(answer()) as server:
        expected = await record(httpxs(), get, server.url, timeout=httpx.Timeout(5))
        told = await record(ours(), get, server.url, timeout=httpx.Timeout(5))
    assert told.events[0][1]["socket_options"] == expected.events[0][1]["socket_options"]


@pytest.mark.anyio
async def test_the_head_of_a_response() -> None:
    """What comes with the head is a tuple of the version, the status, the reason and the headers, as they came."""
    async with raw_server(answer(404, X_Cased="Value")) as server:
        told = await record(ours(), get, server.url, timeout=httpx.Timeout(5))
    heads = [info["return_value"] for name, info in told.events if name == "http11.receive_response_headers.complete"]
    assert heads == [(b"HTTP/1.1", 404, b"Whatever", [(b"content-length", b"0"), (b"X-Cased", b"Value")])]


@pytest.mark.anyio
async def test_each_request_is_told_of_to_its_own() -> None:
    """Of two requests, each is told of to the function that came with it, and one without is told to nobody."""
    recorders = Recorder(), Recorder()
    async with raw_server(answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        for recorder in recorders:
            await client.get(server.url, extensions={"trace": recorder})
        await client.get(server.url)
    assert [len(recorder.names) for recorder in recorders] == [12, 10]  # the second has no connection to make


@pytest.mark.anyio
async def test_a_second_try_is_told_of() -> None:
    """A request that is sent once more has the events of both; httpx would fail instead."""
    recorder = Recorder()
    async with raw_server(answer(), drop, answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        await client.get(server.url)
        await client.get(server.url, extensions={"trace": recorder})
    assert recorder.names.count("http11.receive_response_headers.failed") == 1
    assert recorder.names.count("http11.receive_response_headers.complete") == 1
    assert recorder.names.count("connection.connect_tcp.complete") == 1


# --- Trace functions that fail


@pytest.mark.anyio
async def test_a_plain_function() -> None:
    """A trace function that is not async is a TypeError, as in httpx, and leaves nothing."""
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
    """A trace function that raises, or never returns, when it is told of the n-th event.

    Attributes:
        fails_on: goes on failing afterwards.
        is_there: set when it has come to that event.
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
    """Give the event at which a trace function raises. The client is not closed, for that would close the transport."""
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
async def test_a_function_that_raises(name: str, fails_on: bool) -> None:
    """Whichever event a trace function fails at, its exception comes out, no connection is lost and none left open."""
    act, use, is_secure = USES[name]
    lost: list[str] = []
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
    gc.collect()  # what was left open is warned of, and that fails the test
    assert lost == []


@pytest.mark.anyio
@pytest.mark.parametrize("name", USES)
async def test_a_cancellation_in_the_function(name: str) -> None:
    """Whichever event a trace function is cancelled at, no connection is lost and none left open."""
    act, use, is_secure = USES[name]
    lost: list[str] = []
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
    gc.collect()
    assert lost == []


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
    """With DEBUG, each step is a line in the log, and no line has credentials in it."""
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
    """A step that fails is logged with its error, in one line, and without what the server echoes."""
    caplog.set_level(logging.DEBUG, logger="prefect_http.wire")

    async def echo_badly(stream: anyio.abc.ByteStream) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nAuthorization Bearer t0k3n\r\n\r\n")
        await stream.aclose()

    async with raw_server(echo_badly) as server, httpx.AsyncClient(transport=ours()) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(server.url.replace("//", "//user:hunter2@"))
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect_http.wire"]
    assert [line for line in lines if "http11.receive_response_headers.failed RemoteProtocolError: " in line]
    assert not [line for line in lines if "\n" in line or any(secret in line for secret in SECRETS)]


@pytest.mark.anyio
async def test_the_log_is_silent_when_off(caplog: pytest.LogCaptureFixture) -> None:
    """Without DEBUG, not a line is written, be there a trace function or not."""
    caplog.set_level(logging.INFO, logger="prefect_http.wire")
    recorder = Recorder()
    async with raw_server(answer()) as server, httpx.AsyncClient(transport=ours()) as client:
        await client.get(server.url)
        await client.get(server.url, extensions={"trace": recorder})
    assert recorder.names
    assert [record for record in caplog.records if record.name.startswith("prefect_http")] == []
