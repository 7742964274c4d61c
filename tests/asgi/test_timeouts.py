"""ASGITransport: httpx's timeouts, at their exact times in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from support.asgi_apps import (
    FakeApp,
    MakeClient,
    app_client,
    both_clients,
    hang,
    hello,
    last,
    listen,
    part,
    plain_client,
    start,
)

from prefect_http import PrefectHTTPStatusError
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.trio


@both_clients
@pytest.mark.parametrize("handler", [hang, listen])
async def test_no_headers_is_a_read_timeout(
    make_client: MakeClient, handler: ASGIApp, autojump_clock: trio.abc.Clock
) -> None:
    """If an app does not answer within the read timeout, the request raises ReadTimeout at that moment."""
    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.ReadTimeout, match="the app did not start its response within 3 s"):
            await client.get("/", timeout=httpx.Timeout(None, read=3))
        assert trio.current_time() == 3


@both_clients
async def test_each_chunk_has_the_read_timeout(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """If no chunk arrives within the read timeout, the read raises ReadTimeout; empty chunks do not count."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(2)
        await send(start())
        for _ in range(3):
            await trio.sleep(2)
            await send(part(b"x"))
        while True:
            await send(part(b""))
            await trio.sleep(1)

    async with make_client(FakeApp(handler)) as client:
        chunks: list[bytes] = []
        async with client.stream("GET", "/", timeout=httpx.Timeout(None, read=3)) as response:
            with pytest.raises(httpx.ReadTimeout, match="the app sent no more of its response within 3 s"):
                async for chunk in response.aiter_raw():
                    chunks.append(chunk)  # noqa: PERF401
        assert chunks == [b"x"] * 3
        assert trio.current_time() == 11


async def test_each_chunk_has_the_read_timeout_inline(autojump_clock: trio.abc.Clock) -> None:
    """The same holds if the app runs in its caller's task: what counts is the time between chunks with content."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (start(), part(b"x"), part(b"x")):
            await trio.sleep(2)
            await send(message)
        while True:
            await send(part(b""))
            await trio.sleep(1)

    async with app_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.ReadTimeout, match="the app sent no more of its response within 3 s"):
            await client.get("/", timeout=httpx.Timeout(None, read=3))
        assert trio.current_time() == 9


@both_clients
async def test_sub_tasks_of_the_app_count_too(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """An app may send from any of its tasks."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def respond() -> None:
            for message in (start(), part(b"x"), part(b"x"), last(b"x")):
                await trio.sleep(2)
                await send(message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond)
            await trio.sleep(20)

    async with make_client(FakeApp(handler)) as client:
        response = await client.get("/", timeout=httpx.Timeout(None, read=3))
    assert response.content == b"xxx"
    assert trio.current_time() == 20


@both_clients
async def test_background_work_has_no_timeout(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """Once the response is complete, the app may run for as long as it likes."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        await trio.sleep(1000)

    async with make_client(FakeApp(handler)) as client:
        assert (await client.get("/", timeout=3)).text == "hello"
    assert trio.current_time() == 1000


@both_clients
async def test_body_that_is_not_taken_is_a_write_timeout(
    make_client: MakeClient, autojump_clock: trio.abc.Clock
) -> None:
    """If an app does not take the request body within the write timeout, the request raises WriteTimeout."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.WriteTimeout, match="the app did not receive more of the request body within 2 s"):
            await client.post("/", content=b"body", timeout=httpx.Timeout(None, write=2))
        assert trio.current_time() == 2


@both_clients
async def test_chunk_that_is_not_taken_is_a_write_timeout(
    make_client: MakeClient, autojump_clock: trio.abc.Clock
) -> None:
    """The write timeout applies to each chunk, from when the caller has produced it."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await trio.sleep(10)
            yield b"x"

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await trio.sleep_forever()

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.WriteTimeout):
            await client.post("/", content=body(), timeout=httpx.Timeout(5, write=2))
        assert trio.current_time() == 32


@both_clients
async def test_caller_may_take_its_time(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """While the app waits for the caller's own stream, no timeout runs; the read timeout starts at its end."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            await trio.sleep(100)
            yield b"x"
        await trio.sleep(100)

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await trio.sleep_forever()

    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/", content=body(), timeout=5)
        assert trio.current_time() == 405


@both_clients
async def test_write_timeout_ends_with_the_headers(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """An app may answer without taking the request body, however long its response takes."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(10):
            await trio.sleep(4)
            await send(part(b"x"))
        await send(last())

    async with make_client(FakeApp(handler)) as client:
        response = await client.post("/", content=b"unread", timeout=httpx.Timeout(5, write=2))
    assert response.content == b"x" * 10
    assert trio.current_time() == 40


@both_clients
async def test_no_timeouts(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """Without timeouts, a request waits until the caller's own deadline."""
    async with make_client(FakeApp(hang)) as client:
        with trio.move_on_after(100_000) as scope:
            await client.get("/")
        assert scope.cancelled_caught
        assert trio.current_time() == 100_000


async def test_grace_period_after_a_timeout(autojump_clock: trio.abc.Clock) -> None:
    """After a timeout, the app is disconnected and cancelled as after leaving early, but the caller does not wait."""
    app = FakeApp(listen)
    async with plain_client(app) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=3)
        assert app.running == 1
        await trio.testing.wait_all_tasks_blocked()
        assert app.log == ["returned"]
        app.handler = hang
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=3)
        await trio.sleep(0.5)
        assert app.running == 1
        await trio.sleep(0.6)
        assert app.log == ["returned", "cancelled"]


@pytest.mark.parametrize("before", [(), (start(),), (start(500), part(b"some"))])
async def test_inline_app_that_listens_has_its_grace_period_after_a_timeout(
    before: tuple[Message, ...], autojump_clock: trio.abc.Clock
) -> None:
    """An app that runs in its caller's task is disconnected by a timeout, rather than cancelled, in receive()."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        await listen(scope, receive, send)
        await trio.sleep(work)

    app = FakeApp(handler)
    async with app_client(app) as client:
        for work, expected in ((0, "returned"), (0.5, "returned"), (5, "cancelled")):
            began = trio.current_time()
            with pytest.raises((httpx.ReadTimeout, PrefectHTTPStatusError)) as raised:
                await client.get("/", timeout=3)
            assert trio.current_time() - began == pytest.approx(3 + min(work, 1))
            assert app.log[-1] == expected
            if isinstance(raised.value, PrefectHTTPStatusError):
                assert raised.value.response.content == b"some"


@both_clients
async def test_receiving_does_not_extend_the_timeout(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """An app that calls receive() again and again, in several tasks, has no more time than one that does not."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        async def poll(seconds: float) -> None:
            message = None
            while message != {"type": "http.disconnect"}:
                with trio.move_on_after(seconds):
                    message = await receive()
            app.log.append("disconnected")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll, 0.7)
            nursery.start_soon(poll, 1.1)
            await trio.sleep(2)
            await send(start())
            await trio.sleep(2)
            await send(part(b"x"))

    app = FakeApp(handler)
    async with make_client(app) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=3)
        assert trio.current_time() == pytest.approx(7)
    ended = [line for line in app.log if line in ("disconnected", "returned")]
    assert ended == ["disconnected", "disconnected", "returned"]


@both_clients
async def test_timers_end_with_their_request(make_client: MakeClient, autojump_clock: trio.abc.Clock) -> None:
    """A request that has ended leaves no timer that could end a later one."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(2)
        await hello(scope, receive, send)

    async with make_client(FakeApp(handler)) as client:
        for _ in range(5):
            assert (await client.get("/", timeout=3)).text == "hello"
        await trio.sleep(10)


async def test_chunk_at_the_moment_of_the_timeout(autojump_clock: trio.abc.Clock) -> None:
    """A chunk that arrives at the very moment of the timeout counts if it is first, and is never lost."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await trio.sleep(3)
        await send(last(b"x"))

    outcomes: set[bytes | None] = set()
    async with plain_client(FakeApp(handler)) as client:
        for _ in range(60):  # trio shuffles the order of what comes at one time
            try:
                response = await client.get("/", timeout=3)
            except httpx.ReadTimeout:
                outcomes.add(None)
            else:
                outcomes.add(response.content)
    assert outcomes == {None, b"x"}
