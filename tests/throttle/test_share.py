"""What one process may send of a key that it shares, and when it asks the others: no clock, no store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from support.rows import each_row

from prefect_http._throttle.curve import Curve
from prefect_http._throttle.fleet_state import LEASE, FleetState, KnownRate, Lease, Member, Opening, Report, Turns
from prefect_http._throttle.share import Share

INF = math.inf
# What the clock of the store shows at 0.
STORED = 1024.0
KNOWN = KnownRate(8.0)
# A process that has not been told of anything asks at most every hundredth of a second.
SOON = 0.01
SHORT = 1 / 128


def tell(
    share: Share,
    now: float,
    *,
    own_until: float = -INF,
    waiting: int = 0,
    curve: Curve | None = None,
    is_leaving: bool = False,
) -> Report:
    """Return the next report."""
    return share.report(
        now,
        accepted=3.0,
        done=2.0,
        own_until=own_until,
        curve=curve,
        waiting=waiting,
        is_waiting=waiting > 0,
        is_leaving=is_leaving,
    )


def state_of(members: int, *, cycle: int = 0, closed_until: float | None = None) -> FleetState:
    """Return what so many processes know; the time is the event loop's."""
    return FleetState(
        at=STORED,
        cycle=cycle,
        closed_until=None if closed_until is None else closed_until + STORED,
        begun_by="b.1",
        began=STORED,
        accepted=5.0,
        members={str(number): Member(INF, 1) for number in range(members)},
    )


def turns_at(start: float, step: float, count: int) -> Turns:
    """Return turns; the first one is at a time of the event loop."""
    return Turns(start + STORED, step, count)


def answer(
    share: Share,
    now: float = 0.0,
    *,
    members: int = 2,
    turns: Turns = Turns(),  # noqa: B008 - it cannot be changed
    is_learner: bool = False,
    cycle: int = 0,
    closed_until: float | None = None,
    own_until: float = -INF,
    took: float = 0.0,
) -> None:
    """Let a process ask, and get an answer."""
    share.asked(now)
    report = tell(share, now, own_until=own_until)
    share.saw_clock(now + took + STORED, now, now + took)
    state = state_of(members, cycle=cycle, closed_until=closed_until)
    if not is_learner and closed_until is not None:
        state = replace(state, learner="b")
    share.apply(report, Lease(state, turns, is_learner), now, now + took)


def new_share(known: KnownRate = KnownRate()) -> Share:  # noqa: B008 - it cannot be changed
    """Return the share of a process that knows the clock of the store, and has told nothing yet."""
    share = Share("a", known)
    share.saw_clock(STORED, 0.0, 0.0)
    return share


def answered(
    known: KnownRate = KnownRate(),  # noqa: B008 - it cannot be changed
    *,
    members: int = 2,
    turns: Turns = Turns(),  # noqa: B008 - it cannot be changed
    is_learner: bool = False,
    closed_until: float | None = None,
) -> Share:
    """Return the share of a process that asked at 0, and was answered at once."""
    share = new_share(known)
    answer(share, members=members, turns=turns, is_learner=is_learner, closed_until=closed_until)
    return share


# --- Leases


def test_nothing_may_be_sent_before_the_first_answer() -> None:
    """A process that does not know of the others does not know its share."""
    share = Share("a", KnownRate())
    assert (share.is_valid(0.0), share.knows_clock, share.members) == (False, False, 1)


def test_a_lease() -> None:
    """It begins when the question was sent, and its end is part of it."""
    share = new_share()
    answer(share, 0.0, took=0.25)
    assert [share.is_valid(now) for now in (0.25, LEASE, LEASE + SHORT)] == [True, True, False]
    share.left()
    assert not share.is_valid(0.25)


def test_alone() -> None:
    """Without the others, a process goes on with its share of the rate and needs no turns and no leave."""
    share = answered(members=4, turns=turns_at(0.5, 0.25, 2))
    share.store_lost(0.25)
    assert share.is_valid(1e6)
    assert share.may_probe(1e6)
    assert share.next_turn(3.0, 8.0, 2.0) == 2.5
    share.store_reached(0.5)
    assert not share.is_valid(1e6)
    assert not share.may_probe(1e6)
    assert share.next_turn(0.25, 8.0, 0.0) == 0.5


@each_row(
    ("members", "trip", "lease"),
    [
        (1, 0.0, 1.0),
        (20, 0.0, 1.0),
        (40, 0.0, 2.0),
        (1000, 0.0, 10.0),
        # A slow store is asked less often.
        (4, 0.0625, 1.0),
        (8, 0.0625, 2.0),
        (100, 0.0625, 10.0),
    ],
)
def test_how_long_a_lease_is(members: int, trip: float, lease: float) -> None:
    """The store has room for so many exchanges."""
    share = Share("a", KnownRate())
    assert share.lease == LEASE
    share.saw_clock(STORED, -trip, 0.0)
    share.saw_clock(STORED, -9.0, 0.0)  # that it was slow once makes no difference
    answer(share, members=members, took=trip)
    assert share.lease == lease
    assert tell(share, 0.0).lease == lease


# --- Clocks


def test_clocks() -> None:
    """The smallest difference is the one with the least delay in it, and it is that of the last eight."""
    share = new_share()
    assert share.knows_clock
    share.saw_clock(STORED + 1.0, 1.0, 1.5)
    assert (share.store_time(2.0), share.local_time(STORED + 2.0)) == (STORED + 2.0, 2.0)
    for _ in range(7):
        share.saw_clock(STORED + 1.0, 1.0, 1.25)
    assert (share.store_time(2.0), share.local_time(STORED + 2.0)) == (STORED + 1.75, 2.25)


@each_row(("shift", "seen"), [(-0.75, STORED), (-500.0, STORED - 500), (500.0, STORED + 500)])
def test_another_clock(shift: float, seen: float) -> None:
    """If another server has taken over, what was seen of the first one's clock counts no more."""
    share = new_share()
    share.saw_clock(STORED + shift, 0.0, 0.0)
    assert share.store_time(0.0) == seen


# --- Turns


def test_a_clock_that_jumps_ahead() -> None:
    """How far it has jumped matters as long as what was written before may still be there."""
    share = answered()
    assert share.saw_clock(STORED + 1.0, 1.0, 1.0) == 0.0
    assert share.recent_jump(1.0) == 0.0
    assert share.saw_clock(STORED + 11.5, 1.5, 1.5) == 10.0
    assert (share.recent_jump(1.5), share.recent_jump(11.0), share.recent_jump(11.5)) == (10.0, 10.0, 0.0)
    assert share.saw_clock(STORED + 130.0, 100.0, 100.0) == 20.0
    assert share.recent_jump(100.0) == 0.0, "it may have jumped long ago"


def test_each_request_takes_a_turn() -> None:
    """In their order, from one answer to the next; when there are none, the others must be asked."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    answer(share, turns=turns_at(1.5, 0.25, 1))
    turns = list[float]()
    for _ in range(3):
        turns.append(share.next_turn(0.0, 8.0, -INF))
        share.sent(0.0)
    assert turns == [0.5, 0.75, 1.5]
    assert (share.next_turn(0.0, 8.0, -INF), share.unused(0.0)) == (INF, 0)
    share.sent(0.0)  # one that needs none, because no rate is known
    assert share.unused(0.0) == 0


@each_row(
    ("last_sent", "turn"),
    [
        (-INF, 0.5),
        (0.375, 0.5),
        # When they are late, they are half a step apart.
        (0.75, 0.875),
    ],
)
def test_late_turns(last_sent: float, turn: float) -> None:
    """They can be used later, but not all at once."""
    share = answered(turns=turns_at(0.5, 0.25, 4))
    assert share.next_turn(1.0, 8.0, last_sent) == turn


@each_row(
    ("burst", "now", "unused", "turn"),
    [
        *((1, 0.5, 3, 0.5), (1, 0.515625, 3, 0.5), (1, 0.75, 2, 0.75), (1, 0.875, 1, 1.0), (1, 1.25, 0, INF)),
        *((2, 0.765625, 3, 0.5), (2, 0.875, 2, 0.75), (2, 1.25, 1, 1.0), (2, 1.5, 0, INF)),
    ],
)
def test_turns_of_a_known_limit_expire(burst: int, now: float, unused: int, turn: float) -> None:
    """Each by itself, since what is sent later would come on top of what others send; later if there is a burst."""
    share = answered(KnownRate(4.0, burst), turns=turns_at(0.5, 0.25, 3))
    assert (share.next_turn(now, 4.0, -INF), share.unused(now)) == (turn, unused)


def test_turns_expire() -> None:
    """A lease after the last one of an answer, or after an answer that came later than that."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    answer(share, 1.0, turns=turns_at(1.0, 0.25, 8))
    assert (share.unused(2.0), share.next_turn(2.0, 8.0, -INF)) == (10, 0.5)
    assert (share.unused(2.5), share.next_turn(2.5, 8.0, -INF)) == (8, 1.0)
    answer(share, 5.0, turns=turns_at(1.0, 0.25, 8))
    assert (share.unused(6.0), share.next_turn(6.0, 8.0, -INF)) == (8, 1.0)
    assert (share.unused(6.5), share.next_turn(6.5, 8.0, -INF)) == (0, INF)


def test_a_turn_that_was_not_used() -> None:
    """The next request can use it at once, for a while, and it comes before the others."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    share.sent(0.0)
    share.withdrawn(0.625)
    assert (share.unused(0.625), share.next_turn(0.625, 8.0, -INF)) == (2, 0.625)
    assert share.next_turn(0.625 + LEASE + SHORT, 8.0, -INF) == 0.75
    assert tell(share, 1.0).wants == 0


def test_a_turn_that_was_not_used_of_a_known_limit() -> None:
    """It does not count for the burst."""
    share = answered(KnownRate(8.0, 2), turns=turns_at(1.0, 0.125, 4))
    for _ in range(2):
        share.sent(1.0)
    share.withdrawn(1.0)
    assert share.next_turn(1.0, 8.0, 1.0) == 1.0
    share.sent(1.0)
    assert share.next_turn(1.0, 8.0, 1.0) == 1.25


@each_row(("members", "is_alone"), [(1, False), (2, True)])
def test_no_turn_was_used(members: int, *, is_alone: bool) -> None:
    """Where none are needed, none is given back."""
    share = answered(members=members, turns=turns_at(0.0, 0.25, 2) if is_alone else Turns())
    share.sent(0.0)
    if is_alone:
        share.store_lost(0.25)
    share.withdrawn(0.5)
    assert share.unused(0.5) == (1 if is_alone else 0)


@each_row(
    ("known", "turns", "turn"),
    [
        (KnownRate(), Turns(), 2.125),
        # A limit that the users know is kept by turns, although there is nobody else yet.
        (KNOWN, Turns(), INF),
        (KNOWN, turns_at(2.5, 0.125, 1), 2.5),
    ],
)
def test_nobody_else(known: KnownRate, turns: Turns, turn: float) -> None:
    """A single process keeps to the rate that it has learned by itself."""
    assert answered(known, members=1, turns=turns).next_turn(2.0, 8.0, 2.0) == turn


@each_row(
    ("cycle", "closed_until", "unused"),
    [(0, None, 2), (1, None, 0), (0, 0.0, 0)],
)
def test_turns_end_with_the_cycle(cycle: int, closed_until: float | None, unused: int) -> None:
    """They are part of a rate that holds no longer."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    answer(share, cycle=cycle, closed_until=closed_until)
    assert share.unused(0.0) == unused


def test_turns_of_the_new_cycle() -> None:
    """Those that come with the news are kept."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    answer(share, cycle=1, turns=turns_at(0.5, 0.25, 1))
    assert share.unused(0.0) == 1


def test_leaving() -> None:
    """The others count on the process no longer: it has no turns left."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    share.left()
    assert (share.unused(0.0), share.next_turn(0.0, 8.0, -INF)) == (0, INF)
    assert tell(share, 0.0, is_leaving=True).is_leaving


# --- Probes


@each_row(
    ("is_learner", "answered_at", "may"),
    [(False, 5.0, False), (True, 4.75, False), (True, 5.0 - SHORT, True), (True, 5.0, True)],
)
def test_only_the_learner_probes(answered_at: float, *, is_learner: bool, may: bool) -> None:
    """And not before it knows what the others had sent until the end of the closure, at 5."""
    share = new_share()
    answer(share, answered_at - 0.25, took=0.25, is_learner=is_learner, closed_until=5.0)
    assert share.may_probe(5.0) == may


def test_the_cycle_of_all() -> None:
    """It began when all say, and what this process has not told yet is added; alone, the others are like this one."""
    share = answered(members=4)
    assert share.cycle_so_far(3.0, 2.0, -7.0, 1.0) == (0.0, 7.0)
    assert share.cycle_so_far(3.0, 2.0, -7.0, -1.0) == (-1.0, 7.0)  # not later than now
    share.store_lost(0.25)
    assert share.cycle_so_far(3.0, 2.0, -7.0, 1.0) == (0.0, 7.0 + 3 * 2.0)
    assert Share("a", KnownRate()).cycle_so_far(3.0, 2.0, -7.0, 1.0) == (-7.0, 3.0)


@each_row(("members", "missing"), [(1, 3), (3, 1), (4, 0), (5, 0)])
def test_the_others_after_the_store_was_away(members: int, missing: int) -> None:
    """Those that were there before and are not back yet send as much since as this process, for two seconds."""
    share = answered(members=4)
    share.store_lost(0.25)
    share.store_lost(0.25)
    answer(share, 0.5, members=members)
    share.store_reached(0.5)
    for told in 3.0, 0.0:
        assert share.cycle_so_far(3.0, 2.0, -7.0, 1.0) == (0.0, 7.0 + missing * (told + 2.0))
        assert share.is_single(1.0) is False
        assert share.cycle_so_far(3.0, 2.0, -7.0, 2.5) == (0.0, 7.0)
        assert share.is_single(2.5) == (members == 1)
        share.opened(0.75, begins_cycle=True)


@each_row(("members", "missing"), [(1, 3), (2, 2), (4, 0)])
def test_the_store_is_lost_again(members: int, missing: int) -> None:
    """What those have sent meanwhile that have not come back is not forgotten."""
    share = answered(members=4)
    share.store_lost(0.25)
    answer(share, 0.5, members=members)
    share.store_reached(0.5)
    assert share.cycle_so_far(3.0, 0.0, -7.0, 0.75) == (0.0, 5.0 + missing * 3.0)
    share.store_lost(0.75)
    assert share.cycle_so_far(3.0, 0.0, -7.0, 0.75) == (0.0, 5.0 + missing * 3.0)
    assert share.cycle_so_far(5.0, 2.0, -7.0, 1.0) == (0.0, 5.0 + missing * 3.0 + 4 * 2.0)


@each_row(("members", "accepted"), [(1, 7.0), (4, 7.0 + 3 * 2.0)])
def test_the_store_is_lost_again_later(members: int, accepted: float) -> None:
    """Those that have not come back within two seconds send nothing, and all others have told what they had sent."""
    share = answered(members=4)
    share.store_lost(0.25)
    answer(share, 0.5, members=members)
    share.store_reached(0.5)
    share.store_lost(2.5)
    assert share.cycle_so_far(5.0, 2.0, -7.0, 3.0) == (0.0, accepted)


def test_what_was_accepted_is_taken_back_while_the_store_is_away() -> None:
    """Rejections that seemed to be faults at first were none; the others have accepted no less than they have told."""
    share = answered(members=4)
    share.store_lost(0.25)
    assert share.cycle_so_far(1.0, -2.0, -7.0, 1.0) == (0.0, 3.0)


def test_the_rate_after_the_store_was_away() -> None:
    """The others go on alone with their shares, so a process that is back first goes on with its own."""
    share = answered(members=4)
    share.store_lost(0.25)
    answer(share, 0.5, members=1)
    share.store_reached(0.5)
    assert share.next_turn(1.0, 8.0, 1.0) == 1.5
    assert share.first_interval(1.0, 0.0) == 4 / (100 + 5 * 5)
    share.store_lost(1.0)
    assert share.next_turn(1.0, 8.0, 1.0) == 1.5
    answer(share, 1.5, members=2)
    share.store_reached(1.5)
    assert share.cycle_so_far(3.0, 2.0, -7.0, 1.5) == (0.0, 7.0 + 2 * (3.0 + 3.0 + 2.0))
    answer(share, 1.75, members=1)
    assert share.next_turn(3.75, 8.0, 3.75) == 3.875


def test_a_process_that_has_always_been_by_itself() -> None:
    """It has none to wait for when the store is away."""
    share = answered(members=1)
    assert share.is_single(0.5)
    share.store_lost(0.25)
    assert share.is_single(0.5)
    assert share.cycle_so_far(3.0, 2.0, -7.0, 1.0) == (0.0, 7.0)


@each_row("is_of_others", [False, True])
def test_a_cycle_that_began_while_a_process_was_alone(*, is_of_others: bool) -> None:
    """The others do not know of it: until a new one begins for all, all are like this process."""
    share = answered(members=4)
    share.store_lost(0.25)
    share.opened(0.25, begins_cycle=True)
    share.store_reached(0.5)
    assert share.cycle_so_far(3.0, 2.0, 0.25, 1.0) == (0.25, 12.0)
    answer(share, 0.5, members=4)
    assert share.cycle_so_far(3.0, 2.0, 0.25, 1.0) == (0.25, 12.0)
    if is_of_others:
        share.state = replace(share.state, begun_by="b.0")
        answer(share, 0.75, members=4)
    else:
        share.opened(0.75, begins_cycle=True)
    assert share.cycle_so_far(3.0, 2.0, 0.25, 1.0) == (0.0, 7.0)


def test_others_miss_a_cycle_that_began_while_a_process_was_alone() -> None:
    """Until they are back, or two seconds are over, they count like this one."""
    share = answered(members=4)
    share.store_lost(0.25)
    share.opened(0.25, begins_cycle=True)
    answer(share, 0.5, members=1)
    share.store_reached(0.5)
    assert [share.cycle_so_far(3.0, 0.0, 0.25, now)[1] for now in (0.5, 2.0, 2.5)] == [12.0, 12.0, 3.0]
    answer(share, 0.75, members=3)
    assert share.cycle_so_far(3.0, 0.0, 0.25, 0.75) == (0.25, 12.0)
    assert share.cycle_so_far(3.0, 0.0, 0.25, 2.5) == (0.25, 9.0)


@each_row("shift", [0.0, -5.0, 5.0])
@each_row(
    ("began_alone", "members", "cycle"),
    [
        (False, 1, (0.0, 5.0 + 3 * 3.0)),
        (False, 4, (0.0, 5.0)),
        (True, 1, (0.5, 4 * 3.0)),
        (True, 4, (0.5, 4 * 3.0)),
    ],
)
def test_the_same_cycle_by_another_clock(
    shift: float, members: int, cycle: tuple[float, float], *, began_alone: bool
) -> None:
    """If a replica takes over, it is as if the store had only been away."""
    share = answered(members=4)
    share.store_lost(0.25)
    if began_alone:
        share.opened(0.5, begins_cycle=True)
    share.asked(0.75)
    report = tell(share, 0.75)
    share.saw_clock(0.75 + STORED + shift, 0.75, 0.75)
    state = replace(state_of(members), began=STORED + shift)
    share.apply(report, Lease(state, Turns(), is_learner=False), 0.75, 0.75)
    share.store_reached(0.75)
    assert share.cycle_so_far(3.0, 0.0, 0.5, 1.0) == cycle


@each_row("shift", [0.0, 0.75, -5.0, 5.0])
def test_what_is_known_is_in_terms_of_the_present_clock(shift: float) -> None:
    """If another one is seen, all times are moved to it at once, not with the next answer; but not for a small step."""
    share = answered(closed_until=9.0)
    share.saw_clock(0.5 + STORED + shift, 0.5, 0.5)
    moved = shift if abs(shift) > LEASE else 0.0
    state = share.state
    assert (state.at, state.began, state.closed_until) == (STORED + moved, STORED + moved, 9.0 + STORED + moved)
    assert share.cycle_so_far(0.0, 0.0, -INF, 0.5) == (min(0.0, -shift + moved), 5.0)


def test_a_clock_that_jumps_before_anything_is_known() -> None:
    """Nothing is known of no clock."""
    share = new_share()
    share.saw_clock(0.5 + STORED + 5.0, 0.5, 0.5)
    assert share.state == FleetState()


# --- When the others are asked


def next_report(
    share: Share,
    now: float = 0.25,
    *,
    waiting: int = 1,
    in_flight: int = 0,
    own_until: float = -INF,
    closed_until: float | None = None,
    has_rate: bool = False,
) -> float:
    """Return when the others are to be asked by a process that asked last at 0."""
    return share.next_report(
        now,
        waiting=waiting,
        in_flight=in_flight,
        own_until=own_until,
        closed_until=closed_until,
        has_rate=has_rate,
    )


# How many wait and are in flight in a process that is used or is not.
WAITING, IN_FLIGHT, IDLE = (1, 0), (0, 1), (0, 0)


@each_row(
    ("requests", "is_alone", "due"),
    [
        (WAITING, False, 0.75),
        (IN_FLIGHT, False, 0.75),
        (IDLE, False, INF),
        (WAITING, True, 0.75),
        (IN_FLIGHT, True, 0.75),
        (IDLE, True, INF),
    ],
)
def test_a_lease_is_renewed(requests: tuple[int, int], due: float, *, is_alone: bool) -> None:
    """When most of it is over, as long as there are requests; alone, the store is tried as often."""
    share = answered()
    if is_alone:
        share.store_lost(0.25)
    assert next_report(share, waiting=requests[0], in_flight=requests[1]) == due


@each_row(("requests", "due"), [(WAITING, SOON), (IN_FLIGHT, 0.75), (IDLE, INF)])
def test_a_lease_that_has_ended(requests: tuple[int, int], due: float) -> None:
    """It is asked for at once if a request waits for it."""
    assert next_report(answered(), 1.5, waiting=requests[0], in_flight=requests[1]) == due


def test_news_that_are_to_be_told() -> None:
    """They are told at once, also by a process with nothing to send; when they have been told, they are no news."""
    share = answered()
    records: list[Callable[[], object]] = [partial(share.opened, 0.0, begins_cycle=True), share.learned, share.doubted]
    for record in records:
        record()
        assert next_report(share, waiting=0) == SOON
        share.doubts = 0
        answer(share)
        assert next_report(share, waiting=0) == INF
    for own_until, due in ((5.0, SOON), (6.0, SOON)):
        assert next_report(share, waiting=0, own_until=own_until) == due
        answer(share, own_until=own_until)
        assert next_report(share, waiting=0, own_until=own_until) == INF
    assert next_report(share, waiting=0, own_until=5.5) == INF


@each_row(("at", "due"), [(0.5, 0.5), (0.0, SOON), (5.0, 0.75)])
def test_news_of_others(at: float, due: float) -> None:
    """They are asked about as soon as has been said, once."""
    share = answered()
    share.hurry(at)
    share.hurry(at + 0.125)
    assert next_report(share) == due
    assert next_report(share, waiting=0) == INF
    answer(share)
    assert next_report(share) == 0.75


@each_row(
    ("is_learner", "requests", "closed_until", "now", "due"),
    [
        # Before the end, there is nothing to ask.
        (True, WAITING, 0.5, 0.25, 0.5),
        (True, WAITING, 9.0, 0.25, 9.0),
        (False, WAITING, 0.5, 0.25, 0.75),
        (False, WAITING, 9.0, 0.25, 9.25),
        # Afterwards, the learner must ask once more, and the others look as often as usual.
        (True, WAITING, 0.5, 0.5, SOON),
        (False, WAITING, 0.5, 0.75, 0.75),
        # It has asked since.
        (True, WAITING, 0.0, 0.25, 0.75),
        # One that has nothing to send hands over, and does not ask again while a request is in flight.
        (True, IDLE, 9.0, 0.25, SOON),
        (False, IDLE, 9.0, 0.25, INF),
        (True, IN_FLIGHT, 9.0, 0.25, 0.75),
        (False, IN_FLIGHT, 9.0, 0.25, 0.75),
    ],
)
def test_during_a_closure(
    requests: tuple[int, int], closed_until: float, now: float, due: float, *, is_learner: bool
) -> None:
    """The learner asks for leave at the end, and the others look a little later whether the gate has been opened."""
    share = answered(is_learner=is_learner, closed_until=closed_until)
    assert next_report(share, now, waiting=requests[0], in_flight=requests[1], closed_until=closed_until) == due


@each_row(("burst", "times"), [(1, [1.0, 1.125, 1.25, 1.375]), (2, [1.0, 1.0, 1.125, 1.25])])
def test_late_turns_of_a_known_limit(burst: int, times: list[float]) -> None:
    """A process that comes late to its turns sends no more at once than the limit allows, and the others in time."""
    share = answered(KnownRate(8.0, burst), turns=Turns(STORED, 0.125, 16))
    sent, now = [], 1.0
    for _ in range(4):
        now = max(now, share.next_turn(now, 8.0, now))
        share.sent(now)
        sent.append(now)
    assert sent == times


def test_a_closure_of_which_nobody_is_the_learner() -> None:
    """Whoever wants to send asks as soon as it is over."""
    share = new_share()
    answer(share, is_learner=True, closed_until=0.5)
    share.state = replace(share.state, learner="")
    share.is_learner = False
    assert next_report(share, 0.25, closed_until=0.5) == 0.5


def test_a_long_closure() -> None:
    """What waits asks now and then all the same, in case the store has lost everything."""
    assert next_report(answered(is_learner=True, closed_until=3600.0), 0.25, closed_until=3600.0) == 10.0


def test_a_learner_of_an_open_gate() -> None:
    """Once the gate is open, it has nothing to hand over."""
    assert next_report(answered(is_learner=True), waiting=0) == INF


@each_row(
    ("members", "known", "has_rate", "used", "requests", "due"),
    [
        (2, KnownRate(), True, 5, WAITING, 0.75),
        (2, KnownRate(), True, 6, WAITING, SOON),
        (2, KnownRate(), True, 8, WAITING, SOON),
        (2, KnownRate(), True, 8, IN_FLIGHT, 0.75),
        # No turns are needed.
        (2, KnownRate(), False, 8, WAITING, 0.75),
        (1, KnownRate(), True, 8, WAITING, 0.75),
        (1, KNOWN, True, 8, WAITING, SOON),
    ],
)
def test_further_turns(
    members: int, known: KnownRate, used: int, requests: tuple[int, int], due: float, *, has_rate: bool
) -> None:
    """They are asked for when most of them have been used, if a request waits for them."""
    share = answered(known, members=members, turns=turns_at(0.0, 0.125, 8))
    for _ in range(used):
        share.sent(0.0)
    assert next_report(share, waiting=requests[0], in_flight=requests[1], has_rate=has_rate) == due


# --- What is told


def test_a_report() -> None:
    """It has all that is known here; times are those of the event loop, until they are sent."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    answer(share, cycle=3, turns=turns_at(0.5, 0.25, 2))
    curve = Curve(4.0, 8.0, 50.0)
    share.opened(0.25, begins_cycle=True)
    share.learned()
    assert share.has_news
    assert tell(share, 0.5, own_until=5.0, waiting=4, curve=curve) == Report(
        member="a",
        number=3,
        cycle=3,
        accepted=3.0,
        done=2.0,
        closed_until=5.0,
        opening=Opening(0.25, begins_cycle=True),
        has_learned=True,
        curve=curve,
        lease=LEASE,
        is_waiting=True,
        wants=4,
    )


def test_an_answer_to_an_earlier_report() -> None:
    """What has happened since it was sent is still news."""
    share = answered()
    share.asked(0.25)
    report = tell(share, 0.25, own_until=5.0)
    share.opened(0.25, begins_cycle=True)
    share.learned()
    share.apply(report, Lease(state_of(2), Turns(), is_learner=False), 0.25, 0.5)
    assert share.has_news
    report = tell(share, 0.5, own_until=5.0)
    assert (report.closed_until, report.opening is None, report.has_learned) == (None, False, True)
    share.apply(report, Lease(state_of(2), Turns(), is_learner=False), 0.5, 0.5)
    assert not share.has_news


def test_the_gate_was_opened_twice() -> None:
    """The second opening is news after the first one has been told."""
    share = answered()
    share.opened(0.25, begins_cycle=True)
    report = tell(share, 0.25)
    share.opened(0.5, begins_cycle=True)
    share.apply(report, Lease(state_of(2), Turns(), is_learner=False), 0.25, 0.5)
    assert tell(share, 0.5).opening == Opening(0.5, begins_cycle=True)


def test_a_report_in_the_times_of_the_store() -> None:
    """Those of the store at the moment, although another one may have taken over since."""
    share = answered()
    share.opened(0.25, begins_cycle=True)
    report = tell(share, 0.5, own_until=5.0)
    for shift in (0.0, -100.0):
        share.saw_clock(STORED + shift, 0.0, 0.0)
        told = share.in_store_time(report)
        assert (told.closed_until, told.opening) == (STORED + shift + 5.0, Opening(STORED + shift + 0.25, True))
    assert share.in_store_time(replace(report, closed_until=None, opening=None)) == replace(
        report, closed_until=None, opening=None
    )


@each_row("is_alone", [False, True])
def test_the_gate_was_opened(*, is_alone: bool) -> None:
    """Its turns are gone, and nothing is sent before the others know; alone, there is nobody to tell."""
    share = answered(turns=turns_at(0.5, 0.25, 2))
    if is_alone:
        share.store_lost(0.25)
    share.opened(0.25, begins_cycle=False)
    assert (share.unused(0.25), share.has_news, share.is_valid(0.25)) == (0, not is_alone, is_alone)


@each_row(("members", "doubts"), [(1, 0), (2, 2)])
def test_doubts(members: int, doubts: int) -> None:
    """They are told if there is anyone to tell."""
    share = answered(members=members)
    share.doubted()
    share.doubted()
    assert share.doubts == doubts


@each_row(
    ("members", "now", "own", "interval"),
    [
        (4, 0.0, 0.0, 4 / 125),  # 5 were accepted before
        (4, 9.0, 0.0, 4 / 125),
        (4, 0.0, 10.0, 4 / 325),
        # Others may be about to come.
        (1, 0.0625, 0.0, 1 / 125),
        (1, 0.125, 0.0, 0.0),
    ],
)
def test_the_first_requests(members: int, now: float, own: float, interval: float) -> None:
    """All processes together begin slowly, and send more, the more were accepted."""
    assert answered(members=members).first_interval(now, own) == interval


def test_the_first_requests_of_a_process_that_comes_back() -> None:
    """Meanwhile, others may have come."""
    share = answered(members=1)
    answer(share, 5.0, members=1)
    assert share.first_interval(5.0, 0.0) == 0.0
    share.left()
    answer(share, 9.0, members=1)
    assert share.first_interval(9.0, 0.0) > 0.0


def test_no_members() -> None:
    """If there are too many, this process is none of them, but there is always one."""
    share = new_share()
    answer(share, members=0)
    assert share.members == 1


def test_how_many_turns_are_wanted() -> None:
    """For all that wait, and for half of what was sent lately, so that a request which comes now need not ask first."""
    share = answered()
    for _ in range(5):
        share.sent(0.0)
    share.asked(0.25)
    assert tell(share, 0.25, waiting=2).wants == 2 + 3
    share.sent(0.0)
    # That it has sent less since then counts only as far as time has passed.
    assert tell(share, 0.75).wants == 2
    assert tell(share, 0.25 + LEASE).wants == 0
