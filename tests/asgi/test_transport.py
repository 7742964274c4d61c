"""ASGITransport: what arrives on either side of a request, responses and exceptions alike."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.asgi_apps import (
    Boom,
    FakeApp,
    MakeClient,
    app_client,
    both_clients,
    hello,
    last,
    part,
    plain_client,
    read,
    sending,
    start,
)
from support.rows import each_row

from prefect_http import ASGITransport
from prefect_http._types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@both_clients
async def test_response(make_client: MakeClient) -> None:
    """Status, headers, including repeated ones, and body are what the app sent."""
    app = FakeApp(
        sending(start(201, [(b"X-One", b"1"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")]), last(b"hi"))
    )
    async with make_client(app) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (201, b"hi")
    assert response.headers.multi_items() == [("x-one", "1"), ("set-cookie", "a=b"), ("set-cookie", "c=d")]
    assert response.elapsed.total_seconds() >= 0


@both_clients
@each_row("content", [None, b"", b"abc"])
async def test_bytes_arrive_as_one_message(make_client: MakeClient, content: bytes | None) -> None:
    """A request body that is not a stream arrives in one message, even if it is empty."""
    received: list[Any] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        await hello(scope, receive, send)

    async with make_client(FakeApp(handler)) as client:
        await client.post("/", content=content)
    assert received == [{"type": "http.request", "body": content or b"", "more_body": False}]


@both_clients
async def test_app_may_respond_without_receiving(make_client: MakeClient) -> None:
    """An app need not receive the request body."""
    async with make_client(FakeApp(hello)) as client:
        assert (await client.post("/", json={"a": 1})).text == "hello"


@both_clients
async def test_after_the_response_comes_the_disconnect(make_client: MakeClient) -> None:
    """An app that receives after its response gets the disconnect."""
    log: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        log.append((await receive())["type"])
        log.append((await receive())["type"])

    async with make_client(FakeApp(handler)) as client:
        await client.post("/", content=b"unread")
    assert log == ["http.disconnect"] * 2


@both_clients
async def test_app_sees_the_callers_context_and_keeps_its_own(make_client: MakeClient) -> None:
    """The app sees the caller's context variables, but what it sets, the caller does not see."""
    seen: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set("app")
        await anyio.lowlevel.checkpoint()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
        await hello(scope, receive, send)

    async def child() -> None:
        seen.append(variable.get())

    variable.set("caller")
    async with make_client(FakeApp(handler)) as client:
        await client.get("/")
        assert variable.get() == "caller"
    assert seen == ["caller", "app"]


async def test_request_body_sees_the_callers_context() -> None:
    """The stream of a request body sees the caller's context variables."""
    seen: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        seen.append(variable.get())
        yield b"x"

    variable.set("caller")
    async with plain_client(FakeApp(hello_after_reading)) as client:
        await client.post("/", content=body())
    assert seen == ["caller"]


async def hello_after_reading(scope: Scope, receive: Receive, send: Send) -> None:
    """Receive the whole request, then answer."""
    while (await receive())["more_body"]:
        pass
    await hello(scope, receive, send)


@both_clients
async def test_exception_before_the_headers(make_client: MakeClient) -> None:
    """What the app raises before its headers is raised by the request: the same object, not in a group."""
    boom = Boom("before the headers")

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.lowlevel.checkpoint()
        raise boom

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(Boom) as raised:
            await client.get("/")
    assert raised.value is boom
    assert boom.__cause__ is None


@both_clients
async def test_exception_after_the_headers(make_client: MakeClient) -> None:
    """What the app raises after its headers is raised by the read, after everything that was sent."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"some"))
        raise Boom

    async with make_client(FakeApp(handler)) as client:
        chunks: list[bytes] = []
        async with client.stream("GET", "/") as response:
            assert response.status_code == 200
            with pytest.raises(Boom):
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)  # noqa: PERF401
        assert chunks == [b"some"]
        with pytest.raises(Boom):
            await client.get("/")


@both_clients
async def test_exception_after_the_whole_response(make_client: MakeClient) -> None:
    """What the app raises in its background work is raised by reading to the end."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise Boom

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(Boom):
            await client.get("/")


@both_clients
@each_row("status", [404, 500, 503])
async def test_exception_takes_precedence_over_a_bad_status(make_client: MakeClient, status: int) -> None:
    """If an app responds with an error and then raises, as Starlette does, the exception is raised in the caller."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(status))
        await send(last(b"Internal Server Error"))
        raise Boom

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(Boom):
            await client.get("/")
        with pytest.raises(Boom):
            async with client.stream("GET", "/") as response:
                await response.aread()


@each_row("error", [KeyboardInterrupt, SystemExit])
@both_clients
async def test_interrupts_and_exits_are_let_through(make_client: MakeClient, error: type[BaseException]) -> None:
    """A KeyboardInterrupt or SystemExit out of the app reaches the caller."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(error):
            await client.get("/")


async def test_exception_becomes_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """With raise_app_exceptions=False, an exception before the headers is logged and answered with a 500."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom("quiet")

    async with plain_client(FakeApp(handler), raise_app_exceptions=False) as client:
        response = await client.get("/path?secret=1")
    assert (response.status_code, response.content) == (500, b"")
    assert [record.getMessage() for record in caplog.records if record.name == "prefect_http"] == [
        "the app FakeApp: GET /path raised"
    ]
    assert "quiet" in caplog.text


async def test_exception_becomes_a_remote_protocol_error(caplog: pytest.LogCaptureFixture) -> None:
    """With raise_app_exceptions=False, an exception in the middle of a body is not a body that looks complete."""
    boom = Boom()

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(part(b"some"))
        raise boom

    async with plain_client(FakeApp(handler), raise_app_exceptions=False) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="in the middle of the response body") as raised:
            await client.get("/")
    assert raised.value.__cause__ is boom
    assert "Boom" in caplog.text


async def test_exception_after_a_whole_response_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With raise_app_exceptions=False, what the app raises after its whole response is only logged."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise Boom

    async with plain_client(FakeApp(handler), raise_app_exceptions=False) as client:
        assert (await client.get("/")).text == "hello"
    assert "Boom" in caplog.text


@both_clients
@each_row(
    ("handler", "message"),
    [
        (sending(), "the app returned before it sent http.response.start"),
        (sending(start()), "the app returned in the middle of the response body"),
        (sending(start(), part(b"some")), "the app returned in the middle of the response body"),
        (sending(last()), "http.response.body was sent before http.response.start"),
        (sending(start(), start()), "http.response.start was sent twice"),
        (sending({"type": "http.response.push"}), "unknown ASGI message type 'http.response.push'"),
        (sending(start(headers=[(b"content-length", b"9")]), last(b"short")), "shorter than its Content-Length of 9"),
    ],
)
async def test_broken_response_is_a_remote_protocol_error(
    make_client: MakeClient, handler: ASGIApp, message: str
) -> None:
    """An app that ends without a complete response, or sends an invalid message, looks like a broken server."""
    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.RemoteProtocolError) as raised:
            await client.get("/")
    assert message in str(raised.value)


@both_clients
async def test_app_may_recover_from_an_invalid_message(make_client: MakeClient) -> None:
    """An invalid message raises in the app, which may go on and send a valid response."""
    errors: list[str] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (last(), {"type": "nonsense"}, start(99)):
            with pytest.raises(RuntimeError) as raised:
                await send(message)
            errors.append(str(raised.value))
        await hello(scope, receive, send)
        with pytest.raises(RuntimeError) as raised:
            await send(last())
        errors.append(str(raised.value))

    async with make_client(FakeApp(handler)) as client:
        assert (await client.get("/")).text == "hello"
    assert errors == [
        "http.response.body was sent before http.response.start",
        "unknown ASGI message type 'nonsense'; expected http.response.start or http.response.body",
        "http.response.start: status must be 101 or from 200 to 999, not 99",
        "http.response.body was sent after the response was complete",
    ]


@both_clients
async def test_invalid_message_after_the_whole_response(make_client: MakeClient) -> None:
    """An invalid message after a complete response is an exception of the app like any other."""
    async with make_client(FakeApp(sending(start(), last(b"whole"), last(b"more")))) as client:
        with pytest.raises(RuntimeError, match="after the response was complete"):
            await client.get("/")


@both_clients
async def test_head_has_no_body(make_client: MakeClient) -> None:
    """The body that an app sends in response to HEAD is dropped."""
    app = FakeApp(sending(start(headers=[(b"content-length", b"5")]), part(b"he"), last(b"llo")))
    async with make_client(app) as client:
        response = await client.head("/")
    assert (response.content, response.headers["content-length"]) == (b"", "5")


@both_clients
async def test_app_may_send_from_its_own_tasks(make_client: MakeClient) -> None:
    """An app may send and receive in tasks of its own."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def respond() -> None:
            await send(start())
            for number in range(3):
                await send(part(b"%d" % number))
                await anyio.lowlevel.checkpoint()
            await send(last())
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(respond)
            assert (await receive())["type"] == "http.request"
            await receive()

    async with make_client(FakeApp(handler)) as client:
        async with client.stream("GET", "/") as response:
            assert await read(response) == [b"0", b"1", b"2"]
        assert (await client.get("/")).content == b"012"


async def test_app_cancels_its_own_receive() -> None:
    """An app that cancels a receive() loses nothing: the next one returns the message."""
    bodies: list[bytes] = []

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(0.01):
            await receive()
        go_on.set()
        bodies.append((await receive())["body"])
        await hello(scope, receive, send)

    async def body() -> AsyncIterator[bytes]:
        await go_on.wait()
        yield b"late"

    go_on = anyio.Event()
    async with plain_client(FakeApp(handler)) as client:
        with anyio.fail_after(5):
            await client.post("/", content=body())
    assert bodies == [b"late"]


@both_clients
async def test_app_that_cancels_itself_is_a_broken_server(make_client: MakeClient) -> None:
    """An app that cancels its own call, and so does not respond, does not cancel its caller."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as scope_of_app:
            scope_of_app.cancel()
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                return

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")


@each_row("app", [None, "app", 3])
async def test_app_must_be_callable(app: object) -> None:
    """An app that is not callable is a TypeError that shows it, from the transport and from the client."""
    with pytest.raises(TypeError, match="app must be an ASGI app, a callable that takes scope, receive and send, not"):
        ASGITransport(cast(ASGIApp, app))
    if app is not None:
        with pytest.raises(TypeError, match="app must be an ASGI app"):
            app_client(cast(ASGIApp, app))


async def test_state_must_be_a_mapping() -> None:
    """A state that is not a mapping is a TypeError."""
    with pytest.raises(TypeError, match=r"state must be a mapping, such as Lifespan\.state, not 3"):
        ASGITransport(hello, state=cast(Any, 3))


@both_clients
async def test_sync_function_as_app_is_an_error(make_client: MakeClient) -> None:
    """An app that is not a coroutine function fails in the request, like any error of the app."""

    def not_async(scope: Scope, receive: Receive, send: Send) -> None:
        """Return None, which cannot be awaited."""

    async with make_client(cast(ASGIApp, not_async)) as client:
        with pytest.raises(TypeError):
            await client.get("/")


async def test_attributes_are_httpxs() -> None:
    """The transport has the arguments and attributes of httpx.ASGITransport."""
    ours = ASGITransport(hello, False, "/root", ("1.2.3.4", 5))
    theirs = httpx.ASGITransport(hello, False, "/root", ("1.2.3.4", 5))
    assert {name: getattr(ours, name) for name in vars(theirs)} == vars(theirs)


async def test_sync_request_body_is_refused() -> None:
    """A request with a sync stream is a RuntimeError that says so."""
    request = httpx.Request("POST", "http://app/", content=iter([b"x"]))
    with pytest.raises(RuntimeError, match="the request has a sync body, which an async transport cannot send"):
        await ASGITransport(hello).handle_async_request(request)


async def test_transport_can_be_used_again_after_closing() -> None:
    """Several clients may use one transport, one after another, as with httpx's."""
    transport = ASGITransport(FakeApp(hello))
    for _ in range(2):
        async with httpx.AsyncClient(transport=transport) as client:
            assert (await client.get("http://app")).text == "hello"


async def test_success_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A successful request logs nothing."""
    caplog.set_level(logging.DEBUG, "prefect_http")
    async with plain_client(FakeApp(hello)) as client:
        await client.get("/")
    assert [record for record in caplog.records if record.name == "prefect_http"] == []
