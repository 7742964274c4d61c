"""Turns: a lock for tasks that do something one after another."""

from __future__ import annotations

from prefect_http._concurrency.backend import Waiter, new_waiter


class Turns:
    """A fair lock: first come, first served. To take a turn that nobody has is no checkpoint.

    Attributes:
        is_taken: whether a task has the turn. When one passes it on to another, it is taken all the time.
    """

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []
        self.is_taken = False

    async def take(self) -> None:
        """Wait for the turn, to be passed on in the end.

        Cancellation:
            Gives up waiting.
        """
        if not self.is_taken:
            self.is_taken = True
            return
        waiter = new_waiter()
        self._waiting.append(waiter)
        try:
            await waiter.wait()
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:  # it has got the turn in the same moment
                self.pass_on()
            raise

    def pass_on(self) -> None:
        """Let the next task have the turn."""
        if self._waiting:
            self._waiting.pop(0).set()
        else:
            self.is_taken = False
