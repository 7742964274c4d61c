"""A root task, which no user task owns, and the primitives that guard it: the one seam between trio and asyncio.

Under trio they are trio's own objects, under asyncio anyio's, which have the same methods. Importing the package
imports neither: trio is looked up only where it is already running, and asyncio is imported by what runs under it.
"""

from __future__ import annotations

import contextvars
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import ModuleType, TracebackType
from typing import Any, Protocol, cast

import anyio

# After so many checkpoints without a cancellation, there is none to wait for.
_ROUNDS = 4


class Event(Protocol):
    """trio.Event or anyio.Event."""

    def set(self) -> object: ...
    def is_set(self) -> bool: ...
    async def wait(self) -> None: ...


class Waiter(Protocol):
    """Lets one task wait until it is woken. An event, on which any number can wait, takes 0.7 KiB more memory."""

    def set(self) -> object:
        """Wake the task. If it does not wait yet, ``wait()`` will return at once."""

    def wait(self) -> Awaitable[object]:
        """Return an awaitable that ends when the task is woken; to be called once, by the task that awaits it."""
        ...


class CancelScope(Protocol):
    """trio.CancelScope or anyio.CancelScope."""

    deadline: float
    shield: bool

    @property
    def cancelled_caught(self) -> bool: ...
    @property
    def cancel_called(self) -> bool: ...
    def cancel(self) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None: ...


class Nursery(Protocol):
    """trio.Nursery or anyio.abc.TaskGroup."""

    @property
    def cancel_scope(self) -> CancelScope: ...
    def start_soon(self, async_fn: Callable[[], Awaitable[None]], /) -> object: ...


def new_event() -> Event:
    """Make an event of the running backend."""
    return cast(Event, _backend().Event())


def new_waiter() -> Waiter:
    """Make a waiter of the running backend."""
    trio = running_trio()
    return _AsyncioWaiter() if trio is None else _TrioWaiter(trio.lowlevel)


def new_cancel_scope() -> CancelScope:
    """Make a cancel scope of the running backend."""
    return cast(CancelScope, _backend().CancelScope())


def open_nursery() -> AbstractAsyncContextManager[Nursery]:
    """Open a nursery of the running backend, to be left in the task that entered it."""
    trio = running_trio()
    return cast(
        "AbstractAsyncContextManager[Nursery]",
        anyio.create_task_group() if trio is None else trio.open_nursery(),
    )


async def checkpoint() -> None:
    """Let other tasks run, and be cancelled if that is due: anyio.lowlevel.checkpoint() without its detour."""
    trio = running_trio()
    if trio is not None:
        await trio.lowlevel.checkpoint()
    else:
        import asyncio

        await asyncio.sleep(0)


async def checkpoint_if_cancelled() -> None:
    """Be cancelled if that is due, like anyio.lowlevel.checkpoint_if_cancelled().

    Under asyncio, that repeats ``sleep(0)`` until a cancellation arrives. For some tasks, none does, and they take a
    whole processor for ever; see `await_cancellation()`.
    """
    trio = running_trio()
    if trio is not None:
        await trio.lowlevel.checkpoint_if_cancelled()
    elif anyio.current_effective_deadline() == -math.inf:
        await await_cancellation()


async def await_cancellation() -> None:
    """Pass a few checkpoints, at which a pending cancellation arrives; return if it does not.

    asyncio may notice a deadline only during the second checkpoint. anyio may have stopped cancelling a task that was
    started after its group had been cancelled, and goes on when the task leaves a scope.
    """
    for _ in range(_ROUNDS):
        with new_cancel_scope():
            await checkpoint()


def clock() -> Callable[[], float]:
    """Return the function that reads the running event loop's clock: anyio.current_time(), looked up once.

    On trio it is the clock's own, because trio.current_time() finds that through two more calls, each time.
    """
    trio = running_trio()
    if trio is not None:
        return cast("Callable[[], float]", trio.lowlevel.current_clock().current_time)
    import asyncio

    return asyncio.get_running_loop().time


def effective_deadline_getter() -> Callable[[], float]:
    """Return anyio.current_effective_deadline() of the running backend, looked up once.

    It returns the time on the clock of ``clock()`` at which the calling task is cancelled, or has been.
    """
    return cast("Callable[[], float]", _backend().current_effective_deadline)


def max_receive_bytes() -> int:
    """Return how many bytes to receive from a stream at once.

    It is what asyncio reads from a socket, however few are asked for. Streams that are not ours may keep the rest out
    of sight: the connection would look idle while there is something left on it. trio's do not, but large bodies arrive
    faster in large pieces.
    """
    return 256 * 1024


def current_task() -> object:
    """Return the current task; each has an object of its own, which can be hashed and weakly referenced."""
    trio = running_trio()
    if trio is not None:
        return trio.lowlevel.current_task()
    import asyncio

    return asyncio.current_task()


def current_loop() -> object:
    """Return an object that tells one run of an event loop from another."""
    return loop_getter()()


def loop_getter() -> Callable[[], object]:
    """Return what ``current_loop()`` asks under the running backend; under the other one, it raises a RuntimeError."""
    trio = running_trio()
    if trio is not None:
        return cast("Callable[[], object]", trio.lowlevel.current_trio_token)
    import asyncio

    return asyncio.get_running_loop


def has_ended(loop: object) -> bool:
    """Return whether the run of an event loop, as from ``current_loop()``, has ended; may be asked anywhere."""
    import asyncio

    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    try:
        cast(Any, loop).run_sync_soon(lambda: None)  # the one question that a TrioToken answers
    except RuntimeError:  # trio.RunFinishedError
        return True
    return False


def spawn_root_task(
    main: Callable[[], Coroutine[object, object, None]],
    name: str,
    on_exit: Callable[[], None] = lambda: None,
    context: contextvars.Context | None = None,
) -> object:
    """Start a task that outlives the task which starts it.

    Args:
        main: what the task runs. It must let no exception out but cancellation: under trio, the task is a
            system task, and an exception from one ends the run with a TrioInternalError.
        name: the task's name.
        on_exit: called when the task has ended, even if it was cancelled before it began, as it can be on asyncio.
        context: what it runs in; None for a copy of the current one.

    Returns:
        The task, to be held until it ends; asyncio keeps no strong reference of its own.

    Cancellation:
        The end of the event loop's run cancels the task.
    """
    trio = running_trio()
    if context is None:
        context = contextvars.copy_context()
    if trio is None:
        import asyncio

        coroutine = main()
        try:
            task = asyncio.get_running_loop().create_task(coroutine, name=name, context=context)
        except BaseException:
            coroutine.close()
            raise
        task.add_done_callback(lambda _: on_exit())
        return task

    async def main_to_the_end() -> None:
        try:
            await main()
        finally:
            on_exit()

    return trio.lowlevel.spawn_system_task(main_to_the_end, name=name, context=context)


def spawn_root_task_soon(loop: object, main: Callable[[], Coroutine[object, object, None]], name: str) -> None:
    """Start a root task in an event loop, from anywhere: from another thread, or from a finalizer.

    Args:
        loop: as from ``current_loop()``.
        main: what the task runs, as for ``spawn_root_task()``. It must wait for nothing but a few turns of the loop,
            since nothing holds on to the task.
        name: the task's name.

    Raises:
        RuntimeError: the loop has ended.
    """
    import asyncio

    if isinstance(loop, asyncio.AbstractEventLoop):
        loop.call_soon_threadsafe(lambda: loop.create_task(main(), name=name))
    else:
        spawn = sys.modules["trio"].lowlevel.spawn_system_task
        cast(Any, loop).run_sync_soon(lambda: spawn(main, name=name))


def is_root_task_cancelled(root_task: object) -> bool:
    """Whether a root task is being cancelled, as at the end of the event loop's run; asked in a task of its nursery."""
    import asyncio

    if isinstance(root_task, asyncio.Task):
        return root_task.cancelling() > 0
    return anyio.current_effective_deadline() == -math.inf


async def wait_shielded(event: Event, deadline: float = math.inf) -> None:
    """Wait for an event, whatever is cancelled meanwhile.

    Args:
        event: what to wait for. Without a deadline, it must be sure to be set in bounded time.
        deadline: when to stop waiting, on the event loop's clock.

    Cancellation:
        Shielded. A native cancellation of an asyncio task, which an anyio scope cannot shield from, is held back
        until the wait is over, and raised then.
    """
    cancelled: BaseException | None = None
    while not event.is_set():
        try:
            scope = new_cancel_scope()
            scope.shield = True
            scope.deadline = deadline
            with scope:
                await event.wait()
            if scope.cancelled_caught:
                break
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


class _TrioWaiter:
    __slots__ = ("_is_set", "_lowlevel", "_task")

    def __init__(self, lowlevel: Any) -> None:
        self._lowlevel = lowlevel
        self._task: object = None  # while it waits
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        task, self._task = self._task, None
        if task is not None:
            self._lowlevel.reschedule(task)

    def wait(self) -> Awaitable[object]:
        if self._is_set:
            return cast("Awaitable[object]", self._lowlevel.checkpoint())
        self._task = self._lowlevel.current_task()
        return cast("Awaitable[object]", self._lowlevel.wait_task_rescheduled(self._abort))

    def _abort(self, _: object) -> object:
        self._task = None
        return self._lowlevel.Abort.SUCCEEDED


class _AsyncioWaiter:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        import asyncio

        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[object]:
        return self._future


def _backend() -> ModuleType:
    return running_trio() or anyio


def running_trio() -> ModuleType | None:
    """Return the trio module if trio is running, else None."""
    trio, sniffio = sys.modules.get("trio"), sys.modules.get("sniffio")
    if trio is None:
        return None
    if sniffio is not None:  # what anyio asks as well, behind four calls more
        return trio if sniffio.current_async_library() == "trio" else None
    # getattr, because another thread may be in the middle of importing it.
    return trio if anyio.get_cancelled_exc_class() is getattr(trio, "Cancelled", None) else None
