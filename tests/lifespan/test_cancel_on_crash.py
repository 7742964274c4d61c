"""cancel_on_crash=True: a crash of the app cancels the body as well, and the context is left like a nursery."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
from support.lifespan_apps import (
    LIFESPAN,
    WAYS_TO_HOLD,
    BodyError,
    Boom,
    CrashableApp,
    FakeApp,
    Hold,
    Hook,
    by_statement,
    ending,
    nothing_left,
    steps,
)
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import Lifespan, LifespanCrashed, app_lifespan_context
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import Receive, Send

every_way = pytest.mark.parametrize("hold", WAYS_TO_HOLD)

Context = AbstractAsyncContextManager[Lifespan]


def cancelling(app: FakeApp) -> Context:
    """Return a context whose body a crash cancels."""
    return app_lifespan_context(app, cancel_on_crash=True)


async def enter(context: Context) -> None:
    """Enter a context by hand."""
    await context.__aenter__()


async def leave(context: Context) -> None:
    """Leave a context by hand."""
    await context.__aexit__(None, None, None)


async def run_in_tasks(*functions: Hook) -> None:
    """Run functions in tasks of the backend's own; anyio's would open a cancel scope around each."""
    if anyio.get_cancelled_exc_class() is trio.Cancelled:
        async with trio.open_nursery() as nursery:
            for function in functions:
                nursery.start_soon(function)
    else:
        async with asyncio.TaskGroup() as group:
            for function in functions:
                group.create_task(function())


# What it does.


@pytest.mark.anyio
@every_way
async def test_cancels_the_body(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    """A crash cancels the body, is logged once, and leaving raises LifespanCrashed, in no group."""
    app = CrashableApp()
    log: list[str] = []

    async def body() -> None:
        app.crash.set()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cancelled")

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed, match="the app crashed") as caught:
            await hold(app, body, cancel_on_crash=True)
        await steps()  # nothing is cancelled any more
    assert log == ["cancelled"]
    assert type(caught.value) is LifespanCrashed
    assert type(caught.value.__cause__) is Boom
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.anyio
@every_way
async def test_without_a_crash(hold: Hold, caplog: pytest.LogCaptureFixture) -> None:
    """As long as the app does not crash, the context is like any other."""
    app, error = FakeApp(), BodyError()

    async def fail() -> None:
        raise error

    with anyio.fail_after(30), nothing_left():
        await hold(app, steps, cancel_on_crash=True)
        with pytest.raises(BodyError) as caught:
            await hold(app, fail, cancel_on_crash=True)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hold(app, anyio.sleep_forever, cancel_on_crash=True)
        assert scope.cancelled_caught
    assert caught.value is error
    assert app.log == LIFESPAN * 2
    assert caplog.records == []


@pytest.mark.trio
async def test_at_once(autojump_clock: MockClock) -> None:
    """A crash cancels the body in the very moment it happens, whatever the timeouts are."""

    async def crash_after_3_seconds(receive: Receive, send: Send) -> None:
        await trio.sleep(3)
        raise Boom

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanCrashed):
            await by_statement(ending(crash_after_3_seconds), lambda: trio.sleep(50), cancel_on_crash=True)
        assert trio.current_time() == 3


@pytest.mark.anyio
async def test_holders_of_both_kinds(caplog: pytest.LogCaptureFixture) -> None:
    """A crash cancels the bodies that asked for it and no others; all of them get an error of their own."""
    app = CrashableApp()
    log: list[str] = []
    errors: list[LifespanCrashed] = []
    go_on = anyio.Event()

    async def user(cancel_on_crash: bool) -> None:
        async def body() -> None:
            try:
                await go_on.wait()
            except anyio.get_cancelled_exc_class():
                assert cancel_on_crash
                log.append("cancelled")
                raise
            assert not cancel_on_crash
            log.append("ended")

        with pytest.raises(LifespanCrashed) as caught:
            await by_statement(app, body, cancel_on_crash=cancel_on_crash)
        errors.append(caught.value)

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(user, number % 2 == 0)
            await steps()
            app.crash.set()
            await steps()
            assert log == ["cancelled"] * 3
            go_on.set()
    assert log == ["cancelled"] * 3 + ["ended"] * 3
    assert len({id(error) for error in errors}) == 6
    assert len({id(error.__cause__) for error in errors}) == 1
    assert len(caplog.records) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, True)], ids=str)
async def test_nested_in_one_task(kinds: tuple[bool, bool]) -> None:
    """Where contexts of both kinds nest, the body is cancelled from the outermost inside that asked for it."""
    app = CrashableApp()
    log: list[str] = []
    outer, inner = kinds

    async def body() -> None:
        app.crash.set()
        try:
            await anyio.sleep_forever()
        finally:
            log.append("body cancelled")

    async def hold_again() -> None:
        try:
            await by_statement(app, body, cancel_on_crash=inner)
        except LifespanCrashed as error:
            log.append(f"inner: {type(error.__cause__).__name__}")
            raise

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            await by_statement(app, hold_again, cancel_on_crash=outer)
        await steps()
    assert type(caught.value.__cause__) is Boom
    # An inner context that is not the one that cancels sees a cancellation like any other, and lets it go on.
    assert log == ["body cancelled", *(["inner: Boom"] if inner and not outer else [])]


@pytest.mark.anyio
async def test_nested_apps() -> None:
    """A crash of the outer app leaves the inner one its shutdown; a crash of the inner one does not reach the outer."""
    outer, inner = CrashableApp(name="outer"), CrashableApp(name="inner")

    async def crash(app: CrashableApp) -> None:
        app.crash.set()
        await anyio.sleep_forever()

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed, match="CrashableApp"):
            async with cancelling(outer), cancelling(inner):
                await crash(outer)
        assert inner.log == [f"inner {line}" for line in LIFESPAN]
        async with cancelling(outer):
            with pytest.raises(LifespanCrashed):
                async with cancelling(inner):
                    await crash(inner)
            await steps()
    assert outer.log[-4:] == [f"outer {line}" for line in LIFESPAN]


@pytest.mark.anyio
async def test_cancels_the_tasks_of_the_body() -> None:
    """A crash cancels the tasks that a body has started, and their group does not get in the way of the error."""
    app = CrashableApp()
    log: list[str] = []

    async def work(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append(f"stopped {number}")

    async def body() -> None:
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(work, number)
            await steps()
            app.crash.set()

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed):
            await by_statement(app, body, cancel_on_crash=True)
    assert sorted(log) == ["stopped 0", "stopped 1", "stopped 2"]


@pytest.mark.anyio
@each_row("how", ["shielded", "swallowed", "ends-at-once"])
async def test_body_that_ends_properly_all_the_same(how: str) -> None:
    """A body that does not notice its cancellation, or ignores it, ends with LifespanCrashed all the same."""
    app = CrashableApp()
    log: list[str] = []

    async def body() -> None:
        crashed = app.crash
        app.crash.set()
        if how == "shielded":
            with anyio.CancelScope(shield=True):
                await steps()
        elif how == "swallowed":
            with pytest.raises(anyio.get_cancelled_exc_class()):
                await anyio.sleep_forever()
        else:
            with anyio.CancelScope(shield=True):
                while app.crash is crashed:
                    await anyio.lowlevel.checkpoint()
        log.append("ended")

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed) as caught:
            await by_statement(app, body, cancel_on_crash=True)
        await steps()
    assert log == ["ended"]
    assert type(caught.value.__cause__) is Boom


@pytest.mark.anyio
async def test_mode_off() -> None:
    """With "off" nothing is held, so nothing is cancelled, and the context may be left in any task."""
    context = app_lifespan_context(CrashableApp(), mode="off", cancel_on_crash=True)
    with anyio.fail_after(30), nothing_left():
        await context.__aenter__()
        async with anyio.create_task_group() as group:
            group.start_soon(leave, context)


@each_row("value", [None, 0, 1, "True", "no", [], b"on"])
def test_bad_value(value: object) -> None:
    """What is neither True nor False is refused at once, by the argument's name."""
    arguments: dict[str, Any] = {"cancel_on_crash": value}
    with pytest.raises(ValueError, match="cancel_on_crash must be True or False, not"):
        app_lifespan_context(FakeApp(), **arguments)


@pytest.mark.anyio
async def test_driven_generator() -> None:
    """In an async generator, the code that drives it is cancelled, as long as it is the same task."""
    app = CrashableApp()
    log: list[str] = []

    async def lifespans() -> AsyncIterator[Lifespan]:
        async with cancelling(app) as lifespan:
            yield lifespan

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed):
            async with aclosing(lifespans()) as generator:  # type: ignore[type-var]
                async for _ in generator:
                    app.crash.set()
                    try:
                        await anyio.sleep_forever()
                    finally:
                        log.append("cancelled")
        await steps()
    assert log == ["cancelled"]


@pytest.mark.anyio
async def test_holds_on_to_nothing() -> None:
    """A context that was left does not refer to the app, nor the app to the context."""
    app = CrashableApp()
    ref = weakref.ref(app)
    context = cancelling(app)
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            await context.__aenter__()
            (run,) = current_entries()[id(app)].runs
            assert len(run.on_crash) == 1
            await leave(context)
            assert run.on_crash == set()
            del run
        del app
        gc.collect()
        assert ref() is None


# What must not be done: each is an error that says so, and the app is shut down all the same.


def assert_is_misuse(error: BaseException) -> None:
    """Check that an error names the argument and says what to do."""
    assert type(error) is RuntimeError
    assert "cancel_on_crash=True" in str(error)
    assert "must be left in the task that entered it, innermost first" in str(error)
    assert "use cancel_on_crash=False" in str(error)


@pytest.mark.anyio
@each_row("where", ["sibling", "child", "after-the-task-has-ended"])
async def test_left_in_another_task(where: str) -> None:
    """Leaving in another task is an error there, whatever has become of the task that entered."""
    app = FakeApp(shutdown=steps)
    context = cancelling(app)
    errors: list[BaseException] = []
    left = anyio.Event()

    async def leave_here() -> None:
        with pytest.raises(RuntimeError) as caught:
            await leave(context)
        assert app.log == LIFESPAN
        errors.append(caught.value)
        left.set()

    async def enter_here() -> None:
        await context.__aenter__()
        if where == "child":
            await run_in_tasks(leave_here)
        elif where == "sibling":
            await left.wait()
        await steps()  # this task goes on as if nothing had happened

    async def leave_later() -> None:
        await steps(90 if where == "after-the-task-has-ended" else 15)
        await leave_here()

    with anyio.fail_after(30), nothing_left():
        await run_in_tasks(enter_here, *([] if where == "child" else [leave_later]))
    (error,) = errors
    assert_is_misuse(error)
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_left_in_another_task_within_another_one() -> None:
    """Once a context of ours around it is left in the right task, all is in order again."""
    apps = FakeApp(), FakeApp()
    outer, inner = map(cancelling, apps)

    async def leave_here() -> None:
        with pytest.raises(RuntimeError) as caught:
            await leave(inner)
        assert_is_misuse(caught.value)

    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as around:
            await outer.__aenter__()
            await inner.__aenter__()
            await run_in_tasks(leave_here)
            await leave(outer)
            around.cancel()
            await anyio.sleep_forever()
        assert around.cancelled_caught
        await steps()
    assert [app.log for app in apps] == [LIFESPAN] * 2


@pytest.mark.anyio
async def test_left_in_another_task_while_others_hold_it() -> None:
    """The others who hold the app are not disturbed, and the app goes down after them."""
    app = FakeApp()
    context = cancelling(app)
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            await run_in_tasks(lambda: enter(context))
            with pytest.raises(RuntimeError) as caught:
                await leave(context)
            await steps()
            assert app.log == LIFESPAN[:2]
    assert_is_misuse(caught.value)
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_left_in_another_task_with_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    """What the body raised wins; the misuse is noted on it, and logged."""
    app, error = FakeApp(), BodyError()
    context = cancelling(app)
    with anyio.fail_after(30), nothing_left():
        await run_in_tasks(lambda: enter(context))
        assert not await context.__aexit__(BodyError, error, None)
    (note,) = error.__notes__
    assert note.startswith("RuntimeError: app_lifespan_context(cancel_on_crash=True) keeps a cancel scope open")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert app.log == LIFESPAN


@pytest.mark.anyio
async def test_left_in_another_task_after_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    """A crash is raised wherever the context is left; the misuse is noted on it, and logged."""
    app = CrashableApp()
    context = cancelling(app)
    with anyio.fail_after(30), nothing_left():
        await run_in_tasks(lambda: enter(context))
        app.crash.set()
        await steps()
        with pytest.raises(LifespanCrashed) as caught:
            await leave(context)
    (note,) = caught.value.__notes__
    assert "cancel_on_crash=True" in note
    assert len(caplog.records) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("crash", [False, True])
async def test_left_before_an_inner_one(crash: bool) -> None:
    """Leaving an outer context first is an error; the inner one goes on, and once it is left, all is in order again."""
    first, second = FakeApp(), CrashableApp()
    outer, inner = cancelling(first), cancelling(second)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as around:
            await outer.__aenter__()
            await inner.__aenter__()
            with pytest.raises(RuntimeError) as caught:
                await leave(outer)
            assert_is_misuse(caught.value)
            assert first.log == LIFESPAN
            await steps()
            assert second.log == LIFESPAN[:2]
            if crash:
                second.crash.set()
                with pytest.raises(anyio.get_cancelled_exc_class()):
                    await anyio.sleep_forever()
                with pytest.raises(LifespanCrashed):
                    await leave(inner)
            else:
                await leave(inner)
            await steps()
            around.cancel()
            await anyio.sleep_forever()
        assert around.cancelled_caught
        await steps()


@pytest.mark.anyio
@each_row("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1), (1, 2, 0)])
async def test_three_left_in_a_wrong_order(order: tuple[int, ...]) -> None:
    """Each context that is left before one inside it is an error; in the end all is in order again."""
    apps = [FakeApp() for _ in order]
    contexts = [cancelling(app) for app in apps]
    still_open = {0, 1, 2}
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope():
            for context in contexts:
                await context.__aenter__()
            for number in order:
                still_open.remove(number)
                if any(other > number for other in still_open):
                    with pytest.raises(RuntimeError) as caught:
                        await leave(contexts[number])
                    assert_is_misuse(caught.value)
                else:
                    await leave(contexts[number])
                assert apps[number].log == LIFESPAN
        await steps()


@pytest.mark.anyio
async def test_left_before_a_scope_inside_it(caplog: pytest.LogCaptureFixture) -> None:
    """Leaving before a cancel scope that was opened inside is an error, too."""
    app = FakeApp()
    context = cancelling(app)

    async def user() -> None:
        await context.__aenter__()
        with anyio.CancelScope():
            with pytest.raises(RuntimeError) as caught:
                await leave(context)
            assert_is_misuse(caught.value)
            assert app.log == LIFESPAN
        await steps()

    with anyio.fail_after(30), nothing_left():
        await run_in_tasks(user)


@pytest.mark.anyio
async def test_left_before_a_scope_inside_it_within_another_one() -> None:
    """Once a context of ours around it is left, all is in order again."""
    apps = FakeApp(), FakeApp()
    outer, inner = map(cancelling, apps)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as around:
            await outer.__aenter__()
            await inner.__aenter__()
            with anyio.CancelScope():
                with pytest.raises(RuntimeError) as caught:
                    await leave(inner)
                assert_is_misuse(caught.value)
            await leave(outer)
            around.cancel()
            await anyio.sleep_forever()
        assert around.cancelled_caught
        await steps()
    assert [app.log for app in apps] == [LIFESPAN] * 2


@pytest.mark.anyio
async def test_outlives_the_scope_it_was_entered_in() -> None:
    """A scope that ends while the context that was entered in it is open complains; leaving works all the same."""
    app = FakeApp()
    context = cancelling(app)

    async def user() -> None:
        with pytest.raises(RuntimeError):
            with anyio.CancelScope():
                await context.__aenter__()
        await steps()
        assert app.log == LIFESPAN[:2]
        await leave(context)
        assert app.log == LIFESPAN

    with anyio.fail_after(30), nothing_left():
        await run_in_tasks(user)


# On trio only: with anyio, groups are never unwrapped.
@pytest.mark.filterwarnings("ignore::trio.TrioDeprecationWarning")
@pytest.mark.trio
async def test_error_out_of_an_unwrapped_group() -> None:
    """A RuntimeError of the body's that trio takes out of its group is not mistaken for a misuse."""
    app = CrashableApp()

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise RuntimeError("the body's own")

    async def body() -> None:
        async with trio.open_nursery(strict_exception_groups=False) as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)
            await steps()
            app.crash.set()
            await trio.sleep_forever()

    with trio.fail_after(30), nothing_left():
        with pytest.raises(RuntimeError, match="the body's own"):
            await by_statement(app, body, cancel_on_crash=True)
