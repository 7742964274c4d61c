"""BorrowedTask: the current task while it runs code that takes the task for its own. A part of the seam."""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import anyio

from prefect_http._concurrency.backend import CancelScope, checkpoint_if_cancelled

P = ParamSpec("P")
R = TypeVar("R")

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
        await checkpoint_if_cancelled()
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
