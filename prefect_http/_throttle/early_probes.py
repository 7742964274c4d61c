"""Which closures of a gate are worth a probe before the time that the server gave. Pure."""

from __future__ import annotations

import math

# After as many in vain, every 16th closure gets one.
_MOST_DOUBLINGS = 4


class EarlyProbes:
    """Plans one request for a closure, to leave before its Retry-After has passed.

    A server that rounds its Retry-After up to whole seconds is ready before. A window is not, and opens when it says
    so; there, ever fewer closures get an early probe.

    Args:
        is_allowed: whether there are any at all.

    Attributes:
        due: when the next one may leave; infinity if none is planned.
    """

    def __init__(self, *, is_allowed: bool) -> None:
        self.is_allowed = is_allowed
        self.due = math.inf
        self._in_vain = 0  # in a row
        self._closures_to_skip = 0

    def plan(self, now: float, closed_until: float, backoff: float) -> None:
        """Plan one for a closure, if that is longer than the backoff, and its turn has come."""
        if not self.is_allowed or closed_until - now <= 2 * backoff:
            return
        if self._closures_to_skip:
            self._closures_to_skip -= 1
        else:
            self.due = now + backoff

    def count(self, *, was_in_vain: bool) -> None:
        """Take note of what has become of one."""
        self._in_vain = min(self._in_vain + 1, _MOST_DOUBLINGS) if was_in_vain else 0
        self._closures_to_skip = 2**self._in_vain - 1
