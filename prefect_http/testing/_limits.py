"""The rate limits of servers: what they admit, and when. Pure: times are arguments.

All times are in seconds on the same clock, and never go back. Sums of floats are rounded: ten sleeps of 0.1 s end at
0.9999999999999999. So that no test depends on that, times that differ by up to a nanosecond are the same to a limit,
which is far more than the rounding errors of some additions on a clock that shows up to a million seconds. The limits
themselves add up no such errors: they count from a time that was read from the clock, not from one sum to the next.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from typing import Protocol

from prefect_http.testing._arguments import check_count, check_number

ROUNDING = 1e-9
_HIGHEST_RATE = 1e6  # a thousandth of what the rounding of times would make a request


class Limit(Protocol):
    """What a server admits. Any object with these methods is accepted; it need not be a subclass.

    The methods are called with times in seconds that never go back. A limit has the state of one server, so each
    network needs its own. If several servers of a network have the same object, they share the limit.

    Attributes:
        quota: how many requests are admitted at first, 1 or more. Rate-limit headers announce it.
    """

    quota: int

    def admit(self, now: float) -> bool:
        """Count a request that arrives now and return True, or return False if it is rejected.

        A rejected request does not count.
        """
        ...

    def release(self, now: float) -> None:
        """Record that the response to a request that was admitted has ended, whether complete or not.

        A limit by time has no use for it, so subclasses of Limit need not define it.
        """
        return

    def free_at(self, now: float) -> float:
        """Return the earliest time at which a request is admitted, if no other one arrives before.

        Returns:
            ``now`` if it is admitted at once; math.inf if that is not known.
        """
        ...

    def left(self, now: float) -> tuple[int, float]:
        """Return how many requests would be admitted now, and the seconds until that number grows.

        Returns:
            A number of requests, 0 to ``quota``; and seconds, 0 or more, math.inf if they are not known. If the whole
            quota is left, the seconds are 0, or those until it would be renewed nevertheless.
        """
        ...


class _TimedLimit(Limit):
    """A limit that depends on when requests were admitted."""

    _latest = -math.inf  # when one was admitted last

    def admit(self, now: float) -> bool:
        """Count a request, if there is room for it.

        Raises:
            RuntimeError: the time has gone back since a request was admitted.
        """
        if now < self._latest - ROUNDING:
            raise RuntimeError(
                f"{self!r} was used at {self._latest:g} s and then at {now:g} s, on the clock of another event loop; "
                "make a new limit for each test"
            )
        is_admitted = self.left(now)[0] > 0
        if is_admitted:
            self._latest = now
            self._count(now)
        return is_admitted

    @abstractmethod
    def _count(self, now: float) -> None:
        """Count a request that is admitted."""


class TokenBucket(_TimedLimit):
    """Admits ``burst`` requests at once, and then ``rate`` per second, like most gateways.

    The bucket is full at first. A request takes a token, and ``rate`` tokens per second are added until it is full
    again. So in any ``t`` seconds, no more than ``burst + rate * t`` requests are admitted.

    nginx's ``limit_req`` with ``burst=20 nodelay`` is a bucket with a burst of 21: one that the rate allows, and 20
    more.

    Args:
        rate: tokens per second, 1e-6 to 1e6.
        burst: how many tokens fit into the bucket, 1 or more.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        check_number("rate", rate, "a number of requests per second", most=_HIGHEST_RATE)
        check_count("burst", burst)
        self.rate = rate
        self.quota = burst
        # The requests that were admitted since the bucket was full, and when it was.
        self._admitted = 0
        self._full_at = -math.inf

    def __repr__(self) -> str:
        return f"TokenBucket({self.rate!r}, burst={self.quota})"

    def _count(self, now: float) -> None:
        self._admitted += 1

    def free_at(self, now: float) -> float:
        """Return when there is a token."""
        left, _ = self.left(now)
        return now if left else self._time_of(self._added(now) + 1)

    def left(self, now: float) -> tuple[int, float]:
        """Return how many tokens there are, and the seconds until there is another one; 0 if the bucket is full."""
        will_be_full_at = self._time_of(self._admitted)
        if now >= will_be_full_at - ROUNDING:
            self._full_at, self._admitted = max(now, will_be_full_at), 0
            return self.quota, 0.0
        added = self._added(now)
        return self.quota - self._admitted + added, self._time_of(added + 1) - now

    def _added(self, now: float) -> int:
        """Return how many tokens were added since the bucket was full."""
        return math.floor((now - self._full_at + ROUNDING) * self.rate)

    def _time_of(self, token: int) -> float:
        """Return when a token is added, by its number since the bucket was full."""
        return self._full_at + token / self.rate


class FixedWindow(_TimedLimit):
    """Admits ``quota`` requests in each window of ``seconds``, like GitHub in each hour.

    A request at the end of a window belongs to the next one. So within a short time, from the end of one window to the
    beginning of the next, twice the quota may be admitted.

    Args:
        quota: how many requests are admitted in each window, 1 or more.
        seconds: the length of a window, 1e-6 to 1e9 s.
        phase: for how many seconds a window has lasted at time 0, as the network counts: 0 to ``seconds``. With
            ``FixedWindow(100, 60, phase=45)``, the first window ends after 15 s.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, quota: int, seconds: float, *, phase: float = 0.0) -> None:
        check_count("quota", quota)
        check_number("seconds", seconds, "a number of seconds")
        check_number("phase", phase, "a number of seconds", least=0, most=seconds)
        self.quota = quota
        self.seconds = seconds
        self.phase = phase
        self._window: int = 0
        self._admitted = 0

    def __repr__(self) -> str:
        return f"FixedWindow({self.quota}, {self.seconds!r}, phase={self.phase!r})"

    def _count(self, now: float) -> None:
        self._admitted += 1

    def free_at(self, now: float) -> float:
        """Return ``now`` if there is quota left, or else when the window ends."""
        left, _ = self.left(now)
        return now if left else self._end()

    def left(self, now: float) -> tuple[int, float]:
        """Return the quota that is left in the current window, and in how many seconds that ends."""
        window = math.floor((now + self.phase + ROUNDING) / self.seconds)
        if window != self._window:
            self._window, self._admitted = window, 0
        return self.quota - self._admitted, self._end() - now

    def _end(self) -> float:
        return (self._window + 1) * self.seconds - self.phase


class SlidingLog(_TimedLimit):
    """Admits ``quota`` requests in any ``seconds``: a request counts for that time.

    Args:
        quota: how many requests are admitted in any ``seconds``, 1 or more.
        seconds: for how long a request counts, 1e-6 to 1e9 s.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, quota: int, seconds: float) -> None:
        check_count("quota", quota)
        check_number("seconds", seconds, "a number of seconds")
        self.quota = quota
        self.seconds = seconds
        # When the requests that count cease to.
        self._until = deque[float]()

    def __repr__(self) -> str:
        return f"SlidingLog({self.quota}, {self.seconds!r})"

    def _count(self, now: float) -> None:
        self._until.append(now + self.seconds)

    def free_at(self, now: float) -> float:
        """Return ``now`` if there is room, or else when the oldest request stops counting."""
        left, _ = self.left(now)
        return now if left else self._until[0]

    def left(self, now: float) -> tuple[int, float]:
        """Return for how many requests there is room, and the seconds until the oldest stops counting."""
        while self._until and self._until[0] <= now + ROUNDING:
            self._until.popleft()
        return self.quota - len(self._until), self._until[0] - now if self._until else 0.0


class ConcurrencyLimit(Limit):
    """Admits requests while fewer than ``quota`` are being answered, like a pool of workers without a queue.

    A request counts from its arrival until its response has ended: until all of it is written, or its connection is
    gone.

    Args:
        quota: how many requests may be in progress at the same time, 1 or more.

    Raises:
        ValueError: ``quota`` is out of range.
    """

    def __init__(self, quota: int) -> None:
        check_count("quota", quota)
        self.quota = quota
        self._in_progress = 0

    def __repr__(self) -> str:
        return f"ConcurrencyLimit({self.quota})"

    def admit(self, now: float) -> bool:
        """Count a request, if fewer than ``quota`` are in progress."""
        is_admitted = self._in_progress < self.quota
        self._in_progress += is_admitted
        return is_admitted

    def release(self, now: float) -> None:
        """Stop counting a request.

        Raises:
            RuntimeError: none is in progress.
        """
        if not self._in_progress:
            raise RuntimeError(f"{self!r}: more requests were released than admitted")
        self._in_progress -= 1

    def free_at(self, now: float) -> float:
        """Return ``now`` if a request is admitted at once, or else math.inf: when a response will end is unknown."""
        return now if self._in_progress < self.quota else math.inf

    def left(self, now: float) -> tuple[int, float]:
        """Return how many more requests may be in progress, and math.inf: when a response will end is unknown."""
        return self.quota - self._in_progress, math.inf
