"""The seam between trio and asyncio: root tasks, the primitives around them, and shielded waiting."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import types
import weakref

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from support.cancelled_groups import run_in_cancelled_group
from support.lifespan_apps import steps

from prefect_http._concurrency.backend import (
    Waiter,
    checkpoint_if_cancelled,
    current_loop,
    current_task,
    has_ended,
    is_root_task_cancelled,
    new_cancel_scope,
    new_event,
    new_waiter,
    open_nursery,
    spawn_root_task,
    spawn_root_task_soon,
    wait_shielded,
)
from prefect_http._concurrency.borrowed_task import BorrowedTask
from prefect_http._concurrency.context import in_context

BACKENDS = ["asyncio", "trio"]
asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


@pytest.mark.anyio
async def test_primitives_are_the_backends_own(anyio_backend: str) -> None:
    """Under trio they are trio's own objects, under asyncio anyio's."""
    home = trio if anyio_backend == "trio" else anyio
    assert isinstance(new_event(), home.Event)
    assert isinstance(new_cancel_scope(), home.CancelScope)
    async with open_nursery() as nursery:
        assert isinstance(nursery, trio.Nursery if anyio_backend == "trio" else anyio.abc.TaskGroup)


@pytest.mark.anyio
async def test_waiter() -> None:
    """A waiter wakes the task that waits, or will wait; it may be woken again, and after a cancellation."""
    waiter = new_waiter()
    waiter.set()
    with anyio.fail_after(5):
        await waiter.wait()
    for is_cancelled in False, True:
        waiter, outcomes = new_waiter(), list[str]()

        async def wait(waiter: Waiter = waiter, outcomes: list[str] = outcomes) -> None:
            try:
                await waiter.wait()
            except anyio.get_cancelled_exc_class():
                outcomes.append("cancelled")
                raise
            outcomes.append("woken")

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert not outcomes
                if is_cancelled:
                    tasks.cancel_scope.cancel()
                else:
                    waiter.set()
                    waiter.set()
        waiter.set()
        assert outcomes == ["cancelled" if is_cancelled else "woken"]


@pytest.mark.anyio
async def test_checkpoint_if_cancelled() -> None:
    """It lets no other task run if the task is not cancelled, and a shield protects from it."""
    await checkpoint_if_cancelled()
    with anyio.CancelScope() as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            await checkpoint_if_cancelled()
        await checkpoint_if_cancelled()
        raise AssertionError
    has_run = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            has_run.set()

        tasks.start_soon(run)
        await checkpoint_if_cancelled()
        assert not has_run.is_set()


@pytest.mark.anyio
async def test_checkpoint_if_cancelled_where_anyio_sends_no_cancellation() -> None:
    """It does not wait for one for ever, with a busy loop."""
    assert await run_in_cancelled_group(checkpoint_if_cancelled)


@pytest.mark.anyio
async def test_backend_is_found_without_sniffio(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of trio may do without sniffio, which is asked first."""
    monkeypatch.delitem(sys.modules, "sniffio")
    assert isinstance(new_event(), (trio if anyio_backend == "trio" else anyio).Event)


@pytest.mark.anyio
@asyncio_only
async def test_backend_is_found_without_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on asyncio need not import trio."""
    monkeypatch.delitem(sys.modules, "trio")
    assert isinstance(new_event(), anyio.Event)


@pytest.mark.parametrize("backend", BACKENDS)
def test_end_of_a_loop(backend: str) -> None:
    """The run of an event loop has ended once it is over, whoever asks."""

    async def main() -> object:
        loop = current_loop()
        assert not has_ended(loop)
        assert not await anyio.to_thread.run_sync(has_ended, loop)
        return loop

    loop = anyio.run(main, backend=backend)
    assert has_ended(loop)

    async def ask() -> bool:
        return has_ended(loop)

    for other in BACKENDS:
        assert anyio.run(ask, backend=other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_spawned_from_anywhere(backend: str) -> None:
    """A root task can be started from another thread, and not in a loop that has ended."""

    async def main() -> object:
        loop, done = current_loop(), anyio.Event()

        async def set_done() -> None:
            done.set()

        await anyio.to_thread.run_sync(spawn_root_task_soon, loop, set_done, "set")
        with anyio.fail_after(30):
            await done.wait()
        return loop

    async def never() -> None:
        raise AssertionError

    loop = anyio.run(main, backend=backend)
    with pytest.raises(RuntimeError):
        spawn_root_task_soon(loop, never, "never")


@pytest.mark.anyio
async def test_outlives_its_starter() -> None:
    """A root task goes on when the task that started it has been cancelled."""
    done, release = anyio.Event(), anyio.Event()
    held: list[object] = []

    async def main() -> None:
        await release.wait()
        done.set()

    async def start() -> None:
        held.append(spawn_root_task(main, "root"))
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.fail_after(30):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(start)
        release.set()
        await done.wait()
    assert len(held) == 1


@pytest.mark.anyio
async def test_started_in_a_cancelled_scope() -> None:
    """A root task started in a cancelled scope is not cancelled."""
    done = anyio.Event()

    async def main() -> None:
        await anyio.lowlevel.checkpoint()
        done.set()

    with anyio.CancelScope() as scope:
        scope.cancel()
        root_task = spawn_root_task(main, "root")
        await anyio.lowlevel.checkpoint()
    with anyio.fail_after(30):
        await done.wait()
    del root_task


@pytest.mark.anyio
async def test_copies_the_context() -> None:
    """A root task sees its starter's context variables as they were; neither sees what the other one sets later."""
    seen: list[str] = []
    done, go_on = anyio.Event(), anyio.Event()

    async def main() -> None:
        await go_on.wait()
        seen.append(color.get())
        color.set("blue")
        done.set()

    color.set("red")
    root_task = spawn_root_task(main, "root")
    color.set("green")
    go_on.set()
    with anyio.fail_after(30):
        await done.wait()
    assert (seen, color.get()) == (["red"], "green")
    del root_task


@pytest.mark.anyio
async def test_is_named() -> None:
    """A root task has the name that it was given."""
    stop = anyio.Event()

    async def main() -> None:
        await stop.wait()

    root_task = spawn_root_task(main, "a name of its own")
    await steps()
    assert "a name of its own" in [task.name for task in anyio.get_running_tasks()]
    stop.set()
    await steps()
    assert "a name of its own" not in [task.name for task in anyio.get_running_tasks()]
    del root_task


@pytest.mark.parametrize("backend", BACKENDS)
def test_end_of_the_run_cancels(backend: str) -> None:
    """A root task that still runs at the end of the loop's run is cancelled, and may clean up."""
    log: list[str] = []

    async def main() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await anyio.lowlevel.cancel_shielded_checkpoint()
            log.append("cleaned up")

    async def start() -> object:
        root_task = spawn_root_task(main, "root")
        await steps()
        log.append("main ends")
        return root_task

    anyio.run(start, backend=backend)
    assert log == ["main ends", "cleaned up"]


@pytest.mark.anyio
async def test_survives_garbage_collection() -> None:
    """Holding what spawn_root_task returns keeps the task alive, even if nothing else refers to it."""

    class Token:
        pass

    tokens: list[weakref.ref[Token]] = []

    async def main() -> None:
        token = Token()
        tokens.append(weakref.ref(token))
        await new_event().wait()  # nothing else refers to this event

    root_task = spawn_root_task(main, "root")
    await steps()
    for _ in range(3):
        gc.collect()
    assert tokens[0]() is not None
    assert root_task is not None
    if isinstance(root_task, asyncio.Task):
        root_task.cancel()


@pytest.mark.anyio
async def test_shielded_wait_for_an_event_that_is_set() -> None:
    """Waiting for an event that is already set does not even yield."""
    event = new_event()
    event.set()
    log: list[str] = []

    async def run() -> None:
        log.append("another task")

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await wait_shielded(event)
        log.append("waited")
    assert log == ["waited", "another task"]


@pytest.mark.anyio
@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_shielded_wait_in_a_cancelled_scope(when: str) -> None:
    """A cancelled scope does not end the wait; the next checkpoint after it does."""
    event = new_event()
    log: list[str] = []

    async def come_late() -> None:
        await steps()
        scope.cancel()
        await steps()
        log.append("event")
        event.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(come_late)
            with anyio.CancelScope() as scope:
                if when == "before":
                    scope.cancel()
                await wait_shielded(event)
                log.append("waited")
                await anyio.lowlevel.checkpoint()
                log.append("never")
    assert log == ["event", "waited"]
    assert scope.cancelled_caught


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("times", [1, 3])
async def test_shielded_wait_holds_back_native_cancellation(times: int) -> None:
    """task.cancel(), however often, is held back until the event has come, and then let through."""
    event = new_event()
    log: list[str] = []

    async def wait() -> None:
        try:
            await wait_shielded(event)
        finally:
            log.append("waited")

    task = asyncio.create_task(wait())
    for _ in range(times):
        await steps()
        task.cancel("native")
    await steps()
    assert not task.done()
    assert log == []
    event.set()
    with anyio.fail_after(30), pytest.raises(asyncio.CancelledError, match="native"):
        await task
    assert log == ["waited"]
    assert task.cancelled()


@pytest.mark.anyio
@asyncio_only
async def test_shielded_wait_in_a_native_timeout() -> None:
    """asyncio.timeout() turns a cancellation that was held back into its TimeoutError."""
    event = new_event()

    async def set_late() -> None:
        await steps()
        event.set()

    async with anyio.create_task_group() as group:
        group.start_soon(set_late)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await wait_shielded(event)
    assert event.is_set()


@pytest.mark.anyio
async def test_current_task() -> None:
    """Each task has an object of its own, which stays the same, and can be the key of a weak dictionary."""
    tasks: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()

    async def note(number: int) -> None:
        tasks[current_task()] = number
        await anyio.lowlevel.checkpoint()
        assert tasks[current_task()] == number
        await steps()

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(note, number)
        await steps(5)
        assert current_task() not in tasks
        assert sorted(tasks.values()) == [0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cancelled_root_task(backend: str) -> None:
    """A root task is being cancelled at the end of the run, not when a scope in it is, nor when its starter is."""
    log: list[bool] = []
    root_tasks: list[object] = []

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        log.append(is_root_task_cancelled(root_tasks[0]))
        try:
            await anyio.sleep_forever()
        finally:
            log.append(is_root_task_cancelled(root_tasks[0]))

    async def start() -> None:
        root_tasks.append(spawn_root_task(main, "root"))
        await steps()

    anyio.run(start, backend=backend)
    assert log == [False, True]


def test_trio_that_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under asyncio, it does not matter that another thread is in the middle of importing trio."""

    async def main() -> None:
        event = new_event()
        assert isinstance(event, anyio.Event)

        async def set_event() -> None:
            event.set()

        root_task = spawn_root_task(set_event, "root")
        await wait_shielded(event)
        assert isinstance(root_task, asyncio.Task)

    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    asyncio.run(main())


# A task that runs code that may cancel it.


def borrow() -> BorrowedTask:
    """Borrow the current task."""
    return BorrowedTask(contextvars.copy_context(), new_cancel_scope(), lambda: False, lambda: False)


@pytest.mark.anyio
async def test_borrowed_task_that_is_not_cancelled() -> None:
    """If nobody cancels a task, giving it back does nothing."""
    color.set("red")
    task = borrow()
    color.set("blue")
    assert task.run(color.get) == "red"
    assert not task.has_to_be_given_back()
    await task.raise_if_cancelled()
    assert not task.is_cancelled()


@pytest.mark.anyio
async def test_borrowed_task_in_a_cancelled_scope() -> None:
    """The cancellation of a scope around the task is told from a stray one, and raised if it has not been."""
    with anyio.CancelScope() as scope:
        task = borrow()
        task.run(scope.cancel)
        assert task.is_cancelled()
        assert not task.has_to_be_given_back()
        with pytest.raises(anyio.get_cancelled_exc_class()):
            await task.raise_if_cancelled()


@pytest.mark.anyio
@asyncio_only
async def test_borrowed_task_that_is_cancelled_natively() -> None:
    """What the code asks for is undone, but not what it has undone itself, and not what others ask for."""
    own = asyncio.current_task()
    assert own is not None
    loop = asyncio.get_running_loop()
    for by_code, undone, by_others in ((1, 0, 0), (2, 1, 0), (1, 1, 0), (0, 0, 1), (2, 0, 1)):
        task = borrow()
        for _ in range(by_code):
            task.run(own.cancel)
        for _ in range(undone):
            task.run(own.uncancel)
        for _ in range(by_others):
            loop.call_soon(own.cancel)
        if by_others:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        task.run(color.get)
        assert task.has_to_be_given_back() == (by_code > undone)
        if by_code > undone:
            await task.give_back()
        assert task.is_cancelled() == task.is_natively_cancelled == bool(by_others)
        if by_others:
            with pytest.raises(asyncio.CancelledError):
                await task.raise_if_cancelled()
        assert own.cancelling() == by_others
        for _ in range(by_others):
            own.uncancel()
        with contextlib.suppress(asyncio.CancelledError):  # until Python 3.13, where the code has undone its own
            await asyncio.sleep(0)


@pytest.mark.anyio
@asyncio_only
async def test_borrowed_task_that_is_cancelled_while_it_is_given_back() -> None:
    """A cancellation by others that comes in between is raised."""
    own = asyncio.current_task()
    assert own is not None
    task = borrow()
    task.run(own.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(own.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task.give_back()
    assert own.uncancel() == 0


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("rounds", range(4))
async def test_guarded_wait_that_is_cancelled_as_it_ends(rounds: int) -> None:
    """A wait that is cancelled just as it ends has its result, or the cancellation is raised in it; never neither."""

    async def wait() -> None:
        log.append(await future)
        await asyncio.sleep(10)

    async def run() -> None:
        task = borrow()
        await in_context(task, wait(), lambda: None, task.guard)

    log: list[str] = []
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    future.set_result("done")
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    with anyio.fail_after(30), pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["done"] * (rounds > 1)
