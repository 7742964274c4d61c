"""Apps that crash after their startup: that is logged at once, and every holder learns it on leaving."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
import trio
from fastapi import FastAPI
from starlette.applications import Starlette
from support.lifespan_apps import (
    LIFESPAN,
    STARTED,
    WAYS_TO_HOLD,
    Boom,
    CrashableApp,
    Hold,
    by_statement,
    ending,
    nothing_left,
    steps,
)
from trio.testing import MockClock

from prefect_http import LifespanCrashed, LifespanShutdownError, LifespanStartupError, app_lifespan_context
from prefect_http._app import app_name
from prefect_http._redact import safe_exception
from prefect_http._types import ASGIApp, Receive, Scope, Send

every_way = pytest.mark.parametrize("hold", WAYS_TO_HOLD)
INTERRUPTS = [KeyboardInterrupt(), SystemExit(3)]


async def crash_on_arrival(scope: Scope, receive: Receive, send: Send) -> None:
    """Crash as soon as the startup is complete, before whoever waits for it has woken up."""
    await receive()
    await send(STARTED)
    raise Boom("the app crashed")


@pytest.mark.anyio
@every_way
async def test_logged_at_once_and_raised_on_leaving(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    """The body goes on; a crash is logged once, at level ERROR, and leaving raises LifespanCrashed, in no group."""
    app = CrashableApp()
    log: list[str] = []

    async def body() -> None:
        app.crash.set()
        await steps()
        log.extend(record.getMessage() for record in caplog.records)
        await steps()
        log.append("the body ends")

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed, match="the app crashed") as caught:
            await hold(app, body)
    assert type(caught.value) is LifespanCrashed
    assert type(caught.value.__cause__) is Boom
    assert app.log == ["startup", "up", "crash"]
    assert log == [str(caught.value), "the body ends"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("prefect_http", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[1] is caught.value.__cause__


@pytest.mark.trio
@every_way
async def test_the_body_takes_its_time(hold: Hold, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """The log line comes in the very moment of the crash; the body still ends when it would have ended."""

    async def crash_after_3_seconds(receive: Receive, send: Send) -> None:
        await trio.sleep(3)
        raise Boom

    async def body() -> None:
        await trio.sleep(2.9)
        assert caplog.records == []
        await trio.sleep(0.2)
        assert len(caplog.records) == 1
        await trio.sleep(50)

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanCrashed):
            await hold(ending(crash_after_3_seconds), body)
        assert trio.current_time() == pytest.approx(53.1)
    assert len(caplog.records) == 1


@pytest.mark.anyio
async def test_every_holder_learns_it(caplog: pytest.LogCaptureFixture) -> None:
    """All holders, in whatever tasks, get an error of their own with the same cause; it is logged once."""
    app = CrashableApp()
    errors: list[LifespanCrashed] = []

    async def user() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            await by_statement(app, lambda: steps(60))
        errors.append(caught.value)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(user)
            await steps()
            app.crash.set()
    assert len({id(error) for error in errors}) == 5
    assert len({id(error.__cause__) for error in errors}) == 1
    assert len(caplog.records) == 1


@pytest.mark.anyio
async def test_nested_holders() -> None:
    """Where contexts of one app nest in one task, the innermost raises, and the others note it."""
    app = CrashableApp()

    async def body() -> None:
        app.crash.set()
        await steps()

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(app), app_lifespan_context(app):
                await by_statement(app, body)
    assert type(caught.value.__cause__) is Boom
    assert len(caught.value.__notes__) == 2


@pytest.mark.anyio
async def test_everyone_learns_it_on_leaving() -> None:
    """All who held a crashed app learn of it, even those who leave long after, when the app is up again."""
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
async def test_left_in_another_task() -> None:
    """A crashed app may be left in another task, like any other."""
    app = CrashableApp()
    context = app_lifespan_context(app)
    errors: list[BaseException] = []

    async def leave() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            await context.__aexit__(None, None, None)
        errors.append(caught.value)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            await context.__aenter__()
            app.crash.set()
            await steps()
            group.start_soon(leave)
    assert len(errors) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("cancel_on_crash", [False, True])
async def test_other_apps_go_on(cancel_on_crash: bool) -> None:
    """A crash does not concern those who hold other apps."""
    crashing, other = CrashableApp(name="a"), CrashableApp(name="b")

    async def body() -> None:
        crashing.crash.set()
        await steps()

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(other, cancel_on_crash=cancel_on_crash):
            with pytest.raises(LifespanCrashed):
                await by_statement(crashing, body, cancel_on_crash=cancel_on_crash)
            await steps()
    assert other.log == ["b startup", "b up", "b shutdown", "b down"]


@pytest.mark.anyio
@pytest.mark.parametrize("cancel_on_crash", [False, True])
async def test_crash_before_the_waiters_wake(cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """If an app crashes between its startup and the waking of those who wait for it, no body runs."""
    log: list[str] = []

    async def body() -> None:
        log.append("the body ran")

    async def enter() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            await by_statement(crash_on_arrival, body, cancel_on_crash=cancel_on_crash)
        log.append(type(caught.value.__cause__).__name__)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(enter)
    assert log == ["Boom"] * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.anyio
async def test_next_starts_afresh() -> None:
    """Whoever enters after a crash starts the app anew, even while old holders are still on their way out."""
    app = CrashableApp()
    go_on = anyio.Event()

    async def leave_slowly() -> None:
        app.crash.set()
        await go_on.wait()

    async def user() -> None:
        with pytest.raises(LifespanCrashed):
            await by_statement(app, leave_slowly)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            group.start_soon(user)
            await steps()
            assert app.log == ["startup", "up", "crash"]
            async with app_lifespan_context(app):
                go_on.set()
                await steps()
                assert app.log[3:] == ["startup", "up"]
    assert app.log[3:] == ["startup", "up", "shutdown", "down"]


@pytest.mark.anyio
async def test_entered_around_the_moment_of_the_crash() -> None:
    """A user that enters while the app crashes holds the old lifespan or a new one; entering itself never fails."""
    fresh = 0
    with anyio.fail_after(30), nothing_left():
        for delay in range(12):
            app = CrashableApp()
            first, second = app_lifespan_context(app), app_lifespan_context(app)
            await first.__aenter__()
            app.crash.set()
            await steps(delay)
            await second.__aenter__()
            await steps()
            with pytest.raises(LifespanCrashed):
                await first.__aexit__(None, None, None)
            if app.log == ["startup", "up", "crash"]:
                with pytest.raises(LifespanCrashed):
                    await second.__aexit__(None, None, None)
            else:
                fresh += 1
                await second.__aexit__(None, None, None)
                assert app.log == ["startup", "up", "crash", *LIFESPAN]
    assert 0 < fresh < 12


@pytest.mark.anyio
@pytest.mark.parametrize("error", [*INTERRUPTS, BaseExceptionGroup("of a nursery", INTERRUPTS)], ids=repr)
@pytest.mark.parametrize("cancel_on_crash", [False, True])
async def test_interrupt_or_exit(error: BaseException, cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An app that is interrupted or exits has crashed; leaving raises that itself, even over the body's own error.

    So does one with a nursery, in which the interrupt strikes, with the nursery's group.
    """
    app = CrashableApp(error=error)
    log: list[str] = []

    async def body() -> None:
        app.crash.set()
        with anyio.CancelScope(shield=True):
            await steps()
        log.append("still here")
        if len(app.log) > 3:
            raise Boom("the body's own")

    with anyio.fail_after(30), nothing_left():
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                await by_statement(app, body, cancel_on_crash=cancel_on_crash)
            assert caught.value is error
    assert log == ["still here"] * 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert type(error).__name__ in caplog.text


@pytest.mark.anyio
async def test_what_a_crashed_app_sends_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """A task that outlives the crashed app and goes on sending gets errors, and adds nothing to the log."""

    async def crash(receive: Receive, send: Send) -> None:
        group.start_soon(send_later, send)
        raise Boom

    async def send_later(send: Send) -> None:
        await steps(5)
        with pytest.raises(Exception, match="nothing more"):
            await send(STARTED)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            with pytest.raises(LifespanCrashed):
                await by_statement(ending(crash), steps)
    assert len(caplog.records) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["returns", "raises-in-startup"])
async def test_what_is_not_a_crash(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app that returns once it is up has not crashed, nor has one that never came up."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if how == "raises-in-startup":
            raise Boom
        await send(STARTED)

    with anyio.fail_after(30), nothing_left():
        if how == "returns":
            await by_statement(app, steps)
        else:
            with pytest.raises(LifespanStartupError):
                await by_statement(app, steps)
    assert caplog.records == []


@pytest.mark.anyio
async def test_app_that_crashes_as_the_last_user_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """An app that crashes just as its last user leaves is logged and raised like any other crash."""
    leaving: anyio.Event

    async def crash(receive: Receive, send: Send) -> None:
        await leaving.wait()
        raise Boom("at the end")

    async def body() -> None:
        leaving.set()

    crashes = 0
    with anyio.fail_after(30), nothing_left():
        for _ in range(10):  # trio may run the app's task before or after the root task
            leaving = anyio.Event()
            with pytest.raises((LifespanCrashed, LifespanShutdownError), match="at the end") as caught:
                await by_statement(ending(crash), body)
            crashes += caught.type is LifespanCrashed
    assert len(caplog.records) == crashes


# Frameworks announce a crash as a failed shutdown.


@asynccontextmanager
async def crashing_hooks(app: object) -> AsyncIterator[None]:
    """Hooks of a framework, of which a background job fails while the app is up."""

    async def job() -> None:
        await anyio.sleep(0.02)
        raise Boom("the database is gone")

    async with anyio.create_task_group() as group:
        group.start_soon(job)
        yield


async def like_starlette(scope: Scope, receive: Receive, send: Send) -> None:
    """Do what Starlette, FastAPI and Litestar do in their lifespan."""
    await receive()
    try:
        async with crashing_hooks(None):
            await send(STARTED)
            await receive()
    except BaseException:
        await send({"type": "lifespan.shutdown.failed", "message": "Traceback (most recent call last):\n..."})
        raise


def litestar() -> ASGIApp:
    """Return an app of Litestar's, if that is installed."""
    app: ASGIApp = pytest.importorskip("litestar").Litestar([], lifespan=[crashing_hooks], logging_config=None)
    return app


FRAMEWORKS: dict[str, Callable[[], ASGIApp]] = {
    "like them": lambda: like_starlette,
    "Starlette": lambda: Starlette(lifespan=crashing_hooks),
    "FastAPI": lambda: FastAPI(lifespan=crashing_hooks),
    "Litestar": litestar,
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_crash_that_a_framework_announces(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The cause of the error is what the hooks have raised; the message, which is logged, names it."""
    app = FRAMEWORKS[name]()
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(app, cancel_on_crash=True):
                await anyio.sleep_forever()
    cause = caught.value.__cause__
    assert cause is not None
    assert str(caught.value) == f"{app_name(app)} crashed in its lifespan: {safe_exception(cause)}"
    while isinstance(cause, BaseExceptionGroup):
        (cause,) = cause.exceptions
    assert isinstance(cause, Boom)
    assert [record.getMessage() for record in caplog.records] == [str(caught.value)]


@pytest.mark.anyio
async def test_announced_crash_of_an_app_that_returns() -> None:
    """An app that announces a crash and raises nothing has crashed with its own message, and without a cause."""

    async def fail(receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.shutdown.failed", "message": "out of coffee"})

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed, match=r"crashed in its lifespan: out of coffee$") as caught:
            await by_statement(ending(fail), steps)
    assert caught.value.__cause__ is None


@pytest.mark.trio
async def test_announced_crash_of_an_app_that_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that announces a crash has one second to end; its users learn of it when they leave, or at the end."""

    async def fail(receive: Receive, send: Send) -> None:
        await trio.sleep(0.1)
        await send({"type": "lifespan.shutdown.failed", "message": "out of coffee"})
        await receive()

    async def body() -> None:
        await trio.sleep(seconds)
        log.append(len(caplog.records))

    for seconds, logged in ((0.5, 0), (1.5, 1)):
        caplog.clear()
        log: list[int] = []
        began = trio.current_time()
        with nothing_left():
            with pytest.raises(LifespanCrashed, match=r"out of coffee$"):
                await by_statement(ending(fail), body)
        assert trio.current_time() == pytest.approx(began + seconds)
        assert log == [logged]
        assert len(caplog.records) == 1


@pytest.mark.trio
async def test_announced_crash_of_an_app_that_cannot_be_cancelled(autojump_clock: MockClock) -> None:
    """One that ignores that is waited for a second longer, and its users get the error."""

    async def fail(receive: Receive, send: Send) -> None:
        await trio.sleep(0.1)
        await send({"type": "lifespan.shutdown.failed", "message": "out of coffee"})
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    with pytest.raises(LifespanCrashed, match=r"out of coffee$"):
        await by_statement(ending(fail), lambda: trio.sleep(3))
    assert trio.current_time() == pytest.approx(4)
    await trio.sleep(20)


@pytest.mark.anyio
async def test_announced_crash_on_arrival() -> None:
    """If the app announces a crash right after its startup, whoever waits for it gets the error, and starts no body."""

    async def fail(receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.shutdown.failed", "message": "out of coffee"})
        await steps()
        raise Boom

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed):
            await by_statement(ending(fail), lambda: pytest.fail("the body ran"))


@pytest.mark.anyio
async def test_app_that_fails_as_it_is_asked_to_stop() -> None:
    """A failure that the app announces before it has received the message counts as one of the shutdown."""

    async def fail(receive: Receive, send: Send) -> None:
        await leaving.wait()
        await steps()
        await send({"type": "lifespan.shutdown.failed", "message": "out of coffee"})

    async def body() -> None:
        leaving.set()

    leaving = anyio.Event()
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanShutdownError, match="out of coffee"):
            await by_statement(ending(fail), body)
