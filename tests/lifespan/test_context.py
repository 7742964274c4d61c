"""app_lifespan_context: what it gives, what the app sees, and which arguments it takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import ContextVar
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import LIFESPAN, STARTED, FakeApp, nothing_left, steps
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import Lifespan, app_lifespan_context
from prefect_http._types import ASGIApp, Receive, Scope, Send


@pytest.mark.anyio
async def test_hooks_run_around_the_body() -> None:
    """Startup is complete before the body runs, and shutdown begins after it ends."""
    log: list[str] = []
    app = FakeApp(startup=steps, shutdown=steps, log=log)
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            log.append("body begins")
            await steps()
            log.append("body ends")
        log.append("left")
    assert log == ["startup", "up", "body begins", "body ends", "shutdown", "down", "left"]


@pytest.mark.anyio
async def test_gives_a_lifespan() -> None:
    """Entering gives the app, what its startup put into the state, and that it speaks the protocol."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        scope["state"]["pool"] = pool
        await send(STARTED)
        await receive()

    pool = object()
    with anyio.fail_after(30):
        async with app_lifespan_context(app) as lifespan:
            assert type(lifespan) is Lifespan
            assert lifespan.app is app
            assert lifespan.state == {"pool": pool}
            assert lifespan.supported is True
            with pytest.raises(dataclasses.FrozenInstanceError):
                lifespan.supported = False  # type: ignore[misc]


@pytest.mark.anyio
async def test_scope() -> None:
    """Each time, the app is called with a lifespan scope of ASGI 3.0 and a new, empty state."""
    app = FakeApp()
    with anyio.fail_after(30):
        for _ in range(2):
            async with app_lifespan_context(app) as lifespan:
                assert app.scopes[-1] == {
                    "type": "lifespan",
                    "asgi": {"version": "3.0", "spec_version": "2.0"},
                    "state": {},
                }
                assert lifespan.state is app.scopes[-1]["state"]
                lifespan.state["used"] = True
    assert len(app.scopes) == 2


@pytest.mark.anyio
async def test_state_is_shared() -> None:
    """Everyone who holds the app sees the same state."""
    app = FakeApp()
    with anyio.fail_after(30):
        async with app_lifespan_context(app) as first, app_lifespan_context(app) as second:
            assert first.state is second.state


@pytest.mark.anyio
async def test_app_sees_the_starters_context() -> None:
    """The app runs in a copy of the context of whoever starts it, and does not change the original."""
    color = ContextVar("color", default="none")
    seen: list[str] = []

    async def startup() -> None:
        seen.append(color.get())
        color.set("blue")

    async def shutdown() -> None:
        seen.append(color.get())

    color.set("red")
    with anyio.fail_after(30):
        async with app_lifespan_context(FakeApp(startup=startup, shutdown=shutdown)):
            assert color.get() == "red"
            color.set("green")
    assert seen == ["red", "blue"]


@pytest.mark.anyio
async def test_can_be_started_anew() -> None:
    """Once everyone has left, the app can be started again."""
    app = FakeApp()
    with anyio.fail_after(30):
        for _ in range(3):
            with nothing_left():
                async with app_lifespan_context(app):
                    pass
    assert app.log == LIFESPAN * 3


@pytest.mark.anyio
async def test_nothing_happens_before_entering() -> None:
    """Making a context starts nothing."""
    app = FakeApp()
    with nothing_left():
        app_lifespan_context(app)
        await steps()
    assert app.log == []


@pytest.mark.anyio
async def test_app_that_sends_before_it_receives() -> None:
    """An app that announces its startup without having asked for the message is up, and is shut down as others are."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STARTED)
        log.append(str((await receive())["type"]))

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode="on"):
            log.append("body")
    assert log == ["body", "lifespan.shutdown"]


@pytest.mark.anyio
@pytest.mark.parametrize("waits", [True, False], ids=["waits", "returns"])
async def test_app_without_shutdown_hooks(waits: bool) -> None:
    """An app may return instead of answering its shutdown message, or as soon as it is up."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        if waits:
            await receive()
        log.append("returns")

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app) as first:
            await steps()
            async with app_lifespan_context(app) as second:
                log.append("body")
    assert (first.supported, second.supported) == (True, True)
    assert sorted(log) == ["body", "returns"]


@pytest.mark.anyio
async def test_app_that_reads_ahead() -> None:
    """An app may ask for its shutdown message before it has answered its startup message."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while len(log) < 2:
                log.append(str((await receive())["type"]))
            await send({"type": "lifespan.shutdown.complete"})

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await steps()
            await send(STARTED)

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            assert log == ["lifespan.startup"]
    assert log == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.anyio
async def test_asks_again_after_the_end() -> None:
    """An app that asks for more messages after its shutdown is complete is cancelled at once, whatever its timeout."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        try:
            await receive()
        finally:
            log.append("cancelled")

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, shutdown_timeout=math.inf):
            pass
    assert log == ["cancelled"]


@each_row("app", [None, "myapp:app", {}, object()], ids=["None", "str", "dict", "object"])
def test_app_must_be_callable(app: object) -> None:
    """What is not callable is refused at once, with its repr in the message."""
    with pytest.raises(TypeError, match="app must be an ASGI app"):
        app_lifespan_context(cast("ASGIApp", app))


@each_row("name", ["startup_timeout", "shutdown_timeout"])
@each_row("seconds", [0, -1, -0.5, math.nan, -math.inf, "30", False, True, [], 1j])
def test_bad_timeout(name: str, seconds: object) -> None:
    """A timeout that is not a number of seconds above 0 is refused at once, by its name."""
    arguments: dict[str, Any] = {name: seconds}
    with pytest.raises(ValueError, match=name):
        app_lifespan_context(FakeApp(), **arguments)


@each_row("mode", ["", "AUTO", None, True, [], b"on"])
def test_bad_mode(mode: object) -> None:
    """A mode that does not exist is refused at once."""
    arguments: dict[str, Any] = {"mode": mode}
    with pytest.raises(ValueError, match="mode must be 'auto', 'on' or 'off'"):
        app_lifespan_context(FakeApp(), **arguments)


@pytest.mark.anyio
@each_row("seconds", [1, 0.5, 10**400, math.inf, None])
async def test_good_timeout(seconds: float | None) -> None:
    """Whole numbers of any size, fractions, infinity and None are timeouts."""
    app = FakeApp()
    with anyio.fail_after(30):
        async with app_lifespan_context(app, startup_timeout=seconds, shutdown_timeout=seconds):
            pass
    assert app.log == LIFESPAN


@pytest.mark.trio
@pytest.mark.parametrize("timeout", [math.inf, None], ids=repr)
async def test_no_limit(timeout: float | None, autojump_clock: MockClock) -> None:
    """With infinity or None, the startup and the shutdown may take any time."""
    app = FakeApp(startup=lambda: trio.sleep(50_000), shutdown=lambda: trio.sleep(80_000))
    async with app_lifespan_context(app, startup_timeout=timeout, shutdown_timeout=timeout):
        assert trio.current_time() == pytest.approx(50_000)
    assert trio.current_time() == pytest.approx(130_000)
    assert app.log == LIFESPAN


Use = Callable[[AbstractAsyncContextManager[Lifespan]], Awaitable[object]]


async def enter(context: AbstractAsyncContextManager[Lifespan]) -> None:
    """Enter a context by hand."""
    await context.__aenter__()


async def leave(context: AbstractAsyncContextManager[Lifespan]) -> None:
    """Leave a context by hand."""
    await context.__aexit__(None, None, None)


@pytest.mark.anyio
@each_row("mode", ["auto", "on", "off"])
@each_row(
    ("before", "wrong"),
    [([enter], enter), ([enter, leave], enter), ([], leave), ([enter, leave], leave)],
    ids=["entered-twice", "entered-again", "left-before-entering", "left-twice"],
)
async def test_used_once(before: list[Use], wrong: Use, mode: Any) -> None:
    """A context is entered once and left once; anything else is a clear error, and other users do not notice."""
    app = FakeApp()
    context = app_lifespan_context(app, mode=mode)
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            async with AsyncExitStack() as stack:
                for use in before:
                    await use(context)
                with pytest.raises(RuntimeError, match="context"):
                    await wrong(context)
                if before == [enter]:
                    stack.push_async_exit(context)
                assert app.log == ["startup", "up"]
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_left_while_entering() -> None:
    """Leaving a context that is still being entered is a clear error, and the entering goes on."""
    go_on = anyio.Event()
    app = FakeApp(startup=go_on.wait)
    context = app_lifespan_context(app)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            group.start_soon(enter, context)
            await steps()
            with pytest.raises(RuntimeError, match="not entered"):
                await leave(context)
            go_on.set()
        await leave(context)
    assert app.log == LIFESPAN
