"""KnownLimit: a rate limit that the user knows: so many requests in so many seconds, and some at once. Pure.

This is the generic cell rate algorithm (GCRA, ITU-T I.371):

    interval = per / rate
    due      = booked - (burst - 1) * interval      when the next request may be sent
    sending  : booked = max(booked, now) + interval

So if one request is sent at `s`, and another one `k` requests later at `t`, then `t >= s + (k + 1 - burst) * interval`:
in any period of `t` seconds, no more than `burst + rate * t / per` requests are sent.

This holds in spite of

- a busy event loop. Between its turn and the moment at which its task runs, a request may have to wait; if several of
  them were sent together then, there would be too many at once. So a turn is reserved first: the next one is only due
  when it could be sent together with all those whose turn it is. What is booked counts from when a request is sent;
- rounding, after any number of requests, and on a clock that shows millions of seconds. What is booked is kept as a
  number of intervals after a time that was read from the clock, so no errors add up. Where it is compared with the
  clock, it is rounded to the safe side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# More than the rounding errors of one product and one quotient, relative to the result.
_MARGIN = 2**-50


class Booked(NamedTuple):
    """A time: so many intervals after ``start``."""

    start: float
    intervals: int


class KnownLimit:
    """What may be sent of one key.

    Args:
        rate: how many requests are sent in ``per`` seconds, 1e-6 to 1e9.
        per: a number of seconds, 1e-6 to 1e9.
        burst: how many requests may be sent at once, 1 to 1e9.

    Attributes:
        text: the limit, for messages.
        rate: in requests per second.
        due: when it is the next request's turn; infinity if one must be sent or withdrawn first.
    """

    def __init__(self, rate: float, per: float, burst: int) -> None:
        self.text = f"{rate:.10g} per {'second' if per == 1 else f'{per:.10g} s'}"
        self.rate = rate / per
        self.due = -math.inf
        self._requests = rate
        self._per = per
        self._burst = burst
        self._booked = Booked(-math.inf, 0)
        self._reserved = 0

    def reserve(self) -> None:
        """Record that it is a request's turn; ``due`` must have been reached."""
        self._reserved += 1
        self._update()

    def book(self, now: float) -> None:
        """Record that a request whose turn it was is sent."""
        booked = self._booked
        if now < math.nextafter(booked.start + self._seconds(booked.intervals, -_MARGIN), -math.inf):
            self._booked = Booked(booked.start, booked.intervals + 1)
        else:
            self._booked = Booked(max(now, self._end(booked)), 1)
        self.release()

    def release(self) -> None:
        """Record that a request whose turn it was is not sent after all."""
        self._reserved -= 1
        self._update()

    def earliest(self, ahead: int, start: float) -> float:
        """Return a time before which a request cannot be sent.

        Args:
            ahead: how many other requests are sent before it.
            start: when the first of them all may be sent at the earliest, apart from this limit.
        """
        waiting = ahead + self._reserved + 1 - self._burst
        booked = self._booked
        return max(
            start,
            start + self._seconds(waiting, 0.0),
            booked.start + self._seconds(booked.intervals + waiting, 0.0),
        )

    def is_unused(self, now: float) -> bool:
        """Return whether all that was booked is over, so that a new KnownLimit would not allow more than this one."""
        return now >= self._end(self._booked)

    def _update(self) -> None:
        booked, before_due = self._booked, self._reserved + 1 - self._burst
        if before_due > 0:
            self.due = math.inf
        elif booked.intervals + before_due <= 0:
            self.due = booked.start
        else:
            self.due = self._end(Booked(booked.start, booked.intervals + before_due))

    def _end(self, booked: Booked) -> float:
        """Return a booked time, rounded up."""
        return math.nextafter(booked.start + self._seconds(booked.intervals, _MARGIN), math.inf)

    def _seconds(self, intervals: int, margin: float) -> float:
        return intervals * self._per / self._requests * (1 + margin)
