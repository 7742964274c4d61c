"""Apps that crash after their startup: every holder is stopped, or told, and the next to enter starts afresh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import STARTED, Boom, CrashableApp, nothing_left, steps
from trio.testing import MockClock

from prefect_http import LifespanCrashed, LifespanStartupError, app_lifespan_context
from prefect_http._types import Receive, Scope, Send


async def crash_on_arrival(scope: Scope, receive: Receive, send: Send) -> None:
    """Crash as soon as the startup is complete, before whoever waits for it has woken up."""
    await receive()
    await send(STARTED)
    raise Boom("the app crashed")


@pytest.mark.anyio
async def test_stops_the_body() -> None:
    """A crash stops a body with LifespanCrashed, the app's exception as its cause, and no group."""
    app = CrashableApp()
    log: list[str] = []
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed, match="the app crashed") as caught:
            async with app_lifespan_context(app):
                app.crash.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    log.append("body stopped")
    assert log == ["body stopped"]
    assert type(caught.value) is LifespanCrashed
    assert type(caught.value.__cause__) is Boom
    assert app.log == ["startup", "up", "crash"]


@pytest.mark.anyio
async def test_stops_every_holder() -> None:
    """A crash stops all bodies, in whatever tasks, each with an error of its own."""
    app = CrashableApp()
    errors: list[LifespanCrashed] = []

    async def hold() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(app):
                await anyio.sleep_forever()
        errors.append(caught.value)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(hold)
            await steps()
            app.crash.set()
    assert len({id(error) for error in errors}) == 5
    assert len({id(error.__cause__) for error in errors}) == 1


@pytest.mark.anyio
async def test_stops_nested_holders() -> None:
    """Where contexts of one app nest in one task, a crash ends them all, and is raised once."""
    app = CrashableApp()
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(app), app_lifespan_context(app):
                async with app_lifespan_context(app):
                    app.crash.set()
                    await anyio.sleep_forever()
    assert type(caught.value.__cause__) is Boom


@pytest.mark.anyio
async def test_stops_what_the_body_has_started() -> None:
    """A crash stops the tasks of a body that runs some, and their errors do not get in its way."""
    app = CrashableApp()
    log: list[str] = []

    async def work(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append(f"stopped {number}")

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed):
            async with app_lifespan_context(app):
                async with anyio.create_task_group() as group:
                    for number in range(3):
                        group.start_soon(work, number)
                    await steps()
                    app.crash.set()
    assert sorted(log) == ["stopped 0", "stopped 1", "stopped 2"]


@pytest.mark.anyio
async def test_stops_any_form_of_statement() -> None:
    """A crash stops the body of an ``async with`` statement however it is written."""
    stopped: list[int] = []

    async def crash(one: CrashableApp) -> None:
        one.crash.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(1)

    async def on_one_line(one: CrashableApp, other: CrashableApp) -> None:
        async with app_lifespan_context(other), app_lifespan_context(one) as lifespan:
            await crash(one)
            del lifespan

    async def on_several_lines(one: CrashableApp, other: CrashableApp) -> None:
        async with (
            app_lifespan_context(
                one,
            ),
            app_lifespan_context(other) as lifespan,
        ):
            await crash(one)
            del lifespan

    async def with_a_context_made_before(one: CrashableApp, other: CrashableApp) -> None:
        contexts = [app_lifespan_context(app) for app in (one, other)]
        async with contexts[0], contexts[1]:
            await crash(one)

    async def in_a_loop(one: CrashableApp, other: CrashableApp) -> None:
        for app in (other, one):
            async with app_lifespan_context(app):
                if app is one:
                    await crash(one)

    with anyio.fail_after(30), nothing_left():
        for user in (on_one_line, on_several_lines, with_a_context_made_before, in_a_loop):
            one, other = CrashableApp(), CrashableApp()
            with pytest.raises(LifespanCrashed):
                await user(one, other)
    assert len(stopped) == 4


@pytest.mark.anyio
async def test_other_apps_go_on() -> None:
    """A crash is no matter of those who hold other apps."""
    crashing, other = CrashableApp(name="a"), CrashableApp(name="b")
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(other):
            with pytest.raises(LifespanCrashed):
                async with app_lifespan_context(crashing):
                    crashing.crash.set()
                    await anyio.sleep_forever()
            await steps()
    assert other.log == ["b startup", "b up", "b shutdown", "b down"]


@asynccontextmanager
async def wrapped(app: CrashableApp) -> AsyncIterator[None]:
    """Hold an app in a context manager of one's own."""
    async with app_lifespan_context(app):
        yield


async def by_hand(app: CrashableApp, body: Callable[[], Awaitable[None]]) -> None:
    """Hold an app by hand."""
    context = app_lifespan_context(app)
    await context.__aenter__()
    await body()
    await context.__aexit__(None, None, None)


async def by_stack(app: CrashableApp, body: Callable[[], Awaitable[None]]) -> None:
    """Hold an app through an exit stack."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app_lifespan_context(app))
        await body()


async def by_generator(app: CrashableApp, body: Callable[[], Awaitable[None]]) -> None:
    """Hold an app in an async generator."""
    async with wrapped(app):
        await body()


@pytest.mark.anyio
@pytest.mark.parametrize("hold", [by_hand, by_stack, by_generator])
async def test_told_on_leaving(
    hold: Callable[[CrashableApp, Callable[[], Awaitable[None]]], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Who may leave in another task is not stopped; they learn of the crash from the log, and on leaving."""
    app = CrashableApp()

    async def body() -> None:
        app.crash.set()
        await steps()
        assert "the app crashed" in caplog.text
        caplog.clear()

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            await hold(app, body)
    assert type(caught.value.__cause__) is Boom
    assert caplog.records == []


@pytest.mark.anyio
async def test_everyone_is_told_on_leaving() -> None:
    """All who held a crashed app by hand learn of it, also those who leave long after, when it is up again."""
    app = CrashableApp()
    contexts = [app_lifespan_context(app) for _ in range(3)]
    with anyio.fail_after(30), nothing_left():
        for context in contexts:
            await context.__aenter__()
        app.crash.set()
        await steps()
        for context in contexts[:2]:
            with pytest.raises(LifespanCrashed):
                await context.__aexit__(None, None, None)
        async with app_lifespan_context(app):
            with pytest.raises(LifespanCrashed):
                await contexts[2].__aexit__(None, None, None)
            await steps()
            assert app.log == ["startup", "up", "crash", "startup", "up"]


@pytest.mark.anyio
async def test_crash_before_the_waiters_wake() -> None:
    """An app that crashes between its startup and the waking of those who wait for it lets no body run."""
    log: list[str] = []

    async def enter() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(crash_on_arrival):
                log.append("the body ran")
        log.append(type(caught.value.__cause__).__name__)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(enter)
    assert log == ["Boom"] * 3


@pytest.mark.anyio
async def test_next_starts_afresh() -> None:
    """Who enters after a crash starts the app anew, even while old holders are still on their way out."""
    app = CrashableApp()
    go_on = anyio.Event()

    async def leave_slowly() -> None:
        with pytest.raises(LifespanCrashed):
            async with app_lifespan_context(app):
                app.crash.set()
                with anyio.CancelScope(shield=True):
                    await go_on.wait()

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            group.start_soon(leave_slowly)
            await steps()
            assert app.log == ["startup", "up", "crash"]
            async with app_lifespan_context(app):
                go_on.set()
                await steps()
                assert app.log[3:] == ["startup", "up"]
    assert app.log[3:] == ["startup", "up", "shutdown", "down"]


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["returns", "raises-in-startup"])
async def test_what_is_no_crash(how: str) -> None:
    """An app that returns once it is up has not crashed, nor has one that never came up."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if how == "raises-in-startup":
            raise Boom
        await send(STARTED)

    with anyio.fail_after(30), nothing_left():
        if how == "returns":
            async with app_lifespan_context(app):
                await steps()
        else:
            with pytest.raises(LifespanStartupError):
                async with app_lifespan_context(app):
                    pytest.fail("the body ran")


@pytest.mark.trio
async def test_stopped_without_delay(autojump_clock: MockClock) -> None:
    """A crash stops a body in the very moment it happens, whatever the timeouts are."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await trio.sleep(3)
        raise Boom

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanCrashed):
            async with app_lifespan_context(app):
                await trio.sleep(50)
        assert trio.current_time() == 3
