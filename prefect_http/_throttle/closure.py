"""Closure: the time from a rejection until a probe is answered. Pure."""

from __future__ import annotations

import math

from prefect_http._throttle.evidence import Evidence
from prefect_http._throttle.ticket import Ticket

FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
# For a backoff that began longer than that, as for GitHub.
_LONGEST_LONG_BACKOFF = 3600.0


class Closure:
    """One closure of the gate. Only probes are sent meanwhile; the response to one ends it.

    Args:
        now: the time.
        until: when the first probe may be sent.
        hit_at: when the first request that was rejected was sent.
        rate: requests per second at that time; infinity if none was known.
        is_low: whether that rate was in the lower half of its climb, or none was known.
        teaches: whether a rate can be learned from it. That is not so where the server announced that nothing is left,
            nor after a late rejection of an earlier cycle's request.
        allows_early_probes: whether the response to a probe opens the gate even if it was sent before ``until``.
        backoff: the first backoff, in seconds.
        evidence: the doubtful rejections that it is due to; None if it is due to a rejection that is not doubtful.
        is_of_others: whether another process has closed the gate.

    Attributes:
        own_until: until when the server has told this process to wait; minus infinity if it has not.
        early_probe_at: when a probe may be sent although ``until`` has not passed; infinity if none may.
        backoff: seconds to wait after the next rejection, unless the server asks for more.
        setbacks: how many probes have been rejected, or have failed.
    """

    def __init__(
        self,
        now: float,
        until: float,
        *,
        hit_at: float,
        rate: float,
        is_low: bool,
        teaches: bool,
        allows_early_probes: bool,
        backoff: float = FIRST_BACKOFF,
        evidence: Evidence | None = None,
        is_of_others: bool = False,
    ) -> None:
        self.began_at = now
        self.until = until if evidence is None else max(until, evidence.retry_after_until)
        self.own_until = -math.inf if is_of_others else self.until
        self.hit_at = hit_at if evidence is None else evidence.first_sent_at
        self.rate = rate
        self.is_low = is_low
        self.evidence = evidence
        self.teaches = teaches
        self.early_probe_at = math.inf
        self.backoff = backoff
        self.setbacks = 0
        self._allows_early_probes = allows_early_probes
        self._probe: Ticket | None = None

    @property
    def shut_until(self) -> float:
        """The earliest time at which the gate may open; minus infinity if a probe may open it at any time."""
        return self.until if self._probe is None and math.isinf(self.early_probe_at) else -math.inf

    @property
    def is_probing(self) -> bool:
        """Whether a probe is in flight."""
        return self._probe is not None

    def next_probe(self, lease: float) -> float:
        """Return when the next probe may be sent.

        Args:
            lease: after how many seconds without a response to a probe the next one may be sent.
        """
        due = min(self.until, self.early_probe_at)
        return due if self._probe is None else max(due, self._probe.sent_at + lease)

    def begin_probe(self, ticket: Ticket) -> None:
        """Record that a probe is sent."""
        self._probe = ticket
        self.early_probe_at = math.inf

    def end_probe(self, ticket: Ticket) -> bool:
        """Return whether a request that has ended was the probe in flight, and forget it."""
        if ticket is not self._probe:
            return False
        self._probe = None
        return True

    @property
    def accepted_share(self) -> float:
        """Which share of the requests that were sent from ``hit_at`` on was accepted; 1 if that is not known."""
        if self.evidence is None:
            return 1.0
        accepted = self.evidence.all_accepted + 1  # the share of a few is uncertain: do not believe the worst
        return accepted / (accepted + self.evidence.all_rejected)

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Record that a request was accepted which was sent before the gate opened."""
        if self.evidence is not None and ticket.sent_at >= self.hit_at:
            self.evidence.accepted_later += 1
            if not ticket.is_probe:
                self.evidence.last_at = now

    def rejected(self, *, is_doubtful: bool, is_late: bool) -> None:
        """Record a further rejection.

        Args:
            is_doubtful: whether it may be a fault.
            is_late: whether it belongs to an earlier cycle.
        """
        if not is_doubtful:
            self.evidence = None
        elif self.evidence is not None and not is_late:
            self.evidence.rejected_later += 1

    def extend(self, until: float) -> None:
        """Move the opening to a later time; an earlier one changes nothing."""
        self.until = max(self.until, until)
        self.own_until = max(self.own_until, until)

    def follow(self, until: float) -> None:
        """Move the opening to a later time, because another process was told so."""
        self.until = max(self.until, until)

    def back_off(self) -> None:
        """Double the backoff, up to 10 s; up to an hour if it is longer already."""
        longest = _LONGEST_BACKOFF if self.backoff <= _LONGEST_BACKOFF else _LONGEST_LONG_BACKOFF
        self.backoff = min(longest, 2 * self.backoff)
        self.setbacks += 1

    def is_early(self, probe: Ticket) -> bool:
        """Whether a probe was sent before ``until``."""
        return probe.sent_at < self.until

    def is_opened_by(self, probe: Ticket) -> bool:
        """Whether the response to a probe opens the gate: it was sent in this closure, after ``until`` as now known."""
        return probe.sent_at >= (self.began_at if self._allows_early_probes else self.until)
