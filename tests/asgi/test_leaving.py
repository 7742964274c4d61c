"""ASGITransport: leaving a response early, cancellation, and closing, by any task and in any order."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.asgi_apps import (
    Boom,
    FakeApp,
    MakeClient,
    app_client,
    both_clients,
    endless,
    hang,
    hello,
    last,
    listen,
    part,
    plain_client,
    start,
    wait_until,
)
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import ASGITransport, app_lifespan_context
from prefect_http._types import ASGIApp, Receive, Scope, Send


async def stream_and_listen(scope: Scope, receive: Receive, send: Send) -> None:
    """Start a response, and return after the disconnect."""
    await receive()
    await send(start())
    await send(part(b"some"))
    assert (await receive())["type"] == "http.disconnect"


@pytest.mark.anyio
@both_clients
async def test_leaving_early_disconnects_the_app(make_client: MakeClient) -> None:
    """If a response is left early, the app receives the disconnect, and leaving waits for its end."""
    app = FakeApp(stream_and_listen)
    async with make_client(app) as client:
        with anyio.fail_after(5):
            async with client.stream("GET", "/"):
                assert app.running == 1
            assert app.running == 0
    assert "returned" in app.log


@pytest.mark.trio
@both_clients
async def test_app_that_does_not_listen_is_cancelled(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """An app that does not end by itself is cancelled one second after its response was left."""
    app = FakeApp(endless)
    async with make_client(app) as client:
        async with client.stream("GET", "/"):
            await trio.sleep(0.5)
        assert trio.current_time() == pytest.approx(1.5)
    assert "cancelled" in app.log


@pytest.mark.trio
async def test_grace_period(autojump_clock: trio.abc.Clock) -> None:
    """Within that second, an app may do what it does after a disconnect, and send what is not read."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await stream_and_listen(scope, receive, send)
        await trio.sleep(0.9)
        for _ in range(10):
            await send(part(b"x" * 100_000))
        assert (await receive())["type"] == "http.disconnect"
        app.log.append("cleaned up")

    app = FakeApp(handler)
    async with plain_client(app) as client:
        async with client.stream("GET", "/"):
            pass
        assert trio.current_time() == pytest.approx(0.9)
    assert app.log == ["cleaned up", "returned"]


@pytest.mark.trio
@pytest.mark.parametrize(("unwinding", "expected"), [(3, 4), (20, 6)])
async def test_app_that_unwinds_slowly_is_waited_for(
    unwinding: float, expected: float, autojump_clock: trio.abc.Clock
) -> None:
    """Leaving waits for the app's end, but for at most six seconds."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(unwinding)

    app = FakeApp(handler)
    async with plain_client(app).stream("GET", "/"):
        pass
    assert trio.current_time() == pytest.approx(expected)
    await trio.sleep(20)
    assert app.running == 0


@pytest.mark.anyio
@both_clients
async def test_blocked_sender_is_released(make_client: MakeClient) -> None:
    """An app that waits for its reader goes on when the reader has left, and what it sends is dropped."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(5):
            await send(part(b"x" * 100_000))
        await send(last())

    app = FakeApp(handler)
    with anyio.fail_after(5):
        async with make_client(app) as client, client.stream("GET", "/"):
            pass
    assert "returned" in app.log


def sending_forever(chunk: bytes) -> ASGIApp:
    """Return a handler that does nothing but send."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(100_000):
            await send(part(chunk))

    return handler


async def receive_forever(scope: Scope, receive: Receive, send: Send) -> None:
    """Start a response, and do nothing but receive."""
    await send(start())
    for _ in range(100_000):
        await receive()


@pytest.mark.anyio
@both_clients
@each_row(
    "handler", [sending_forever(b""), sending_forever(b"x" * 1000), receive_forever], ids=["empty", "parts", "receive"]
)
async def test_app_that_never_stops_is_put_to_sleep(make_client: MakeClient, handler: ASGIApp) -> None:
    """An app that only sends or receives does not keep the processor busy between disconnect and cancellation."""
    began = anyio.current_time()
    async with make_client(app := FakeApp(handler)) as client, client.stream("GET", "/"):
        pass
    assert anyio.current_time() - began == pytest.approx(1)  # virtual time stands still while a task can run
    assert "cancelled" in app.log


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # real time, because the app is never idle
@pytest.mark.parametrize("chunk", [b"", b"x" * 1000], ids=["empty", "not empty"])
async def test_app_that_sends_forever_is_cancelled_with_its_caller(chunk: bytes) -> None:
    """An app that only sends does not keep its caller from being cancelled."""

    async def get() -> None:
        await client.get("/")

    app = FakeApp(sending_forever(chunk))
    with anyio.fail_after(5):
        async with app_client(app) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(get)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert app.log[-1] == "cancelled"


@pytest.mark.trio
@pytest.mark.parametrize("answers", [False, True])
async def test_cancelled_caller_does_not_wait(answers: bool, autojump_clock: trio.abc.Clock) -> None:
    """A cancelled caller leaves at once, and the app still has the disconnect and its grace period."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        if answers:
            await send(start())
        await listen(scope, receive, send)
        await trio.sleep(0.5)
        app.log.append("disconnected")

    app = FakeApp(handler)
    async with plain_client(app) as client:
        with trio.move_on_after(2) as scope:
            async with client.stream("GET", "/") as response:
                await response.aread()
        assert scope.cancelled_caught
        assert trio.current_time() == 2
        assert app.running == 1
        await trio.sleep(1)
    assert app.log == ["disconnected", "returned"]


@pytest.mark.trio
async def test_inline_app_that_listens_has_its_grace_period(autojump_clock: trio.abc.Clock) -> None:
    """An app that runs in its caller's task receives the disconnect as well when the caller is cancelled."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        await trio.sleep(work)
        app.log.append("disconnected")

    async with app_client(app := FakeApp(handler)) as client:
        for work, expected in ((0.5, ["disconnected", "returned"]), (5, ["cancelled"])):
            app.log.clear()
            began = trio.current_time()
            with trio.move_on_after(2) as scope:
                await client.get("/")
            assert scope.cancelled_caught
            assert trio.current_time() - began == pytest.approx(2 + min(work, 1))
            assert app.log == expected


@pytest.mark.anyio
async def test_inline_app_that_does_not_listen_is_cancelled_with_its_caller() -> None:
    """An app that runs in its caller's task, and waits for anything but a message, is cancelled at once."""
    app = FakeApp(hang)
    async with app_client(app) as client:
        began = anyio.current_time()
        with anyio.move_on_after(2) as scope:
            await client.get("/")
        assert scope.cancelled_caught
        assert anyio.current_time() - began == pytest.approx(2)
        assert app.running == 0
        assert app.log[-1] == "cancelled"


@pytest.mark.anyio
async def test_app_that_cancels_its_own_receive_is_not_mistaken_for_the_caller() -> None:
    """A receive() that the app itself cancels is cancelled like any other wait."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with anyio.move_on_after(0.01) as patience:
            await receive()
        assert patience.cancelled_caught
        await hello(scope, receive, send)

    with anyio.fail_after(5):
        async with app_client(FakeApp(handler)) as client:
            assert (await client.get("/")).text == "hello"


@pytest.mark.anyio
@both_clients
@each_row("how", ["response", "client"])
async def test_closing_from_another_task(make_client: MakeClient, how: str) -> None:
    """If another task closes a response, or its client, the task that reads it gets a ReadError."""

    async def close(task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep(0.01)
        await (response if how == "response" else client).aclose()

    app = FakeApp(stream_and_listen)
    client = make_client(app)
    await client.__aenter__()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            response = await client.send(client.build_request("GET", "/"), stream=True)
            await tasks.start(close)
            with pytest.raises(httpx.ReadError, match="has been closed"):
                await response.aread()
    await client.aclose()
    assert "returned" in app.log


@pytest.mark.anyio
@both_clients
async def test_closing_the_client_ends_requests_that_wait(make_client: MakeClient) -> None:
    """A request that waits for its headers when the client is closed fails at once, and is not repeated."""

    async def get() -> None:
        with pytest.raises(httpx.ReadError, match="the transport has been closed"):
            await client.get("/")
        app.log.append("failed")

    app = FakeApp(listen)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with make_client(app) as client:
                for _ in range(3):
                    tasks.start_soon(get)
                await wait_until(lambda: app.running == 3)
            assert app.running == 0
    assert app.log.count("failed") == 3


@pytest.mark.trio
async def test_closing_cancels_what_does_not_end(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    """Closing waits a second for an app to end, cancels it, and waits five more; after that, it logs a warning."""

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    async def get() -> None:
        with contextlib.suppress(httpx.ReadError):
            await client.get("/")

    for handler, seconds in ((listen, 0), (endless, 1), (stubborn, 6)):
        caplog.clear()
        app = FakeApp(handler)
        client = plain_client(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            await trio.sleep(0.5)
            began = trio.current_time()
            await client.aclose()
            assert trio.current_time() - began == pytest.approx(seconds)
            assert bool(app.running) is (handler is stubborn)
            nursery.cancel_scope.cancel()
        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        expected = "the app FakeApp is still running a request 5 s after its cancellation"
        assert messages == [expected] * (handler is stubborn)
    await trio.sleep(60)


@pytest.mark.trio
async def test_closing_ends_background_work(autojump_clock: trio.abc.Clock) -> None:
    """When the client is closed, an app has one second left for what it does after its whole response."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        await trio.sleep_forever()

    app = FakeApp(handler)
    client = plain_client(app)
    async with client.stream("GET", "/"):
        pass
    await trio.sleep(100)
    assert app.running == 1
    await client.aclose()
    assert trio.current_time() == pytest.approx(101)
    assert app.log == ["cancelled"]


@pytest.mark.anyio
@both_clients
async def test_closing_under_cancellation_still_ends_everything(make_client: MakeClient) -> None:
    """A cancellation of closing is held back until the apps have ended, because they must not outlive the client."""
    client = make_client(app := FakeApp(endless))
    await client.__aenter__()
    began = anyio.current_time()
    response = await client.send(client.build_request("GET", "/"), stream=True)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
        app.log.append("the code goes on")
    assert scope.cancelled_caught
    assert anyio.current_time() - began == pytest.approx(1)
    assert [line for line in app.log if line not in {"startup", "shutdown"}] == ["cancelled"]
    await response.aclose()


@pytest.mark.anyio
@both_clients
async def test_nothing_to_close_under_cancellation(make_client: MakeClient) -> None:
    """Closing while nothing is running is done at once; an exception of the block is raised in any case."""
    client = make_client(FakeApp(hello))
    with anyio.CancelScope() as scope, pytest.raises(Boom):
        async with client:
            scope.cancel()
            raise Boom


@pytest.mark.anyio
async def test_exception_wins_over_the_cancellation_of_a_second_task_that_closes() -> None:
    """A task that waits until another has closed the client raises its own exception, even if it is cancelled."""

    async def close() -> None:
        with anyio.CancelScope() as scope, pytest.raises(Boom):
            try:
                raise Boom
            except Boom as error:
                scope.cancel()
                await client.__aexit__(type(error), error, error.__traceback__)
                raise
        log.append("raised")

    log: list[str] = []
    client = app_client(FakeApp(endless))
    await client.__aenter__()
    response = await client.send(client.build_request("GET", "/"), stream=True)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.aclose)
        tasks.start_soon(close)
    await response.aclose()
    assert log == ["raised"]


@pytest.mark.anyio
async def test_app_that_others_hold_is_closed_under_cancellation() -> None:
    """So it is if the app goes on afterwards, because others hold it, and for a second task that closes the client."""

    async def close() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.__aexit__()
            log.append("the code goes on")
        log.append("closed")

    app, log = FakeApp(endless), list[str]()
    client = app_client(app)
    async with app_lifespan_context(app):
        await client.__aenter__()
        response = await client.send(client.build_request("GET", "/"), stream=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            tasks.start_soon(close)
        assert app.log == ["startup", "cancelled"]
        await response.aclose()
    assert log == ["closed", "closed"]


@pytest.mark.trio
async def test_two_tasks_close_at_once(autojump_clock: trio.abc.Clock) -> None:
    """A second task that closes the transport waits as well."""
    transport = ASGITransport(app := FakeApp(endless))
    await transport.handle_async_request(httpx.Request("GET", "http://app"))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(transport.aclose)
        await trio.sleep(0.5)
        assert len(nursery.child_tasks) == 2
    assert trio.current_time() == pytest.approx(1)
    assert app.log == ["cancelled"]


async def is_disconnected(receive: Receive) -> bool:
    """Return whether there is a disconnect, as Starlette's ``request.is_disconnected()`` finds out."""
    message = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        message = await receive()
    return message == {"type": "http.disconnect"}


@pytest.mark.trio
@both_clients
@pytest.mark.parametrize("ends_by", ["leaving", "a timeout"])
async def test_app_may_poll_for_the_disconnect(
    make_client: MakeClient, ends_by: str, autojump_clock: trio.abc.Clock
) -> None:
    """Once a response has been left, a receive() that must not wait returns the disconnect; not before."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if ends_by == "leaving":
            await send(start())
        while not await is_disconnected(receive):  # noqa: ASYNC110  # this is how apps do it
            await trio.sleep(0.05)
        assert await is_disconnected(receive)
        app.log.append(f"{trio.current_time():.2f}")

    async with make_client(app := FakeApp(handler)) as client:
        if ends_by == "leaving":
            async with client.stream("GET", "/"):
                await trio.sleep(0.22)
        else:
            with pytest.raises(httpx.ReadTimeout):
                async with client.stream("GET", "/", timeout=0.22):
                    pass
            await trio.sleep(1)
    assert [line for line in app.log if "up" not in line and "down" not in line] == ["0.25", "returned"]


@pytest.mark.anyio
@both_clients
async def test_background_work_may_poll_for_the_disconnect(make_client: MakeClient) -> None:
    """After its whole response, an app finds the disconnect at once, without waiting."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert not await is_disconnected(receive)
        await hello(scope, receive, send)
        assert await is_disconnected(receive)

    with anyio.fail_after(5):
        async with make_client(FakeApp(handler)) as client:
            assert (await client.get("/")).text == "hello"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # real time, because the app is never idle
@both_clients
async def test_background_work_that_only_receives_is_cancelled_with_its_caller(make_client: MakeClient) -> None:
    """An app that does nothing but receive after its response lets other tasks run, and can be cancelled."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        while True:
            await receive()

    async with make_client(app := FakeApp(handler)) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.get("/")
        assert scope.cancelled_caught
    assert "cancelled" in app.log


# Exceptions that come too late.


@pytest.mark.anyio
async def test_exception_after_leaving_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What an app raises after its response was left is logged."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await stream_and_listen(scope, receive, send)
        raise Boom("too late")

    app = FakeApp(handler)
    async with plain_client(app) as client:
        async with client.stream("GET", "/path"):
            pass
    assert app.log == ["raised"]
    record = next(record for record in caplog.records if record.name == "prefect_http")
    assert (record.levelname, record.getMessage()) == ("ERROR", "the app FakeApp: GET /path raised")
    assert "too late" in caplog.text


@pytest.mark.anyio
@both_clients
async def test_unread_exception_is_logged(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    """What an app has raised is logged if the caller leaves its response before it has read so far."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise Boom("unread")

    app = FakeApp(handler)
    async with make_client(app) as client:
        async with client.stream("GET", "/"):
            await wait_until(lambda: not app.running)
    assert "unread" in caplog.text


@pytest.mark.anyio
async def test_late_exception_of_a_request_body_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What the caller's stream raises while it is closed after the response is logged."""

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await anyio.sleep_forever()
        finally:
            raise Boom("while closing")

    async with plain_client(FakeApp(stream_and_listen)) as client:
        async with client.stream("POST", "/", content=body()):
            pass
    assert "while closing" in caplog.text


@pytest.mark.trio
@both_clients
async def test_exception_while_cancelled_by_a_timeout_is_logged(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    """If an app raises while a timeout cancels it, the caller gets the timeout, and the exception is logged."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while cancelled")

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=3)
    assert "while cancelled" in caplog.text


# What is left.


@pytest.mark.anyio
async def test_response_is_read_and_closed_in_other_tasks() -> None:
    """A response may be requested in one task, read in a second and closed in a third."""
    app = FakeApp(stream_and_listen)
    transport = ASGITransport(app)
    responses: list[httpx.Response] = []
    chunks: list[bytes] = []

    async def request() -> None:
        responses.append(await transport.handle_async_request(httpx.Request("GET", "http://app")))

    async def read_one() -> None:
        stream = responses[0].stream
        assert isinstance(stream, httpx.AsyncByteStream)
        chunks.append(await anext(aiter(stream)))

    async def close() -> None:
        await responses[0].aclose()

    with anyio.fail_after(5):
        for step in (request, read_one, close, transport.aclose):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(step)
    assert chunks == [b"some"]
    assert app.log == ["returned"]


@pytest.mark.anyio
@both_clients
async def test_nothing_stays_behind(make_client: MakeClient) -> None:
    """However a request ends, the transport holds nothing of it afterwards."""
    app = FakeApp(hello)
    client = make_client(app)
    with anyio.fail_after(30):
        async with client:
            for handler in (hello, hang, endless):
                app.handler = handler
                with anyio.move_on_after(0.01):
                    await client.get("/")
                with anyio.move_on_after(0.01):
                    async with client.stream("GET", "/") as response:
                        await response.aread()
    assert app.running == 0
    transport: Any = client._transport
    transport = getattr(transport, "_transport", transport)  # a PrefectHttpxClient checks redirects in front of it
    assert isinstance(transport, ASGITransport)
    assert (transport._running, transport._ending) == (set(), set())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_end_of_the_run_ends_what_is_left(backend: str) -> None:
    """A response that is never closed does not outlive the event loop's run, nor disturb its end."""

    async def main() -> None:
        for handler in (endless, hang):
            app.handler = handler
            with anyio.move_on_after(0.01):
                await transport.handle_async_request(httpx.Request("GET", "http://app"))

    transport = ASGITransport(app := FakeApp(hang))
    name, options = virtual_time_backend(backend)
    anyio.run(main, backend=name, backend_options=options)
    assert app.log == ["cancelled"] * 2
    assert transport._running == set()
