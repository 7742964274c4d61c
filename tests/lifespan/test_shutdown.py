"""Shutdowns: they run whatever ends the body, and never hide the body's own exception."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import pytest
from support.lifespan_apps import LIFESPAN, BodyError, Boom, FakeApp, ending, nothing_left, steps
from support.rows import each_row

from prefect_http import LifespanShutdownError, app_lifespan_context
from prefect_http._types import Receive, Send

Ending = Callable[[Receive, Send], Awaitable[None]]


async def report(receive: Receive, send: Send) -> None:
    """Fail with a message."""
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "disk full"})


async def report_without_message(receive: Receive, send: Send) -> None:
    """Fail without a message."""
    await receive()
    await send({"type": "lifespan.shutdown.failed"})


async def report_and_raise(receive: Receive, send: Send) -> None:
    """Fail with a message, and raise."""
    await report(receive, send)
    raise Boom("no space left")


async def crash(receive: Receive, send: Send) -> None:
    """Raise while being shut down."""
    await receive()
    raise Boom("no space left")


async def crash_group(receive: Receive, send: Send) -> None:
    """Raise while being shut down what an app with a nursery raises."""
    await receive()
    raise ExceptionGroup("shutdown", [Boom("no space left")])


async def crash_after_the_end(receive: Receive, send: Send) -> None:
    """Raise after the shutdown was announced as complete."""
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
    raise Boom("no space left")


FAILURES = pytest.mark.parametrize(
    ("how", "message", "cause"),
    [
        (report, "disk full", None),
        (report_without_message, "failed to shut down: it gave no reason", None),
        (report_and_raise, "disk full", Boom),
        (crash, "no space left", Boom),
        (crash_group, "shutdown", ExceptionGroup),
        (crash_after_the_end, "no space left", Boom),
    ],
)


@pytest.mark.anyio
@FAILURES
async def test_failed_shutdown(how: Ending, message: str, cause: type[BaseException] | None) -> None:
    """A shutdown that fails is an error with the app's message, the app's exception as its cause, and no group."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanShutdownError, match=message) as caught:
            async with app_lifespan_context(ending(how)):
                await steps()
    assert type(caught.value) is LifespanShutdownError
    assert type(caught.value.__cause__) is (cause or type(None))
    assert "None" not in str(caught.value)


@pytest.mark.anyio
async def test_only_the_last_learns_of_the_shutdown() -> None:
    """A user that leaves while others hold the app does not learn how its shutdown went."""
    app = ending(report)
    first, last = app_lifespan_context(app), app_lifespan_context(app)
    with anyio.fail_after(30), nothing_left():
        await first.__aenter__()
        await last.__aenter__()
        await first.__aexit__(None, None, None)
        with pytest.raises(LifespanShutdownError):
            await last.__aexit__(None, None, None)


@pytest.mark.anyio
async def test_next_starts_afresh() -> None:
    """After a failed shutdown, the app can be started anew."""
    app = ending(report)
    with anyio.fail_after(30), nothing_left():
        for _ in range(2):
            with pytest.raises(LifespanShutdownError):
                async with app_lifespan_context(app):
                    pass


@pytest.mark.anyio
@each_row("error", [BodyError("body"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
async def test_hooks_run_after_an_exception(error: BaseException) -> None:
    """Shutdown hooks run to their end whatever the body raises, and that goes on as it is."""
    app = FakeApp(shutdown=steps)
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(type(error)) as caught:
            async with app_lifespan_context(app):
                raise error
        assert caught.value is error
        assert app.log == LIFESPAN
    assert not hasattr(error, "__notes__")


@pytest.mark.anyio
async def test_group_of_the_body_is_left_alone() -> None:
    """An exception group that the body raises is not taken apart."""
    group = ExceptionGroup("body", [BodyError(), Boom()])
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(ExceptionGroup) as caught:
            async with app_lifespan_context(FakeApp()):
                raise group
    assert caught.value is group


@pytest.mark.anyio
async def test_hooks_run_after_a_cancellation() -> None:
    """Shutdown hooks run to their end after the body was cancelled, and the cancellation goes on."""
    app = FakeApp(shutdown=steps)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            async with app_lifespan_context(app):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    assert app.log == LIFESPAN


@pytest.mark.anyio
@FAILURES
async def test_bodys_exception_wins(
    how: Ending, message: str, cause: type[BaseException] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """After an exception in the body, a shutdown problem is logged and noted on that exception."""
    error = BodyError("body")
    with anyio.fail_after(30), nothing_left(), pytest.raises(BodyError) as caught:
        async with app_lifespan_context(ending(how)):
            raise error
    assert caught.value is error
    (note,) = error.__notes__
    assert note.startswith("LifespanShutdownError: ")
    assert message in note
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "prefect_http"
    assert message in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LifespanShutdownError)
    assert type(record.exc_info[1].__cause__) is (cause or type(None))


@pytest.mark.anyio
async def test_shutdown_problem_after_a_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """After a cancellation of the body, the cancellation goes on, and a shutdown problem is logged."""
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            async with app_lifespan_context(ending(report)):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().endswith("failed to shut down: disk full")


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


@pytest.mark.anyio
async def test_exception_that_takes_no_notes() -> None:
    """An exception of the body's that takes no notes wins all the same."""
    with anyio.fail_after(30), nothing_left(), pytest.raises(FrozenError):
        async with app_lifespan_context(ending(report)):
            raise FrozenError(1)
