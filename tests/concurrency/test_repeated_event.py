"""RepeatedEvent: who waits is woken, as often as there is news."""

from __future__ import annotations

import anyio
import pytest

from prefect_http._concurrency.repeated_event import RepeatedEvent


class Waiters:
    """Tasks that wait for a signal, and say so when it has come."""

    def __init__(self, signal: RepeatedEvent) -> None:
        self.signal = signal
        self.woken: list[str] = []

    async def wait(self, name: str, times: int = 1) -> None:
        for _ in range(times):
            await self.signal.wait()
            self.woken.append(name)


@pytest.mark.anyio
async def test_wakes_all() -> None:
    """A notification wakes everyone who waits."""
    waiters = Waiters(RepeatedEvent())
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(waiters.wait, name)
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.signal.notify()
    assert sorted(waiters.woken) == ["a", "b", "c"]


@pytest.mark.anyio
async def test_does_not_wake_at_once() -> None:
    """Who notifies goes on; the others run when it waits."""
    waiters = Waiters(RepeatedEvent())
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            await anyio.wait_all_tasks_blocked()
            waiters.signal.notify()
            assert not waiters.woken


@pytest.mark.anyio
async def test_again_and_again() -> None:
    """A signal that has been used can be waited for anew."""
    waiters = Waiters(RepeatedEvent())
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a", 3)
            for number in range(3):
                await anyio.wait_all_tasks_blocked()
                assert len(waiters.woken) == number
                waiters.signal.notify()
                waiters.signal.notify()
    assert waiters.woken == ["a", "a", "a"]


@pytest.mark.anyio
async def test_remembers_nothing() -> None:
    """A notification that nobody waited for is gone."""
    waiters = Waiters(RepeatedEvent())
    waiters.signal.notify()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.signal.notify()
            group.start_soon(waiters.wait, "late")
            await anyio.wait_all_tasks_blocked()
            assert waiters.woken == ["a"]
            waiters.signal.notify()
    assert waiters.woken == ["a", "late"]


@pytest.mark.anyio
async def test_cancelled_waiting() -> None:
    """Who gives up waiting takes nobody else along."""
    waiters = Waiters(RepeatedEvent())
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(waiters.wait, "a")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await waiters.wait("b")
            assert scope.cancelled_caught
            await anyio.wait_all_tasks_blocked()
            assert not waiters.woken
            waiters.signal.notify()
    assert waiters.woken == ["a"]


def test_needs_no_event_loop_until_somebody_waits() -> None:
    """A signal can be made and given anywhere."""
    RepeatedEvent().notify()
