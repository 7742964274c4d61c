"""TimeoutWatcher: the timeouts of any number of connections, in one task.

A cancel scope for each wait would be the plain way. On trio it takes 16 us of the 55 that a small request takes on the
wire, and on asyncio 18 of 104. So a wait only notes its deadline, which costs an attribute. One task for all
connections sleeps until the earliest deadline that it knows, and then closes the connections whose deadline has passed.
Almost every wait is over by then, so the task wakes up once a second, however many requests there are.
"""

from __future__ import annotations

import contextvars
import logging
import math
from typing import Protocol

from prefect_http._concurrency.backend import (
    Event,
    checkpoint,
    clock,
    new_cancel_scope,
    new_event,
    new_waiter,
    spawn_root_task,
    wait_shielded,
)

_MAX_SLEEP = 1.0
# The rounds of the event loop after which a task has read the data that had arrived before the first. asyncio reads
# from the socket in the first, and runs the task in the second.
_ROUNDS = 3

_logger = logging.getLogger("prefect_http")


class Timed(Protocol):
    """An object that waits until a deadline at most.

    Attributes:
        deadline: when its wait times out, on the event loop's clock; infinity while it does not wait.
    """

    deadline: float

    async def expire(self) -> None:
        """End the wait."""


class TimeoutWatcher:
    """Ends waits that take too long. Its task runs while something waits, and no longer.

    Attributes:
        watched: the objects whose deadlines are watched.
        next_wakeup: when the task next looks at the deadlines; infinity while there is no task.
    """

    __slots__ = ("_checked", "_task", "_task_key", "_wake_up", "next_wakeup", "watched")

    def __init__(self) -> None:
        self.watched: set[Timed] = set()
        self.next_wakeup = math.inf
        self._wake_up: Event | None = None  # ends the task's sleep
        self._checked: Event | None = None  # the task has looked at the deadlines, or has ended
        self._task_key: object = None  # tells one task from the next; None while there is none
        self._task: object = None

    def wake_by(self, deadline: float) -> None:
        """Make the task look at the deadlines no later than at ``deadline``, which is before ``next_wakeup``."""
        if self._task_key is None:
            key = object()
            # In an empty context: that of the request that happens to be first would be kept alive.
            self._task = spawn_root_task(
                lambda: self._watch(key), "prefect_http timeouts", lambda: self._forget(key), contextvars.Context()
            )
            self._task_key = key
        self.next_wakeup = deadline
        if self._wake_up is not None:
            self._wake_up.set()

    async def stop(self) -> None:
        """End the task if nothing waits, and return once it has found that out, which takes no time.

        Cancellation:
            Is held back until then.
        """
        if self._wake_up is not None:
            self._wake_up.set()
            if self._checked is None or self._checked.is_set():
                self._checked = new_event()
            await wait_shielded(self._checked)

    async def _watch(self, key: object) -> None:
        now = clock()
        try:
            while True:
                # If the loop was blocked for long, data that arrived meanwhile is not late. So the loop gets to look
                # for input, and the tasks that wait for it run first.
                passed = now()
                for _ in range(_ROUNDS):
                    await checkpoint()
                for each in list(self.watched):
                    if each.deadline <= passed:
                        await self._expire(each)
                self.next_wakeup = min((each.deadline for each in self.watched), default=math.inf)
                if self.next_wakeup == math.inf:
                    return
                if self._checked is not None:
                    self._checked.set()
                await self._sleep(min(self.next_wakeup, now() + _MAX_SLEEP))
        finally:
            # At once, and not when the task has ended: the next wait must find that it needs a new task.
            self._forget(key)

    async def _sleep(self, deadline: float) -> None:
        """Sleep until a deadline, or until woken.

        Never for long, so that the task ends soon when nothing waits any more: some programs wait for all tasks before
        they exit.
        """
        self._wake_up = new_event()
        scope = new_cancel_scope()
        scope.deadline = deadline
        with scope:
            await self._wake_up.wait()

    def _forget(self, key: object) -> None:
        """Note that a task has ended, or was cancelled before it began."""
        if self._task_key is key:
            self.next_wakeup = math.inf
            self._task_key = self._wake_up = self._task = None
            if self._checked is not None:
                self._checked.set()

    async def _expire(self, each: Timed) -> None:
        try:
            await each.expire()
        except Exception:  # the wait has ended all the same, and the others must end as well
            _logger.debug("closing a connection failed", exc_info=True)


class TimedWait:
    """One task's wait, which ends when it is woken, and at a deadline. It must be forgotten afterwards.

    Args:
        watcher: ends the wait at the deadline.
        deadline: on the event loop's clock; infinity: never.

    Attributes:
        deadline: as given; infinity once it has passed.
        waiter: what the task waits for.
    """

    __slots__ = ("_watcher", "deadline", "waiter")

    def __init__(self, watcher: TimeoutWatcher, deadline: float) -> None:
        self.waiter = new_waiter()
        self.deadline = deadline
        self._watcher = watcher
        if deadline != math.inf:
            watcher.watched.add(self)
            if deadline < watcher.next_wakeup:
                watcher.wake_by(deadline)

    async def expire(self) -> None:
        """End the wait."""
        self.deadline = math.inf
        self.waiter.set()

    def forget(self) -> None:
        """Let the deadline be watched no longer."""
        self._watcher.watched.discard(self)
