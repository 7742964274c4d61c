"""What a server says of its limits, ahead of any rejection. Pure."""

from __future__ import annotations

import math

# Seconds within which two resets are those of one window; the servers' clocks tick in whole ones.
_SAME_WINDOW = 1.5
# A day; no limit that is told in headers is longer, and an epoch that is taken for seconds is.
_LONGEST_RESET = 86_400.0


class Quota:
    """The requests that are left, and how many may be under way.

    Attributes:
        concurrency: how many requests the server takes at a time.
    """

    def __init__(self) -> None:
        self.concurrency: float = math.inf
        self._remaining: float = math.inf
        self._until = -math.inf

    def update(
        self, now: float, *, remaining: int | None, reset: float | None, concurrency: int | None
    ) -> float | None:
        """Take note of what the server says; say until when nothing is left, or None if something is.

        Args:
            now: the time.
            remaining: how many more requests it takes.
            reset: in how many seconds it takes more.
            concurrency: how many it takes at a time.
        """
        if concurrency is not None:
            self.concurrency = concurrency
        if remaining is None or (reset is None and not remaining) or (reset or 0.0) > _LONGEST_RESET:
            return None
        until = math.inf if reset is None else now + reset
        # Answers overtake one another: within one window, the least that is left holds.
        is_same_window = now < self._until and abs(until - self._until) <= _SAME_WINDOW
        self._remaining = min(self._remaining, remaining) if is_same_window else remaining
        self._until = until
        return None if remaining else until

    def next_room_at(self, in_flight: int, now: float) -> float:
        """Say from when on there is room for one more request; what is under way may not have been counted yet."""
        return self._until if in_flight >= self._remaining and now < self._until else -math.inf
