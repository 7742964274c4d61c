"""Virtual time for asyncio: no test needs to wait on the real clock."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from trio.testing import MockClock


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that advances a clock by each timeout, rather than wait for it.

    Attributes:
        now: the time, in seconds.
    """

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            self.now += timeout
            timeout = 0
        return super().select(timeout)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop whose clock jumps to the next timer as soon as no task can run.

    It does not wait for sockets and threads while there is a timer.
    """

    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was created."""
        return self._clock.now


def virtual_time_backend(name: str) -> tuple[str, dict[str, Any]]:
    """Return a backend, by name, with virtual time, as the ``anyio_backend`` of anyio's pytest plugin."""
    if name == "trio":
        return name, {"clock": MockClock(autojump_threshold=0)}
    return name, {"loop_factory": VirtualTimeLoop}
