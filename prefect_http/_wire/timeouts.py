"""TimeoutWatcher: ends the waits of any number of connections that take too long.

A cancel scope for each wait would be the plain way. On trio it takes 16 us of the 55 that a small request takes on the
wire, and on asyncio 18 of 104. So a wait only notes until when it may last, which costs an attribute; one task for all
connections sleeps until the earliest deadline that it knows, looks which have passed, and closes those connections.
Almost every wait is over by then. So the task wakes once a second, however many requests there are.
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
    spawn_root_task,
    wait_shielded,
)

_MAX_SLEEP = 1.0

_logger = logging.getLogger("prefect_http")


class Timed(Protocol):
    """What may wait until a deadline.

    Attributes:
        deadline: when its wait has lasted too long, on the event loop's clock; infinity while it does not wait.
    """

    deadline: float

    async def expire(self) -> None:
        """End the wait."""


class TimeoutWatcher:
    """Ends what waits longer than it may. The task for this is there while something waits.

    Attributes:
        watched: what is looked at.
        next_wakeup: when the task looks next; infinity while there is none.
    """

    __slots__ = ("_life", "_looked", "_task", "_woken", "next_wakeup", "watched")

    def __init__(self) -> None:
        self.watched: set[Timed] = set()
        self.next_wakeup = math.inf
        self._woken: Event | None = None  # ends the task's sleep
        self._looked: Event | None = None  # the task has looked, or has ended
        self._life: object = None  # which task it is, while there is one
        self._task: object = None

    def wake_by(self, deadline: float) -> None:
        """See to it that the task looks at a deadline that is earlier than ``next_wakeup``."""
        if self._life is None:
            life = object()
            # In a context of its own: that of the request that happens to come first would be kept alive.
            self._task = spawn_root_task(
                lambda: self._watch(life), "prefect_http deadlines", lambda: self._forget(life), contextvars.Context()
            )
            self._life = life
        self.next_wakeup = deadline
        if self._woken is not None:
            self._woken.set()

    async def stop(self) -> None:
        """End the task, unless something waits, and wait until it has looked, which is at once."""
        if self._woken is not None:
            self._woken.set()
            if self._looked is None or self._looked.is_set():
                self._looked = new_event()
            await wait_shielded(self._looked)

    async def _watch(self, life: object) -> None:
        now = clock()
        try:
            while True:
                # Where the loop was held up for long, what has come meanwhile is not too late: who waits for it has
                # been woken together with this task, and goes first.
                await checkpoint()
                for each in list(self.watched):
                    if each.deadline <= now():  # asked only now, for to expire another one may have taken a while
                        await self._expire(each)
                self.next_wakeup = min((each.deadline for each in self.watched), default=math.inf)
                if self.next_wakeup == math.inf:
                    return
                if self._looked is not None:
                    self._looked.set()
                self._woken = new_event()
                scope = new_cancel_scope()
                # Not to stay long when nothing waits any more: some programs wait for all tasks before they end.
                scope.deadline = min(self.next_wakeup, now() + _MAX_SLEEP)
                with scope:
                    await self._woken.wait()
        finally:
            # At once, and not when the task is gone: whoever comes next must find that it needs another.
            self._forget(life)

    def _forget(self, life: object) -> None:
        """Take it that the task has ended, or was cancelled before it began."""
        if self._life is life:
            self.next_wakeup = math.inf
            self._life = self._woken = self._task = None
            if self._looked is not None:
                self._looked.set()

    async def _expire(self, each: Timed) -> None:
        try:
            await each.expire()
        except Exception:  # the wait has ended all the same, and the other ones must
            _logger.debug("closing a connection failed", exc_info=True)
