"""A root task, which no user task owns, and the primitives that guard it: the one seam between trio and asyncio.

Under trio they are trio's own objects, under asyncio anyio's, which have the same methods. trio is looked up only
where it is already running, so an asyncio-only user never imports it.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

P = ParamSpec("P")
R = TypeVar("R")


class Event(Protocol):
    """trio.Event or anyio.Event."""

    def set(self) -> object: ...
    def is_set(self) -> bool: ...
    async def wait(self) -> None: ...


class Lock(Protocol):
    """trio.Lock or anyio.Lock."""

    async def acquire(self) -> None: ...
    def release(self) -> None: ...


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

    def start_soon(self, async_fn: Callable[[], Awaitable[None]], /) -> object: ...


def new_event() -> Event:
    """Make an event of the running backend."""
    return cast(Event, _backend().Event())


def new_lock() -> Lock:
    """Make a lock of the running backend."""
    return cast(Lock, _backend().Lock())


def new_cancel_scope() -> CancelScope:
    """Make a cancel scope of the running backend."""
    return cast(CancelScope, _backend().CancelScope())


def open_nursery() -> AbstractAsyncContextManager[Nursery]:
    """Open a nursery of the running backend, to be left in the task that entered it."""
    trio = _running_trio()
    return cast(
        "AbstractAsyncContextManager[Nursery]",
        anyio.create_task_group() if trio is None else trio.open_nursery(),
    )


async def checkpoint() -> None:
    """Let other tasks run, and be cancelled if that is due: anyio.lowlevel.checkpoint() without its detour."""
    trio = _running_trio()
    await (anyio if trio is None else trio).lowlevel.checkpoint()


def clock() -> Callable[[], float]:
    """Return the function that reads the running event loop's clock: anyio.current_time(), looked up once.

    On trio it is the clock's own, because trio.current_time() finds that through two more calls, each time.
    """
    trio = _running_trio()
    if trio is None:
        return asyncio.get_running_loop().time
    return cast("Callable[[], float]", trio.lowlevel.current_clock().current_time)


async def connect_tcp(host: str, port: int, local_host: str | None) -> ByteStream:
    """Connect to a host, on a lean stream of the running backend.

    Args:
        host: a name or an address.
        port: the port.
        local_host: the address that the connection comes from; None: the system chooses.

    Raises:
        OSError: that fails.
    """
    if _running_trio() is None:
        from prefect_http._concurrency.asyncio_stream import connect_tcp
    else:
        from prefect_http._concurrency.trio_stream import connect_tcp
    return await connect_tcp(host, port, local_host)


def max_receive_bytes() -> int:
    """Return how many bytes to receive from a stream at once.

    It is what asyncio reads from a socket, however few are asked for. Streams that are not ours may keep the rest out
    of sight: the connection would look idle while there is something left on it. trio's do not, but large bodies arrive
    faster in large pieces.
    """
    return 256 * 1024


# Which BorrowedTask's code runs in a context.
_borrower: contextvars.ContextVar[object] = contextvars.ContextVar("prefect_http_borrower", default=None)


class BorrowedTask:
    """The current task while it runs code that is not its own, and that takes the task for its own.

    Only asyncio knows native cancellations: those of a task, by ``task.cancel()``. They are counted, and whoever asked
    for one may take it back. anyio cancels by them as well. Under trio there are none, and nothing of this happens.

    - What the code asks for, in its steps or by its own timers and tasks, is told from what others ask for: the
      former run in the code's context.
    - What others ask for can be held back while the code waits, if the code can be told by other means that it is to
      end. It is told two rounds of the event loop later, because of anyio: if one of the code's own scopes has been
      cancelled by others, anyio asks again in the next round in spite of the shield, and is let through.
    - What has been held back does not count until the code has ended. Otherwise, since Python 3.13, an
      asyncio.TaskGroup of the code's would cancel what comes after it.

    Args:
        context: the context that the code runs in.
        scope: the cancel scope that the code runs in, which is shielded while a cancellation is held back.
        can_tell: whether the code can be told that it is to end, other than by cancellation.
        tell: tells it, and returns whether that was possible.

    Attributes:
        has_told: whether a cancellation has been held back, and the code been told.
    """

    _task: asyncio.Task[object] | None = None
    _before = 0
    _inside = 0
    _by_the_code = 0
    _by_others = 0
    _is_held_back = False
    _has_let_through = False
    _message: object = None  # of what is held back
    _uncounted = 0  # what does not count while the code ends
    has_told = False

    def __init__(
        self,
        context: contextvars.Context,
        scope: CancelScope,
        can_tell: Callable[[], bool],
        tell: Callable[[], bool],
    ) -> None:
        self._context = context
        self._scope = scope
        self._can_tell = can_tell
        self._tell = tell
        # Only asyncio's scopes are anyio's own. This is a hundred times as fast as to look for the running backend.
        if isinstance(scope, anyio.CancelScope) and (task := asyncio.current_task()) is not None:
            self._task = task
            self._before = self._inside = task.cancelling()
            context.run(_borrower.set, scope)

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a step of the code, in its context."""
        task = self._task
        if task is None:
            return self._context.run(function, *args, **kwargs)
        before = task.cancelling()
        try:
            return self._context.run(function, *args, **kwargs)
        finally:
            self._inside = inside = task.cancelling()
            self._by_the_code += inside - before

    def guard(self, awaited: object) -> object:
        """Return what the task waits for in place of what the code waits for."""
        if self._task is None or not isinstance(awaited, asyncio.Future):  # trio's traps; None, for a single round
            return awaited
        self._by_others = self._count_others()
        return _GuardedWait(self, cast("asyncio.Future[object]", awaited))

    def holds_back(self, message: object) -> bool:
        """Decide whether a cancellation that has just been asked for, while the code waits, is held back."""
        if _borrower.get() is self._scope:
            self._by_the_code += 1
            return False
        others = self._count_others()
        if others <= self._by_others:  # the code asked for it in its last step
            return False
        self._by_others = others
        if self._is_held_back:
            self._is_held_back = self._scope.shield = False
            self._has_let_through = True  # and anyio asks in each round from now on
            return False
        if self.has_told or self._has_let_through or not self._can_tell():
            return False
        self._is_held_back = self._scope.shield = True
        self._message = message
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._settle)
        return True

    def _settle(self) -> None:
        if self._is_held_back:
            assert self._task is not None
            self.has_told = self._tell()
            if self.has_told:
                self._is_held_back = False
                self._uncounted = 1
            else:
                self._task.cancel(self._message)
            self._task.uncancel()

    def _count_others(self) -> int:
        return self._count_all() - self._before - self._by_the_code

    def _count_all(self) -> int:
        return 0 if self._task is None else self._task.cancelling() + self._uncounted

    @property
    def is_natively_cancelled(self) -> bool:
        """Whether the task has been cancelled natively since it was borrowed."""
        return self._count_all() > self._before

    def is_cancelled(self) -> bool:
        """Whether the task is being cancelled; if not, a cancellation that is raised in it is a stray one."""
        return self.is_natively_cancelled or anyio.current_effective_deadline() == -math.inf

    def has_to_be_given_back(self) -> bool:
        """Whether there are native cancellations that the code has asked for; to be called when the scope is left."""
        if self._task is None:
            return False
        if (now := self._task.cancelling()) != self._inside:  # the scope has taken its own back
            self._by_the_code += now - self._inside
        return self._by_the_code > 0

    async def give_back(self) -> None:
        """Undo the native cancellations that the code has asked for. What others have asked for stays.

        Cancellation:
            Only if the task is cancelled by others.
        """
        assert self._task is not None
        for _ in range(min(self._by_the_code, self._task.cancelling() - self._before)):
            self._task.uncancel()
        try:
            await asyncio.sleep(0)  # until Python 3.13, the next wait raises one that has not been raised yet
        except asyncio.CancelledError:
            if self.is_cancelled():
                raise

    async def raise_if_cancelled(self) -> None:
        """Raise a cancellation that the code has not let through, or that has been held back."""
        if self._uncounted:
            assert self._task is not None
            self._uncounted = 0
            self._task.cancel(self._message)
            await asyncio.sleep(0)  # raises it
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self.is_natively_cancelled:
            raise asyncio.CancelledError


class _GuardedWait(asyncio.Future[None]):
    """Is done when another future is, and asks a BorrowedTask before it passes a cancellation on to that."""

    def __init__(self, task: BorrowedTask, awaited: asyncio.Future[object]) -> None:
        super().__init__(loop=awaited.get_loop())
        self._borrowed_task = task
        self._awaited = awaited
        # As a task does with what is yielded to it, and ``Future.__await__()`` with what it yields.
        self._asyncio_future_blocking, awaited._asyncio_future_blocking = awaited._asyncio_future_blocking, False
        awaited.add_done_callback(self._wake)

    def cancel(self, msg: object = None) -> bool:
        if self.done():
            return False
        return self._borrowed_task.holds_back(msg) or self._awaited.cancel(msg) or self._awaited.cancelled()

    def _wake(self, awaited: asyncio.Future[object]) -> None:
        self.set_result(None)  # the code itself looks at how the other one has ended


def current_task() -> object:
    """Return the current task; each has an object of its own, which can be hashed and weakly referenced."""
    trio = _running_trio()
    return asyncio.current_task() if trio is None else trio.lowlevel.current_task()


def current_loop() -> object:
    """Return an object that tells one run of an event loop from another."""
    return loop_getter()()


def loop_getter() -> Callable[[], object]:
    """Return what ``current_loop()`` asks under the running backend; under the other one, it raises a RuntimeError."""
    trio = _running_trio()
    return asyncio.get_running_loop if trio is None else trio.lowlevel.current_trio_token


def has_ended(loop: object) -> bool:
    """Return whether the run of an event loop, as from ``current_loop()``, has ended; may be asked anywhere."""
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
    trio = _running_trio()
    if context is None:
        context = contextvars.copy_context()
    if trio is None:
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
    if isinstance(loop, asyncio.AbstractEventLoop):
        loop.call_soon_threadsafe(lambda: loop.create_task(main(), name=name))
    else:
        spawn = sys.modules["trio"].lowlevel.spawn_system_task
        cast(Any, loop).run_sync_soon(lambda: spawn(main, name=name))


def is_root_task_cancelled(root_task: object) -> bool:
    """Whether a root task is being cancelled, as at the end of the event loop's run; asked in a task of its nursery."""
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


def _backend() -> ModuleType:
    return _running_trio() or anyio


def _running_trio() -> ModuleType | None:
    """Return the trio module if trio is running, else None."""
    trio = sys.modules.get("trio")
    # getattr, because another thread may be in the middle of importing it.
    return trio if anyio.get_cancelled_exc_class() is getattr(trio, "Cancelled", None) else None
