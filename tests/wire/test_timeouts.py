"""TimeoutWatcher: ends the waits of fakes at exact times on trio; and the life of its task on both backends."""

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
from support.rows import each_row
from support.scripted_servers import settle

from prefect_http._wire.timeouts import TimedWait, TimeoutWatcher

BACKENDS = ["asyncio", "trio"]
TWO_LOOPS = pytest.mark.parametrize("backends", list(itertools.product(BACKENDS, BACKENDS)), ids="-then-".join)
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Wait:
    """A fake of an object that waits.

    Attributes:
        deadline: as TimeoutWatcher wants it.
        expired: the times at which it was expired.
        error: raised by ``expire()`` at its end.
        while_expiring: awaited by ``expire()``.
        is_over: set when it is expired.
    """

    def __init__(self, watcher: TimeoutWatcher, error: Exception | None = None) -> None:
        self.deadline = math.inf
        self.expired: list[float] = []
        self.error = error
        self.while_expiring: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        self.is_over = anyio.Event()
        self._watcher = watcher
        watcher.watched.add(self)

    def until(self, deadline: float) -> None:
        """Wait until a deadline, as Connection does."""
        self.deadline = deadline
        if deadline < self._watcher.next_wakeup:
            self._watcher.wake_by(deadline)

    async def expire(self) -> None:
        self.deadline = math.inf
        self.expired.append(anyio.current_time())
        self.is_over.set()
        await self.while_expiring()
        if self.error is not None:
            raise self.error


def tasks() -> int:
    """Count the tasks of TimeoutWatchers."""
    return [task.name for task in anyio.get_running_tasks()].count("prefect_http timeouts")


# --- Exact times


@pytest.mark.trio
@pytest.mark.parametrize("seconds", [0.0, 0.125, 5.0, 60.5])
async def test_ends_at_the_deadline(autojump_clock: trio.testing.MockClock, seconds: float) -> None:
    """A wait is ended exactly at its deadline, once."""
    watcher = TimeoutWatcher()
    wait, start = Wait(watcher), trio.current_time()
    wait.until(start + seconds)
    await trio.sleep(10_000)
    assert wait.expired == [start + seconds]


@pytest.mark.trio
async def test_timed_wait(autojump_clock: trio.testing.MockClock) -> None:
    """A TimedWait ends at its deadline, or earlier if it is woken; one without a deadline is not watched."""
    watcher = TimeoutWatcher()
    started = trio.current_time()
    late, soon, later = [TimedWait(watcher, started + seconds) for seconds in (5, 3, 4)]
    assert watcher.watched == {late, soon, later}
    later.forget()
    await soon.waiter.wait()
    assert trio.current_time() == started + 3
    soon.forget()
    late.waiter.set()
    await late.waiter.wait()
    assert trio.current_time() == started + 3
    late.forget()
    assert not watcher.watched
    endless = TimedWait(watcher, math.inf)
    assert not watcher.watched
    with trio.move_on_after(100) as scope:
        await endless.waiter.wait()
    assert scope.cancelled_caught
    endless.forget()


@pytest.mark.trio
async def test_deadline_in_the_past(autojump_clock: trio.testing.MockClock) -> None:
    """A wait whose deadline has already passed is ended at once."""
    watcher = TimeoutWatcher()
    wait, start = Wait(watcher), trio.current_time()
    wait.until(start - 1)
    await trio.sleep(1)
    assert wait.expired == [start]


@pytest.mark.trio
async def test_wait_that_ended_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that ended in time is left alone."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(trio.current_time() + 1)
    await trio.sleep(0.5)
    wait.until(math.inf)
    await trio.sleep(5)
    assert wait.expired == []


@pytest.mark.trio
async def test_no_longer_watched(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that is no longer watched is left alone."""
    watcher = TimeoutWatcher()
    wait, other, start = Wait(watcher), Wait(watcher), trio.current_time()
    wait.until(start + 1)
    other.until(start + 2)
    watcher.watched.discard(wait)
    await trio.sleep(5)
    assert (wait.expired, other.expired) == ([], [start + 2])


@pytest.mark.trio
async def test_postponed_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is postponed does not end the wait early, however often it is postponed."""
    watcher = TimeoutWatcher()
    wait, start = Wait(watcher), trio.current_time()
    for number in range(5):
        wait.until(start + number + 1)
        await trio.sleep(0.75)
    await trio.sleep(10)
    assert wait.expired == [start + 5]


@pytest.mark.trio
async def test_earlier_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline earlier than all others is kept, though the task sleeps already."""
    watcher = TimeoutWatcher()
    waits, start = [Wait(watcher) for _ in range(3)], trio.current_time()
    for wait, deadline in zip(waits, (8, 4, 2), strict=True):
        wait.until(start + deadline)
        await trio.sleep(0.25)
    await trio.sleep(10)
    assert [wait.expired for wait in waits] == [[start + 8], [start + 4], [start + 2]]


@pytest.mark.trio
async def test_earlier_deadlines_in_one_step(autojump_clock: trio.testing.MockClock) -> None:
    """Of several earlier deadlines that are set before the task wakes, none is lost."""
    watcher = TimeoutWatcher()
    waits, start = [Wait(watcher) for _ in range(4)], trio.current_time()
    waits[0].until(start + 8)
    await trio.sleep(0.25)
    for wait, deadline in zip(waits[1:], (4, 2, 3), strict=True):
        wait.until(start + deadline)
    await trio.sleep(10)
    assert [wait.expired for wait in waits] == [[start + 8], [start + 4], [start + 2], [start + 3]]


@pytest.mark.trio
async def test_same_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Any number of waits may end at the same time, and again after they have started anew."""
    watcher = TimeoutWatcher()
    waits, start = [Wait(watcher) for _ in range(50)], trio.current_time()
    for deadline in (start + 1, start + 2):
        for wait in waits:
            wait.until(deadline)
        await trio.sleep_until(deadline + 0.5)
    assert [wait.expired for wait in waits] == [[start + 1, start + 2]] * 50


@pytest.mark.trio
@pytest.mark.parametrize("again", [math.inf, 5.0])
async def test_a_wait_that_ends_beside_an_expiring_one(autojump_clock: trio.testing.MockClock, again: float) -> None:
    """A wait that ends while another one is being expired is left alone, though it had the same deadline."""
    watcher = TimeoutWatcher()
    waits, start = [Wait(watcher) for _ in range(2)], trio.current_time()

    async def answer_the_others() -> None:
        for wait in waits:
            if not wait.expired:
                wait.until(start + again)
        await trio.lowlevel.checkpoint()

    for wait in waits:
        wait.while_expiring = answer_the_others
        wait.until(start + 1)
    await trio.sleep(3)
    assert sorted(wait.expired for wait in waits) == [[], [start + 1]]
    await trio.sleep(3)
    assert sorted(time for wait in waits for time in wait.expired) == [start + 1] + [start + 5] * (again == 5.0)


@pytest.mark.trio
async def test_a_wait_that_begins_while_another_one_expires(autojump_clock: trio.testing.MockClock) -> None:
    """A deadline that is set while another wait is being expired is kept."""
    watcher = TimeoutWatcher()
    first, second, third, start = Wait(watcher), Wait(watcher), Wait(watcher), trio.current_time()

    async def begin() -> None:
        await trio.lowlevel.checkpoint()
        second.until(start + 2)
        await trio.lowlevel.checkpoint()
        third.until(start + 1)

    first.while_expiring = begin
    first.until(start + 1)
    await trio.sleep(5)
    assert (first.expired, second.expired, third.expired) == ([start + 1], [start + 2], [start + 1])


@pytest.mark.trio
async def test_wakes_once_a_second(autojump_clock: trio.testing.MockClock) -> None:
    """Many short waits, one after the other, wake the task no more than once a second."""
    watcher = TimeoutWatcher()
    wait, start = Wait(watcher), trio.current_time()
    looks: set[float] = set()
    for _ in range(1000):
        wait.until(trio.current_time() + 5)
        looks.add(watcher.next_wakeup)
        await trio.sleep(0.125)
        wait.until(math.inf)
    assert wait.expired == []
    assert len(looks) <= 1000 * 0.125  # once a second
    assert min(looks) == start + 5


# --- The life of the task


@pytest.mark.anyio
async def test_no_task_without_waits() -> None:
    """While nothing waits, there is no task."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(math.inf)
    await settle()
    assert (tasks(), watcher.next_wakeup) == (0, math.inf)
    with anyio.fail_after(5):
        await watcher.stop()


@pytest.mark.anyio
async def test_one_task_for_all() -> None:
    """There is one task for all waits, and it ends when it finds that nothing waits."""
    watcher = TimeoutWatcher()
    waits, now = [Wait(watcher) for _ in range(20)], anyio.current_time()
    for number, wait in enumerate(waits):
        wait.until(now + 100 - number)
        assert watcher.next_wakeup == wait.deadline
    await settle()
    assert tasks() == 1
    for wait in waits:
        wait.until(math.inf)
    waits[0].until(now)
    with anyio.fail_after(5):
        await waits[0].is_over.wait()
    await settle()
    assert (tasks(), watcher.next_wakeup) == (0, math.inf)


@pytest.mark.anyio
async def test_stopping() -> None:
    """If nothing waits, stopping ends the task at once; stopping again changes nothing."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(anyio.current_time() + 100)
    await settle()
    wait.until(math.inf)
    for _ in range(2):
        with anyio.fail_after(5):
            await watcher.stop()
        await settle()
        assert (tasks(), watcher.next_wakeup, wait.expired) == (0, math.inf, [])


@pytest.mark.anyio
async def test_stopping_before_it_has_started() -> None:
    """A task that was started in the same step is stopped like any other."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(anyio.current_time() + 100)
    wait.until(math.inf)
    with anyio.fail_after(5):
        await watcher.stop()
    await settle()
    assert (tasks(), watcher.next_wakeup) == (0, math.inf)


@pytest.mark.trio
async def test_stopping_while_something_waits(autojump_clock: trio.testing.MockClock) -> None:
    """Stopping does not take as long as a wait that is still going on, and that wait still times out."""
    watcher = TimeoutWatcher()
    wait, start = Wait(watcher), trio.current_time()
    wait.until(start + 5)
    await trio.sleep(1)
    await watcher.stop()
    assert trio.current_time() == start + 1
    await trio.sleep(10)
    assert wait.expired == [start + 5]


@pytest.mark.trio
@pytest.mark.parametrize("when", ["in the same step", "while one expires"])
async def test_stopping_while_a_wait_begins(autojump_clock: trio.testing.MockClock, when: str) -> None:
    """A wait that starts while the task is being stopped does not hold up the stopping."""
    for _ in range(20):  # trio runs tasks in any order
        watcher = TimeoutWatcher()
        over, wait, start = Wait(watcher), Wait(watcher), trio.current_time()

        async def begin(wait: Wait = wait, start: float = start) -> None:
            wait.until(start + 5)

        if when == "while one expires":

            async def expire_slowly(begin: Callable[[], Awaitable[None]] = begin) -> None:
                await trio.sleep(1)
                await begin()

            wait.until(start + 100)
            await trio.testing.wait_all_tasks_blocked()
            wait.until(math.inf)
            over.while_expiring = expire_slowly
            over.until(start)
            await over.is_over.wait()
            await watcher.stop()
            assert trio.current_time() == start + 1
        else:
            over.until(start + 100)
            await trio.testing.wait_all_tasks_blocked()
            over.until(math.inf)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(begin)
                await watcher.stop()
            assert trio.current_time() == start
        await trio.sleep(10)
        assert wait.expired == [start + 5]


@pytest.mark.anyio
async def test_stopping_while_one_expires() -> None:
    """Stopping waits for a wait that is being expired, and for no longer."""
    watcher = TimeoutWatcher()
    wait, go_on = Wait(watcher), anyio.Event()
    log: list[str] = []

    async def expire_slowly() -> None:
        log.append("expiring")
        await go_on.wait()
        log.append("expired")

    async def stop() -> None:
        await watcher.stop()
        log.append("stopped")

    other = Wait(watcher)
    other.until(anyio.current_time() + 100)
    await settle()
    other.until(math.inf)
    wait.while_expiring = expire_slowly
    wait.until(anyio.current_time())
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            await wait.is_over.wait()
            group.start_soon(stop)
            await settle()
            go_on.set()
    await settle()
    assert (log, tasks()) == (["expiring", "expired", "stopped"], 0)


@pytest.mark.anyio
async def test_stopping_while_cancelled() -> None:
    """A cancellation does not cut stopping short, so that no task is left behind; and the cancellation is not lost."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(anyio.current_time() + 100)
    await settle()
    wait.until(math.inf)
    log: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await watcher.stop()
        log.append("stopped")
        assert watcher.next_wakeup == math.inf
        await anyio.lowlevel.checkpoint()
        log.append("went on")
    await settle()
    assert (log, tasks()) == (["stopped"], 0)


@pytest.mark.anyio
@asyncio_only
async def test_stopping_while_natively_cancelled() -> None:
    """task.cancel() is held back until the task has ended, and then raised."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    wait.until(anyio.current_time() + 100)
    await settle()
    wait.until(math.inf)
    task = asyncio.create_task(watcher.stop())
    asyncio.get_running_loop().call_soon(task.cancel)
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert (tasks(), watcher.next_wakeup) == (0, math.inf)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["by itself", "stopped"])
async def test_used_again(how: str) -> None:
    """After the task has ended, the next wait starts another one."""
    watcher = TimeoutWatcher()
    for _ in range(3):
        wait, now = Wait(watcher), anyio.current_time()
        if how == "stopped":
            wait.until(now + 100)
            await settle()
            wait.until(math.inf)
            await watcher.stop()
        wait.until(now)
        with anyio.fail_after(5):
            await wait.is_over.wait()
        await settle()
        assert (tasks(), len(wait.expired)) == (0, 1)


@pytest.mark.trio
async def test_used_again_in_the_same_step(autojump_clock: trio.testing.MockClock) -> None:
    """A wait that starts just as the task is about to end is not lost."""
    for delay in range(12):
        watcher = TimeoutWatcher()
        first, second, start = Wait(watcher), Wait(watcher), trio.current_time()
        first.until(start + 1)
        await first.is_over.wait()
        for _ in range(delay):
            await trio.lowlevel.checkpoint()
        second.until(start + 2)
        await trio.sleep(5)
        assert (first.expired, second.expired, tasks()) == ([start + 1], [start + 2], 0)


@pytest.mark.anyio
async def test_error_while_expiring(caplog: pytest.LogCaptureFixture) -> None:
    """An error while a wait is being expired is logged, and all others are expired all the same."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    watcher = TimeoutWatcher()
    errors = [OSError("no such socket"), ValueError("what"), None]
    waits, now = [Wait(watcher, error) for error in errors], anyio.current_time()
    for wait in waits:
        wait.until(now)
    later = Wait(watcher)
    with anyio.fail_after(5):
        for wait in waits:
            await wait.is_over.wait()
        later.until(anyio.current_time())
        await later.is_over.wait()
    await settle()
    assert ([len(wait.expired) for wait in (*waits, later)], tasks()) == ([1] * 4, 0)
    records = [record for record in caplog.records if record.name == "prefect_http"]
    assert [record.levelname for record in records] == ["DEBUG", "DEBUG"]
    logged = [record.exc_info[1] for record in records if record.exc_info]
    assert sorted(map(str, logged)) == ["no such socket", "what"]


@pytest.mark.anyio
async def test_belongs_to_no_user_task() -> None:
    """The task outlives the one whose wait started it, and is not affected by its cancellation."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    with anyio.CancelScope() as scope:
        wait.until(anyio.current_time() + 0.01)
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    with anyio.fail_after(5):
        await wait.is_over.wait()
    await settle()
    assert tasks() == 0


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("has_started", [False, True])
async def test_cancelled_from_outside(has_started: bool) -> None:
    """If the task is cancelled, as by code that cancels all tasks of a loop, the next wait starts another one."""
    watcher = TimeoutWatcher()
    wait = Wait(watcher)
    before = asyncio.all_tasks()
    wait.until(anyio.current_time() + 100)
    if has_started:
        await settle()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await settle()
    assert (tasks(), watcher.next_wakeup) == (0, math.inf)
    wait.until(anyio.current_time())
    with anyio.fail_after(1):
        await wait.is_over.wait()


# --- Several event loops


@TWO_LOOPS
def test_one_loop_after_the_other(backends: tuple[str, str]) -> None:
    """A watcher without waits may be used in another event loop, on either backend."""
    watcher = TimeoutWatcher()

    async def main() -> None:
        wait = Wait(watcher)
        wait.until(anyio.current_time())
        with anyio.fail_after(5):
            await wait.is_over.wait()
            await watcher.stop()
        await settle()
        assert (tasks(), len(wait.expired), watcher.next_wakeup) == (0, 1, math.inf)
        watcher.watched.clear()

    for backend in backends:
        anyio.run(main, backend=backend)


@TWO_LOOPS
@each_row("has_started", [False, True])
def test_loop_that_ends_while_something_waits(backends: tuple[str, str], has_started: bool) -> None:
    """The end of an event loop ends the task silently, and the next loop has its own."""
    waits: list[Wait] = []

    async def main() -> None:
        watcher = TimeoutWatcher()
        over, wait = Wait(watcher), Wait(watcher)
        over.until(anyio.current_time())
        wait.until(anyio.current_time() + 100)
        if has_started:
            with anyio.fail_after(5):
                await over.is_over.wait()
            await settle()
            assert (tasks(), len(over.expired)) == (1, 1)
        waits.append(wait)

    for backend in backends:
        anyio.run(main, backend=backend)
    assert [wait.expired for wait in waits] == [[], []]
