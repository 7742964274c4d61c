"""Apps that enter lifespans themselves: their own is an error at once, any other works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest
import trio
from support.lifespan_apps import LIFESPAN, FakeApp, nothing_left, steps
from trio.testing import MockClock

from prefect_http import (
    ASGITransport,
    LifespanError,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
    app_lifespan_context,
)
from prefect_http._types import ASGIApp, Receive, Scope, Send

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

Enter = Callable[[ASGIApp], Awaitable[None]]


async def enter(app: ASGIApp) -> None:
    """Enter an app's lifespan."""
    async with app_lifespan_context(app):
        pass


async def from_child_task(app: ASGIApp) -> None:
    """Enter an app's lifespan in a child task, and pass on its error plain."""
    errors: list[LifespanError] = []

    async def child() -> None:
        try:
            await enter(app)
        except LifespanError as error:
            errors.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    raise errors[0]


async def through_another_app(app: ASGIApp) -> None:
    """Start another app, whose startup enters this one's lifespan, and pass on the error that it saw."""
    with pytest.raises(LifespanStartupError) as caught:
        await enter(FakeApp(startup=lambda: enter(app)))
    assert isinstance(caught.value.__cause__, LifespanError)
    raise caught.value.__cause__


async def through_the_end_of_another_app(app: ASGIApp) -> None:
    """Start and stop another app, whose shutdown enters this one's lifespan, and pass on the error that it saw."""
    with pytest.raises(LifespanShutdownError) as caught:
        await enter(FakeApp(shutdown=lambda: enter(app)))
    assert isinstance(caught.value.__cause__, LifespanError)
    raise caught.value.__cause__


async def from_a_thread(app: ASGIApp) -> None:
    """Enter an app's lifespan from a worker thread."""
    await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(enter, app))


WAYS = pytest.mark.parametrize(
    "way", [enter, from_child_task, through_another_app, through_the_end_of_another_app, from_a_thread]
)


def entering(way: Enter, hook: str) -> tuple[FakeApp, list[str]]:
    """Return an app that enters itself in one of its hooks, and a list of what that raised."""
    errors: list[str] = []

    async def run() -> None:
        try:
            await way(app)
        except LifespanError as error:
            errors.append(str(error))
            raise

    app = FakeApp(startup=run) if hook == "startup" else FakeApp(shutdown=run)
    return app, errors


def check_message(errors: list[str], way: Enter) -> None:
    """Check that the only error says why the app cannot be entered; to a task that it has spawned, also what to do."""
    (error,) = errors
    if way is enter or (way is from_a_thread and "itself" in error):  # on trio, the thread's host task does it
        assert "it would wait for itself" in error
    else:
        assert "a task that an app's own startup or shutdown has spawned" in error
        assert "Enter it while the app is up, or call the app through ASGITransport(app, state=...)" in error


@pytest.mark.anyio
@WAYS
async def test_from_its_own_startup(way: Enter) -> None:
    """An app's startup that enters the app, by whatever detour, gets an error at once; so does whoever started it."""
    app, errors = entering(way, "startup")
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError) as caught:
            await enter(app)
    assert type(caught.value.__cause__) is LifespanError
    check_message(errors, way)


@pytest.mark.anyio
@WAYS
async def test_from_its_own_shutdown(way: Enter) -> None:
    """An app's shutdown that enters the app, by whatever detour, gets an error at once; so does the last to leave."""
    app, errors = entering(way, "shutdown")
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanShutdownError) as caught:
            await enter(app)
    assert type(caught.value.__cause__) is LifespanError
    check_message(errors, way)


@pytest.mark.anyio
async def test_from_its_own_shutdown_while_others_wait() -> None:
    """An app's shutdown that enters the app gets its error even if others already wait to start it anew."""
    log: list[str] = []

    async def shutdown() -> None:
        if log:
            return
        await steps()  # others queue up
        with pytest.raises(LifespanError, match="wait for itself"):
            await enter(app)
        log.append("error")

    app = FakeApp(shutdown=shutdown)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            async with app_lifespan_context(app):
                await steps()
            group.start_soon(enter, app)
            async with app_lifespan_context(app):
                group.start_soon(enter, app)
    assert log == ["error"]


@pytest.mark.trio
@pytest.mark.parametrize("hook", ["startup", "shutdown"])
async def test_without_any_delay(hook: str, autojump_clock: MockClock) -> None:
    """Entering from the inside is an error at once, not after some timeout."""
    app, errors = entering(enter, hook)
    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanError):
            await enter(app)
        assert trio.current_time() == 0
    assert len(errors) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("hook", ["startup", "shutdown"])
async def test_app_that_carries_on(hook: str) -> None:
    """An app that catches the error is fine, and so are its users."""

    async def try_to_enter() -> None:
        with pytest.raises(LifespanError):
            await enter(app)

    app = FakeApp(startup=try_to_enter) if hook == "startup" else FakeApp(shutdown=try_to_enter)
    with anyio.fail_after(30), nothing_left():
        for _ in range(2):
            await enter(app)
    assert app.log == LIFESPAN * 2


@pytest.mark.anyio
async def test_with_mode_off() -> None:
    """With "off" there is nothing to wait for, so an app may enter itself in its own startup."""

    async def startup() -> None:
        async with app_lifespan_context(app, mode="off") as lifespan:
            assert not lifespan.supported

    app = FakeApp(startup=startup)
    with anyio.fail_after(30), nothing_left():
        await enter(app)
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_other_apps() -> None:
    """An app may hold another one while it is up, as apps that mount others do."""
    log: list[str] = []
    inner = FakeApp(log=log, name="inner")
    context = app_lifespan_context(inner)

    async def startup() -> None:
        await context.__aenter__()

    async def shutdown() -> None:
        await context.__aexit__(None, None, None)

    with anyio.fail_after(30), nothing_left():
        await enter(FakeApp(startup=startup, shutdown=shutdown, log=log, name="outer"))
    assert log == [
        *["outer startup", "inner startup", "inner up", "outer up"],
        *["outer shutdown", "inner shutdown", "inner down", "outer down"],
    ]


@pytest.mark.anyio
async def test_siblings_that_share_an_app() -> None:
    """Two apps whose startups enter a third one at the same time share its lifespan."""
    shared = FakeApp(startup=steps)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(enter, FakeApp(startup=lambda: enter(shared)))
    assert shared.log == LIFESPAN


@pytest.mark.anyio
async def test_from_a_task_of_an_app_that_is_up() -> None:
    """Once an app is up, its own tasks may hold it like any other task."""
    held, done = anyio.Event(), anyio.Event()

    async def startup() -> None:
        group.start_soon(work)

    async def work() -> None:
        async with app_lifespan_context(app):
            held.set()
            await done.wait()

    app = FakeApp(startup=startup)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            async with app_lifespan_context(app):
                await held.wait()
            await steps()
            assert app.log == ["startup", "up"]
            done.set()
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_from_a_task_of_an_app_that_is_not_up_yet() -> None:
    """A task that the startup does not wait for gets an error that says what to do, and can do that."""
    log: list[str] = []

    async def startup() -> None:
        group.start_soon(work)
        await steps()

    async def work() -> None:
        with pytest.raises(LifespanError, match=r"call the app through ASGITransport\(app, state=...\)"):
            await enter(app)
        transport = ASGITransport(answer, state={})
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            log.append((await client.get("/")).text)
        while app.log[-1] != "up":
            await steps(1)
        await enter(app)
        log.append("entered")

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"hello"})

    app = FakeApp(startup=startup)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            async with app_lifespan_context(app):
                while len(log) < 2:
                    await steps(1)
    assert log == ["hello", "entered"]
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_from_a_task_that_has_outlived_the_app() -> None:
    """A task that an app's startup has started is an ordinary user once that lifespan is over."""

    async def startup() -> None:
        if app.log.count("startup") == 1:
            group.start_soon(enter_later)

    async def enter_later() -> None:
        await over.wait()
        await enter(app)

    app = FakeApp(startup=startup)
    over = anyio.Event()
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            await enter(app)
            over.set()
    assert app.log == LIFESPAN * 2


@pytest.mark.trio
async def test_apps_that_wait_for_each_other(autojump_clock: MockClock) -> None:
    """Two apps that were started separately and wait for each other's startup are stopped by their timeouts."""

    async def enter_other(other: Callable[[], ASGIApp]) -> None:
        await trio.sleep(1)
        await enter(other())

    first = FakeApp(startup=lambda: enter_other(lambda: second))
    second = FakeApp(startup=lambda: enter_other(lambda: first))

    async def fail(app: ASGIApp, timeout: float) -> None:
        with pytest.raises((LifespanTimeoutError, LifespanStartupError)):
            async with app_lifespan_context(app, startup_timeout=timeout):
                pytest.fail("the body ran")

    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, first, 5)
            nursery.start_soon(fail, second, 10)
        assert trio.current_time() <= 10


@pytest.mark.anyio
@asyncio_only
async def test_from_a_native_task() -> None:
    """A bare asyncio task that an app's startup waits for is part of the app."""

    async def startup() -> None:
        await asyncio.create_task(enter(app))

    app = FakeApp(startup=startup)
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError) as caught:
            await enter(app)
    assert type(caught.value.__cause__) is LifespanError
