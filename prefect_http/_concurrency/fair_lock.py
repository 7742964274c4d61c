"""FairLock: lets one task at a time do something."""

from __future__ import annotations

from prefect_http._concurrency.backend import Waiter, new_waiter


class FairLock:
    """A lock that goes to the task which has waited longest. To acquire it while nobody holds it is no checkpoint.

    Attributes:
        is_held: whether a task holds the lock. It passes from one to the next without being free in between.
    """

    __slots__ = ("_waiting", "is_held")

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []
        self.is_held = False

    async def acquire(self) -> None:
        """Wait until the lock is free, and hold it until ``release()``.

        Cancellation:
            Gives up waiting.
        """
        if not self.is_held:
            self.is_held = True
            return
        waiter = new_waiter()
        self._waiting.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:  # it has got the lock in the same moment
                self.release()
            raise

    def release(self) -> None:
        """Let the next task have the lock."""
        if self._waiting:
            self._waiting.pop(0).set()
        else:
            self.is_held = False
