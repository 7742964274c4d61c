"""What only asyncio has: native cancellation, and runs that end with tasks under way."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from support.lifespan_apps import (
    LIFESPAN,
    STARTED,
    BodyError,
    Boom,
    CrashableApp,
    FakeApp,
    run_on_asyncio,
    sending,
    steps,
)
from support.rows import each_row

from prefect_http import (
    LifespanCrashed,
    LifespanError,
    LifespanStartupError,
    LifespanTimeoutError,
    app_lifespan_context,
)
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Receive, Scope, Send

FAILING_SHUTDOWN = "lifespan.shutdown.failed"


async def hold(app: ASGIApp, *, cancel_on_crash: bool = False) -> None:
    """Hold an app until cancelled."""
    async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash):
        await asyncio.get_running_loop().create_future()


def test_cancelled_body() -> None:
    """A task that is cancelled in its body runs the shutdown hooks to their end, and is cancelled."""
    app = FakeApp(shutdown=steps)

    async def main() -> None:
        task = asyncio.create_task(hold(app))
        await steps()
        task.cancel("native")
        with pytest.raises(asyncio.CancelledError, match="native"):
            await task
        assert task.cancelled()

    run_on_asyncio(main)
    assert app.log == LIFESPAN


@pytest.mark.parametrize("times", [1, 3])
def test_cancelled_again_while_leaving(times: int) -> None:
    """A task that is cancelled while it leaves, however often, waits for the shutdown, and is cancelled then."""
    go_on = asyncio.Event()
    app = FakeApp(shutdown=lambda: as_coroutine(go_on.wait()))

    async def main() -> None:
        task = asyncio.create_task(hold(app))
        await steps()
        for _ in range(times + 1):
            task.cancel()
            await steps()
        assert app.log == ["startup", "up", "shutdown"]
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == times + 1

    run_on_asyncio(main)
    assert app.log == LIFESPAN


async def as_coroutine(awaitable: Awaitable[object]) -> None:
    """Await something, for its side effect."""
    await awaitable


@pytest.mark.parametrize("error", [None, BodyError("body")], ids=["fine", "raises"])
def test_shutdown_problem_beside_a_cancellation(error: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown that fails while its waiter is cancelled is logged, and the task is cancelled."""
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        await go_on.wait()
        await send({"type": FAILING_SHUTDOWN, "message": "disk full"})

    async def user() -> None:
        async with app_lifespan_context(app):
            if error is not None:
                raise error

    async def main() -> None:
        task = asyncio.create_task(user())
        await steps()
        task.cancel()
        await steps()
        go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()

    run_on_asyncio(main)
    assert "disk full" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_native_timeout() -> None:
    """asyncio.timeout() around a context ends the body, lets the shutdown run, and raises TimeoutError."""
    app = FakeApp(shutdown=steps)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await hold(app)

    run_on_asyncio(main)
    assert app.log == LIFESPAN


def test_native_task_group() -> None:
    """In an asyncio.TaskGroup, a holder that fails stops the others, and the last of them ends the app."""
    app = FakeApp(shutdown=steps)

    async def fail() -> None:
        async with app_lifespan_context(app):
            await steps()
            raise BodyError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(hold(app))
                group.create_task(fail())
        assert [type(error) for error in caught.value.exceptions] == [BodyError]

    run_on_asyncio(main)
    assert app.log == LIFESPAN


@pytest.mark.parametrize("cancel_on_crash", [False, True])
def test_cancellation_that_comes_with_a_crash(cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A native cancellation that comes together with a crash goes on, whichever comes first."""

    async def main() -> None:
        for delay in range(8):
            app = CrashableApp()
            task = asyncio.create_task(hold(app, cancel_on_crash=cancel_on_crash))
            await steps()
            app.crash.set()
            await steps(delay)
            if not task.cancel("native"):
                break  # it has ended
            await asyncio.wait([task])
            assert task.cancelling() == 1
            assert task.cancelled()

    run_on_asyncio(main)
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_crash_leaves_no_cancellation_behind() -> None:
    """A task whose body was cancelled by a crash does not count as being cancelled afterwards."""

    async def main() -> None:
        app = CrashableApp()
        async with asyncio.timeout(30):
            with pytest.raises(LifespanCrashed):
                async with app_lifespan_context(app, cancel_on_crash=True):
                    app.crash.set()
                    await asyncio.get_running_loop().create_future()
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await steps()

    run_on_asyncio(main)


@pytest.mark.parametrize("cancel_on_crash", [False, True])
def test_app_that_is_cancelled_from_outside(cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An app whose own task is cancelled has crashed: it is logged at once, and its holders learn it."""
    tasks: list[asyncio.Task[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await sending("lifespan.startup.complete")(scope, receive, send)

    async def main() -> None:
        with pytest.raises(LifespanCrashed) as caught:
            async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash):
                tasks[0].cancel()
                if cancel_on_crash:
                    await asyncio.get_running_loop().create_future()
                await steps()
                assert len(caplog.records) == 1
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)

    run_on_asyncio(main)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("when", ["before the startup", "in the startup"])
def test_startup_that_is_cancelled_from_outside(when: str) -> None:
    """If the app's own task is cancelled in its startup, everyone who waits gets an error, and the next starts it."""
    tasks: list[asyncio.Task[Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if len(tasks) > 1:
            await FakeApp()(scope, receive, send)
            return
        if when == "in the startup":
            await receive()
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        users = [asyncio.create_task(hold(app)) for _ in range(3)]
        await steps()
        tasks[0].cancel()
        for user in users:
            with pytest.raises(LifespanStartupError):
                await user
        async with app_lifespan_context(app) as lifespan:
            assert lifespan.supported

    run_on_asyncio(main)


def root_task() -> asyncio.Task[Any]:
    """Return the root task of the only lifespan that is running."""
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "prefect_http lifespan"]
    return task


@each_row("after", range(8))
def test_root_task_that_is_cancelled_from_outside(after: int) -> None:
    """Whenever the root task is cancelled, all users get an error, none of them hangs, and the next can start it."""
    app = FakeApp(startup=lambda: steps(3))

    async def main() -> None:
        users = [asyncio.create_task(hold(app, cancel_on_crash=True)) for _ in range(3)]
        while not current_entries():
            await steps(1)
        await steps(after)
        root_task().cancel()
        for user in users:
            with pytest.raises(LifespanError):
                await user
        async with app_lifespan_context(app):
            pass

    run_on_asyncio(main)
    assert app.log[-4:] == LIFESPAN


def test_loop_that_takes_no_tasks() -> None:
    """If the loop refuses the root task, the user gets that error, and nothing is left to spoil the next attempt."""
    app = FakeApp()

    def refuse(loop: object, coroutine: object, **details: object) -> asyncio.Task[Any]:
        raise Boom("no tasks here")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(refuse)
        try:
            with pytest.raises(Boom, match="no tasks here"):
                async with app_lifespan_context(app):
                    pytest.fail("the body ran")
        finally:
            loop.set_task_factory(None)
        assert current_entries() == {}
        async with app_lifespan_context(app):
            pass

    run_on_asyncio(main)
    gc.collect()
    assert app.log == LIFESPAN


def test_root_task_that_is_cancelled_while_the_app_unwinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the root task is cancelled while it waits for an app that ignores its cancellation, the users go on."""
    monkeypatch.setattr("prefect_http._lifespan.run.UNWINDING_SECONDS", 0.02)
    end = asyncio.Event()

    async def ignore() -> None:
        try:
            await end.wait()
        except asyncio.CancelledError:
            cancelled.set()
            with anyio.CancelScope(shield=True):
                await end.wait()

    async def main() -> None:
        with pytest.raises(LifespanTimeoutError):
            async with app_lifespan_context(FakeApp(shutdown=ignore), shutdown_timeout=0.001):
                interrupter = asyncio.create_task(interrupt())
        await interrupter
        end.set()
        await steps()

    async def interrupt() -> None:
        await cancelled.wait()
        root_task().cancel()

    cancelled = asyncio.Event()
    run_on_asyncio(main)


# anyio leaves the coroutine of a task that never began to the garbage collector.
@pytest.mark.filterwarnings("ignore:coroutine 'AppRun._call_app' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("delay", range(12))
def test_run_that_ends_with_users_under_way(delay: int, caplog: pytest.LogCaptureFixture) -> None:
    """A run that ends, and cancels all its tasks, does end, wherever the users of an app are just then."""
    app = FakeApp(startup=lambda: steps(1))
    users: list[asyncio.Task[None]] = []

    async def main() -> None:
        users.extend(asyncio.create_task(hold(app, cancel_on_crash=flag)) for flag in (False, True))
        for _ in range(delay):
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the loop hangs"
    assert all(user.done() for user in users)
    assert app.running == 0
    assert caplog.records == []  # this is not a crash
    gc.collect()


def test_interrupted_program() -> None:
    """Ctrl-C in asyncio.run() cancels the main task, and the shutdown hooks run before KeyboardInterrupt is raised."""
    app = FakeApp(shutdown=steps)

    async def main() -> None:
        async with app_lifespan_context(app):
            signal.raise_signal(signal.SIGINT)
            await asyncio.get_running_loop().create_future()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert app.log == LIFESPAN


def test_only_the_registry_refers_to_it() -> None:
    """A lifespan is not garbage-collected while it runs: asyncio itself keeps no strong reference to its tasks."""
    app = FakeApp(startup=steps)

    async def main() -> None:
        async def enter_and_forget() -> None:
            contexts.append(app_lifespan_context(app))
            await contexts[0].__aenter__()

        contexts: list[Any] = []
        task = asyncio.create_task(enter_and_forget())
        for _ in range(12):
            await steps(1)
            gc.collect()
        await task
        assert app.log == ["startup", "up"]
        await contexts[0].__aexit__(None, None, None)

    run_on_asyncio(main)
    assert app.log == LIFESPAN
