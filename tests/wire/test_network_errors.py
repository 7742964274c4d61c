"""Network failures as httpx's errors: a time limit, and what a broken connection raises."""

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

from prefect_http._wire.network_errors import BROKEN, why, within

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def connect(seconds: float | None, do: Callable[[], Awaitable[str]]) -> str:
    """Do something within a time."""
    return await within(seconds, do, httpx.ConnectTimeout, httpx.ConnectError, "no connection to example.org:443")


async def wait_for_ever() -> str:
    """Do something that never ends."""
    await anyio.sleep_forever()
    return "never"


def raising(error: BaseException, seconds: float = 0) -> Callable[[], Awaitable[str]]:
    """Make something that fails, after a time."""

    async def do() -> str:
        await anyio.sleep(seconds)
        raise error

    return do


def caused(error: Exception, cause: BaseException) -> Exception:
    """Give an error its cause."""
    error.__cause__ = cause
    return error


# --- Why


@pytest.mark.parametrize(
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
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_why(error: Exception, words: str) -> None:
    """The reason is the cause's words, if there is one; of several the first one's; and its name if it has none."""
    assert words in why(error)
    assert "all" not in why(error)


def test_why_it_is_closed() -> None:
    """There is a reason also where anyio gives none."""
    assert why(anyio.ClosedResourceError())
    assert why(anyio.EndOfStream())


# --- What goes well


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [None, 5.0, math.inf])
async def test_in_time(seconds: float | None) -> None:
    """What comes in time is given."""

    async def do() -> str:
        await anyio.lowlevel.checkpoint()
        return "done"

    assert await connect(seconds, do) == "done"


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_what_takes_no_time(seconds: float) -> None:
    """What does not wait at all is in time, always."""

    async def do() -> str:
        return "done"

    assert await connect(seconds, do) == "done"


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [6.0, None])
async def test_enough_time(autojump_clock: trio.testing.MockClock, seconds: float | None) -> None:
    """What takes its time has it."""

    async def do() -> str:
        await trio.sleep(5.75)
        return "done"

    assert await connect(seconds, do) == "done"
    assert trio.current_time() == 5.75


# --- Too slow


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.0, 0.125, 5.0])
async def test_too_slow(autojump_clock: trio.testing.MockClock, seconds: float) -> None:
    """What takes longer ends exactly then, with a message that says what was not done within which time."""
    with pytest.raises(httpx.ConnectTimeout) as caught:
        await connect(seconds, wait_for_ever)
    assert trio.current_time() == seconds
    assert str(caught.value) == f"no connection to example.org:443 within {seconds:g} s"


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01])
async def test_too_slow_on_both_backends(seconds: float) -> None:
    """It ends on either backend; a time that is over ends it at its first wait."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectTimeout):
        await connect(seconds, wait_for_ever)


@pytest.mark.trio
async def test_it_cleans_up(autojump_clock: trio.testing.MockClock) -> None:
    """What is ended may clean up, and what it raises then is what counts."""

    async def do() -> str:
        try:
            return await wait_for_ever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            raise ConnectionResetError("reset meanwhile")

    with pytest.raises(httpx.ConnectError, match="reset meanwhile"):
        await connect(5.0, do)
    assert trio.current_time() == 6


@pytest.mark.trio
async def test_the_time_is_its_own(autojump_clock: trio.testing.MockClock) -> None:
    """A time limit within one that is longer or shorter: the shorter one counts, and each raises its own error."""
    with pytest.raises(httpx.ReadTimeout):
        await within(2.0, lambda: connect(5.0, wait_for_ever), httpx.ReadTimeout, httpx.ReadError, "nothing")
    assert trio.current_time() == 2
    with pytest.raises(httpx.ConnectTimeout):
        await within(5.0, lambda: connect(2.0, wait_for_ever), httpx.ReadTimeout, httpx.ReadError, "nothing")
    assert trio.current_time() == 4


# --- What breaks


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [5.0, None])
@pytest.mark.parametrize("error_type", BROKEN)
async def test_what_breaks(error_type: type[Exception], seconds: float | None) -> None:
    """Each failure of the network is httpx's error, which says what failed, and why."""
    error = error_type("whatever")
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError) as caught:
        await connect(seconds, raising(error))
    assert type(caught.value) is httpx.ConnectError
    assert caught.value.__cause__ is error
    assert str(caught.value).startswith("no connection to example.org:443: ")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError("refused"),
        TimeoutError("the system's"),
        ssl.SSLCertVerificationError("not trusted"),
        UnicodeEncodeError("idna", "host", 0, 1, "label too long"),
        BrokenPipeError(),
    ],
    ids=repr,
)
async def test_kinds_of_what_breaks(error: Exception) -> None:
    """So are the more special ones; a timeout of the system's is a failure."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError):
        await connect(5.0, raising(error))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a mistake"), httpx.ReadError("httpx's"), BaseException("stop")], ids=repr
)
async def test_what_is_no_failure_of_the_network(error: BaseException) -> None:
    """Everything else comes out as it is."""
    with anyio.fail_after(5), pytest.raises(type(error)) as caught:
        await connect(5.0, raising(error))
    assert caught.value is error


# --- Cancellation


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [5.0, None])
async def test_cancelled(seconds: float | None) -> None:
    """A cancellation is none of httpx's errors."""
    log: list[str] = []
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        scope.cancel()
        await connect(seconds, wait_for_ever)
        log.append("went on")
    assert (log, scope.cancelled_caught) == ([], True)


@pytest.mark.trio
async def test_cancelled_when_the_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    """Where the caller's own time is over at the same instant, that is a cancellation, and no error of httpx's."""
    log: list[str] = []
    with trio.move_on_after(5) as outer:
        await connect(5.0, wait_for_ever)
        log.append("went on")
    assert (log, outer.cancelled_caught, trio.current_time()) == ([], True, 5)


@pytest.mark.anyio
@pytest.mark.parametrize("order", ["cancelled first", "too late first"])
async def test_cancelled_and_too_late(order: str) -> None:
    """Where both come before the task goes on, whichever is first, the cancellation counts."""
    log: list[str] = []

    async def do() -> str:
        if order == "too late first":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
        outer.cancel()
        return await wait_for_ever()

    with anyio.fail_after(5), anyio.CancelScope() as outer:
        await connect(0.0 if order == "too late first" else 0.01, do)
        log.append("went on")
    assert (log, outer.cancelled_caught) == ([], True)


@pytest.mark.anyio
async def test_cancelled_where_it_breaks() -> None:
    """What breaks while a cancellation is due is an error, and the cancellation comes at the next wait."""
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
    """task.cancel() cancels the task, though the time is over as well."""

    async def do() -> str:
        task.cancel("native")
        return await wait_for_ever()

    task = asyncio.create_task(connect(seconds, do))
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.anyio
@asyncio_only
async def test_in_a_native_timeout() -> None:
    """asyncio.timeout() around it raises its own TimeoutError."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connect(5.0, wait_for_ever)
