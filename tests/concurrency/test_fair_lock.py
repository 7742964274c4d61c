"""A lock goes to the task that has waited longest."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from support.scripted_servers import settle

from prefect_http._concurrency.fair_lock import FairLock

pytestmark = pytest.mark.anyio


async def test_first_come_first_served() -> None:
    """Even a task that wants it again at once has to wait for the others."""
    lock, order = FairLock(), list[str]()

    async def use(name: str, times: int) -> None:
        for _ in range(times):
            await lock.acquire()
            order.append(name)
            await anyio.lowlevel.checkpoint()
            assert lock.is_held
            lock.release()

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(use, name, 2)
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3:] == order[:3]
    assert not lock.is_held


async def test_it_is_held_all_the_time() -> None:
    """The next task holds it before it runs."""
    lock = FairLock()
    await lock.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lock.acquire)
        await settle()
        lock.release()
        assert lock.is_held
    lock.release()
    assert not lock.is_held


@pytest.mark.parametrize("has_got_it", [False, True])
async def test_a_task_that_waits_is_cancelled(has_got_it: bool) -> None:
    """Even if it has got the lock in the same moment, that is not lost."""
    lock = FairLock()
    await lock.acquire()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(acquire_and_hold, lock)
        await settle()
        tasks.cancel_scope.cancel()
        if has_got_it:
            lock.release()
    if not has_got_it:
        assert lock.is_held
        lock.release()
    assert not lock.is_held


async def acquire_and_hold(lock: FairLock) -> None:
    """Hold the lock until cancelled."""
    await lock.acquire()
    try:
        await anyio.sleep_forever()
    finally:
        lock.release()
