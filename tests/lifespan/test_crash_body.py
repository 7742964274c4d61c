"""Bodies that meet a crash with something of their own: what they raise wins, and so does what cancels them."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel
import pytest
from support.lifespan_apps import (
    WAYS_TO_HOLD,
    BodyError,
    CrashableApp,
    Hold,
    by_finally,
    by_statement,
    nothing_left,
    steps,
)

from prefect_http import LifespanCrashed, app_lifespan_context

both_kinds = pytest.mark.parametrize("cancel_on_crash", [False, True])


def assert_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Check that the crash is in the log once, and nothing else is."""
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith("crashed in its lifespan: Boom: the app crashed")


@pytest.mark.anyio
@both_kinds
@pytest.mark.parametrize("hold", [way for way in WAYS_TO_HOLD if way is not by_finally])
async def test_bodys_own_exception_wins(hold: Hold, cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What a body raises after a crash goes on; the crash is noted on it, and has been logged already."""
    app = CrashableApp()
    error = BodyError("body")

    async def body() -> None:
        app.crash.set()
        try:
            await steps()
        finally:
            raise error

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BodyError) as caught:
            await hold(app, body, cancel_on_crash=cancel_on_crash)
        await steps()
    assert caught.value is error
    (note,) = error.__notes__
    assert note.startswith("LifespanCrashed: the app CrashableApp crashed in its lifespan: Boom")
    assert_logged_once(caplog)


@pytest.mark.anyio
@both_kinds
async def test_nested(cancel_on_crash: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Each context notes the crash on what the body raised."""
    app = CrashableApp()

    async def body() -> None:
        app.crash.set()
        try:
            await steps()
        finally:
            raise BodyError

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BodyError) as caught:
            async with AsyncExitStack() as outer:
                await outer.enter_async_context(app_lifespan_context(app, cancel_on_crash=cancel_on_crash))
                await by_statement(app, body, cancel_on_crash=cancel_on_crash)
    assert [note.partition(":")[0] for note in caught.value.__notes__] == ["LifespanCrashed"] * 2
    assert_logged_once(caplog)


@pytest.mark.anyio
async def test_error_at_the_same_time() -> None:
    """A body that raises in the very round of the scheduler in which the app crashes: its own exception wins."""
    with anyio.fail_after(30), nothing_left():
        for cancel_on_crash in (False, True):
            for delay in range(8):
                app = CrashableApp()

                async def body(app: CrashableApp = app, delay: int = delay) -> None:
                    app.crash.set()
                    with anyio.CancelScope(shield=True):
                        await steps(delay)
                    raise BodyError

                with pytest.raises(BodyError):
                    await by_statement(app, body, cancel_on_crash=cancel_on_crash)


@pytest.mark.anyio
async def test_error_of_a_bodys_task_wins() -> None:
    """What a task of a cancelled body raises goes on, in the group that the body's own task group makes."""
    app = CrashableApp()

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise BodyError("task")

    async def body() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            group.start_soon(fail)
            await steps()
            app.crash.set()

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(ExceptionGroup) as caught:
            await by_statement(app, body, cancel_on_crash=True)
    assert [type(error) for error in caught.value.exceptions] == [BodyError]
    (note,) = caught.value.__notes__
    assert note.startswith("LifespanCrashed: ")


@pytest.mark.anyio
async def test_mixed_group_of_the_body() -> None:
    """Of a group that mixes the crash's cancellation with an error of the body's, the error goes on."""
    app = CrashableApp()

    async def body() -> None:
        app.crash.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as cancelled:
            raise BaseExceptionGroup("mixed", [cancelled, BodyError()]) from None

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BaseExceptionGroup) as caught:
            await by_statement(app, body, cancel_on_crash=True)
    assert caught.value.split(BodyError)[1] is None
    assert len(caught.value.__notes__) == 1


@pytest.mark.anyio
@both_kinds
@pytest.mark.parametrize("first", ["crash", "cancellation", "together"])
async def test_outer_cancellation_goes_through(
    first: str, cancel_on_crash: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancellation from outside that meets a crash goes on, whichever comes first; the crash is logged once."""
    app = CrashableApp()
    log: list[str] = []

    async def body() -> None:
        if first == "cancellation":
            scope.cancel()
        with anyio.CancelScope(shield=True):
            app.crash.set()
            await steps(0 if first == "together" else 30)
        scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await steps()
            log.append("cancelled")

    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            await by_statement(app, body, cancel_on_crash=cancel_on_crash)
            pytest.fail("the cancellation got lost")
        assert scope.cancelled_caught
        await steps()
    assert log == ["cancelled"]
    assert_logged_once(caplog)


@pytest.mark.anyio
async def test_cancellation_from_outside_that_the_scope_catches_as_well() -> None:
    """A body that passes on only the crash's cancellation does not swallow one from outside that came later."""
    app = CrashableApp()
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            with pytest.raises(LifespanCrashed):
                async with app_lifespan_context(app, cancel_on_crash=True):
                    app.crash.set()
                    await anyio.sleep_forever()
            scope.cancel()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
