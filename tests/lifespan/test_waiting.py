"""The time that entering takes: deadlines of those who wait for a startup, or for the lifespan before."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
from support.lifespan_apps import LIFESPAN, FakeApp, nothing_left
from trio.testing import MockClock

from prefect_http import LifespanTimeoutError, app_lifespan_context
from prefect_http._types import ASGIApp


async def hold_for_a_moment(app: ASGIApp) -> None:
    """Enter and leave."""
    async with app_lifespan_context(app):
        await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_deadline_while_entering(autojump_clock: MockClock) -> None:
    """A caller's own deadline is kept while entering; a startup that only this caller waits for is cancelled."""
    app = FakeApp(startup=lambda: trio.sleep(10))
    with trio.fail_after(60), nothing_left():
        with trio.move_on_after(3) as scope:
            await hold_for_a_moment(app)
        assert scope.cancelled_caught
        assert trio.current_time() == 3
    assert app.log == ["startup"]


@pytest.mark.trio
async def test_startup_goes_on_for_the_others(autojump_clock: MockClock) -> None:
    """When the deadline of one waiter passes, the startup goes on for the others, without a delay."""
    app = FakeApp(startup=lambda: trio.sleep(10))
    entered: list[float] = []

    async def enter(deadline: float) -> None:
        with trio.move_on_after(deadline):
            async with app_lifespan_context(app):
                entered.append(trio.current_time())

    with trio.fail_after(60), nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter, 3)
            await trio.sleep(1)
            nursery.start_soon(enter, 5)
            nursery.start_soon(enter, 20)
    assert entered == [10]
    assert app.log == LIFESPAN


@pytest.mark.trio
async def test_cancelled_in_the_queue(autojump_clock: MockClock) -> None:
    """If a user is cancelled while it waits for a shutdown, those who enter in that moment are not affected.

    Trio decides at random which of two tasks runs first, so it takes several rounds to see both orders.
    """

    async def enter(entered: list[float], app: ASGIApp) -> None:
        async with app_lifespan_context(app, startup_timeout=1):
            entered.append(trio.current_time())

    with trio.fail_after(1000), nothing_left():
        for _ in range(12):
            app = FakeApp(shutdown=lambda: trio.sleep(5))
            entered: list[float] = []
            context = app_lifespan_context(app)
            await context.__aenter__()
            begin = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(context.__aexit__, None, None, None)
                await trio.sleep(1)
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as cancelled:
                        cancelled.start_soon(hold_for_a_moment, app)
                        await trio.sleep(1)
                        nursery.start_soon(enter, entered, app)
                        await trio.lowlevel.checkpoint()
                        scope.cancel()
            assert entered == [begin + 5]


@pytest.mark.trio
async def test_previous_lifespan_that_does_not_end(autojump_clock: MockClock) -> None:
    """A user that waits for a lifespan that does not end gives up after its startup timeout; later ones enter."""
    end = trio.Event()

    async def ignore() -> None:
        with trio.move_on_after(1000, shield=True):
            await end.wait()

    app = FakeApp(shutdown=ignore)
    with trio.fail_after(60), nothing_left():
        with pytest.raises(LifespanTimeoutError, match="shutdown within 2 s"):
            async with app_lifespan_context(app, shutdown_timeout=2):
                pass
        assert trio.current_time() == 3  # one second to clean up
        with pytest.raises(LifespanTimeoutError, match="previous lifespan has not ended within 3 seconds"):
            async with app_lifespan_context(app, startup_timeout=3):
                pytest.fail("the body ran")
        assert trio.current_time() == 6
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_for_a_moment, app)
            await trio.sleep(1)
            end.set()
        assert trio.current_time() == 7
    assert app.log == LIFESPAN * 2
