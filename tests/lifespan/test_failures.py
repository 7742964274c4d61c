"""Startups that fail, time out or are cancelled: everyone who waits gets an error, and the next starts afresh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import pytest
import trio
from support.lifespan_apps import LIFESPAN, STARTED, Boom, FakeApp, nothing, nothing_left, steps
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import LifespanError, LifespanStartupError, LifespanTimeoutError, app_lifespan_context
from prefect_http._types import ASGIApp, Receive, Scope, Send

Ending = Callable[[Send], Awaitable[None]]


async def report(send: Send) -> None:
    """Fail with a message, and return."""
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def report_and_raise(send: Send) -> None:
    """Fail with a message, as Starlette does, and raise."""
    await report(send)
    raise Boom("refused by 10.0.0.1")


async def report_and_wait(send: Send) -> None:
    """Fail with a message, and do not return."""
    await report(send)
    await anyio.sleep_forever()


async def report_without_message(send: Send) -> None:
    """Fail without a message."""
    await send({"type": "lifespan.startup.failed"})


async def just_raise(send: Send) -> None:
    """Raise without a message."""
    raise Boom("refused by 10.0.0.1")


async def raise_group(send: Send) -> None:
    """Raise what an app with a nursery raises."""
    raise ExceptionGroup("startup", [Boom("one"), Boom("two")])


def failing(ending: Ending) -> ASGIApp:
    """Return an app whose startup ends like this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await ending(send)

    return app


@pytest.mark.anyio
@each_row(
    ("ending", "message", "cause"),
    [
        (report, "no database", None),
        (report_and_raise, "no database", Boom),
        (report_without_message, "failed to start: it gave no reason", None),
        (just_raise, r"refused by 10\.0\.0\.1", Boom),
        (raise_group, "startup", ExceptionGroup),
    ],
)
@each_row("mode", ["auto", "on"])
async def test_failed_startup(
    ending: Ending, message: str, cause: type[BaseException] | None, mode: Literal["auto", "on"]
) -> None:
    """A startup that fails is an error with the app's message, the app's exception as its cause, and no group."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError, match=message) as caught:
            async with app_lifespan_context(failing(ending), mode=mode):
                pytest.fail("the body ran")
    assert type(caught.value) is LifespanStartupError
    assert type(caught.value.__cause__) is (cause or type(None))
    assert "None" not in str(caught.value)


@pytest.mark.anyio
@each_row("after", [0, 1, 2], ids=["at-once", "startup", "up"])
async def test_app_that_exits(after: int) -> None:
    """SystemExit in an app is raised as it is; the app does not count as failed or as not speaking lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after > 0:
            await receive()
        if after > 1:
            await send(STARTED)
        raise SystemExit(3)

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(SystemExit) as caught:
            async with app_lifespan_context(app):
                await steps()
    assert caught.value.code == 3


@pytest.mark.trio
async def test_failed_startup_that_does_not_return(autojump_clock: MockClock) -> None:
    """An app that reports a failed startup and does not return is cancelled when its time for the startup is up."""
    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanStartupError, match="no database"):
            async with app_lifespan_context(failing(report_and_wait), startup_timeout=7):
                pytest.fail("the body ran")
        assert trio.current_time() == 7


@pytest.mark.trio
async def test_failed_startup_whose_waiters_are_cancelled(autojump_clock: MockClock) -> None:
    """An app that reports a failed startup and does not return is cancelled at once when its last waiter is."""
    with trio.fail_after(60), nothing_left():
        with trio.move_on_after(2):
            async with app_lifespan_context(failing(report_and_wait)):
                pytest.fail("the body ran")
        assert trio.current_time() == 2


@pytest.mark.anyio
@pytest.mark.parametrize("ending", [report, just_raise])
async def test_failure_reaches_everyone(ending: Ending) -> None:
    """All who wait for a startup get an error of their own, with the same cause."""
    errors: list[LifespanStartupError] = []

    async def fail_after_a_while(send: Send) -> None:
        await steps()
        await ending(send)

    app = failing(fail_after_a_while)

    async def enter() -> None:
        with pytest.raises(LifespanStartupError) as caught:
            async with app_lifespan_context(app):
                pytest.fail("the body ran")
        errors.append(caught.value)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(enter)
    assert len({id(error) for error in errors}) == 5
    assert len({(str(error), id(error.__cause__)) for error in errors}) == 1


@pytest.mark.anyio
@each_row("ending", [report, report_and_raise, just_raise])
async def test_next_starts_afresh(ending: Ending) -> None:
    """After a failed startup, the next to enter starts the app afresh."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not log:
            log.append("fails")
            await failing(ending)(scope, receive, send)
        else:
            await FakeApp(log=log)(scope, receive, send)

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError):
            async with app_lifespan_context(app):
                pytest.fail("the body ran")
        async with app_lifespan_context(app):
            assert log == ["fails", "startup", "up"]
    assert log == ["fails", *LIFESPAN]


@pytest.mark.anyio
async def test_entering_again_while_others_learn_of_the_failure() -> None:
    """Whoever gets the error of a failed startup can enter again at once, even before the others get theirs."""
    log: list[str] = []
    go_on = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not log:
            log.append("fails")
            await failing(just_raise)(scope, receive, send)
        else:
            await FakeApp(log=log)(scope, receive, send)

    async def try_twice() -> None:
        with pytest.raises(LifespanStartupError):
            async with app_lifespan_context(app):
                pytest.fail("the body ran")
        async with app_lifespan_context(app):
            log.append("body")
            await go_on.wait()

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(try_twice)
            await steps(60)
            go_on.set()
    assert log == ["fails", "startup", "up", *["body"] * 4, "shutdown", "down"]


@pytest.mark.trio
@pytest.mark.parametrize("timeout", [7, 50], ids=["timed-out", "failed"])
async def test_entering_while_a_failed_startup_unwinds(timeout: float, autojump_clock: MockClock) -> None:
    """A user that enters while an app unwinds after a startup that failed or timed out starts it afresh."""
    log: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if log:
            await FakeApp(log=log)(scope, receive, send)
            return
        log.append("fails")
        await receive()
        await trio.sleep(6.9)
        if timeout > 7:
            await report(send)
        with trio.CancelScope(shield=True):
            await trio.sleep(0.6)

    async def fail() -> None:
        with pytest.raises(LifespanStartupError if timeout > 7 else LifespanTimeoutError):
            async with app_lifespan_context(app, startup_timeout=timeout):
                pytest.fail("the body ran")

    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep(7.2)
            async with app_lifespan_context(app):
                assert trio.current_time() == 7.5
    assert log == ["fails", *LIFESPAN]


@pytest.mark.trio
async def test_startup_timeout(autojump_clock: MockClock) -> None:
    """A startup that takes too long ends after exactly its timeout, and the app is cancelled."""
    log: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"cancelled at {trio.current_time()}")

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError, match=r"startup within 7 s") as caught:
            async with app_lifespan_context(FakeApp(startup=hang), startup_timeout=7, shutdown_timeout=3):
                pytest.fail("the body ran")
        assert trio.current_time() == 7
    assert log == ["cancelled at 7.0"]
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, LifespanError)


@pytest.mark.trio
async def test_default_timeouts(autojump_clock: MockClock) -> None:
    """By default, startup and shutdown may take 30 seconds each."""
    with trio.fail_after(100):
        with pytest.raises(LifespanTimeoutError):
            async with app_lifespan_context(FakeApp(startup=trio.sleep_forever)):
                pytest.fail("the body ran")
        assert trio.current_time() == 30
        with pytest.raises(LifespanTimeoutError):
            async with app_lifespan_context(FakeApp(shutdown=trio.sleep_forever)):
                pass
        assert trio.current_time() == 60


@pytest.mark.trio
@pytest.mark.parametrize(("delay", "works"), [(6.9, True), (7.1, False)])
async def test_starters_timeout_counts(delay: float, works: bool, autojump_clock: MockClock) -> None:
    """The user that starts the app sets the startup's timeout for all who wait, from the beginning of the startup."""
    app = FakeApp(startup=lambda: trio.sleep(delay))
    outcomes: list[object] = []

    async def enter(after: float, timeout: float) -> None:
        await trio.sleep(after)
        try:
            async with app_lifespan_context(app, startup_timeout=timeout):
                outcomes.append(trio.current_time())
                await trio.sleep(1)
        except LifespanTimeoutError:
            outcomes.append("timeout")

    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter, 0, 7)
            nursery.start_soon(enter, 1, 0.5)
            nursery.start_soon(enter, 5, 50)
    assert outcomes == [6.9 if works else "timeout"] * 3


@pytest.mark.trio
async def test_starters_shutdown_timeout_counts(autojump_clock: MockClock) -> None:
    """The user that starts the app also sets the shutdown's timeout, even if others leave last."""
    app = FakeApp(shutdown=trio.sleep_forever)
    with trio.fail_after(60), nothing_left():
        starter = app_lifespan_context(app, shutdown_timeout=7)
        await starter.__aenter__()
        with pytest.raises(LifespanTimeoutError, match="within 7 s"):
            async with app_lifespan_context(app, shutdown_timeout=50):
                await starter.__aexit__(None, None, None)
        assert trio.current_time() == 7


@pytest.mark.trio
async def test_waiting_for_a_shutdown_is_not_startup_time(autojump_clock: MockClock) -> None:
    """The startup timeout begins when the app is called, not while its previous lifespan is still shutting down."""
    hooks = iter([lambda: trio.sleep(5), nothing])
    app = FakeApp(shutdown=lambda: next(hooks)())

    async def enter_late() -> None:
        await trio.sleep(1)
        async with app_lifespan_context(app, startup_timeout=0.5):
            entered_at.append(trio.current_time())

    entered_at: list[float] = []
    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter_late)
            async with app_lifespan_context(app):
                pass
    assert entered_at == [5]
    assert app.log == LIFESPAN * 2
