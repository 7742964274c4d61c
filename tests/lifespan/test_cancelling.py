"""Cancellation of users, at every await: it affects no other user, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
from support.lifespan_apps import LIFESPAN, Boom, FakeApp, Hook, nothing, nothing_left, steps
from support.rows import each_row

from prefect_http import LifespanShutdownError, PrefectHttpxClient, app_lifespan_context
from prefect_http._types import ASGIApp

EVERY_AWAIT = range(30)
"""Numbers of rounds of the scheduler; the lifespans here take fewer to start, to be held and to stop."""

Stop = Callable[[], object]
Run = Callable[[Callable[[], Awaitable[None]], Callable[[Stop], Awaitable[None]]], Awaitable[None]]


async def run_in_scope(user: Callable[[], Awaitable[None]], driver: Callable[[Stop], Awaitable[None]]) -> None:
    """Run a user in a cancel scope, which the driver can cancel."""

    async def run() -> None:
        with scope:
            await user()

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        group.start_soon(run)
        await driver(scope.cancel)


async def run_in_task(user: Callable[[], Awaitable[None]], driver: Callable[[Stop], Awaitable[None]]) -> None:
    """Run a user in an asyncio task, which the driver can cancel."""

    async def run() -> None:
        await user()

    task = asyncio.create_task(run())
    await driver(task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def come_and_go(app: ASGIApp, cancel_on_crash: bool = False) -> None:
    """Hold an app for a few steps."""
    async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash):
        await steps(3)


ways_to_cancel = pytest.mark.parametrize(
    ("run", "anyio_backend"),
    [(run_in_scope, "asyncio"), (run_in_scope, "trio"), (run_in_task, "asyncio")],
    ids=["asyncio-scope", "trio-scope", "asyncio-task"],
)


@pytest.mark.anyio
@ways_to_cancel
@pytest.mark.parametrize("slow", ["startup", "shutdown", "neither"])
async def test_cancelled_at_every_await(run: Run, slow: str) -> None:
    """Wherever the only user is cancelled, the hooks are balanced, nothing stays, and the app can be started anew."""
    cancel_on_crash = slow == "neither"
    took_effect = 0
    with anyio.fail_after(20):
        for delay in EVERY_AWAIT:
            app = FakeApp(
                startup=(lambda: steps(6)) if slow == "startup" else nothing,
                shutdown=(lambda: steps(6)) if slow == "shutdown" else nothing,
            )

            async def drive(stop: Stop, delay: int = delay) -> None:
                await steps(delay)
                stop()

            with nothing_left():
                await run(lambda app=app: come_and_go(app, cancel_on_crash), drive)  # type: ignore[misc]
            assert app.log in ([], ["startup"], LIFESPAN), delay
            took_effect += app.log != LIFESPAN
            app.log.clear()
            await come_and_go(app)
            assert app.log == LIFESPAN
    assert 0 < took_effect < len(EVERY_AWAIT)


@pytest.mark.anyio
@ways_to_cancel
async def test_cancelled_starter(run: Run) -> None:
    """Wherever the user that starts the app is cancelled, those who came later get a working lifespan."""
    with anyio.fail_after(20):
        for delay in EVERY_AWAIT:
            app = FakeApp(startup=lambda: steps(6), shutdown=lambda: steps(6))
            bodies: list[str] = []

            async def other(app: FakeApp = app, bodies: list[str] = bodies) -> None:
                async with app_lifespan_context(app):
                    bodies.append(app.log[-1])
                    await steps(3)
                    bodies.append(app.log[-1])

            async def drive(stop: Stop, delay: int = delay, other: Hook = other) -> None:
                async with anyio.create_task_group() as group:
                    await anyio.lowlevel.checkpoint()
                    group.start_soon(other)
                    await steps(delay)
                    group.start_soon(other)
                    stop()

            with nothing_left():
                await run(lambda app=app: come_and_go(app), drive)  # type: ignore[misc]
            assert bodies == ["up"] * 4, delay
            assert re.fullmatch(r"(startup ){0,2}(startup up shutdown down ){1,2}", " ".join([*app.log, ""])), delay


@pytest.mark.anyio
async def test_shutdown_problem_after_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever the only user is cancelled, even while entering, a shutdown that fails then is logged."""
    shutdowns = 0

    async def fail() -> None:
        raise Boom("disk full")

    with anyio.fail_after(20):
        for delay in EVERY_AWAIT:
            app = FakeApp(shutdown=fail)

            async def use(app: FakeApp = app) -> None:
                with suppress(LifespanShutdownError):
                    async with app_lifespan_context(app):
                        await anyio.sleep_forever()

            async def drive(stop: Stop, delay: int = delay) -> None:
                await steps(delay)
                stop()

            with nothing_left():
                await run_in_scope(use, drive)
            assert ("shutdown" in app.log) is ("disk full" in caplog.text), delay
            shutdowns += "shutdown" in app.log
            caplog.clear()
    assert 0 < shutdowns < len(EVERY_AWAIT)


def client_of(app: ASGIApp) -> AbstractAsyncContextManager[object]:
    """Return a client that holds an app."""
    return PrefectHttpxClient(app=app)


@pytest.mark.anyio
@ways_to_cancel
@each_row("hold", [app_lifespan_context, client_of])
async def test_cancelled_during_the_shutdown(
    run: Run, hold: Callable[[ASGIApp], AbstractAsyncContextManager[object]]
) -> None:
    """A cancellation that comes due during the shutdown is held back until its end, and raised then."""
    log: list[str] = []
    go_on = anyio.Event()

    async def user() -> None:
        try:
            async with hold(app):
                pass
            log.append("the code goes on")
        finally:
            log.append(app.log[-1])

    async def drive(stop: Stop) -> None:
        while app.log[-1:] != ["shutdown"]:
            await anyio.lowlevel.checkpoint()
        stop()
        await steps()
        assert log == []
        go_on.set()

    app = FakeApp(shutdown=go_on.wait)
    with anyio.fail_after(30), nothing_left():
        await run(user, drive)
    assert log == ["down"]


@pytest.mark.anyio
@ways_to_cancel
@pytest.mark.parametrize("hold", [app_lifespan_context, client_of])
async def test_cancelled_during_a_shutdown_that_fails(
    run: Run, hold: Callable[[ASGIApp], AbstractAsyncContextManager[object]], caplog: pytest.LogCaptureFixture
) -> None:
    """The cancellation is raised, and the problem is logged and noted on it."""
    notes: list[str] = []
    go_on = anyio.Event()

    async def fail() -> None:
        await go_on.wait()
        raise Boom("disk full")

    async def user() -> None:
        try:
            async with hold(app):
                pass
        except anyio.get_cancelled_exc_class() as error:
            notes.extend(error.__notes__)
            raise

    async def drive(stop: Stop) -> None:
        while app.log[-1:] != ["shutdown"]:
            await anyio.lowlevel.checkpoint()
        stop()
        await steps()
        go_on.set()

    app = FakeApp(shutdown=fail)
    with anyio.fail_after(30), nothing_left():
        await run(user, drive)
    assert "disk full" in caplog.text
    assert len(notes) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("hold", [app_lifespan_context, client_of])
async def test_body_that_raises_and_is_cancelled_during_the_shutdown(
    hold: Callable[[ASGIApp], AbstractAsyncContextManager[object]],
) -> None:
    """The body's own exception wins over a cancelled scope, which takes effect at the next checkpoint."""

    async def shutdown() -> None:
        scope.cancel()
        await steps()

    app = FakeApp(shutdown=shutdown)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope, pytest.raises(Boom):
            async with hold(app):
                raise Boom
    assert app.log == LIFESPAN


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_entered_in_a_cancelled_scope(mode: Literal["auto", "off"]) -> None:
    """Entering in a scope that is already cancelled does not even call the app."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with app_lifespan_context(app, mode=mode):
                pytest.fail("the body ran")
        assert scope.cancelled_caught
    assert app.scopes == []


@pytest.mark.anyio
async def test_entered_in_a_shield() -> None:
    """In a shielded scope, entering, holding and leaving work in spite of a cancellation outside."""
    app = FakeApp(startup=steps, shutdown=steps)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                async with app_lifespan_context(app):
                    await steps()
                    assert app.log == ["startup", "up"]
                assert app.log == LIFESPAN
            await anyio.lowlevel.checkpoint()
            pytest.fail("the cancellation got lost")


@pytest.mark.anyio
async def test_entered_in_a_cancelled_shield() -> None:
    """A shielded scope that is cancelled itself does not protect from that."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope(shield=True) as scope:
            scope.cancel()
            async with app_lifespan_context(app):
                pytest.fail("the body ran")
    assert app.scopes == []


@pytest.mark.anyio
async def test_app_does_not_see_the_starters_scopes() -> None:
    """The cancellation of whoever started the app does not reach into the app that others hold."""
    app = FakeApp(shutdown=steps)
    started = anyio.Event()

    async def start() -> None:
        with scope:
            async with app_lifespan_context(app):
                started.set()
                await anyio.sleep_forever()

    async def other() -> None:
        await started.wait()
        async with app_lifespan_context(app):
            scope.cancel()
            await steps(60)
            assert app.log == ["startup", "up"]

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()
            group.start_soon(start)
            group.start_soon(other)
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_all_waiters_cancelled() -> None:
    """When all who wait for a startup are cancelled, the startup is cancelled too, and the last one sees it end."""
    log: list[str] = []

    async def startup() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await steps(5)
            log.append("undone")

    app = FakeApp(startup=startup)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(come_and_go, app)
                await steps()
                scope.cancel()
        assert log == ["undone"]
    assert app.log == ["startup"]
