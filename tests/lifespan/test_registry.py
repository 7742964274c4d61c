"""The registry: apps are told apart by identity, and nothing is left behind."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import (
    LIFESPAN,
    BodyError,
    Boom,
    CrashableApp,
    FakeApp,
    ending,
    nothing_left,
    sending,
    steps,
)
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import (
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanStartupError,
    LifespanTimeoutError,
    app_lifespan_context,
)
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Receive, Scope, Send


class UnhashableApp(FakeApp):
    __hash__ = None  # type: ignore[assignment]


class EqualApp(FakeApp):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualApp)

    def __hash__(self) -> int:
        return 1


class EmptyApp(FakeApp):
    def __len__(self) -> int:
        return 0


@pytest.mark.anyio
@each_row("kind", [FakeApp, UnhashableApp, EqualApp, EmptyApp])
async def test_apps_are_told_apart_by_identity(kind: type[FakeApp]) -> None:
    """Two equal apps are two apps; an app need not be hashable, nor true."""
    first, second = kind(), kind()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(first), app_lifespan_context(second), app_lifespan_context(first):
            assert sorted(current_entries()) == sorted([id(first), id(second)])
        assert (first.log, second.log) == (LIFESPAN, LIFESPAN)


@pytest.mark.trio
async def test_slow_app(autojump_clock: MockClock) -> None:
    """A slow startup or shutdown does not delay other apps."""
    slow = FakeApp(startup=lambda: trio.sleep(10), shutdown=lambda: trio.sleep(10))

    async def hold(app: FakeApp) -> None:
        async with app_lifespan_context(app):
            pass

    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, slow)
            for _ in range(15):
                await trio.sleep(1)
                before = trio.current_time()
                await hold(FakeApp())
                assert trio.current_time() == before
        assert trio.current_time() == 20


async def succeed(app: CrashableApp) -> None:
    """Enter and leave."""
    async with app_lifespan_context(app):
        await steps()


async def raise_in_the_body(app: CrashableApp) -> None:
    """Raise in the body."""
    with pytest.raises(BodyError):
        async with app_lifespan_context(app):
            raise BodyError


async def cancel_the_body(app: CrashableApp) -> None:
    """Be cancelled in the body."""
    with anyio.CancelScope() as scope:
        async with app_lifespan_context(app):
            scope.cancel()
            await anyio.sleep_forever()


async def cancel_the_startup(app: CrashableApp) -> None:
    """Be cancelled while entering."""
    app.startup = anyio.sleep_forever
    with anyio.move_on_after(0):
        async with app_lifespan_context(app):
            pytest.fail("the body ran")


async def fail_the_startup(app: CrashableApp) -> None:
    """Fail to enter."""

    async def fail() -> None:
        raise Boom

    app.startup = fail
    with pytest.raises(LifespanStartupError):
        await succeed(app)


async def crash(app: CrashableApp) -> None:
    """Have the app crash."""
    with pytest.raises(LifespanCrashed):
        async with app_lifespan_context(app), app_lifespan_context(app, cancel_on_crash=True):
            app.crash.set()
            await anyio.sleep_forever()


async def fail_the_shutdown(app: CrashableApp) -> None:
    """Have the app take too long to stop."""
    app.shutdown = anyio.sleep_forever
    with pytest.raises(LifespanTimeoutError):
        async with app_lifespan_context(app, shutdown_timeout=0.001):
            pass


async def share(app: CrashableApp) -> None:
    """Hold it twice at the same time."""
    async with app_lifespan_context(app), app_lifespan_context(app):
        await steps()


async def do_without(app: CrashableApp) -> None:
    """Hold it without hooks."""
    async with app_lifespan_context(app, mode="off"):
        await steps()


async def ask_for_hooks_of_an_app_without(app: CrashableApp) -> None:
    """Require hooks of an app that has none."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        app.note("called")

    with pytest.raises(LifespanNotSupported):
        async with app_lifespan_context(plain, mode="on"):
            pytest.fail("the body ran")


async def report_failure(receive: Receive, send: Send) -> None:
    """Fail to shut down."""
    await receive()
    await send({"type": "lifespan.shutdown.failed"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    "use",
    [
        succeed,
        share,
        do_without,
        raise_in_the_body,
        cancel_the_body,
        cancel_the_startup,
        fail_the_startup,
        crash,
        fail_the_shutdown,
        ask_for_hooks_of_an_app_without,
    ],
)
async def test_nothing_is_left_behind(
    use: Callable[[CrashableApp], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """However a lifespan ends, it leaves no entry, no task and no reference to the app behind."""
    caplog.set_level(logging.CRITICAL, logger="prefect_http")  # log records refer to exceptions and their frames
    with anyio.fail_after(30), nothing_left():
        app = CrashableApp()
        ref = weakref.ref(app)
        await use(app)
        del app
        await steps(3)  # the last exceptions and their tracebacks go
        gc.collect()
    assert ref() is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    "app", [sending("lifespan.startup.failed"), ending(report_failure)], ids=["startup", "shutdown"]
)
async def test_errors_are_not_part_of_a_cycle(app: ASGIApp) -> None:
    """An error is freed as soon as it has been handled, without the garbage collector."""
    errors: list[weakref.ref[LifespanError]] = []
    gc.disable()
    try:
        with anyio.fail_after(30), nothing_left():
            try:
                async with app_lifespan_context(app):
                    pass
            except LifespanError as error:
                errors.append(weakref.ref(error))
            await steps(3)
            assert [ref() for ref in errors] == [None]
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_contexts_hold_on_to_nothing() -> None:
    """A context that was left no longer refers to the app."""
    with anyio.fail_after(30), nothing_left():
        app = FakeApp()
        ref = weakref.ref(app)
        context = app_lifespan_context(app)
        await context.__aenter__()
        await context.__aexit__(None, None, None)
        del app
        gc.collect()
        assert ref() is None


@pytest.mark.anyio
async def test_held_app_is_kept() -> None:
    """A held app is kept alive, and shut down in the end, even if only its context refers to it."""
    log: list[str] = []
    app = FakeApp(log=log)
    context = app_lifespan_context(app)
    with anyio.fail_after(30), nothing_left():
        await context.__aenter__()
        del app
        gc.collect()
        await steps()
        assert log == ["startup", "up"]
        await context.__aexit__(None, None, None)
    assert log == LIFESPAN


@pytest.mark.anyio
async def test_ids_that_are_used_again() -> None:
    """A new app with the id of one that is gone is not mistaken for it."""
    with anyio.fail_after(30), nothing_left():
        for _ in range(6):
            log: list[str] = []
            async with app_lifespan_context(FakeApp(log=log)):
                gc.collect()
            assert log == LIFESPAN
