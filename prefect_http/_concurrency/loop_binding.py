"""LoopBinding: which event loop an object has been used in, and that loop's clock."""

from __future__ import annotations

from collections.abc import Callable

from prefect_http._concurrency.backend import clock, loop_getter


class LoopBinding:
    """Binds an object to an event loop. To ask whether that is the running one takes a fifth of asking which one runs.

    Attributes:
        loop: the event loop, as from ``current_loop()``; None: not bound yet.
        now: its clock.
    """

    __slots__ = ("_current_loop", "loop", "now")

    now: Callable[[], float]

    def __init__(self) -> None:
        self._current_loop: Callable[[], object] = object
        self.loop: object = None

    def is_current(self) -> bool:
        """Return whether the event loop is the running one."""
        try:
            return self._current_loop() is self.loop
        except RuntimeError:  # another backend
            return False

    def bind(self) -> None:
        """Bind to the running event loop."""
        self._current_loop = loop_getter()
        self.loop, self.now = self._current_loop(), clock()
