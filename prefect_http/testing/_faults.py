"""Faults of servers that have nothing to do with rate limits. Without a clock: times are arguments."""

from __future__ import annotations

import random
from typing import Protocol

from prefect_http.testing._arguments import check_number, check_status
from prefect_http.testing._limits import ROUNDING


class Fault(Protocol):
    """Decides when requests to a server fail. ``fault()`` accepts any object with these methods."""

    @property
    def status(self) -> int | None:
        """The status of the responses. If it is None, connections are refused, and open connections are reset."""
        ...

    def strikes(self, now: float) -> bool:
        """Return whether a request that arrives now, in seconds, fails. It is called once for each request."""
        ...


class Flaky:
    """Some requests fail at random, as if one of several backends were broken.

    Args:
        share: which share of the requests fails, 0 to 1.
        status: the status of their responses, 400 to 999.
        seed: an integer or a string. With the same seed, the same requests fail, such as the 3rd and the 20th.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, share: float, status: int = 503, *, seed: int | str = 0) -> None:
        check_number("share", share, "a number", least=0, most=1)
        check_status(status)
        if not isinstance(seed, int | str):  # from None, random takes a seed of its own
            raise ValueError(f"seed must be an integer or a string, not {seed!r}")
        self.share = share
        self.status = status
        self._random = random.Random(seed)

    def __repr__(self) -> str:
        return f"Flaky({self.share!r}, {self.status})"

    def strikes(self, now: float) -> bool:
        """Return whether the next request fails, at whatever time."""
        return self._random.random() < self.share


class Restarts:
    """The server is down for the last ``down`` of each ``every`` seconds, like one that is redeployed.

    Args:
        every: the seconds from one restart to the next, 1e-6 to 1e9.
        down: for how many of these the server is down, above 0 and less than ``every``.
        status: the status of the responses meanwhile, 400 to 999, like those of a load balancer without a backend;
            None: connections are refused, and open connections are reset.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, every: float, down: float, status: int | None = 503) -> None:
        check_number("every", every, "a number of seconds")
        check_number("down", down, "a number of seconds", most=every)
        if down == every:
            raise ValueError(f"down must be less than every, {every!r}, or the server is never up")
        if status is not None:
            check_status(status)
        self.every = every
        self.down = down
        self.status = status

    def __repr__(self) -> str:
        return f"Restarts({self.every!r}, {self.down!r}, {self.status})"

    def strikes(self, now: float) -> bool:
        """Return whether the server is down."""
        return (now + ROUNDING) % self.every >= self.every - self.down
