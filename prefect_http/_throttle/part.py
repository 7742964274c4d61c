"""Part: what a process has of one key that it shares: its gate, its share, and what it knows of the store."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable, Hashable
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from prefect_http._concurrency.backend import Event, new_cancel_scope, new_event
from prefect_http._throttle.fleet_state import KnownRate, Lease, Report
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.limiter import Told
from prefect_http._throttle.news import News
from prefect_http._throttle.share import Share

# Of the doubts that others have, so many count at once.
_MOST_DOUBTS = 100


class Pending(NamedTuple):
    """A report of which it is not known whether it has arrived.

    Attributes:
        report: the report, in times of the event loop: another clock may be the store's when it is sent again.
        told: where it is to be recorded that it has arrived.
        until: when it may count twice, if it has arrived, because the others have forgotten its number.
    """

    report: Report
    told: Told
    until: float


class Part:
    """The part that a process has of a key.

    Attributes:
        member: the name of the process, for this key.
        name: of the key in the store.
        gate: of the key in this process.
        on_change: called when something has changed that may have to be reported; see Fleet.watch().
        share: the share of this process.
        version: what is known of the store's; -1: nothing.
        answered_at: when the store was asked last, or has answered since.
        heard: a later state, and its version, from news of another process; None if there is none.
        pending: a report of which it is not known whether it has arrived; None if there is none.
        is_settling: whether the task is to end as soon as it can.
        task: tells the task that keeps it up to date from an earlier one; None if there is none.
    """

    def __init__(self, key: Hashable, known: KnownRate) -> None:
        self.member = secrets.token_hex(6)
        self.name = blake2b(repr(key).encode(), digest_size=16).hexdigest()
        self.share = Share(self.member, known)
        self.gate: Gate
        self.on_change: Callable[[str | None], object]
        self.version = -1
        self.answered_at = -math.inf
        self.heard: tuple[int, str] | None = None
        self.pending: Pending | None = None
        self.task: object = None
        self.is_settling = False
        self._due = -math.inf
        self._event: Event | None = None

    def next_report(self, now: float) -> float:
        """Return when the store is to be asked; infinity if there is nothing to ask."""
        limiter = self.gate.limiter
        return self.share.next_report(
            now,
            waiting=self.gate.waiting,
            in_flight=limiter.in_flight,
            own_until=limiter.own_until,
            closed_until=limiter.closed_until,
            has_rate=min(limiter.rate, limiter.known_rate) < math.inf,
        )

    def to_report(self, now: float, *, is_leaving: bool) -> Report:
        """Return the report that is pending, as far as it still holds, or a new one that is pending from now on."""
        if self.pending is None:
            self.pending = self._new_report(now, is_leaving=is_leaving)
        report = self.pending.report
        if report.closed_until is not None and self.gate.limiter.own_until < report.closed_until:
            report = replace(report, closed_until=None)  # alone, the process has opened its gate since
        if now >= self.pending.until:
            report = replace(report, accepted=0.0, done=0.0)  # too few are better than twice as many
        return report

    def _new_report(self, now: float, *, is_leaving: bool) -> Pending:
        limiter = self.gate.limiter
        accepted, done, told = limiter.to_tell()
        report = self.share.report(
            now,
            accepted=accepted,
            done=done,
            own_until=limiter.own_until,
            curve=limiter.curve,
            waiting=self.gate.waiting,
            is_waiting=self.gate.waiting > 0 or limiter.is_probing,
            is_leaving=is_leaving,
        )
        return Pending(report, told, now + report.lease)

    def wake(self, now: float) -> None:
        """Let the task look, if there is anything earlier than what it waits for."""
        if self._event is not None and self.next_report(now) < self._due:
            self._event.set()

    @property
    def is_in_use(self) -> bool:
        """Whether any request waits or is in flight."""
        return self.gate.waiting > 0 or self.gate.limiter.in_flight > 0

    def settle(self) -> None:
        """Let the task end as soon as it has told what there is to tell."""
        self.is_settling = True
        if self._event is not None:
            self._event.set()

    async def wait_until(self, due: float) -> None:
        """Wait until then, or until ``wake()``."""
        self._due, self._event = due, new_event()
        scope = new_cancel_scope()
        scope.deadline = due
        try:
            with scope:
                await self._event.wait()
        finally:
            self._event = None

    def hear(self, news: News, now: float) -> None:
        """Change the gate according to news from another process."""
        limiter = self.gate.limiter
        if news.what == "closed":
            limiter.close_with_others(now, self.share.local_time(news.value))
        elif news.what == "doubts":
            for _ in range(min(int(news.value), _MOST_DOUBTS)):
                limiter.doubt_with_others(now, random.random())

    def apply(self, report: Report, lease: Lease, asked_at: float, now: float) -> None:
        """Change the gate according to the answer to a report, which is no longer pending; see Share.apply()."""
        share, limiter = self.share, self.gate.limiter
        assert self.pending is not None
        (whole, told, _), self.pending = self.pending, None
        before, state = share.state, lease.state
        share.apply(report, lease, asked_at, now)
        told.accepted += whole.accepted
        told.done += whole.done
        if share.has_news:  # it is newer
            return
        if state.cycle != before.cycle and report.opening is None:
            began = share.local_time(state.began)
            limiter.open_with_others(now, began, begins_cycle=state.begun_by != before.begun_by)
        if state.closed_until is not None:
            limiter.close_with_others(now, share.local_time(state.closed_until))
        elif limiter.own_until > -math.inf:  # the store has lost it, and the others did not know
            share.closure_was_lost()
        elif limiter.closed_until is not None and limiter.closed_until <= now:
            limiter.open_with_others(now, now, begins_cycle=False)
        limiter.follow(state.curve, state.done, accepted=None if state.cycle else state.accepted)
