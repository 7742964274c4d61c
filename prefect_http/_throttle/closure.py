"""Closure: the time from a rejection until a probe is answered. Pure."""

from __future__ import annotations

import math

from prefect_http._throttle.ticket import Ticket

FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
# For a backoff that began longer than that, as for GitHub.
_LONGEST_LONG_BACKOFF = 3600.0


class Closure:
    """One closure of the gate. It only ever lets a probe out; the answer to one ends it.

    Args:
        now: the time.
        until: when the first probe may leave.
        hit_at: when the first request that was rejected was sent.
        rate: requests per second at that time; infinity if none was known.
        teaches: whether a rate can be learned from it. That is not so where the server announced that nothing is left,
            nor after a late rejection of an earlier cycle's request.
        allows_early_probes: whether the answer to a probe opens the gate even if the probe left before ``until``.
        backoff: the first backoff, in seconds.

    Attributes:
        early_probe_at: when a probe may leave although ``until`` has not passed; infinity if none may.
        backoff: seconds to wait after the next rejection, unless the server asks for more.
    """

    def __init__(
        self,
        now: float,
        until: float,
        *,
        hit_at: float,
        rate: float,
        teaches: bool,
        allows_early_probes: bool,
        backoff: float = FIRST_BACKOFF,
    ) -> None:
        self.began_at = now
        self.until = until
        self.hit_at = hit_at
        self.rate = rate
        self.teaches = teaches
        self.early_probe_at = math.inf
        self.backoff = backoff
        self._allows_early_probes = allows_early_probes
        self._probe: Ticket | None = None

    @property
    def shut_until(self) -> float:
        """The earliest time at which the gate may open; minus infinity if a probe may open it at any time."""
        return self.until if self._probe is None and math.isinf(self.early_probe_at) else -math.inf

    def next_probe(self, lease: float) -> float:
        """Return when the next probe may leave.

        Args:
            lease: how many seconds a probe has to be answered before the next one may leave.
        """
        due = min(self.until, self.early_probe_at)
        return due if self._probe is None else max(due, self._probe.sent_at + lease)

    def begin_probe(self, ticket: Ticket) -> None:
        """Record that a probe has been let out."""
        self._probe = ticket
        self.early_probe_at = math.inf

    def end_probe(self, ticket: Ticket) -> bool:
        """Return whether a request that has ended was the probe under way, and forget it."""
        if ticket is not self._probe:
            return False
        self._probe = None
        return True

    def extend(self, until: float) -> None:
        """Move the opening to a later time; an earlier one changes nothing."""
        self.until = max(self.until, until)

    def back_off(self) -> None:
        """Double the backoff, up to 10 s; up to an hour if it is longer already."""
        longest = _LONGEST_BACKOFF if self.backoff <= _LONGEST_BACKOFF else _LONGEST_LONG_BACKOFF
        self.backoff = min(longest, 2 * self.backoff)

    def is_early(self, probe: Ticket) -> bool:
        """Whether a probe left before ``until``."""
        return probe.sent_at < self.until

    def is_opened_by(self, probe: Ticket) -> bool:
        """Whether the answer to a probe opens the gate: it left in this closure, and after ``until`` as now known."""
        return probe.sent_at >= (self.began_at if self._allows_early_probes else self.until)
