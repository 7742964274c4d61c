"""Requests through the client's own ``send()``: what others change on the way counts, and everything is closed."""

from __future__ import annotations

import gzip
import http.cookiejar
import itertools
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.garbage import garbage_of, responding_server
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of
from trio.testing import MockClock

from prefect_http import HTTPTransport, PrefectHttpxClient, Receive, RetryPolicy, Scope, Send


class Upper(httpx.AsyncByteStream):
    """A stream that changes what another one yields."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk.upper()

    async def aclose(self) -> None:
        self.is_closed = True
        await self._stream.aclose()


class Wrapper(httpx.AsyncBaseTransport):
    """A transport that puts another stream in the place of a response's own, as caches do."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = self.stream = Upper(response.stream)
        return response


def answer(body: bytes = b"body") -> httpx.Response:
    """Return a response that has not been read yet, but whose body is at hand."""
    return httpx.Response(200, stream=httpx.ByteStream(body))


@pytest.mark.anyio
async def test_a_hook_that_replaces_the_stream() -> None:
    """What an event hook puts in the place of a response's stream is what is read."""

    async def hook(response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Upper(response.stream)

    async with PrefectHttpxClient(transport=Server(answer()), event_hooks={"response": [hook]}) as client:
        response = await client.get(URL)
    assert response.content == b"BODY"
    assert isinstance(response.stream, Upper)
    assert response.stream.is_closed


@pytest.mark.anyio
async def test_a_hook_that_changes_the_encoding() -> None:
    """An event hook may name the encoding that a server has forgotten to name."""

    async def hook(response: httpx.Response) -> None:
        response.headers["Content-Encoding"] = "gzip"

    server = Server(answer(gzip.compress(b"body")))
    async with PrefectHttpxClient(transport=server, event_hooks={"response": [hook]}) as client:
        assert (await client.get(URL)).content == b"body"


@pytest.mark.anyio
@pytest.mark.parametrize("client_class", [httpx.AsyncClient, PrefectHttpxClient])
async def test_a_transport_around_ours_that_replaces_the_stream(client_class: type[httpx.AsyncClient]) -> None:
    """Its stream is read and closed, although the whole response has arrived."""
    transport = Wrapper(HTTPTransport())
    with anyio.fail_after(5), responding_server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody") as port:
        async with client_class(transport=transport) as client:
            response = await client.get(f"http://127.0.0.1:{port}/")
    assert response.content == b"BODY"
    assert transport.stream.is_closed


@pytest.mark.anyio
async def test_a_transport_that_has_been_replaced() -> None:
    """Tests, and some tracers, put another transport in the place of a client's: requests go through that one."""
    server = Server()
    async with PrefectHttpxClient(transport=server) as client:
        vars(client)["_transport"] = Server(503, 200)
        response = await client.get(URL, retry=AT_ONCE)
        assert [attempt.status_code for attempt in response.attempts] == [503, 200]
        vars(client)["_transport"] = server
    assert server.count == 0


class Numbered(httpx.AsyncClient):
    """A client that numbers its requests."""

    count = 0

    def build_request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        request = super().build_request(method, url, **arguments)
        self.count += 1
        request.headers["X-Number"] = str(self.count)
        return request


class NumberedOurs(PrefectHttpxClient, Numbered):
    pass


def test_another_build_request_builds_each_request() -> None:
    """What another base class adds to a request is not copied to the next one."""
    client = NumberedOurs()
    assert [client.build_request("GET", URL).headers["X-Number"] for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.anyio
async def test_a_replaced_build_request_builds_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is what a tracer adds that has replaced httpx's own method."""
    numbers = itertools.count()
    build = httpx.AsyncClient.build_request

    def replacement(self: httpx.AsyncClient, *args: Any, **arguments: Any) -> httpx.Request:
        request = build(self, *args, **arguments)
        request.headers["X-Number"] = str(next(numbers))
        return request

    server = Server(200, ...)
    async with PrefectHttpxClient(transport=server) as client:
        await client.get(URL)
        monkeypatch.setattr(httpx.AsyncClient, "build_request", replacement)
        await client.get(URL)
        await client.get(URL)
        monkeypatch.undo()
        await client.get(URL)
    assert [seen.headers.get("X-Number") for seen in server.seen] == [None, "0", "1", None]


class SlowToClose(httpx.AsyncByteStream):
    """A body that never ends, cancels a scope when it is read, and is closed only after a checkpoint."""

    is_closed = False

    def __init__(self, scope: anyio.CancelScope | None = None) -> None:
        self._scope = scope

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"begin"
        if self._scope is not None:
            self._scope.cancel()
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.is_closed = True


@pytest.mark.anyio
@each_row(("status", "limit"), [(200, 1000), (302, None), (302, 1000), (401, None), (401, 1000)])
async def test_a_response_is_closed_if_reading_it_is_cancelled(status: int, limit: int | None) -> None:
    """Whatever it leads to. Without a limit for its size, the last one is read and closed by httpx itself."""
    scope = anyio.CancelScope()
    body = SlowToClose(scope)
    server = Server(httpx.Response(status, headers={"Location": "/next"}, stream=body))
    with anyio.fail_after(5), scope:
        async with PrefectHttpxClient(transport=server, max_response_bytes=limit, follow_redirects=True) as client:
            await client.get(URL, auth=Twice() if status == 401 else None)
    assert scope.cancelled_caught
    assert body.is_closed


class Twice(httpx.Auth):
    """An auth flow that sends a request again, after a wait before each request."""

    def __init__(self, *waits: float) -> None:
        self._waits = iter(waits)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        await anyio.sleep(next(self._waits, 0))
        yield request
        await anyio.sleep(next(self._waits, 0))
        yield request


LIMITED = RetryPolicy(max_retries=0, total_timeout=5)


@pytest.mark.trio
@pytest.mark.parametrize(("waits", "noted"), [((9,), []), ((0, 9), [200])])
async def test_a_total_timeout_in_an_auth_flow(
    waits: tuple[float, ...], noted: list[int], autojump_clock: MockClock
) -> None:
    """The error has the request, and a note with the attempts, each of which has been reported."""
    seen: list[int | None] = []
    async with PrefectHttpxClient(
        transport=Server(200, ...), retry=LIMITED, on_attempt=lambda _, attempt: seen.append(attempt.status_code)
    ) as client:
        with pytest.raises(httpx.TimeoutException, match="total_timeout") as caught:
            await client.get(URL, auth=Twice(*waits))
    assert str(caught.value.request.url) == URL
    assert ("1: 200 after 5 s; the auth flow failed" in notes_of(caught.value)) == bool(noted)
    assert seen == noted


@pytest.mark.trio
async def test_a_total_timeout_in_the_body_of_a_challenge(autojump_clock: MockClock) -> None:
    """The error has the request."""
    async with PrefectHttpxClient(transport=Server(httpx.Response(401, stream=SlowToClose())), retry=LIMITED) as client:
        with pytest.raises(httpx.TimeoutException, match="total_timeout") as caught:
            await client.get(URL, auth=Twice())
    assert str(caught.value.request.url) == URL


@pytest.mark.anyio
async def test_an_auth_flow_that_yields_credentials() -> None:
    """They are not in the message of the error."""
    async with PrefectHttpxClient(transport=Server()) as client:
        with pytest.raises(TypeError, match=r"must yield an httpx\.Request, not an object of <class 'tuple'>$"):
            await client.get(URL, auth=lambda _: ("user", "password"))  # type: ignore[arg-type,return-value]


@pytest.mark.anyio
async def test_too_many_redirects_leave_no_garbage() -> None:
    """The error does not hold the frame that holds it."""

    async def fail() -> None:
        with pytest.raises(httpx.TooManyRedirects):
            await client.get(URL)

    server = Server(httpx.Response(302, headers={"Location": "/next"}), ...)
    async with PrefectHttpxClient(transport=server, max_redirects=2, follow_redirects=True) as client:
        assert await garbage_of(fail) == [0, 0, 0]


@pytest.mark.anyio
async def test_an_error_of_an_app_behind_a_replaced_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer in the place of ``send()`` does not change what an app raises, of whatever type that is."""
    send = httpx.AsyncClient.send

    async def replacement(self: httpx.AsyncClient, *args: Any, **arguments: Any) -> httpx.Response:
        return await send(self, *args, **arguments)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        b"\xff".decode()

    monkeypatch.setattr(httpx.AsyncClient, "send", replacement)
    async with PrefectHttpxClient(app=app) as client:
        with pytest.raises(UnicodeDecodeError):
            await client.get("/")


@pytest.mark.anyio
async def test_a_response_that_a_mock_returns_again() -> None:
    """What is changed in the client's response is not changed in the mock's."""
    shared = httpx.Response(200, headers={"X-Kind": "mock"}, extensions={"kind": "mock"})
    async with PrefectHttpxClient(transport=Server(shared, shared)) as client:
        first = await client.get(URL)
        first.headers["X-Kind"] = "changed"
        first.extensions["kind"] = "changed"
        second = await client.get(URL)
    assert (second.headers["X-Kind"], second.extensions["kind"]) == ("mock", "mock")


class NoCookies(http.cookiejar.DefaultCookiePolicy):
    """A policy that raises an exception instead of taking a cookie."""

    def set_ok(self, cookie: http.cookiejar.Cookie, request: urllib.request.Request) -> bool:
        raise LookupError(cookie.name)


@pytest.mark.anyio
async def test_cookies_that_cannot_be_taken() -> None:
    """If the cookies of a response cannot be taken, it is closed."""
    body = Body([b"body"])
    server = Server(httpx.Response(200, headers={"Set-Cookie": "a=1"}, stream=body))
    cookies = http.cookiejar.CookieJar(NoCookies())
    async with PrefectHttpxClient(transport=server, cookies=cookies) as client:
        client.cookies.jar = cookies
        with pytest.raises(LookupError):
            await client.get(URL)
    assert body.is_closed


@pytest.mark.anyio
async def test_cookies_that_cannot_be_sent_to_where_a_redirect_leads() -> None:
    """If the request that would follow a redirect cannot be built, the redirect is closed."""

    async def hook(response: httpx.Response) -> None:
        client.cookies.set("a", "é")

    body = Body([b"moved"])
    server = Server(httpx.Response(302, headers={"Location": "/next"}, stream=body))
    async with PrefectHttpxClient(transport=server, event_hooks={"response": [hook]}) as client:
        with pytest.raises(UnicodeEncodeError):
            await client.get(URL)
    assert body.is_closed


@pytest.mark.anyio
async def test_an_error_of_a_hook_behind_a_replaced_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracer in the place of ``send()`` does not change what an event hook raises either."""
    send = httpx.AsyncClient.send

    async def replacement(self: httpx.AsyncClient, *args: Any, **arguments: Any) -> httpx.Response:
        return await send(self, *args, **arguments)

    async def hook(_: httpx.Request) -> None:
        b"\xff".decode()

    monkeypatch.setattr(httpx.AsyncClient, "send", replacement)
    async with PrefectHttpxClient(transport=Server(200), event_hooks={"request": [hook]}) as client:
        with pytest.raises(UnicodeDecodeError):
            await client.get(URL)
