"""ASGITransport: leaving a response early, cancellation, and closing, by whom and in whatever order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import anyio
import anyio.abc
import httpx
import pytest
import trio
from support.asgi_apps import (
    Boom,
    FakeApp,
    MakeClient,
    app_client,
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

from prefect_http import ASGITransport
from prefect_http._types import ASGIApp, Receive, Scope, Send

both_clients = pytest.mark.parametrize("make_client", [plain_client, app_client])


async def stream_and_listen(scope: Scope, receive: Receive, send: Send) -> None:
    """Begin a response, and end when the client has gone."""
    await receive()
    await send(start())
    await send(part(b"some"))
    assert (await receive())["type"] == "http.disconnect"


@pytest.mark.anyio
@both_clients
async def test_leaving_early_gives_the_app_a_disconnect(make_client: MakeClient) -> None:
    """Who leaves a response early has the app told, and waits until it has ended."""
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
    """An app that does not end by itself is cancelled a second after the response was left."""
    app = FakeApp(endless)
    async with make_client(app) as client:
        async with client.stream("GET", "/"):
            await trio.sleep(0.5)
        assert trio.current_time() == pytest.approx(1.5)
    assert "cancelled" in app.log


@pytest.mark.trio
async def test_app_has_its_grace(autojump_clock: trio.abc.Clock) -> None:
    """Within the second, an app may do whatever it does after a disconnect, and send what nobody reads."""

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
    """Leaving waits for the app's end, but for no more than six seconds."""

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
    """An app that waits for its reader goes on when the reader has gone, and sends into the void."""

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
    """Make a handler that does nothing but send."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await send(part(chunk))

    return handler


@pytest.mark.anyio
async def test_app_that_sends_forever_is_cancelled_when_it_is_left() -> None:
    """An app that only ever sends, empty chunks too, ends a second after its response was left."""

    async def leave(app: FakeApp) -> None:
        async with plain_client(app) as client, client.stream("GET", "/"):
            pass

    apps = [FakeApp(sending_forever(chunk)) for chunk in (b"", b"x")]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for app in apps:
                tasks.start_soon(leave, app)
    assert [app.log for app in apps] == [["cancelled"]] * 2


@pytest.mark.trio
@both_clients
async def test_app_that_goes_on_forever_waits_for_its_cancellation(
    make_client: MakeClient, autojump_clock: trio.abc.Clock
) -> None:
    """An app that sends or receives on and on after the end does not keep the processor busy until it is cancelled."""

    async def receive_forever(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await receive()

    for handler in (sending_forever(b"x"), receive_forever):
        app, began = FakeApp(handler), trio.current_time()
        async with make_client(app) as client, client.stream("GET", "/"):
            await trio.sleep(1)
        assert trio.current_time() - began == pytest.approx(2)
        assert "cancelled" in app.log


@pytest.mark.anyio
@pytest.mark.parametrize("chunk", [b"", b"x"])
async def test_app_that_sends_forever_is_cancelled_with_its_caller(chunk: bytes) -> None:
    """An app that only ever sends does not keep its caller from being cancelled."""
    app = FakeApp(sending_forever(chunk))
    with anyio.fail_after(5):
        async with app_client(app) as client:
            with anyio.move_on_after(0.01):
                await client.get("/")
            assert app.log[-1] == "cancelled"


@pytest.mark.trio
@pytest.mark.parametrize("answers", [False, True])
async def test_cancelled_caller_does_not_wait(answers: bool, autojump_clock: trio.abc.Clock) -> None:
    """A caller who is cancelled leaves at once; the app has its disconnect and its grace all the same."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        if answers:
            await send(start())
        while (await receive())["type"] != "http.disconnect":
            pass
        await trio.sleep(0.5)
        app.log.append("told")

    app = FakeApp(handler)
    async with plain_client(app) as client:
        with trio.move_on_after(2) as scope:
            async with client.stream("GET", "/") as response:
                await response.aread()
        assert scope.cancelled_caught
        assert trio.current_time() == 2
        assert app.running == 1
        await trio.sleep(1)
    assert app.log == ["told", "returned"]


@pytest.mark.trio
async def test_cancelled_caller_who_reads_whole_gives_a_listening_app_its_grace(
    autojump_clock: trio.abc.Clock,
) -> None:
    """The app of a request that is not streamed runs in the caller's task, and still learns of a disconnect."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await listen(scope, receive, send)
        await trio.sleep(work)
        app.log.append("told")

    async with app_client(app := FakeApp(handler)) as client:
        for work, expected in ((0.5, ["told", "returned"]), (5, ["cancelled"])):
            app.log.clear()
            began = trio.current_time()
            with trio.move_on_after(2) as scope:
                await client.get("/")
            assert scope.cancelled_caught
            assert trio.current_time() - began == pytest.approx(2 + min(work, 1))
            assert app.log == expected


@pytest.mark.anyio
async def test_cancelled_caller_who_reads_whole_cancels_an_app_that_does_not_listen() -> None:
    """An app that waits for something else than a message is cancelled with its caller."""
    app = FakeApp(hang)
    async with app_client(app) as client:
        with anyio.fail_after(5):
            with anyio.move_on_after(0.01) as scope:
                await client.get("/")
        assert scope.cancelled_caught
        assert app.running == 0
        assert app.log[-1] == "cancelled"


@pytest.mark.anyio
async def test_app_that_cancels_its_own_listener_is_not_taken_for_the_caller() -> None:
    """A receive() that the app itself cancels stays cancelled, as in any other place."""

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
@pytest.mark.parametrize("how", ["response", "client"])
async def test_closing_from_another_task(make_client: MakeClient, how: str) -> None:
    """A response that another task closes ends for the one who reads it with a ReadError."""

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
    """Closing gives every app a second, and then five to unwind; one that takes longer is given up, with a word."""

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        with trio.CancelScope(shield=True):
            await trio.sleep(60)

    for handler, seconds in ((listen, 0), (endless, 1), (stubborn, 6)):
        caplog.clear()
        app = FakeApp(handler)
        client = plain_client(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(suppressing, client)
            await trio.sleep(0.5)
            began = trio.current_time()
            await client.aclose()
            assert trio.current_time() - began == pytest.approx(seconds)
            assert bool(app.running) is (handler is stubborn)
            nursery.cancel_scope.cancel()
        messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert messages == ["the app FakeApp is still running a request 5 s after its cancellation"] * (
            handler is stubborn
        )
    await trio.sleep(60)


async def suppressing(client: httpx.AsyncClient) -> None:
    """Send a request whose end does not matter."""
    with contextlib.suppress(httpx.ReadError):
        await client.get("/")


@pytest.mark.trio
async def test_closing_ends_background_work(autojump_clock: trio.abc.Clock) -> None:
    """What an app still does after its whole response has a second left when the client is closed."""

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


@pytest.mark.trio
async def test_closing_under_cancellation_still_ends_all(autojump_clock: trio.abc.Clock) -> None:
    """A cancelled closing is held back until the apps have ended, for they must not outlive the client."""
    app = FakeApp(endless)
    client = plain_client(app)
    response = await client.send(client.build_request("GET", "/"), stream=True)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.aclose()
        assert trio.current_time() == pytest.approx(1)
        assert app.log == ["cancelled"]
        await trio.sleep(1)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    await response.aclose()


@pytest.mark.anyio
async def test_exception_during_cancellation_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What an app raises when nobody is left to take it is not lost: the log has it."""

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
async def test_unread_exception_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that the caller has not read as far as is not lost either."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise Boom("unread")

    app = FakeApp(handler)
    async with plain_client(app) as client:
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
            raise Boom("in the cleaning up")

    async with plain_client(FakeApp(stream_and_listen)) as client:
        async with client.stream("POST", "/", content=body()):
            pass
    assert "in the cleaning up" in caplog.text


@pytest.mark.trio
async def test_app_that_raises_while_it_is_cancelled_by_a_timeout(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.abc.Clock
) -> None:
    """The caller has the timeout, the log the exception; streamed or not."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("while cancelled")

    for make_client in (plain_client, app_client):
        caplog.clear()
        async with make_client(FakeApp(handler)) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", timeout=3)
        assert "while cancelled" in caplog.text


@pytest.mark.anyio
async def test_response_is_read_and_closed_in_other_tasks() -> None:
    """A response may be asked for in one task, read in a second and closed in a third."""
    app = FakeApp(stream_and_listen)
    transport = ASGITransport(app)
    responses: list[httpx.Response] = []
    chunks: list[bytes] = []

    async def ask() -> None:
        responses.append(await transport.handle_async_request(httpx.Request("GET", "http://app")))

    async def read_one() -> None:
        stream = responses[0].stream
        assert isinstance(stream, httpx.AsyncByteStream)
        chunks.append(await anext(aiter(stream)))

    async def close() -> None:
        await responses[0].aclose()

    with anyio.fail_after(5):
        for step in (ask, read_one, close, transport.aclose):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(step)
    assert chunks == [b"some"]
    assert app.log == ["returned"]


@pytest.mark.anyio
async def test_nothing_stays_behind() -> None:
    """After any end of a request, the transport holds nothing of it."""

    async def use(client: httpx.AsyncClient) -> None:
        async with client:
            for handler in (hello, hang, endless):
                app.handler = handler
                with anyio.move_on_after(0.01):
                    await client.get("/")
                with anyio.move_on_after(0.01):
                    async with client.stream("GET", "/") as response:
                        await response.aread()

    app = FakeApp(hello)
    clients = [plain_client(app), app_client(app)]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(use, client)
    assert app.running == 0
    for client in clients:
        transport = client._transport
        assert isinstance(transport, ASGITransport)
        assert (transport._running, transport._ending) == (set(), set())


@pytest.mark.trio
async def test_two_tasks_close_at_once(autojump_clock: trio.abc.Clock) -> None:
    """Who closes a transport that is being closed waits as well."""
    transport = ASGITransport(app := FakeApp(endless))
    await transport.handle_async_request(httpx.Request("GET", "http://app"))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(transport.aclose)
        await trio.sleep(0.5)
        assert len(nursery.child_tasks) == 2
    assert trio.current_time() == pytest.approx(1)
    assert app.log == ["cancelled"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_end_of_the_run_ends_what_is_left(backend: str) -> None:
    """A response that nobody closes does not outlive the event loop's run, nor disturb its end."""

    async def main() -> None:
        for handler in (endless, hang):
            app.handler = handler
            with anyio.move_on_after(0.01):
                await transport.handle_async_request(httpx.Request("GET", "http://app"))

    transport = ASGITransport(app := FakeApp(hang))
    anyio.run(main, backend=backend)
    assert app.log == ["cancelled"] * 2
    assert transport._running == set()


def test_app_that_cancels_its_own_task() -> None:
    """An asyncio app that cancels its task spoils its response, unless that is whole; the caller is not cancelled."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] == "/whole":
                await hello(scope, receive, send)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

        async with plain_client(FakeApp(handler)) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="the app's call was cancelled"):
                await client.get("/")
            assert (await client.get("/whole")).text == "hello"

    asyncio.run(main())


def test_asyncios_own_cancellation_of_the_closing_is_held_back() -> None:
    """A native cancellation of the task that closes a client arrives when requests and app have ended."""

    async def main() -> None:
        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            await send(start())
            await listen(scope, receive, send)
            await asyncio.sleep(0.05)

        client = app_client(app := FakeApp(handler))
        await client.__aenter__()
        await client.send(client.build_request("GET", "/"), stream=True)
        closing = asyncio.ensure_future(client.aclose())
        await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert app.log == ["startup", "returned", "shutdown"]

    asyncio.run(main())
