"""Network failures: as httpx's errors, and within a time limit."""

from __future__ import annotations

import asyncio
import errno
import math
import ssl
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
import trio.testing
from support.rows import each_row

from prefect_http._wire.network_errors import NETWORK_ERRORS, forget_frames, reason_for, with_timeout

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def connect(seconds: float | None, do: Callable[[], Awaitable[str]]) -> str:
    """Do something within a time limit."""
    return await with_timeout(
        seconds, do, httpx.ConnectTimeout, httpx.ConnectError, "could not connect to example.org:443"
    )


async def wait_forever() -> str:
    """Do something that never ends."""
    await anyio.sleep_forever()
    return "never"


def raising(error: BaseException, seconds: float = 0) -> Callable[[], Awaitable[str]]:
    """Make something that fails after a while."""

    async def do() -> str:
        await anyio.sleep(seconds)
        raise error

    return do


def caused(error: Exception, cause: BaseException) -> Exception:
    """Set the cause of an error."""
    error.__cause__ = cause
    return error


# --- Reasons


@each_row(
    ("error", "words"),
    [
        (OSError("no route"), "no route"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), f"[Errno {errno.ECONNREFUSED}] refused"),
        (ssl.SSLError(1, "bad record"), "bad record"),
        (anyio.BrokenResourceError(), "BrokenResourceError"),
        (OSError(), "OSError"),
        (caused(anyio.BrokenResourceError(), ConnectionResetError("reset")), "reset"),
        (caused(anyio.BrokenResourceError(), ConnectionResetError()), "ConnectionResetError"),
        (caused(OSError("all failed"), OSError("refused")), "refused"),
        (caused(OSError("all failed"), ExceptionGroup("all", [OSError("first"), OSError("second")])), "first"),
        (caused(OSError("all failed"), ExceptionGroup("all", [TimeoutError()])), "TimeoutError"),
    ],
)
def test_reason(error: Exception, words: str) -> None:
    """The reason is the message of the cause, or of the first of several; else the name of its type."""
    assert words in reason_for(error)
    assert "all" not in reason_for(error)


def test_reason_without_a_message() -> None:
    """There is a reason for errors without a message, too."""
    assert reason_for(anyio.ClosedResourceError())
    assert reason_for(anyio.EndOfStream()) == "the other side closed the connection"


# --- Success


@pytest.mark.anyio
@each_row("seconds", [None, 5.0, math.inf])
async def test_in_time(seconds: float | None) -> None:
    """The result is returned."""

    async def do() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    assert await connect(seconds, do) == "done"


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_without_waiting(seconds: float) -> None:
    """What does not wait at all is always in time."""

    async def do() -> str:
        return "done"

    assert await connect(seconds, do) == "done"


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [6.0, None])
async def test_enough_time(autojump_clock: trio.testing.MockClock, seconds: float | None) -> None:
    """What takes less time than the limit is not disturbed."""

    async def do() -> str:
        await trio.sleep(5.75)
        return "done"

    assert await connect(seconds, do) == "done"
    assert trio.current_time() == 5.75


# --- Timeouts


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.0, 0.125, 5.0])
async def test_too_slow(autojump_clock: trio.testing.MockClock, seconds: float) -> None:
    """What takes longer than the limit ends exactly then, with a message that names the limit."""
    with pytest.raises(httpx.ConnectTimeout) as caught:
        await connect(seconds, wait_forever)
    assert trio.current_time() == seconds
    assert str(caught.value) == f"could not connect to example.org:443 within {seconds:g} s"


@pytest.mark.anyio
@each_row("seconds", [0.0, -1.0, 0.01])
async def test_too_slow_on_both_backends(seconds: float) -> None:
    """It ends on either backend; with a limit that is over, at its first wait."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectTimeout):
        await connect(seconds, wait_forever)


@pytest.mark.trio
async def test_clean_up(autojump_clock: trio.testing.MockClock) -> None:
    """What is ended may clean up, and an error that it raises then is what counts."""

    async def do() -> str:
        try:
            return await wait_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise ConnectionResetError("reset meanwhile")

    with pytest.raises(httpx.ConnectError, match="reset meanwhile"):
        await connect(5.0, do)
    assert trio.current_time() == 6


@pytest.mark.trio
async def test_limit_within_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    """Of a limit within another one, the shorter counts, and each raises its own error."""
    with pytest.raises(httpx.ReadTimeout):
        await with_timeout(2.0, lambda: connect(5.0, wait_forever), httpx.ReadTimeout, httpx.ReadError, "nothing")
    assert trio.current_time() == 2
    with pytest.raises(httpx.ConnectTimeout):
        await with_timeout(5.0, lambda: connect(2.0, wait_forever), httpx.ReadTimeout, httpx.ReadError, "nothing")
    assert trio.current_time() == 4


# --- Failures


@pytest.mark.anyio
@each_row("seconds", [5.0, None])
@each_row("error_type", NETWORK_ERRORS)
async def test_network_failures(error_type: type[Exception], seconds: float | None) -> None:
    """A network failure becomes httpx's error, which says what failed, and why."""
    error = error_type("whatever")
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError) as caught:
        await connect(seconds, raising(error))
    assert type(caught.value) is httpx.ConnectError
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("could not connect to example.org:443: ")


@pytest.mark.anyio
@each_row(
    "error",
    [
        ConnectionRefusedError("refused"),
        TimeoutError("the system's"),
        ssl.SSLCertVerificationError("not trusted"),
        UnicodeEncodeError("idna", "host", 0, 1, "label too long"),
        BrokenPipeError(),
    ],
)
async def test_kinds_of_network_failures(error: Exception) -> None:
    """So do its subclasses, and the operating system's own timeout."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError):
        await connect(5.0, raising(error))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a mistake"), httpx.ReadError("httpx's"), BaseException("stop")], ids=repr
)
async def test_other_exceptions(error: BaseException) -> None:
    """Other exceptions are raised unchanged."""
    with anyio.fail_after(5), pytest.raises(type(error)) as caught:
        await connect(5.0, raising(error))
    assert caught.value is error


# --- Cancellation


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [5.0, None])
async def test_cancelled(seconds: float | None) -> None:
    """A cancellation is raised as such."""
    log: list[str] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        await connect(seconds, wait_forever)
        log.append("went on")
    assert (log, scope.cancelled_caught) == ([], True)


@pytest.mark.trio
async def test_cancelled_when_the_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    """If the caller's own deadline is at the same instant, it is a cancellation, and not one of httpx's errors."""
    log: list[str] = []
    with trio.move_on_after(5) as outer:
        await connect(5.0, wait_forever)
        log.append("went on")
    assert (log, outer.cancelled_caught, trio.current_time()) == ([], True, 5)


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["cancelled first", "too late first"])
async def test_cancelled_and_too_late(order: str) -> None:
    """If both come before the task runs again, the cancellation counts, whichever was first."""
    log: list[str] = []

    async def do() -> str:
        if order == "too late first":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
        outer.cancel()
        return await wait_forever()

    with anyio.fail_after(5), anyio.CancelScope() as outer:
        await connect(0.0 if order == "too late first" else 0.01, do)
        log.append("went on")
    assert (log, outer.cancelled_caught) == ([], True)


@pytest.mark.anyio
async def test_failure_while_cancelled() -> None:
    """A failure while a cancellation is pending is an error, and the cancellation comes at the next checkpoint."""
    log: list[str] = []

    async def do() -> str:
        outer.cancel()
        raise ConnectionResetError("reset")

    with anyio.fail_after(5), anyio.CancelScope() as outer:
        with pytest.raises(httpx.ConnectError):
            await connect(5.0, do)
        log.append("failed")
        await anyio.lowlevel.checkpoint()
        log.append("went on")
    assert (log, outer.cancelled_caught) == (["failed"], True)


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("seconds", [0.0, 5.0, None])
async def test_natively_cancelled(seconds: float | None) -> None:
    """task.cancel() cancels the task, even if the time is over as well."""

    async def do() -> str:
        task.cancel("native")
        return await wait_forever()

    task = asyncio.create_task(connect(seconds, do))
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.anyio
@asyncio_only
async def test_in_a_native_timeout() -> None:
    """asyncio.timeout() raises its own TimeoutError."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connect(5.0, wait_forever)


def test_an_exception_that_was_never_raised_has_no_frames() -> None:
    """An exception without a traceback, such as one that a stream hands on, is left as it is."""
    error = OSError("handed on")
    forget_frames(error)
    assert error.__traceback__ is None
