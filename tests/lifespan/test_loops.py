"""Several event loops, one after the other and side by side: one registry each."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref

import anyio
import anyio.to_thread
import pytest
from support.lifespan_apps import LIFESPAN, STARTED, FakeApp, nothing_left, steps

from prefect_http import app_lifespan_context
from prefect_http._types import Receive, Scope, Send

BACKENDS = ["asyncio", "trio"]
TWO_LOOPS = pytest.mark.parametrize("backends", list(itertools.product(BACKENDS, BACKENDS)), ids="-then-".join)


@TWO_LOOPS
def test_one_loop_after_the_other(backends: tuple[str, str]) -> None:
    """One app may be held in one loop after the other, of whatever kind, in one thread."""
    app = FakeApp()

    async def hold() -> None:
        with anyio.fail_after(30), nothing_left():
            async with app_lifespan_context(app), app_lifespan_context(app):
                await steps()

    for backend in backends:
        anyio.run(hold, backend=backend)
    assert app.log == LIFESPAN * 2


@TWO_LOOPS
def test_loop_that_ends_with_an_app_held(backends: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A loop that ends while an app is held cancels the app, without a log line; the next loop starts it afresh."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        try:
            await receive()
        finally:
            log.append("ended")

    async def hold() -> None:
        context = app_lifespan_context(app)
        await context.__aenter__()
        contexts.append(context)
        log.append("held")

    contexts: list[object] = []
    for backend in backends:
        anyio.run(hold, backend=backend)
    assert log == ["held", "ended"] * 2
    assert caplog.records == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_loop_that_ended_keeps_nothing(backend: str) -> None:
    """A loop that ended while an app was held does not keep the app alive."""
    app = FakeApp()
    ref = weakref.ref(app)

    async def hold(app: FakeApp) -> None:
        await app_lifespan_context(app).__aenter__()

    anyio.run(hold, app, backend=backend)
    assert app.running == 0
    del app
    gc.collect()
    assert ref() is None


@TWO_LOOPS
def test_left_in_another_loop(backends: tuple[str, str]) -> None:
    """Leaving a context in another loop than it was entered in is a clear error."""
    context = app_lifespan_context(FakeApp())

    async def enter() -> None:
        await context.__aenter__()

    async def leave() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            await context.__aexit__(None, None, None)

    anyio.run(enter, backend=backends[0])
    anyio.run(leave, backend=backends[1])


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_left_in_another_loop_by_mistake(other: str) -> None:
    """Leaving in another thread's loop is an error, and the context can still be left where it was entered."""
    app = FakeApp()
    context = app_lifespan_context(app)

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    with anyio.fail_after(10), nothing_left():
        await context.__aenter__()
        with pytest.raises(RuntimeError, match="event loop"):
            await anyio.to_thread.run_sync(lambda: anyio.run(leave, backend=other))
        assert app.log == ["startup", "up"]
        await leave()
    assert app.log == LIFESPAN


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_left_in_another_loop_while_others_hold_it(other: str) -> None:
    """Leaving in another loop is the same error while others hold the app: users cannot be counted across threads."""
    app = FakeApp()
    context = app_lifespan_context(app)

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    with anyio.fail_after(10), nothing_left():
        async with app_lifespan_context(app):
            await context.__aenter__()
            with pytest.raises(RuntimeError, match="event loop"):
                await anyio.to_thread.run_sync(lambda: anyio.run(leave, backend=other))
        assert app.log == ["startup", "up"]
        await leave()
    assert app.log == LIFESPAN


def test_threads() -> None:
    """Several threads, each with a loop of its own, hold one app independently of one another."""
    logs: dict[str, list[str]] = {}
    everyone_is_up, someone_is_down = threading.Barrier(4), threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await FakeApp(log=logs[threading.current_thread().name])(scope, receive, send)

    async def hold() -> None:
        async with app_lifespan_context(app), app_lifespan_context(app):
            await anyio.to_thread.run_sync(lambda: everyone_is_up.wait(10))
            if threading.current_thread().name != "0":
                await anyio.to_thread.run_sync(lambda: someone_is_down.wait(10))
                assert logs[threading.current_thread().name] == ["startup", "up"]
        someone_is_down.set()

    threads = [
        threading.Thread(target=anyio.run, args=(hold,), kwargs={"backend": backend}, name=str(number))
        for number, backend in enumerate(BACKENDS * 2)
    ]
    for thread in threads:
        logs[thread.name] = []
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert list(logs.values()) == [LIFESPAN] * 4


def test_one_asyncio_loop_run_in_pieces() -> None:
    """An asyncio loop that is run several times is one loop: what is entered in one run may be left in the next."""
    app = FakeApp()
    context = app_lifespan_context(app)
    with asyncio.Runner() as runner:
        runner.run(context.__aenter__())
        assert app.log == ["startup", "up"]
        runner.run(steps())
        runner.run(context.__aexit__(None, None, None))
    assert app.log == LIFESPAN
