"""RepeatedEvent: waiting tasks are woken, as often as it is used."""

from __future__ import annotations

import anyio
import pytest

from prefect_http._concurrency.repeated_event import RepeatedEvent


class Waiters:
    """Tasks that wait for an event.

    Attributes:
        event: the event.
        woken: the names of the tasks that were woken, in order.
    """

    def __init__(self) -> None:
        self.event = RepeatedEvent()
        self.woken: list[str] = []

    async def wait(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            await self.event.wait()
            self.woken.append(name)


@pytest.mark.anyio
async def test_wakes_all() -> None:
    """notify() wakes all waiting tasks."""
    waiters = Waiters()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(waiters.wait, name)
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.event.notify()
    assert sorted(waiters.woken) == ["a", "b", "c"]


@pytest.mark.anyio
async def test_is_not_a_checkpoint() -> None:
    """The task that calls notify() goes on; the others run when it waits."""
    waiters = Waiters()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            await anyio.wait_all_tasks_blocked()
            waiters.event.notify()
            assert not waiters.woken


@pytest.mark.anyio
async def test_again_and_again() -> None:
    """An event that was used can be waited for again."""
    waiters = Waiters()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a", 3)
            for number in range(3):
                await anyio.wait_all_tasks_blocked()
                assert len(waiters.woken) == number
                waiters.event.notify()
                waiters.event.notify()
    assert waiters.woken == ["a", "a", "a"]


@pytest.mark.anyio
async def test_remembers_nothing() -> None:
    """notify() has no effect on tasks that begin to wait later."""
    waiters = Waiters()
    waiters.event.notify()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.event.notify()
            group.start_soon(waiters.wait, "late")
            await anyio.wait_all_tasks_blocked()
            assert waiters.woken == ["a"]
            waiters.event.notify()
    assert waiters.woken == ["a", "late"]


@pytest.mark.anyio
async def test_cancelled_waiting() -> None:
    """A cancelled wait does not affect the other waiting tasks."""
    waiters = Waiters()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await waiters.wait("b")
            assert scope.cancelled_caught
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.event.notify()
    assert waiters.woken == ["a"]


def test_needs_no_event_loop_until_a_task_waits() -> None:
    """An event can be created, and used, outside an event loop."""
    RepeatedEvent().notify()
