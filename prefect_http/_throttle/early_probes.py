"""EarlyProbes: which closures of a gate are worth a probe before the server's Retry-After has passed. Pure."""

from __future__ import annotations

# After this many early probes that were rejected in a row, every 16th closure gets one.
_MOST_DOUBLINGS = 4


class EarlyProbes:
    """Plans at most one early probe for each closure.

    A server that rounds its Retry-After up to whole seconds is ready before. A window is not: it opens when the server
    says, and there fewer and fewer closures get an early probe.

    Args:
        is_allowed: whether there are any at all.
    """

    def __init__(self, *, is_allowed: bool) -> None:
        self.is_allowed = is_allowed
        self._rejected_in_a_row = 0
        self._closures_to_skip = 0

    def is_next(self, wait: float, backoff: float) -> bool:
        """Return whether a closure gets an early probe, after the backoff; counts the closure.

        Args:
            wait: for how many seconds the gate is closed. It must be longer than twice the backoff.
            backoff: after how many seconds the early probe would be sent.
        """
        if not self.is_allowed or wait <= 2 * backoff:
            return False
        if self._closures_to_skip:
            self._closures_to_skip -= 1
            return False
        return True

    def count(self, *, was_rejected: bool) -> None:
        """Record whether an early probe was rejected."""
        self._rejected_in_a_row = min(self._rejected_in_a_row + 1, _MOST_DOUBLINGS) if was_rejected else 0
        self._closures_to_skip = 2**self._rejected_in_a_row - 1
