"""Bodies that meet a crash with something of their own: what they raise wins, what cancels them wins."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import anyio
import pytest
from support.lifespan_apps import BodyError, CrashableApp, nothing_left, steps

from prefect_http import LifespanCrashed, app_lifespan_context


@pytest.mark.anyio
async def test_body_that_ends_all_the_same() -> None:
    """A body that does not let itself be stopped, and ends well, ends with LifespanCrashed."""
    app = CrashableApp()
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanCrashed):
            async with app_lifespan_context(app):
                app.crash.set()
                with anyio.CancelScope(shield=True):
                    await steps()


@pytest.mark.anyio
@pytest.mark.parametrize("number", [1, 2], ids=["inner", "nested"])
async def test_bodys_own_exception_wins(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """What a body raises while it is stopped goes on; the crash is noted on it and logged."""
    app = CrashableApp()
    error = BodyError("body")
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BodyError) as caught:
            async with AsyncExitStack() as outer:
                if number == 2:
                    await outer.enter_async_context(app_lifespan_context(app))
                async with app_lifespan_context(app):
                    app.crash.set()
                    try:
                        await anyio.sleep_forever()
                    finally:
                        raise error
    assert caught.value is error
    assert len(error.__notes__) == number
    assert all(note.startswith("LifespanCrashed: ") for note in error.__notes__)
    assert [record.levelno for record in caplog.records][-number:] == [logging.ERROR] * number


@pytest.mark.anyio
async def test_error_of_a_bodys_task_wins() -> None:
    """What a task of the body raises while it is stopped goes on, in the group that the body's task group makes."""
    app = CrashableApp()

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise BodyError("task")

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(ExceptionGroup) as caught:
            async with app_lifespan_context(app):
                async with anyio.create_task_group() as group:
                    group.start_soon(anyio.sleep_forever)
                    group.start_soon(fail)
                    await steps()
                    app.crash.set()
    assert [type(error) for error in caught.value.exceptions] == [BodyError]
    (note,) = caught.value.__notes__
    assert note.startswith("LifespanCrashed: ")


@pytest.mark.anyio
async def test_mixed_group_of_the_body() -> None:
    """Of a group that mixes the crash's cancellation with an error of the body's, the error goes on."""
    app = CrashableApp()
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BaseExceptionGroup) as caught:
            async with app_lifespan_context(app):
                app.crash.set()
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class() as cancelled:
                    raise BaseExceptionGroup("mixed", [cancelled, BodyError()]) from None
    assert caught.value.split(BodyError)[1] is None
    assert len(caught.value.__notes__) == 1


@pytest.mark.anyio
async def test_outer_cancellation_goes_through(caplog: pytest.LogCaptureFixture) -> None:
    """A cancellation from outside that meets a crash goes on, and the crash is logged."""
    app = CrashableApp()
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            async with app_lifespan_context(app):
                app.crash.set()
                with anyio.CancelScope(shield=True):
                    await steps()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
