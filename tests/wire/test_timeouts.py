"""The one task that ends the waits of all connections, of fakes here: exact times on trio, its life on both."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from support.lifespan_apps import steps

from prefect_http._wire.timeouts import TimeoutWatcher

BACKENDS = ["asyncio", "trio"]
TWO_LOOPS = pytest.mark.parametrize("backends", list(itertools.product(BACKENDS, BACKENDS)), ids="-then-".join)
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Wait:
    """A fake of what may wait.

    Attributes:
        deadline: as TimeoutWatcher wants it.
        expired: when it was ended.
        error: raised by ``expire()`` after that.
        while_expiring: awaited by ``expire()`` after that.
        is_over: set as soon as it is ended.
    """

    def __init__(self, deadlines: TimeoutWatcher, error: Exception | None = None) -> None:
        self.deadline = math.inf
        self.expired: list[float] = []
        self.error = error
        self.while_expiring: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.is_over = anyio.Event()
        self._deadlines = deadlines
        deadlines.watched.add(self)

    def until(self, deadline: float) -> None:
        """Wait until then, as Connection does."""
        self.deadline = deadline
        if deadline < self._deadlines.next_wakeup:
            self._deadlines.wake_by(deadline)

    async def expire(self) -> None:
        self.deadline = math.inf
        self.expired.append(anyio.current_time())
        self.is_over.set()
        await self.while_expiring()
        if self.error is not None:
            raise self.error


def tasks() -> int:
    """Count the tasks that look at deadlines."""
    return [task.name for task in anyio.get_running_tasks()].count("prefect_http deadlines")


# --- Exact times


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.0, 0.125, 5.0, 3600.0])
async def test_ends_at_the_deadline(autojump_clock: trio.testing.MockClock, seconds: float) -> None:
    """A wait ends exactly at its deadline, once."""
    deadlines = TimeoutWatcher()
    wait, began = Wait(deadlines), trio.current_time()
    wait.until(began + seconds)
    await trio.sleep(10_000)
    assert wait.expired == [began + seconds]


@pytest.mark.trio
async def test_a_deadline_that_has_passed(autojump_clock: trio.testing.MockClock) -> None:
    """A wait whose time has already run out ends at once."""
    deadlines = TimeoutWatcher()
    wait, began = Wait(deadlines), trio.current_time()
    wait.until(began - 1)
    await trio.sleep(1)
    assert wait.expired == [began]


@pytest.mark.trio
async def test_a_wait_that_is_over(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that has ended in time is left alone."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(trio.current_time() + 1)
    await trio.sleep(0.5)
    wait.until(math.inf)
    await trio.sleep(5)
    assert wait.expired == []


@pytest.mark.trio
async def test_what_is_watched_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """What has been taken out is left alone."""
    deadlines = TimeoutWatcher()
    wait, other, began = Wait(deadlines), Wait(deadlines), trio.current_time()
    wait.until(began + 1)
    other.until(began + 2)
    deadlines.watched.discard(wait)
    await trio.sleep(5)
    assert (wait.expired, other.expired) == ([], [began + 2])


@pytest.mark.trio
async def test_a_later_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is put off is not kept before its time, however often it is put off."""
    deadlines = TimeoutWatcher()
    wait, began = Wait(deadlines), trio.current_time()
    for number in range(5):
        wait.until(began + number + 1)
        await trio.sleep(0.75)
    await trio.sleep(10)
    assert wait.expired == [began + 5]


@pytest.mark.trio
async def test_an_earlier_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that comes up while the task sleeps until a later one is kept in its time."""
    deadlines = TimeoutWatcher()
    waits, began = [Wait(deadlines) for _ in range(3)], trio.current_time()
    for wait, deadline in zip(waits, (8, 4, 2), strict=True):
        wait.until(began + deadline)
        await trio.sleep(0.25)
    await trio.sleep(10)
    assert [wait.expired for wait in waits] == [[began + 8], [began + 4], [began + 2]]


@pytest.mark.trio
async def test_earlier_deadlines_in_one_step(autojump_clock: trio.testing.MockClock) -> None:
    """Of several that come before the task has woken, none is lost."""
    deadlines = TimeoutWatcher()
    waits, began = [Wait(deadlines) for _ in range(4)], trio.current_time()
    waits[0].until(began + 8)
    await trio.sleep(0.25)
    for wait, deadline in zip(waits[1:], (4, 2, 3), strict=True):
        wait.until(began + deadline)
    await trio.sleep(10)
    assert [wait.expired for wait in waits] == [[began + 8], [began + 4], [began + 2], [began + 3]]


@pytest.mark.trio
async def test_the_same_instant(autojump_clock: trio.testing.MockClock) -> None:
    """Any number of waits may end at the same time, and again when they have begun anew."""
    deadlines = TimeoutWatcher()
    waits, began = [Wait(deadlines) for _ in range(50)], trio.current_time()
    for deadline in (began + 1, began + 2):
        for wait in waits:
            wait.until(deadline)
        await trio.sleep_until(deadline + 0.5)
    assert [wait.expired for wait in waits] == [[began + 1, began + 2]] * 50


@pytest.mark.trio
@pytest.mark.parametrize("again", [math.inf, 5.0])
async def test_a_wait_that_ends_beside_an_expiring_one(autojump_clock: trio.testing.MockClock, again: float) -> None:
    """A wait that ends while another one is being ended is left alone, though its deadline was the same."""
    deadlines = TimeoutWatcher()
    waits, began = [Wait(deadlines) for _ in range(2)], trio.current_time()

    async def answer_the_others() -> None:
        for wait in waits:
            if not wait.expired:
                wait.until(began + again)
        await trio.lowlevel.checkpoint()

    for wait in waits:
        wait.while_expiring = answer_the_others
        wait.until(began + 1)
    await trio.sleep(3)
    assert sorted(wait.expired for wait in waits) == [[], [began + 1]]
    await trio.sleep(3)
    assert sorted(time for wait in waits for time in wait.expired) == [began + 1] + [began + 5] * (again == 5.0)


@pytest.mark.trio
async def test_a_wait_that_begins_while_another_one_expires(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that comes up while the task ends another wait is kept in its time."""
    deadlines = TimeoutWatcher()
    first, second, third, began = Wait(deadlines), Wait(deadlines), Wait(deadlines), trio.current_time()

    async def begin() -> None:
        await trio.lowlevel.checkpoint()
        second.until(began + 2)
        await trio.lowlevel.checkpoint()
        third.until(began + 1)

    first.while_expiring = begin
    first.until(began + 1)
    await trio.sleep(5)
    assert (first.expired, second.expired, third.expired) == ([began + 1], [began + 2], [began + 1])


@pytest.mark.trio
async def test_looks_only_when_it_must(autojump_clock: trio.testing.MockClock) -> None:
    """Ever new waits, all of them short, cost no more than a look each time that a deadline might have been due."""
    deadlines = TimeoutWatcher()
    wait, began = Wait(deadlines), trio.current_time()
    looks: set[float] = set()
    for _ in range(1000):
        wait.until(trio.current_time() + 5)
        looks.add(deadlines.next_wakeup)
        await trio.sleep(0.125)
        wait.until(math.inf)
    assert wait.expired == []
    assert len(looks) <= 1000 * 0.125  # once a second, which is when it looks whether anything waits at all
    assert min(looks) == began + 5


# --- The life of the task


@pytest.mark.anyio
async def test_no_task_without_waits() -> None:
    """What is watched needs no task as long as it does not wait."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(math.inf)
    await steps()
    assert (tasks(), deadlines.next_wakeup) == (0, math.inf)
    with anyio.fail_after(5):
        await deadlines.stop()


@pytest.mark.anyio
async def test_one_task_for_all() -> None:
    """There is one task, however many wait; it ends once it has found that nothing waits."""
    deadlines = TimeoutWatcher()
    waits, now = [Wait(deadlines) for _ in range(20)], anyio.current_time()
    for number, wait in enumerate(waits):
        wait.until(now + 100 - number)
        assert deadlines.next_wakeup == wait.deadline
    await steps()
    assert tasks() == 1
    for wait in waits:
        wait.until(math.inf)
    waits[0].until(now)
    with anyio.fail_after(5):
        await waits[0].is_over.wait()
    await steps()
    assert (tasks(), deadlines.next_wakeup) == (0, math.inf)


@pytest.mark.anyio
async def test_stopping() -> None:
    """Where nothing waits any more, stopping ends the task at once, though it would sleep for long; so it may again."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(anyio.current_time() + 100)
    await steps()
    wait.until(math.inf)
    for _ in range(2):
        with anyio.fail_after(5):
            await deadlines.stop()
        await steps()
        assert (tasks(), deadlines.next_wakeup, wait.expired) == (0, math.inf, [])


@pytest.mark.anyio
async def test_stopping_before_it_has_begun() -> None:
    """A task that was started in the same step is stopped like any other."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(anyio.current_time() + 100)
    wait.until(math.inf)
    with anyio.fail_after(5):
        await deadlines.stop()
    await steps()
    assert (tasks(), deadlines.next_wakeup) == (0, math.inf)


@pytest.mark.trio
async def test_stopping_while_something_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Stopping does not take as long as somebody else's wait, which still ends in its time."""
    deadlines = TimeoutWatcher()
    wait, began = Wait(deadlines), trio.current_time()
    wait.until(began + 5)
    await trio.sleep(1)
    await deadlines.stop()
    assert trio.current_time() == began + 1
    await trio.sleep(10)
    assert wait.expired == [began + 5]


@pytest.mark.trio
@pytest.mark.parametrize("when", ["in the same step", "while one expires"])
async def test_stopping_while_a_wait_begins(autojump_clock: trio.testing.MockClock, when: str) -> None:
    """A wait that begins before the task has ended, but after it was to be stopped, does not hold up who stops it."""
    for _ in range(20):  # trio runs tasks in any order
        deadlines = TimeoutWatcher()
        over, wait, began = Wait(deadlines), Wait(deadlines), trio.current_time()

        async def begin(wait: Wait = wait, began: float = began) -> None:
            wait.until(began + 5)

        if when == "while one expires":

            async def expire_slowly(begin: Callable[[], Awaitable[None]] = begin) -> None:
                await trio.sleep(1)
                await begin()

            wait.until(began + 100)
            await trio.testing.wait_all_tasks_blocked()
            wait.until(math.inf)
            over.while_expiring = expire_slowly
            over.until(began)
            await over.is_over.wait()
            await deadlines.stop()
            assert trio.current_time() == began + 1
        else:
            over.until(began + 100)
            await trio.testing.wait_all_tasks_blocked()
            over.until(math.inf)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(begin)
                await deadlines.stop()
            assert trio.current_time() == began
        await trio.sleep(10)
        assert wait.expired == [began + 5]


@pytest.mark.anyio
async def test_stopping_while_one_expires() -> None:
    """Stopping waits for a wait that is being ended, and for no longer."""
    deadlines = TimeoutWatcher()
    wait, go_on = Wait(deadlines), anyio.Event()
    log: list[str] = []

    async def expire_slowly() -> None:
        log.append("expiring")
        await go_on.wait()
        log.append("expired")

    async def stop() -> None:
        await deadlines.stop()
        log.append("stopped")

    other = Wait(deadlines)
    other.until(anyio.current_time() + 100)
    await steps()
    other.until(math.inf)
    wait.while_expiring = expire_slowly
    wait.until(anyio.current_time())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await wait.is_over.wait()
            group.start_soon(stop)
            await steps()
            go_on.set()
    await steps()
    assert (log, tasks()) == (["expiring", "expired", "stopped"], 0)


@pytest.mark.anyio
async def test_stopping_while_cancelled() -> None:
    """Stopping is not cut short by a cancellation, so that no task stays behind; and the cancellation is not lost."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(anyio.current_time() + 100)
    await steps()
    wait.until(math.inf)
    log: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await deadlines.stop()
        log.append("stopped")
        assert deadlines.next_wakeup == math.inf
        await anyio.lowlevel.checkpoint()
        log.append("went on")
    await steps()
    assert (log, tasks()) == (["stopped"], 0)


@pytest.mark.anyio
@asyncio_only
async def test_stopping_while_natively_cancelled() -> None:
    """task.cancel() is held back until the task has ended, and then let through."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    wait.until(anyio.current_time() + 100)
    await steps()
    wait.until(math.inf)
    task = asyncio.create_task(deadlines.stop())
    asyncio.get_running_loop().call_soon(task.cancel)
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    await steps()
    assert (tasks(), deadlines.next_wakeup) == (0, math.inf)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["by itself", "stopped"])
async def test_used_again(how: str) -> None:
    """When the task has ended, the next wait starts another one."""
    deadlines = TimeoutWatcher()
    for _ in range(3):
        wait, now = Wait(deadlines), anyio.current_time()
        if how == "stopped":
            wait.until(now + 100)
            await steps()
            wait.until(math.inf)
            await deadlines.stop()
        wait.until(now)
        with anyio.fail_after(5):
            await wait.is_over.wait()
        await steps()
        assert (tasks(), len(wait.expired)) == (0, 1)


@pytest.mark.trio
async def test_used_again_in_the_same_step(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that begins as the task is about to end, before or after, is kept in its time."""
    for delay in range(12):
        deadlines = TimeoutWatcher()
        first, second, began = Wait(deadlines), Wait(deadlines), trio.current_time()
        first.until(began + 1)
        await first.is_over.wait()
        for _ in range(delay):
            await trio.lowlevel.checkpoint()
        second.until(began + 2)
        await trio.sleep(5)
        assert (first.expired, second.expired, tasks()) == ([began + 1], [began + 2], 0)


@pytest.mark.anyio
async def test_one_that_fails_to_expire(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while a wait is ended is logged, and the others are ended all the same, now and later."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    deadlines = TimeoutWatcher()
    errors = [OSError("no such socket"), ValueError("what"), None]
    waits, now = [Wait(deadlines, error) for error in errors], anyio.current_time()
    for wait in waits:
        wait.until(now)
    later = Wait(deadlines)
    with anyio.fail_after(5):
        for wait in waits:
            await wait.is_over.wait()
        later.until(anyio.current_time())
        await later.is_over.wait()
    await steps()
    assert ([len(wait.expired) for wait in (*waits, later)], tasks()) == ([1] * 4, 0)
    records = [record for record in caplog.records if record.name == "prefect_http"]
    assert [record.levelname for record in records] == ["DEBUG", "DEBUG"]
    logged = [record.exc_info[1] for record in records if record.exc_info]
    assert sorted(map(str, logged)) == ["no such socket", "what"]


@pytest.mark.anyio
async def test_belongs_to_no_user_task() -> None:
    """The task outlives the one whose wait started it, and knows nothing of its cancellation."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    with anyio.CancelScope() as scope:
        wait.until(anyio.current_time() + 0.01)
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    with anyio.fail_after(5):
        await wait.is_over.wait()
    await steps()
    assert tasks() == 0


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("has_begun", [False, True])
async def test_cancelled_by_somebody(has_begun: bool) -> None:
    """Who cancels all tasks of a loop ends this one as well; the next wait starts another one."""
    deadlines = TimeoutWatcher()
    wait = Wait(deadlines)
    before = asyncio.all_tasks()
    wait.until(anyio.current_time() + 100)
    if has_begun:
        await steps()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await steps()
    assert (tasks(), deadlines.next_wakeup) == (0, math.inf)
    wait.until(anyio.current_time())
    with anyio.fail_after(1):
        await wait.is_over.wait()


# --- Several event loops


@TWO_LOOPS
def test_one_loop_after_the_other(backends: tuple[str, str]) -> None:
    """What has come to rest in one loop may be used in the next, of whatever kind."""
    deadlines = TimeoutWatcher()

    async def main() -> None:
        wait = Wait(deadlines)
        wait.until(anyio.current_time())
        with anyio.fail_after(5):
            await wait.is_over.wait()
            await deadlines.stop()
        await steps()
        assert (tasks(), len(wait.expired), deadlines.next_wakeup) == (0, 1, math.inf)
        deadlines.watched.clear()

    for backend in backends:
        anyio.run(main, backend=backend)


@TWO_LOOPS
@pytest.mark.parametrize("has_begun", [False, True])
def test_loop_that_ends_while_something_waits(backends: tuple[str, str], has_begun: bool) -> None:
    """The end of a loop ends the task, without a sound, and the next loop has its own."""
    waits: list[Wait] = []

    async def main() -> None:
        deadlines = TimeoutWatcher()
        over, wait = Wait(deadlines), Wait(deadlines)
        over.until(anyio.current_time())
        wait.until(anyio.current_time() + 100)
        if has_begun:
            with anyio.fail_after(5):
                await over.is_over.wait()
            await steps()
            assert (tasks(), len(over.expired)) == (1, 1)
        waits.append(wait)

    for backend in backends:
        anyio.run(main, backend=backend)
    assert [wait.expired for wait in waits] == [[], []]
