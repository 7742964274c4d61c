"""A Limiter under requests that leave and end in any order."""

from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.limiters import INF, advertise, make, may_leave

from prefect_http._throttle.limiter import Change
from prefect_http._throttle.ticket import Ticket

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

QUEUED = 50
SHORTEST_LEASE = 1.0
LONGEST_BACKOFF = 10.0

seconds = st.sampled_from([0.0, 0.001, 0.02, 0.125, 0.5, 1.0, 2.5, 30.0]) | st.floats(0.0, 100.0)
waits = st.none() | st.sampled_from([0.5, 1.0, 5.0]) | st.floats(0.001, 60.0)
fractions = st.sampled_from([0.0, 0.5, 1.0])
positions = st.integers(0, 9)


class AnyOrder(RuleBasedStateMachine):
    """Requests that leave and end in any order, and a server that says anything; in the end, it answers everything.

    The rules are stated in terms of what the Limiter's caller sees, not of its internals. There is only one route, so
    no route has a problem of its own, and there are no early probes.
    """

    early_probe = False
    routes = 1

    @initialize(max_in_flight=st.sampled_from([1, 2, 3, 100]), slow_start=st.booleans(), latency=fractions)
    def begin(self, max_in_flight: int, slow_start: bool, latency: float) -> None:
        """Make the Limiter."""
        self.max_in_flight = max_in_flight
        self.latency = latency  # in the end
        self.changes: list[Change] = []
        self.limiter = make(
            max_in_flight=max_in_flight, slow_start=slow_start, early_probe=self.early_probe, changes=self.changes
        )
        self.now = 0.0
        self.out: list[Ticket] = []
        self.probes: list[Ticket] = []  # of the closure
        self.not_before = -INF  # the end of the longest Retry-After
        self.ends = 0

    @rule(by=seconds)
    def wait(self, by: float) -> None:
        """Let time pass."""
        self.now += by

    @rule()
    def wait_for_the_next(self) -> None:
        """Let time pass until a request may leave, unless that depends on an answer."""
        due = self.limiter.next_send(self.now)
        if due < INF:
            self.now = max(self.now, due)

    @precondition(lambda self: may_leave(self.limiter, self.now))
    @rule(route=positions, has_waited=st.booleans())
    def send(self, route: int, has_waited: bool) -> None:
        """Let a request out, and check that it may leave."""
        self.check_that_one_may_leave()
        ticket = self.limiter.send(self.now, lambda: str(route % self.routes), has_waited=has_waited)
        assert ticket.is_probe is (self.limiter.closed_until is not None)
        self.out.append(ticket)
        if ticket.is_probe:
            self.probes.append(ticket)

    def check_that_one_may_leave(self) -> None:
        """Check that there is room, that the server's wait has passed, and that no other probe has just left."""
        assert self.now >= self.not_before
        self.check_that_there_is_room()
        assert self.limiter.closed_until is None or self.now >= self.limiter.closed_until

    def check_that_there_is_room(self) -> None:
        """Check that not too many requests are under way, and at most one probe within its lease."""
        assert self.limiter.in_flight < self.max_in_flight
        assert all(self.now >= probe.sent_at + SHORTEST_LEASE for probe in self.probes if probe.is_out)

    @precondition(lambda self: self.out)
    @rule(position=positions)
    def answered(self, position: int) -> None:
        """Answer a request."""
        self.limiter.answered(self.end(position), self.now)

    @precondition(lambda self: self.out)
    @rule(position=positions, retry_after=waits, jitter=fractions, is_doubtful=st.booleans())
    def rejected(self, position: int, retry_after: float | None, jitter: float, is_doubtful: bool) -> None:
        """Reject a request."""
        self.limiter.rejected(self.end(position), self.now, retry_after, jitter, is_doubtful=is_doubtful)
        if not is_doubtful or self.limiter.closed_until is not None:
            self.not_before = max(self.not_before, self.now + (retry_after or 0.0))

    @precondition(lambda self: self.out)
    @rule(position=positions, has_failed=st.booleans())
    def dropped(self, position: int, has_failed: bool) -> None:
        """End a request without an answer."""
        self.limiter.dropped(self.end(position), self.now, has_failed=has_failed)
        self.ends -= 1

    @rule(remaining=st.none() | st.integers(0, 5), reset=st.none() | st.floats(0.0, 60.0))
    def advertised(self, remaining: int | None, reset: float | None) -> None:
        """Let the server say how many requests are left."""
        advertise(self.limiter, self.now, remaining, reset)

    @rule(concurrency=st.integers(0, 5))
    def advertised_concurrency(self, concurrency: int) -> None:
        """Let the server say how many requests it takes at a time."""
        advertise(self.limiter, self.now, concurrency=concurrency)

    def end(self, position: int) -> Ticket:
        """Take one of the requests that are under way."""
        self.ends += 1
        return self.out.pop(position % len(self.out))

    @invariant()
    def is_consistent(self) -> None:
        """Check that the counts are right, and the numbers sensible."""
        limiter = self.limiter
        is_open = limiter.closed_until is None
        # It was set by an earlier next_send(), and must be right in spite of what has happened since.
        assert limiter.in_flight >= limiter.sure_room or limiter.next_send(self.now) <= self.now
        assert limiter.in_flight == len(self.out)
        assert limiter.accepted + limiter.rejections == self.ends
        assert limiter.rate > 0
        assert 1 <= limiter.limit <= self.max_in_flight
        assert limiter.closed_until is None or math.isfinite(limiter.closed_until)
        assert limiter.shut_until in {-INF, limiter.closed_until}
        assert limiter.is_idle(self.now) is (not self.out and (limiter.closed_until or 0.0) <= self.now)
        assert not math.isnan(limiter.next_send(self.now))
        assert self.changes.count(Change.CLOSED) - self.changes.count(Change.OPENED) == (not is_open)
        if is_open:
            self.probes.clear()

    def teardown(self) -> None:
        """Check that once all requests are answered, all that are queued leave within a bounded time."""
        began = self.now
        wait = max(self.limiter.closed_until or began, began) - began
        # The latency is always the same, so the answers come in the order of the requests.
        answers = deque([began + self.latency] * len(self.out))
        queued = QUEUED
        while queued:
            due = max(self.now, self.limiter.next_send(self.now))
            if answers and answers[0] <= due:
                self.now = answers.popleft()
                self.answered(0)
            else:
                assert due < INF
                self.now = due
                self.send(0, has_waited=True)
                answers.append(due + self.latency)
                queued -= 1
            self.is_consistent()
        # The slowest rate that can be learned is one request in all the time that it took to learn it.
        slowest = began + wait + LONGEST_BACKOFF + 4 * self.latency
        assert self.now - began <= QUEUED * slowest


class AnyOrderWithEarlyProbes(AnyOrder):
    """The same, with early probes, and routes that may have problems of their own."""

    early_probe = True
    routes = 3

    def check_that_one_may_leave(self) -> None:
        """Check that there is room, and that a closure has at most one early probe."""
        self.check_that_there_is_room()
        if self.limiter.closed_until is not None and self.now < self.limiter.closed_until:
            assert not self.probes


@pytest.mark.parametrize("machine", [AnyOrder, AnyOrderWithEarlyProbes])
def test_any_order(machine: type[RuleBasedStateMachine]) -> None:
    """In whatever order requests leave and end, no rule is broken, and the gate opens again."""
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=40))
