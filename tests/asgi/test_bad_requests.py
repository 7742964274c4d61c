"""Requests that no wire would carry: an app in this process does not get them either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from support.asgi_apps import FakeApp, MakeClient, app_client, both_clients, hello, listen, plain_client
from support.rows import each_row

from prefect_http import HTTPTransport
from prefect_http._types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio


def wire_client(app: ASGIApp) -> httpx.AsyncClient:
    """Return a client on the wire, where nothing listens: it refuses a request before it connects."""
    return httpx.AsyncClient(transport=HTTPTransport(trust_env=False), base_url="http://127.0.0.1:1", trust_env=False)


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "GET /"}, "invalid method 'GET /'"),
    "method with a line break": ({"method": "GET\r\n"}, "invalid method"),
    "no method": ({"method": ""}, "invalid method ''"),
    "method beyond ASCII": ({"method": "GÉT"}, "invalid method"),
    "name": ({"headers": {"X Y": "1"}}, "invalid header name b'X Y'"),
    "empty name": ({"headers": {"": "1"}}, "invalid header name b''"),
    "name with a line break": ({"headers": {"X\r\nY": "1"}}, "invalid header name"),
    "CR": ({"headers": {"X": "1\r2"}}, "the value of the header X has a control character"),
    "LF": ({"headers": {"X": "1\n2"}}, "the value of the header X has a control character"),
    "NUL": ({"headers": {"X": "1\x002"}}, "the value of the header X has a control character"),
    "a second header": ({"headers": {"X": "1\r\nY: 2"}}, "the value of the header X has a control character"),
    "whitespace": ({"headers": {"X": " 1"}}, "whitespace at its start or end"),
    "two hosts": ({"headers": [("Host", "a"), ("Host", "b")]}, "it must have one Host header, and has 2"),
    "two lengths": ({"headers": [("Content-Length", "0")] * 2}, "Content-Length must be a single number"),
    "no number": ({"headers": {"Content-Length": "-1"}}, "Content-Length must be a single number"),
    "encoding": ({"headers": {"Transfer-Encoding": "gzip"}}, "the only supported Transfer-Encoding is chunked"),
}


@each_row("make_client", [plain_client, app_client, wire_client])
@each_row(("request_", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_refused(make_client: MakeClient, request_: dict[str, Any], message: str) -> None:
    """A request with an invalid method or header is a LocalProtocolError with the same message everywhere."""
    app = FakeApp(hello)
    async with make_client(app) as client:
        for streamed in (False, True):
            request = client.build_request(**{"method": "POST", "url": "/", **request_})
            with pytest.raises(httpx.LocalProtocolError) as raised:
                await client.send(request, stream=streamed)
            assert message in str(raised.value)
            assert raised.value.request is request
    assert app.scopes == []


@both_clients
@each_row(("content", "length", "than"), [(b"hello", "4", "longer"), (b"hello", "6", "shorter"), (b"", "1", "shorter")])
async def test_length_of_bytes_that_lies(make_client: MakeClient, content: bytes, length: str, than: str) -> None:
    """If bytes are not as long as the Content-Length says, the app is not called."""
    app = FakeApp(hello)
    async with make_client(app) as client:
        with pytest.raises(httpx.LocalProtocolError, match=f"the request body is {than} than its Content-Length of"):
            await client.post("/", content=content, headers={"Content-Length": length})
    assert app.scopes == []


@both_clients
async def test_what_may_be_missing(make_client: MakeClient) -> None:
    """A request without a Host or a length, which a network needs, reaches the app, as with httpx.ASGITransport."""
    app = FakeApp(hello)
    async with make_client(app) as client:
        request = client.build_request("POST", "/", content=b"hello")
        del request.headers["Host"], request.headers["Content-Length"]
        assert (await client.send(request)).text == "hello"
        request.headers["Transfer-Encoding"] = "chunked"
        assert (await client.send(request)).text == "hello"
    names = [[name for name, _ in scope["headers"]] for scope in app.scopes]
    assert not {b"host", b"content-length"} & {*names[0], *names[1]}
    assert b"transfer-encoding" in names[1]


async def ab() -> AsyncIterator[bytes]:
    """Yield two chunks, and wait between them."""
    yield b"a"
    await anyio.sleep(0.01)
    yield b""
    yield b"b"


@both_clients
@each_row(("length", "than", "received"), [("1", "longer", b"a"), ("3", "shorter", b"ab")])
async def test_length_of_a_stream_that_lies(make_client: MakeClient, length: str, than: str, received: bytes) -> None:
    """If a stream turns out to be longer or shorter, the app is disconnected, and the caller gets the error."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            bodies.append(message["body"])
            assert message["more_body"]
        await listen(scope, receive, send)

    bodies: list[bytes] = []
    async with make_client(FakeApp(handler)) as client:
        with anyio.fail_after(5), pytest.raises(httpx.LocalProtocolError, match=f"body is {than} than its"):
            await client.post("/", content=ab(), headers={"Content-Length": length})
    assert b"".join(bodies) == received


@both_clients
@each_row("headers", [{"Content-Length": "2"}, {"Transfer-Encoding": "chunked"}, {}])
async def test_length_of_a_stream_that_is_right(make_client: MakeClient, headers: dict[str, str]) -> None:
    """A stream that is as long as it should be, or that may be of any length, reaches the app whole."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            bodies.append(message["body"])
            more = message["more_body"]
        await hello(scope, receive, send)

    bodies: list[bytes] = []
    async with make_client(FakeApp(handler)) as client:
        await client.post("/", content=ab(), headers=headers)
    assert b"".join(bodies) == b"ab"


@both_clients
async def test_stream_that_is_too_long_is_closed(make_client: MakeClient) -> None:
    """A stream of which no more is wanted is closed: its generator ends while the error is raised."""

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"ab"
            await anyio.sleep_forever()
        finally:
            log.append("closed")

    log: list[str] = []
    async with make_client(FakeApp(listen)) as client:
        with anyio.fail_after(5), pytest.raises(httpx.LocalProtocolError):
            await client.post("/", content=body(), headers={"Content-Length": "1"})
        assert log == ["closed"]
