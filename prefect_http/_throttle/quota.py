"""Quota: what a server says about its limits before it rejects anything. Pure.

Responses overtake one another, so the word that comes last need not be the newest. Causality tells: a word is newer
than all that came before its request was sent. The clocks cannot: servers count in whole seconds, and a window may be
as short. So of a word there are four kinds:

- newer, as above: it replaces what is known;
- from the same time, its request having been sent before the last word came: the smallest remainder and the latest end
  hold, because some requests may have been counted in one and not in the other;
- perhaps from the window before, because its request was sent before that was over, or before this cycle of the
  Limiter: it only says that one more request has been counted;
- perhaps from a window that is over, when nothing has been heard of the next one: it lets one request out, whose
  response will tell.

When a window is over, the next one has as much as the server says that there is in one, and so has each that follows.
"""

from __future__ import annotations

import math

from prefect_http._fields.rate_limit import RateLimit, is_meaningful

# What a window is taken for of which only the end has been seen, in seconds.
_SHORTEST_WINDOW = 1.0


class Quota:
    """The number of requests left, and how many may be in flight.

    Attributes:
        concurrency: how many requests the server takes at a time; infinity if it has not said.
        is_known: whether it has said how many requests are left, so that `next_room_at()` has something to tell.
    """

    def __init__(self) -> None:
        self.concurrency: float = math.inf
        self.is_known = False
        self._remaining: float = math.inf
        self._until = -math.inf
        self._heard_at = -math.inf
        # A request that was sent later is one of this window.
        self._began = -math.inf
        # Of each window: how many requests it has, and the longest time that one was known to last.
        self._limit: float = math.inf
        self._seconds = _SHORTEST_WINDOW

    def update(self, now: float, limit: RateLimit, *, sent_at: float, cycle_began: float) -> float | None:
        """Record what a response says about the server's limits.

        Args:
            now: the time.
            limit: what it says.
            sent_at: when its request was sent.
            cycle_began: when the first request of the present cycle was sent.

        Returns:
            When more requests are accepted, if none are left; otherwise None.
        """
        if limit.concurrency is not None:
            self.concurrency = limit.concurrency
        if limit.remaining is None or not is_meaningful(limit):
            return None
        self.is_known = True
        until = math.inf if limit.reset is None else now + limit.reset
        is_newer, self._heard_at = sent_at >= self._heard_at, now
        if is_newer:
            if sent_at >= self._until:
                self._began = self._until
            self._replace(limit.remaining, until, limit)
        elif sent_at < max(self._began, cycle_began):
            self._remaining = min(self._remaining, max(1, self._remaining - 1))
            return None
        elif now >= self._until:
            self._replace(max(1, limit.remaining), until, limit)
            return None
        else:
            self._remaining = min(self._remaining, limit.remaining)
            # One without a reset does not say that the window never ends.
            self._until = max((at for at in (self._until, until) if at < math.inf), default=math.inf)
        return None if limit.remaining else until

    def _replace(self, remaining: int, until: float, limit: RateLimit) -> None:
        self._remaining, self._until = remaining, until
        if limit.limit and limit.reset:
            self._seconds = max(limit.reset, self._seconds if limit.limit == self._limit else _SHORTEST_WINDOW)
            self._limit = limit.limit
        else:
            self._limit = math.inf

    def next_room_at(self, in_flight: int, now: float) -> float:
        """Return when there is room for one more request; minus infinity if there is now.

        The server may not have counted the requests that are in flight, so they are all subtracted.
        """
        if now < self._until:
            return self._until if in_flight >= self._remaining else -math.inf
        if in_flight < self._limit:
            return -math.inf
        windows = in_flight // int(self._limit)
        due = self._until + windows * self._seconds
        return due if due > now else -math.inf
