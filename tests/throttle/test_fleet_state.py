"""What processes share of one key: tables and properties, without a clock and without a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._throttle.curve import Curve
from prefect_http._throttle.fleet_state import (
    LEASE,
    MAX_MEMBERS,
    FleetState,
    KnownRate,
    Lease,
    Member,
    Opening,
    Report,
    Turns,
    completed,
    from_text,
    moved_ahead,
    rate_of,
    synced,
    to_text,
)

# The time at which the first report arrives in most tests; binary fractions are added to it.
NOW = 1000.0
UNKNOWN = KnownRate()
# One that is reached after 50 answers, so that it is exactly 8 per second there.
CURVE = Curve(4.0, 8.0, 50.0)


class Fleet:
    """Processes that report.

    Attributes:
        known: the limit that the users know.
        state: what they all know.
    """

    def __init__(self, *members: str, known: KnownRate = UNKNOWN, at: float = NOW) -> None:
        self.known = known
        self.state = FleetState()
        self._number = 0
        for member in members:
            self.report(member, at)

    def report(self, member: str, now: float, **fields: Any) -> Lease:
        """Let a process report, in the present cycle and with a number of its own unless the fields say otherwise."""
        self._number += 1
        report = Report(member=member, number=self._number, cycle=self.state.cycle)
        return self.arrives(replace(report, **fields), now)

    def arrives(self, report: Report, now: float) -> Lease:
        """Let a report arrive."""
        self.state, lease = synced(self.state, report, self.known, now)
        assert lease.state == self.state
        return lease

    def close(self, member: str, now: float, until: float) -> Lease:
        """Let the server ask a process that has more to send to wait until then."""
        return self.report(member, now, closed_until=until, is_waiting=True)

    def open(self, member: str, now: float, *, curve: Curve | None = CURVE, begins_cycle: bool = True) -> Lease:
        """Let a process report that its probe was accepted, which was sent an eighth of a second ago."""
        opening = Opening(now - 0.125, begins_cycle)
        return self.report(member, now, opening=opening, curve=curve)


# --- Counting


def test_a_new_state_begins_now() -> None:
    """The first process finds an open gate, and a cycle that begins with it."""
    fleet = Fleet()
    lease = fleet.report("a", NOW, lease=2.0)
    assert lease == Lease(fleet.state, Turns(), is_learner=False)
    assert fleet.state == FleetState(at=NOW, begun_by="a.1", began=NOW, members={"a": Member(NOW + 2.0, 1)})


def test_the_answers_of_all_count() -> None:
    """What processes report of the present cycle is added up."""
    fleet = Fleet("a", "b")
    fleet.report("a", NOW, accepted=3.0, done=2.0)
    fleet.report("b", NOW + 0.5, accepted=4.0)
    assert (fleet.state.accepted, fleet.state.done, fleet.state.at) == (7.0, 2.0, NOW + 0.5)


@each_row("cycle", [1, 3])
def test_the_answers_of_another_cycle_do_not_count(cycle: int) -> None:
    """A process that has not heard of the present cycle has nothing to tell of it."""
    fleet = Fleet("a")
    fleet.state = replace(fleet.state, cycle=2)
    fleet.report("a", NOW, cycle=cycle, accepted=3.0, done=2.0)
    assert (fleet.state.accepted, fleet.state.done) == (0.0, 0.0)


def test_a_report_counts_once() -> None:
    """If only the answer was lost, the report that is sent again gets the same answer, and changes nothing."""
    fleet = Fleet("a", known=KnownRate(8.0))
    report = Report(member="a", number=10, accepted=3.0, closed_until=None, wants=4)
    lease = fleet.arrives(report, NOW)
    assert lease.turns.count
    again = fleet.arrives(report, NOW + 0.25)
    assert (again.turns, again.is_learner) == (lease.turns, lease.is_learner)
    assert again.state == replace(lease.state, at=NOW + 0.25)
    assert fleet.arrives(replace(report, number=11), NOW + 0.25).state.accepted == 6.0


def test_a_learner_that_asks_again_is_told_so_again() -> None:
    """Whether it may probe is part of an answer that was lost."""
    fleet = Fleet("a")
    report = Report(member="a", number=10, closed_until=NOW + 5, is_waiting=True)
    assert [fleet.arrives(report, NOW + seconds).is_learner for seconds in (0.0, 0.25)] == [True, True]


# --- Closing


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(NOW, NOW + 100)), min_size=1).flatmap(st.permutations))
def test_the_latest_time_holds(closings: Sequence[tuple[str, float]]) -> None:
    """In any order: all wait as long as any of them was asked to."""
    fleet = Fleet("a", "b", "c")
    for member, until in closings:
        fleet.close(member, NOW, until)
    assert fleet.state.closed_until == max(until for _, until in closings)
    assert fleet.state.cycle == 0


@each_row(
    ("cycle", "until", "is_closed"),
    [
        (1, NOW + 3, True),
        (1, NOW - 3, True),
        # It has not heard of the opening yet: it counts if the server still wants nothing.
        (0, NOW + 3, True),
        (0, NOW, False),
        (0, NOW - 3, False),
    ],
)
def test_a_closure_that_is_over_does_not_close_again(cycle: int, until: float, *, is_closed: bool) -> None:
    """What a process was told by the server in an earlier cycle holds only as long as it said."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW - 0.75, NOW - 0.5)
    fleet.open("a", NOW - 0.25)
    assert fleet.report("b", NOW, cycle=cycle, closed_until=until, is_waiting=True).is_learner == is_closed
    assert fleet.state.closed_until == (until if is_closed else None)


def test_a_late_closing_of_an_earlier_cycle_moves_an_open_end() -> None:
    """While the gate is closed, any process may ask for more, and nobody for less."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 2)
    fleet.report("b", NOW, cycle=7, closed_until=NOW + 3)
    assert fleet.state.closed_until == NOW + 3
    fleet.report("b", NOW, cycle=7, closed_until=NOW + 1)
    assert (fleet.state.closed_until, fleet.state.learner) == (NOW + 3, "a")


def test_nobody_is_forgotten_during_a_closure() -> None:
    """Processes that have nothing to ask are remembered until a lease after its end, and further if they said so."""
    fleet = Fleet("a", "b", "c")
    fleet.report("c", NOW, lease=10.0)
    fleet.close("a", NOW, NOW + 5)
    assert {name: member.until for name, member in fleet.state.members.items()} == {
        "a": NOW + 5 + LEASE,
        "b": NOW + 5 + LEASE,
        "c": NOW + 10,
    }
    # One that asks meanwhile is not forgotten earlier than the others, and nobody has turns.
    lease = fleet.report("b", NOW + 1, wants=5)
    assert (fleet.state.members["b"].until, lease.turns) == (NOW + 5 + LEASE, Turns())


def test_a_process_that_comes_late_is_remembered_from_now_on() -> None:
    """A closure whose end has passed without a probe is no reason to forget anyone at once."""
    fleet = Fleet("a")
    fleet.close("a", NOW, NOW + 1)
    fleet.report("b", NOW + 3)
    assert fleet.state.members["b"].until == NOW + 3 + LEASE


# --- The learner


def test_the_one_that_closed_it_opens_it() -> None:
    """It learns, a new cycle begins with the probe, and the next turn is one step later."""
    fleet = Fleet("a", "b")
    assert fleet.close("a", NOW, NOW + 1).is_learner
    assert (fleet.state.learner, fleet.state.learner_until) == ("a", NOW + 1 + LEASE)
    assert not fleet.close("b", NOW, NOW + 1).is_learner
    lease = fleet.open("a", NOW + 1.25)
    state = lease.state
    assert (state.cycle, state.closed_until, state.curve, state.done) == (1, None, CURVE, 0.0)
    assert (state.began, state.accepted, state.next_turn) == (NOW + 1.125, 1.0, NOW + 1.125 + 0.25)
    assert state.begun_by == "a.5"


def test_an_opening_that_begins_no_cycle() -> None:
    """After a closure that teaches nothing, what was accepted before still counts."""
    fleet = Fleet("a")
    fleet.report("a", NOW, accepted=4.0, done=3.0)
    fleet.close("a", NOW, NOW + 1)
    fleet.open("a", NOW + 1.25, begins_cycle=False)
    assert (fleet.state.cycle, fleet.state.began, fleet.state.accepted, fleet.state.done) == (1, NOW, 5.0, 0.0)
    assert fleet.state.begun_by == "a.1"


def test_a_probe_from_the_future() -> None:
    """If two clocks differ, the next turn is counted from now at the latest."""
    fleet = Fleet("a")
    fleet.close("a", NOW, NOW + 1)
    fleet.report("a", NOW + 1, opening=Opening(NOW + 9, begins_cycle=True), curve=CURVE)
    assert fleet.state.next_turn == NOW + 1.25


@each_row(("member", "is_closed"), [("b", True), ("a", False)])
def test_only_the_learner_opens(member: str, *, is_closed: bool) -> None:
    """Neither another process opens a closed gate, nor the learner one that is open."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 1)
    if not is_closed:
        fleet.open("a", NOW + 1)
    before = replace(fleet.state, at=NOW + 1)
    fleet.open(member, NOW + 1, curve=Curve(1.0, 2.0, 3.0))
    assert replace(fleet.state, members=before.members) == before


def test_a_learner_that_was_replaced_opens_nothing() -> None:
    """Its probe was too late: another process has taken its place, and it is told so."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 1)
    assert fleet.report("b", NOW + 1 + LEASE, is_waiting=True).is_learner
    lease = fleet.open("a", NOW + 2.5)
    assert (lease.is_learner, fleet.state.cycle, fleet.state.closed_until) == (False, 0, NOW + 1)
    assert fleet.open("b", NOW + 2.5).state.cycle == 1


@each_row(
    ("seconds", "is_waiting", "is_leaving", "takes_over"),
    [
        # Before that, the learner may still be about to probe.
        (1.0 + LEASE - 0.125, True, False, False),
        (1.0 + LEASE, True, False, True),
        (1.0 + LEASE, False, False, False),
        (1.0 + LEASE, True, True, False),
    ],
)
def test_a_learner_that_is_not_heard_of(
    seconds: float, *, is_waiting: bool, is_leaving: bool, takes_over: bool
) -> None:
    """Another process takes its place, if it has anything to send."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 1)
    lease = fleet.report("b", NOW + seconds, is_waiting=is_waiting, is_leaving=is_leaving)
    assert lease.is_learner == takes_over
    assert fleet.state.learner == ("b" if takes_over else "a")


def test_a_learner_that_is_heard_of() -> None:
    """With each report it has another lease."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 1)
    assert fleet.report("a", NOW + 1.5, is_waiting=True, lease=2.0).is_learner
    assert fleet.state.learner_until == NOW + 3.5
    assert not fleet.report("b", NOW + 3, is_waiting=True).is_learner


@each_row(("is_waiting", "is_leaving"), [(False, False), (True, True), (False, True)])
def test_a_learner_with_nothing_to_send(*, is_waiting: bool, is_leaving: bool) -> None:
    """It hands over to the next one that has, without any delay."""
    fleet = Fleet("a", "b", "c")
    fleet.close("a", NOW, NOW + 5)
    assert not fleet.report("a", NOW + 0.25, is_waiting=is_waiting, is_leaving=is_leaving).is_learner
    assert not fleet.report("b", NOW + 0.5).is_learner
    assert fleet.report("c", NOW + 0.5, is_waiting=True).is_learner


def test_one_that_closes_the_gate_with_nothing_to_send_is_no_learner() -> None:
    """Its last request was rejected, and will not be sent again."""
    fleet = Fleet("a", "b")
    assert not fleet.report("a", NOW, closed_until=NOW + 1).is_learner
    assert fleet.report("b", NOW, is_waiting=True).is_learner


@each_row(
    ("member", "cycle", "learns"),
    [("a", 1, True), ("b", 1, False), ("a", 0, False)],
)
def test_the_learner_goes_on_learning(member: str, cycle: int, *, learns: bool) -> None:
    """What a trial shows after the opening is told by the learner alone, and only about the present cycle."""
    fleet = Fleet("a", "b")
    fleet.close("a", NOW, NOW + 1)
    fleet.open("a", NOW + 1)
    fleet.report("b", NOW + 1, done=5.0)
    fleet.report(member, NOW + 1.5, cycle=cycle, has_learned=True, curve=None)
    assert (fleet.state.curve, fleet.state.done) == ((None, 0.0) if learns else (CURVE, 5.0))


# --- The rate


@each_row(
    ("curve", "done", "known", "rate"),
    [
        (None, 0.0, UNKNOWN, math.inf),
        (None, 0.0, KnownRate(3.0), 3.0),
        (CURVE, 0.0, UNKNOWN, 4.0),
        (CURVE, 50.0, UNKNOWN, 8.0),
        (CURVE, 0.0, KnownRate(3.0), 3.0),
        (CURVE, 0.0, KnownRate(5.0), 4.0),
    ],
)
def test_rate(curve: Curve | None, done: float, known: KnownRate, rate: float) -> None:
    """The rate that was learned, but never more than the users know to be allowed."""
    assert rate_of(FleetState(curve=curve, done=done), known) == rate


# --- Turns


def times(turns: Turns) -> list[float]:
    """Return the moments."""
    return [turns.start + number * turns.step for number in range(turns.count)]


def test_turns_lie_a_step_apart() -> None:
    """Whoever asks gets the next ones."""
    fleet = Fleet("a", "b", known=KnownRate(4.0), at=NOW - 0.5)
    asked = [fleet.report(member, NOW, wants=2).turns for member in ("a", "b", "a")]
    assert [times(turns) for turns in asked] == [[NOW], [NOW + 0.25], [NOW + 0.5]]
    assert fleet.report("a", NOW + 9, wants=2).turns.start == NOW + 9


@each_row(
    ("members", "seconds", "lease", "wants", "unused", "count"),
    [
        # As many as it wants, up to its share of the time that the cycle has lasted, or of its lease.
        ("a", 60.0, 1.0, 10, 0, 10),
        ("a", 60.0, 1.0, 1000, 0, 128),
        ("a", 60.0, 2.0, 1000, 0, 256),
        ("a", 0.5, 1.0, 1000, 0, 64),
        ("ab", 0.5, 1.0, 1000, 0, 32),
        ("abcd", 0.5, 1.0, 1000, 0, 16),
        ("abcd", 60.0, 1.0, 20, 0, 20),
        ("abcd", 60.0, 1.0, 0, 0, 0),
        # At the beginning, a tenth of a second, or a fiftieth for each.
        ("a", 0.0, 1.0, 1000, 0, 12),
        ("ab", 0.0, 1.0, 1000, 0, 6),
        ("abcdefghij", 0.0, 1.0, 1000, 0, 2),
        ("abcdefghijklmnopqrst", 0.0, 1.0, 1000, 0, 2),
        # Those that it has not used yet count.
        ("ab", 0.5, 1.0, 1000, 30, 2),
        ("ab", 0.5, 1.0, 1000, 32, 0),
        ("ab", 0.5, 1.0, 1000, 40, 0),
        ("ab", 0.5, 1.0, 10, 4, 6),
    ],
)
def test_how_many_turns(members: str, seconds: float, lease: float, wants: int, unused: int, count: int) -> None:
    """At 128 requests per second."""
    fleet = Fleet(*members, known=KnownRate(128.0))
    fleet.state = replace(fleet.state, at=NOW, began=NOW - seconds)
    turns = fleet.report("a", NOW, lease=lease, wants=wants, unused=unused).turns
    assert turns.count == count


def test_at_least_one_turn() -> None:
    """However slow the server is, each process that has something to send gets its turn."""
    fleet = Fleet("a", "b", "c", known=KnownRate(0.125))
    asked = [fleet.report(member, NOW, wants=9).turns for member in ("a", "b", "c")]
    assert [times(turns) for turns in asked] == [[NOW], [NOW + 8], [NOW + 16]]


def test_turns_of_another_cycle_are_gone() -> None:
    """What a process has not used of an earlier cycle does not count, since it may not use it any more."""
    fleet = Fleet("a", "b", known=KnownRate(8.0))
    fleet.state = replace(fleet.state, cycle=1, began=NOW - 60)
    assert fleet.report("a", NOW, cycle=0, wants=4, unused=4).turns.count == 4
    assert fleet.report("a", NOW, cycle=1, wants=4, unused=4).turns.count == 0


@each_row(
    ("members", "curve", "known", "closed_until", "has_turns"),
    [
        ("ab", CURVE, UNKNOWN, None, True),
        ("ab", None, KnownRate(8.0), None, True),
        ("a", None, KnownRate(8.0), None, True),
        # A single one keeps to a rate that was learned by itself.
        ("a", CURVE, UNKNOWN, None, False),
        ("ab", None, UNKNOWN, None, False),
        ("ab", CURVE, UNKNOWN, NOW + 5, False),
        ("ab", None, KnownRate(8.0), NOW + 5, False),
    ],
)
def test_who_has_turns(
    members: str, curve: Curve | None, known: KnownRate, closed_until: float | None, *, has_turns: bool
) -> None:
    """While a rate is known, there is more than one process, and the gate is open."""
    fleet = Fleet(*members, known=known)
    fleet.state = replace(fleet.state, curve=curve, closed_until=closed_until)
    assert bool(fleet.report("a", NOW, wants=1).turns.count) == has_turns


def test_the_second_process_begins_a_moment_later() -> None:
    """By then the first one, which needed no turns, has heard of it. The third one may begin at once."""
    fleet = Fleet("a")
    fleet.state = replace(fleet.state, curve=CURVE)
    assert fleet.report("b", NOW, wants=1).turns.start == pytest.approx(NOW + 0.05, rel=1e-12)
    fleet.state = replace(fleet.state, next_turn=0.0)
    assert fleet.report("c", NOW, wants=1).turns.start == NOW
    fleet.report("c", NOW, is_leaving=True)
    assert fleet.report("b", NOW + 0.5, wants=1).turns.start == NOW + 0.5


@each_row(("burst", "start"), [(1, NOW), (2, NOW - 0.125), (9, NOW - 1)])
def test_a_burst(burst: int, start: float) -> None:
    """After a pause, as many turns as a burst has are due at once."""
    fleet = Fleet(known=KnownRate(8.0, burst))
    turns = fleet.report("a", NOW, wants=20).turns
    assert (turns, fleet.state.next_turn) == (Turns(start, 0.125, 1), NOW + 0.125)


class Use:
    """The requests that members send as early as their turns let them.

    Args:
        known: the limit.

    Attributes:
        sent_at: when they were sent.
    """

    def __init__(self, known: KnownRate) -> None:
        self.fleet = Fleet(known=known)
        self.sent_at: list[float] = []
        self._due: dict[str, list[float]] = {}

    def ask(self, member: str, now: float, wants: int, lease: float) -> None:
        """Let a member ask for turns, and use them."""
        unused = [due for due in self._due.get(member, []) if due > now]
        turns = self.fleet.report(member, now, wants=wants, unused=len(unused), lease=lease).turns
        due = [max(now, due) for due in times(turns)]
        self._due[member] = unused + due
        self.sent_at += due


@given(
    st.floats(0.5, 500.0),
    st.integers(1, 20),
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0.0, 1.5), st.integers(0, 40), st.sampled_from([1.0, 4.0])),
        max_size=25,
    ),
)
def test_all_together_keep_to_the_known_limit(
    rate: float, burst: int, reports: list[tuple[str, float, int, float]]
) -> None:
    """In any t seconds, all members together send no more than the burst and t times the rate."""
    use, now = Use(KnownRate(rate, burst)), NOW
    for member, seconds, wants, lease in reports:
        now += seconds
        use.ask(member, now, wants, lease)
    sent_at = sorted(use.sent_at)
    # The most that a window which begins with one of the earlier requests has used of the rate until each request.
    credit = math.inf
    for number, at in enumerate(sent_at):
        credit = min(credit, number - rate * (at - NOW))
        assert number + 1 - rate * (at - NOW) - credit <= burst + 1e-6


def test_turns_follow_demand() -> None:
    """A process that wants one now and then leaves the rest of the rate to the others, who are ahead by a second."""
    use, asked = Use(KnownRate(100.0)), {"a": 0, "b": 0}
    for step in range(200):
        now = NOW + step * 0.1
        for member, wants in (("a", 1000), ("b", 1 if step % 20 == 0 else 0)):
            before = len(use.sent_at)
            use.ask(member, now, wants, 1.0)
            asked[member] += len(use.sent_at) - before
    assert asked["b"] == 10
    assert asked["a"] + asked["b"] == pytest.approx(100.0 * 20, rel=0.06)


def test_equal_demand_has_equal_shares() -> None:
    """Nobody gets more because it was the first, or asks more often."""
    use, asked = Use(KnownRate(100.0)), {"a": 0, "b": 0, "c": 0}
    for step in range(400):
        now = NOW + step * 0.05
        for member, every in (("a", 1), ("b", 5), ("c", 10)):
            if step % every == 0:
                before = len(use.sent_at)
                use.ask(member, now, 1000, 1.0)
                asked[member] += len(use.sent_at) - before
    assert max(asked.values()) / min(asked.values()) < 1.15


# --- Members


def test_a_process_is_forgotten() -> None:
    """When it has not been heard of by the time that it said; then it leaves its share to the others."""
    fleet = Fleet("a", known=KnownRate(100.0))
    fleet.report("b", NOW, lease=3.0)
    assert fleet.report("b", NOW + LEASE - 0.125).state.members.keys() == {"a", "b"}
    assert fleet.report("b", NOW + LEASE).state.members.keys() == {"b"}


def leaving(*, wants: tuple[int, int], unused: int, cycle: int = 0, seconds: float = 0.0, burst: int = 1) -> float:
    """Return how many seconds after the beginning the next turn is, when the first of two processes has left."""
    fleet = Fleet("a", "b", known=KnownRate(16.0, burst))
    fleet.state = replace(fleet.state, began=NOW - 60)
    fleet.report("a", NOW, wants=wants[0])
    fleet.report("b", NOW, wants=wants[1])
    assert fleet.state.next_turn == NOW + sum(wants) / 16
    lease = fleet.report("a", NOW + seconds, is_leaving=True, unused=unused, cycle=cycle, wants=5)
    assert (lease.turns, set(lease.state.members)) == (Turns(), {"b"})
    return fleet.state.next_turn - NOW


@each_row(
    ("wants", "unused", "cycle", "seconds", "next_turn"),
    [
        ((4, 0), 0, 0, 0.0, 0.25),
        ((4, 0), 1, 0, 0.0, 0.1875),
        ((4, 0), 4, 0, 0.0, 0.0),
        # Not those of an earlier report, nor any that have passed.
        ((4, 0), 9, 0, 0.0, 0.0),
        ((4, 0), 4, 0, 0.125, 0.125),
        # Those of another process come after them.
        ((4, 1), 4, 0, 0.0, 0.3125),
        ((4, 0), 4, 1, 0.0, 0.25),
    ],
)
def test_one_that_leaves_gives_back_its_turns(
    wants: tuple[int, int], unused: int, cycle: int, seconds: float, next_turn: float
) -> None:
    """They are free again, as far as nobody else's come after them."""
    assert leaving(wants=wants, unused=unused, cycle=cycle, seconds=seconds) == next_turn


@each_row(("burst", "next_turn"), [(1, 0.1875), (2, 0.1875), (20, 0.1875)])
def test_turns_of_a_burst_are_given_back(burst: int, next_turn: float) -> None:
    """Also those that could have been used before they were due."""
    assert leaving(wants=(4, 0), unused=1, burst=burst) == next_turn


def test_one_that_is_not_known_leaves() -> None:
    """It has been forgotten: there is nothing to give back."""
    fleet = Fleet("a", known=KnownRate(16.0))
    fleet.report("a", NOW, wants=1)
    before = fleet.state
    assert fleet.report("b", NOW, is_leaving=True, unused=3).state == before


def test_no_more_members_than_fit() -> None:
    """One too many is not remembered and has no turns, but a closure is told to it, and by it."""
    fleet = Fleet("a", known=KnownRate(1e6))
    fleet.state = replace(fleet.state, members={str(number): Member(NOW + 9, 1) for number in range(MAX_MEMBERS)})
    assert fleet.report("0", NOW, wants=1).turns.count == 1
    lease = fleet.report("b", NOW, wants=1, closed_until=NOW + 5)
    assert (lease.turns, lease.state.closed_until) == (Turns(), NOW + 5)
    assert lease.state.members.keys() == {str(number) for number in range(MAX_MEMBERS)}


# --- Another clock


@each_row(("back", "is_moved"), [(0.0625, False), (500.0, True), (0.125, True)])
@each_row("closed_until", [None, NOW + 5])
def test_a_clock_that_goes_back(closed_until: float | None, back: float, *, is_moved: bool) -> None:
    """If another server takes over, all times are moved; a small step back is none."""
    known = FleetState(
        at=NOW,
        closed_until=closed_until,
        learner="a",
        learner_until=NOW + 6,
        began=NOW - 1,
        next_turn=NOW + 0.25,
        members={"a": Member(NOW + 7, 1, Turns(NOW, 0.25, 1))},
    )
    now = NOW - back
    state = synced(known, Report(member="a", number=1), UNKNOWN, now)[0]
    moved = back if is_moved else 0.0
    assert state.at == now
    assert state.closed_until == (None if closed_until is None else closed_until - moved)
    assert (state.learner_until, state.began, state.next_turn) == (NOW + 6 - moved, NOW - 1 - moved, NOW + 0.25 - moved)
    assert state.members == {"a": Member(NOW + 7 - moved, 1, Turns(NOW - moved, 0.25, 1))}


@each_row(("at", "is_moved"), [(NOW - 400.0, True), (NOW - 99.0, True), (NOW - 98.0, False), (NOW, False)])
def test_a_clock_that_jumps_ahead(at: float, *, is_moved: bool) -> None:
    """All times of what the clock before has written are moved; what the new one has written stays."""
    known = FleetState(at=at, closed_until=at + 5, began=at - 1, members={"a": Member(at + 7, 1, Turns(at, 0.25, 1))})
    state = moved_ahead(known, 100.0, NOW)
    later = at + 100.0
    moved = FleetState(
        at=later,
        closed_until=later + 5,
        learner_until=100.0,
        began=later - 1,
        next_turn=100.0,
        members={"a": Member(later + 7, 1, Turns(later, 0.25, 1))},
    )
    assert state == (moved if is_moved else known)


def test_a_clock_that_jumps_ahead_before_anything_is_stored() -> None:
    """A new state is that of no clock: what began long ago would have taught a rate of one request a minute."""
    assert moved_ahead(FleetState(), 2.0, NOW) == FleetState()


@each_row(
    ("change", "accepted", "began"),
    [
        ({}, 7.0, NOW - 1),
        ({"accepted": 8.0}, 8.0, NOW - 1),
        # The gate was opened again since, or had not been yet, without the beginning of a cycle.
        ({"cycle": 4}, 7.0, NOW - 1),
        ({"cycle": 2}, 7.0, NOW - 1),
        # Its times were moved to another clock, by too little.
        ({"began": NOW}, 7.0, NOW - 1),
        # It is another cycle, although the gate was opened as often.
        ({"begun_by": "b.2", "began": NOW}, 5.0, NOW),
    ],
)
def test_what_the_store_has_lost_of_a_cycle(change: dict[str, Any], accepted: float, began: float) -> None:
    """What was known of the same cycle is not forgotten."""
    known = FleetState(at=NOW, cycle=3, begun_by="a.2", began=NOW - 1, accepted=7.0)
    stored = replace(known, accepted=5.0, at=NOW + 1, next_turn=NOW + 2)
    stored = replace(stored, **change)
    assert completed(stored, known, NOW + 1) == replace(stored, accepted=accepted, began=began)


def test_what_a_store_with_another_clock_has_lost_of_a_cycle() -> None:
    """Only the beginning of the cycle is known exactly; all other times are moved as far as is known."""
    known = FleetState(at=NOW, learner_until=NOW + 3, begun_by="a.2", began=NOW - 1, accepted=7.0)
    stored = replace(known, accepted=5.0, at=NOW + 6, learner_until=NOW + 8, began=NOW + 3, next_turn=NOW + 7)
    assert completed(stored, known, NOW + 1) == replace(known, at=NOW + 1, next_turn=NOW + 2)


def test_nothing_is_known_yet() -> None:
    """There is nothing that the store could have lost."""
    assert completed(FleetState(), FleetState(), NOW) == FleetState()


# --- As a text

FINITE = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
COUNTS = st.integers(0, 2**53)
STATES = st.builds(
    FleetState,
    at=FINITE,
    cycle=COUNTS,
    closed_until=st.none() | FINITE,
    learner=st.text(max_size=12),
    learner_until=FINITE,
    curve=st.none() | st.builds(Curve, POSITIVE, POSITIVE, POSITIVE),
    done=FINITE,
    begun_by=st.text(max_size=12),
    began=FINITE,
    accepted=FINITE,
    next_turn=FINITE,
    members=st.dictionaries(
        st.text(max_size=12),
        st.builds(Member, FINITE, COUNTS, st.builds(Turns, FINITE, FINITE, COUNTS)),
        max_size=3,
    ),
)


@given(STATES)
def test_a_text_says_all(state: FleetState) -> None:
    """What is written is read, to the last bit."""
    text = to_text(state)
    assert from_text(text) == state
    assert text.isascii()
    assert " " not in to_text(replace(state, learner="", begun_by="", members={}))


def test_no_text() -> None:
    """Nothing is stored yet: a new state."""
    assert from_text("") == FleetState()


@each_row(
    "text",
    [
        "x",
        "null",
        "1",
        "{}",
        "[]",
        to_text(FleetState(closed_until=math.nan)),
        to_text(FleetState(next_turn=math.inf)),
        to_text(FleetState(curve=Curve(0.0, 1.0, 1.0))),
        to_text(FleetState(curve=Curve(1.0, 1.0, 0.0))),
        "[2]",
        '"2bcdefghijklm"',
        "[2,0,0,null,0,0,null,0,0,0,0,0,{},0]",
        "[2,null,0,null,0,0,null,0,0,0,0,0,{}]",
        '[2,0,"x",null,0,0,null,0,0,0,0,0,{}]',
        "[2,0,NaN,null,0,0,null,0,0,0,0,0,{}]",
        "[2,0,Infinity,null,0,0,null,0,0,0,0,0,{}]",
        "[" * 100_000,
        "[2,0,0,null,0,0,5,0,0,0,0,0,{}]",
        "[2,0,0,null,0,0,[1,2],0,0,0,0,0,{}]",
        "[2,0,0,null,0,0,null,0,0,0,0,0,[]]",
        '[2,0,0,null,0,0,null,0,0,0,0,0,{"a":[1]}]',
        '[2,0,0,null,0,0,null,0,0,0,0,0,{"a":null}]',
        '[2,0,0,null,0,0,null,0,0,0,0,0,{"a":{}}]',
    ],
)
def test_a_text_that_is_no_state(text: str) -> None:
    """Something else has written to the store."""
    with pytest.raises(ValueError, match=r"^the shared state cannot be read: "):
        from_text(text)


@each_row(
    "text",
    [
        to_text(FleetState()).replace("[2,", "[3,", 1),
        # It may have fewer fields, or more.
        '[1,0.0,0,null,"",0.0,null,0.0,0.0,0.0,0.0,{}]',
        "[3,0,0,null,0,0,null,0,0,0,0,0,{},0]",
    ],
)
def test_a_text_of_another_version(text: str) -> None:
    """The message says what to do."""
    with pytest.raises(ValueError, match=r"another version of prefect_http; give it another prefix"):
        from_text(text)


def test_how_long_a_text_is() -> None:
    """Each process sends and reads it about twice a second: about a hundred bytes for each member."""
    third = 1_700_000_000 + 1 / 3
    member = Member(third, 10**6, Turns(third, 1 / 3, 1000))
    one = FleetState(
        at=third,
        cycle=10**6,
        closed_until=third,
        learner="0" * 12,
        learner_until=third,
        curve=Curve(1 / 3, 1 / 3, 1 / 3),
        done=third,
        begun_by="0" * 12 + ".1000000",
        began=third,
        accepted=third,
        next_turn=third,
    )
    assert len(to_text(one)) < 300
    full = replace(one, members={f"{number:012x}": member for number in range(MAX_MEMBERS)})
    assert len(to_text(full)) < 100 * MAX_MEMBERS
