"""Quota: what a server says about its limits before it rejects anything. Pure."""

from __future__ import annotations

import math

# Two resets at most this many seconds apart belong to the same window; servers' clocks tick in whole seconds.
_SAME_WINDOW = 1.5
# A day, in seconds. No limit that is sent in headers is longer; a Unix time that is mistaken for seconds is.
_LONGEST_RESET = 86_400.0


class Quota:
    """The number of requests left, and how many may be under way.

    Attributes:
        concurrency: how many requests the server takes at a time; infinity if it has not said.
    """

    def __init__(self) -> None:
        self.concurrency: float = math.inf
        self._remaining: float = math.inf
        self._until = -math.inf

    def update(
        self, now: float, *, remaining: int | None, reset: float | None, concurrency: int | None
    ) -> float | None:
        """Record what the server says about its limits.

        Args:
            now: the time.
            remaining: how many more requests it takes; None if it does not say, as with the others.
            reset: in how many seconds it takes more.
            concurrency: how many it takes at a time.

        Returns:
            When more requests are accepted, if none are left; otherwise None.
        """
        if concurrency is not None:
            self.concurrency = concurrency
        if remaining is None or (reset is None and not remaining) or (reset or 0.0) > _LONGEST_RESET:
            return None
        until = math.inf if reset is None else now + reset
        # Answers overtake one another: within one window, the smallest number holds.
        is_same_window = now < self._until and abs(until - self._until) <= _SAME_WINDOW
        self._remaining = min(self._remaining, remaining) if is_same_window else remaining
        self._until = until
        return None if remaining else until

    def next_room_at(self, in_flight: int, now: float) -> float:
        """Return when there is room for one more request; minus infinity if there is now.

        The server may not have counted the requests that are under way, so they are all subtracted.
        """
        return self._until if in_flight >= self._remaining and now < self._until else -math.inf
