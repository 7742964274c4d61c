"""OpeningTimes: how long the steps take in which a connection is opened. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Step = Literal["lookup", "connect", "tunnel", "tls"]


class OpeningTimes:
    """A stopwatch for the opening of one connection.

    Args:
        now: the event loop's clock.

    Attributes:
        now: as given.
        seconds: how long each step took that there was: to look up the name, to open the stream after that, to open a
            tunnel through a proxy, and the TLS handshake with the server.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.begin()

    def begin(self) -> None:
        """Start anew: the last attempt to open the connection has failed, if there was one."""
        self.seconds: dict[Step, float] = {}
        self.pause()

    def pause(self) -> None:
        """Leave out the time since the last step."""
        self._since = self.now()

    def lap(self, step: Step) -> None:
        """Note that a step has been done."""
        now = self.now()
        self.seconds[step] = now - self._since
        self._since = now
