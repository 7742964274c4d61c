"""The time that a shutdown may take: exactly its timeout, shielded, whatever the app does; and one second to unwind."""

from __future__ import annotations

import logging
import signal
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from support.lifespan_apps import LIFESPAN, STARTED, STOPPED, BodyError, Boom, FakeApp, ending, nothing_left, steps
from support.rows import each_row
from trio.testing import MockClock

from prefect_http import LifespanError, LifespanTimeoutError, app_lifespan_context
from prefect_http._types import ASGIApp, Receive, Scope, Send


@pytest.mark.trio
async def test_shutdown_timeout(autojump_clock: MockClock) -> None:
    """A shutdown that takes too long ends after exactly its timeout, and the app is cancelled."""
    log: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append(f"cancelled at {trio.current_time()}")

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError, match=r"shutdown within 7 s") as caught:
            async with app_lifespan_context(FakeApp(shutdown=hang), startup_timeout=3, shutdown_timeout=7):
                pass
        assert trio.current_time() == 7
    assert log == ["cancelled at 7.0"]
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, LifespanError)


@pytest.mark.trio
@pytest.mark.parametrize(("needs", "takes"), [(5, 5), (7.5, 7), (1000, 7)])
async def test_shielded_for_a_bounded_time(needs: float, takes: float, autojump_clock: MockClock) -> None:
    """A caller's deadline does not cut the shutdown short; it is shielded for at most its own timeout."""
    app = FakeApp(shutdown=lambda: trio.sleep(needs))
    with trio.fail_after(5000), nothing_left():
        with trio.move_on_after(1) as scope:
            async with app_lifespan_context(app, shutdown_timeout=7):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == 1 + takes
    assert (app.log == LIFESPAN) is (needs <= 7)


@pytest.mark.trio
async def test_cancelled_while_leaving(autojump_clock: MockClock) -> None:
    """A cancellation that comes while the shutdown runs is let through at the next checkpoint after it."""
    app = FakeApp(shutdown=lambda: trio.sleep(5))
    with trio.fail_after(60), nothing_left():
        with trio.move_on_after(2) as scope:
            async with app_lifespan_context(app):
                pass
            assert trio.current_time() == 5
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert app.log == LIFESPAN


@pytest.mark.trio
async def test_app_that_does_not_listen(autojump_clock: MockClock) -> None:
    """An app that never asks for its shutdown message is cancelled when its time is up."""

    async def sleep(receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError, match="shutdown within 7 s"):
            async with app_lifespan_context(ending(sleep), shutdown_timeout=7):
                await trio.sleep(1)
        assert trio.current_time() == 8


@pytest.mark.trio
async def test_app_that_asks_again_instead_of_answering(autojump_clock: MockClock) -> None:
    """An app that got its shutdown message and asks for another one has not answered."""

    async def ask_again(receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError):
            async with app_lifespan_context(ending(ask_again), shutdown_timeout=7):
                pass
        assert trio.current_time() == 7


@pytest.mark.trio
@pytest.mark.parametrize(("needs", "takes"), [(2, 2), (1000, 7)])
async def test_app_that_goes_on_after_its_shutdown(needs: float, takes: float, autojump_clock: MockClock) -> None:
    """An app that has announced the end of its shutdown may use the rest of its time to return, without an error."""

    async def go_on(receive: Receive, send: Send) -> None:
        await receive()
        await send(STOPPED)
        await trio.sleep(needs)

    with trio.fail_after(5000), nothing_left():
        async with app_lifespan_context(ending(go_on), shutdown_timeout=7):
            pass
        assert trio.current_time() == takes


@pytest.mark.trio
async def test_body_that_raises_is_not_held_up_longer(autojump_clock: MockClock) -> None:
    """After an exception in the body, the shutdown takes at most its timeout as well; taking longer is noted on it."""
    with trio.fail_after(60), nothing_left():
        with pytest.raises(BodyError) as caught:
            async with app_lifespan_context(FakeApp(shutdown=trio.sleep_forever), shutdown_timeout=7):
                raise BodyError
        assert trio.current_time() == 7
    (note,) = caught.value.__notes__
    assert note.startswith("LifespanTimeoutError: ")


@pytest.mark.trio
async def test_crash_while_being_cancelled(autojump_clock: MockClock) -> None:
    """An app that raises when its shutdown is cut short has still taken too long, and what it raised is the cause."""

    async def raise_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Boom("cut short")

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError) as caught:
            async with app_lifespan_context(FakeApp(shutdown=raise_when_cancelled)):
                pass
        assert type(caught.value.__cause__) is Boom


@pytest.mark.trio
@pytest.mark.parametrize("hook", ["startup", "shutdown"])
@pytest.mark.parametrize(("needs", "takes"), [(0.25, 7.25), (0.99, 7.99), (1.5, 8)])
async def test_app_that_takes_time_to_unwind(
    hook: str, needs: float, takes: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that is cancelled when its time is up has one second to unwind before its users go on without it."""

    async def unwind_slowly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(needs)

    app = FakeApp(startup=unwind_slowly) if hook == "startup" else FakeApp(shutdown=unwind_slowly)
    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError, match=f"{hook} within 7 s"):
            async with app_lifespan_context(app, startup_timeout=7, shutdown_timeout=7):
                pass
        assert trio.current_time() == takes
        assert app.running == (1 if needs > 1 else 0)
        assert len(caplog.records) == app.running
        await trio.sleep(1)


@pytest.mark.trio
async def test_unwinding_is_shielded(autojump_clock: MockClock) -> None:
    """A cancellation of the user does not cut short the time that the app has to unwind."""
    log: list[float] = []

    async def unwind_slowly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            log.append(trio.current_time())

    with trio.fail_after(60), nothing_left():
        with trio.move_on_after(2):
            async with app_lifespan_context(FakeApp(startup=unwind_slowly)):
                pytest.fail("the body ran")
        assert log == [trio.current_time()] == [2.5]


@pytest.mark.trio
async def test_app_that_ignores_cancellation(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """Users do not wait for an app that ignores its cancellation; it is logged, and nothing is left once it ends."""
    end = trio.Event()

    async def ignore() -> None:
        with trio.move_on_after(1000, shield=True):
            await end.wait()

    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError):
            async with app_lifespan_context(FakeApp(shutdown=ignore), shutdown_timeout=7):
                pass
        assert trio.current_time() == 8
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "was cancelled and has not ended after 1 s; its lifespan task goes on" in record.getMessage()
        end.set()
        await steps()


def test_interrupt_ends_the_wait_for_a_shutdown() -> None:
    """Ctrl-C while leaving ends the program at once, and the app is cancelled at the end of the run."""
    log: list[str] = []

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cancelled")

    @trio.lowlevel.enable_ki_protection
    async def interrupt() -> None:
        await steps()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        trio.lowlevel.spawn_system_task(interrupt)
        async with app_lifespan_context(FakeApp(shutdown=hang)):
            pass

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert log == ["cancelled"]


async def interrupt() -> None:
    """Press Ctrl-C."""
    signal.raise_signal(signal.SIGINT)
    await trio.lowlevel.checkpoint()


async def interrupted_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Be interrupted before asking for a message."""
    await interrupt()


async def interrupted_while_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Be interrupted in the middle of a lifespan."""
    await receive()
    await send(STARTED)
    await steps()
    await interrupt()


@each_row("cancel_on_crash", [False, True])
@each_row(
    "app",
    [
        pytest.param(interrupted_at_once, id="at-once"),
        pytest.param(FakeApp(startup=interrupt), id="startup"),
        pytest.param(interrupted_while_up, id="up"),
        pytest.param(FakeApp(shutdown=interrupt), id="shutdown"),
    ],
)
def test_interrupt_that_hits_the_app(app: ASGIApp, cancel_on_crash: bool) -> None:
    """Ctrl-C ends the program even if it comes while the app's own code is running."""

    async def main() -> None:
        with suppress(Exception):
            async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash):
                await steps(60)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
