"""Tasks take turns, first come, first served."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from support.scripted_servers import settle

from prefect_http._concurrency.turns import Turns

pytestmark = pytest.mark.anyio


async def test_first_come_first_served() -> None:
    """Even a task that wants another turn at once has to wait for its turn."""
    turns, order = Turns(), list[str]()

    async def use(name: str, times: int) -> None:
        for _ in range(times):
            await turns.take()
            order.append(name)
            await anyio.lowlevel.checkpoint()
            assert turns.is_taken
            turns.pass_on()

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(use, name, 2)
    assert sorted(order[:3]) == ["a", "b", "c"]
    assert order[3:] == order[:3]
    assert not turns.is_taken


async def test_it_is_taken_between_two_turns() -> None:
    """The next task has the turn before it runs."""
    turns = Turns()
    await turns.take()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turns.take)
        await settle()
        turns.pass_on()
        assert turns.is_taken
    turns.pass_on()
    assert not turns.is_taken


@pytest.mark.parametrize("has_got_it", [False, True])
async def test_a_task_that_waits_is_cancelled(has_got_it: bool) -> None:
    """Even if it has got the turn in the same moment, that is not lost."""
    turns = Turns()
    await turns.take()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_and_hold, turns)
        await settle()
        tasks.cancel_scope.cancel()
        if has_got_it:
            turns.pass_on()
    if not has_got_it:
        assert turns.is_taken
        turns.pass_on()
    assert not turns.is_taken


async def take_and_hold(turns: Turns) -> None:
    """Take a turn, and hold it until cancelled."""
    await turns.take()
    try:
        await anyio.sleep_forever()
    finally:
        turns.pass_on()
