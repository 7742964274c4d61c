"""What a Limiter does that shares its key with other processes: no clock, no event loop, no store.

Most times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import math

import pytest
from support.limiters import INF, LATENCY, MAX, advertise, answer, fill, let_one_out, let_out, may_leave, serve
from support.rows import each_row

from prefect_http._throttle.curve import Curve
from prefect_http._throttle.fleet_state import FleetState, KnownRate, Lease, Member, Turns
from prefect_http._throttle.limiter import Change, Limiter
from prefect_http._throttle.share import Share

# What the clock of the store shows at 0.
STORED = 1024.0
UNKNOWN = KnownRate()
CURVE = Curve(4.0, 8.0, 50.0)


class Process:
    """A process whose Limiter shares a key.

    Args:
        members: how many processes there are.
        known: the limit that the users know.
        max_in_flight: for the Limiter.
        slow_start: likewise.
        early_probe: likewise.

    Attributes:
        limiter: the Limiter.
        share: its share.
        changes: what it has reported.
    """

    def __init__(
        self,
        members: int = 4,
        *,
        known: KnownRate = UNKNOWN,
        max_in_flight: int = MAX,
        slow_start: bool = True,
        early_probe: bool = False,
    ) -> None:
        self.members = members
        self.changes: list[Change] = []
        self.share = Share("a", known)
        self.share.saw_clock(STORED, 0.0, 0.0)
        self.limiter = Limiter(
            max_in_flight=max_in_flight,
            slow_start=slow_start,
            early_probe=early_probe,
            share=self.share,
            on_change=self.changes.append,
        )
        self.asks(0.0)

    def asks(
        self,
        now: float,
        *,
        turns: Turns | None = None,
        is_learner: bool = False,
        began: float = 0.0,
        accepted: float = INF,
    ) -> None:
        """Let the process ask the others, and get an answer at once, with a lease of a thousand seconds.

        So many requests of all are accepted that the rate of the first ones says nothing, unless a number is given.
        """
        own, done, told = self.limiter.to_tell()
        self.share.asked(now)
        report = self.share.report(
            now,
            accepted=own,
            done=done,
            own_until=self.limiter.own_until,
            curve=self.limiter.curve,
            waiting=0,
            is_waiting=False,
        )
        members = {str(number): Member(INF, 1) for number in range(self.members)}
        state = FleetState(at=now + STORED, began=began + STORED, accepted=accepted, members=members)
        self.share.apply(report, Lease(state, turns or Turns(), is_learner), now + 1000, now)
        told.accepted += own
        told.done += done

    def follows(self, *, done: float = 0.0, accepted: float | None = None, curve: Curve | None = CURVE) -> None:
        """Let it take over what the others have learned."""
        self.limiter.follow(curve, done, accepted=accepted)


def in_turns(start: float, step: float, count: int) -> Turns:
    """Return turns; the first one is at a time of the event loop."""
    return Turns(start + STORED, step, count)


# --- What may be sent


def test_nothing_without_a_lease() -> None:
    """What could be sent depends on the others."""
    process = Process()
    assert may_leave(process.limiter, 0.0)
    process.share.left()
    assert process.limiter.next_send(0.0) == INF
    assert process.limiter.sure_room == 0
    process.share.store_lost(0.0)
    assert may_leave(process.limiter, 0.0)


@each_row(
    ("members", "accepted", "window"),
    [(1, 0.0, 10), (4, 0.0, 3), (4, 20.0, 4), (20, 0.0, 1), (20, 80.0, 2)],
)
def test_all_together_start_slowly(members: int, accepted: float, window: int) -> None:
    """All processes begin with as many in flight as a single one, and then with more, the more were accepted."""
    process = Process(members)
    process.follows(curve=None, accepted=accepted)
    assert len(fill(process.limiter, 0.0)) == window


def test_all_together_begin_with_few_requests_per_second() -> None:
    """First those that a single process sends at once, and then one after the other."""
    process = Process(5)
    limiter = process.limiter
    process.asks(0.0, accepted=0.0)
    assert len(fill(limiter, 0.0)) == 2
    process.follows(curve=None, accepted=100.0)
    assert limiter.next_send(0.0) == 5 / 100
    answer(limiter, [let_one_out(limiter, 1.0)], 1.0)
    assert limiter.next_send(1.0) == 1.0 + 5 / 125


@each_row(("slow_start", "accepted"), [(False, 0.0), (True, None)])
def test_a_window_that_is_not_shared(slow_start: bool, accepted: float | None) -> None:
    """Without a slow start there is none, and after the first closure each has its own."""
    process = Process(slow_start=slow_start)
    process.follows(curve=None, accepted=accepted)
    assert len(fill(process.limiter, 0.0)) == (10 if slow_start else MAX)


def test_a_learned_rate_is_kept_in_turns() -> None:
    """Each request takes one; when none is left, the others must be asked."""
    process = Process()
    process.follows()
    assert process.limiter.next_send(0.0) == INF
    process.asks(0.0, turns=in_turns(0.5, 0.25, 2))
    for turn in (0.5, 0.75):
        assert process.limiter.next_send(0.0) == turn
        answer(process.limiter, [let_one_out(process.limiter, turn)], turn)
    assert process.limiter.next_send(0.75) == INF


def test_a_known_limit_is_kept_in_turns() -> None:
    """Also by a process that is alone there, and there is no slow start."""
    process = Process(1, known=KnownRate(4.0, 50))
    limiter = process.limiter
    assert (limiter.known_rate, limiter.rate, limiter.next_send(0.0)) == (4.0, INF, INF)
    process.asks(0.0, turns=in_turns(-49 * 0.25, 0.25, 50))
    assert len(fill(limiter, 0.0)) == 50
    assert limiter.sure_room == 0
    process.follows(curve=Curve(2.0, 8.0, 50.0))
    assert limiter.rate == 2.0
    process.follows(done=50.0)
    assert limiter.rate == 4.0


def test_a_turn_is_given_back() -> None:
    """If a request is not sent after all, the next one takes its turn. A probe has none."""
    process = Process()
    process.follows()
    process.asks(0.0, turns=in_turns(0.0, 0.25, 1))
    process.limiter.withdrawn(let_one_out(process.limiter, 0.0), 0.0)
    assert may_leave(process.limiter, 0.0)
    process.limiter.close_with_others(0.0, 0.0)
    process.asks(0.0, is_learner=True, turns=in_turns(0.0, 0.25, 1))
    unused = process.share.unused(0.0)
    process.limiter.withdrawn(let_one_out(process.limiter, 0.0), 0.0)
    assert process.share.unused(0.0) == unused == 2


@each_row(("members", "concurrency", "limit"), [(1, 8, 8), (4, 8, 2), (4, 3, 1)])
def test_the_server_says_how_many_may_be_in_flight(members: int, concurrency: int, limit: int) -> None:
    """That is for all of them, and each may have one."""
    process = Process(members)
    advertise(process.limiter, 0.0, concurrency=concurrency)
    assert process.limiter.limit == limit


@each_row(("members", "in_flight"), [(1, 4), (2, 2), (4, 1)])
def test_the_server_says_how_many_are_left(members: int, in_flight: int) -> None:
    """The others have as many on their way, and those that the server has not counted yet are subtracted."""
    process = Process(members, slow_start=False)
    advertise(process.limiter, 0.0, remaining=4, reset=100.0)
    assert len(fill(process.limiter, 0.0)) == in_flight


# --- Closing


def doubt(limiter: Limiter, number: int) -> None:
    """Let so many requests of other processes be rejected, which may be faults."""
    for _ in range(number):
        limiter.doubt_with_others(1.0, 0.0)


def test_another_process_closes_the_gate() -> None:
    """Only the learner may probe; who has closed it can be told by others, who ask for more or less."""
    process = Process()
    limiter = process.limiter
    limiter.close_with_others(1.0, 2.0)
    assert (limiter.closed_until, limiter.own_until, process.changes) == (2.0, -INF, [Change.CLOSED])
    limiter.close_with_others(1.5, 3.0)
    limiter.close_with_others(1.5, 2.5)
    assert (limiter.closed_until, limiter.own_until, process.changes) == (3.0, -INF, [Change.CLOSED])
    process.asks(3.0)
    assert limiter.next_send(3.0) == INF
    process.asks(3.0, is_learner=True)
    assert limiter.next_send(3.0) == 3.0


def test_the_server_closes_the_gate_as_well() -> None:
    """What the server has told this process is its own."""
    process = Process()
    limiter = process.limiter
    one, two = let_out(limiter, 0.0, 2)
    limiter.rejected(one, 1.0, 2.0, 0.0)
    assert (limiter.closed_until, limiter.own_until) == (3.0, 3.0)
    limiter.close_with_others(1.0, 5.0)
    assert (limiter.closed_until, limiter.own_until) == (5.0, 3.0)
    limiter.rejected(two, 1.0, 3.0, 0.0)
    assert (limiter.closed_until, limiter.own_until) == (5.0, 4.0)


def test_doubts_are_shared() -> None:
    """A rejection that may be a fault is told, unless it closes the gate; those of the others close it as well."""
    process = Process()
    limiter = process.limiter
    now, told = serve(limiter, 0.0), list[int]()
    while limiter.closed_until is None:
        limiter.rejected(let_one_out(limiter, now), now, None, 0.0, is_doubtful=True)
        told.append(process.share.doubts)
    assert told == [1, 2, 2]


def test_doubts_of_others() -> None:
    """They are weighed like the process's own, and say nothing while the gate is closed."""
    process = Process()
    limiter = process.limiter
    serve(limiter, 0.0)
    doubt(limiter, 2)
    assert process.changes == []
    doubt(limiter, 1)
    assert (limiter.closed_until, limiter.own_until) == (1.1, 1.1)
    limiter.doubt_with_others(1.0, 1.0)
    assert (limiter.closed_until, process.changes) == (1.1, [Change.CLOSED])


def doubts_until_closed(members: int, *, doubts: int, accepted: int) -> int:
    """Return how many doubts close the gate after so many others, and so many requests accepted since."""
    limiter = Process(members).limiter
    doubt(limiter, doubts)
    for _ in range(accepted):
        limiter.answered(let_one_out(limiter, 1.0), 1.0)
    number = 0
    while limiter.closed_until is None:
        doubt(limiter, 1)
        number += 1
    return number


@each_row(("doubts", "accepted"), [(0, 20), (1, 120), (2, 5)])
def test_an_accepted_request_stands_for_one_of_each(doubts: int, accepted: int) -> None:
    """All processes hear of each rejection, but only of their own accepted requests."""
    together = doubts_until_closed(4, doubts=doubts, accepted=accepted)
    assert together == doubts_until_closed(1, doubts=doubts, accepted=4 * accepted)
    assert together != doubts_until_closed(1, doubts=doubts, accepted=accepted)


# --- Opening


def closed_and_probing(members: int = 4, *, accepted_by_others: float = 0.0, accepted: int = 2) -> Process:
    """Return a process whose gate was closed at 2 until 4, and which has sent the probe."""
    process = Process(members)
    limiter = process.limiter
    tickets = let_out(limiter, 0.0, accepted)
    rejected = let_one_out(limiter, 1.0)
    answer(limiter, tickets, 1.0)
    limiter.rejected(rejected, 2.0, 2.0, 0.0)
    process.asks(4.0, is_learner=True, began=-1.0, accepted=accepted + accepted_by_others)
    assert (limiter.is_probing, limiter.closed_until) == (False, 4.0)
    return process


def test_the_learner_learns_from_all() -> None:
    """From what all processes had accepted since the cycle began for all."""
    rates = list[float]()
    for others in (0.0, 30.0):
        process = closed_and_probing(accepted_by_others=others)
        limiter = process.limiter
        probe = let_one_out(limiter, 4.0)
        assert limiter.is_probing
        limiter.answered(probe, 4.5)
        assert not limiter.is_probing
        assert process.share.has_news
        assert limiter.curve is not None
        rates.append(limiter.curve.base)
        assert limiter.to_tell()[:2] == (0, 0)
        assert process.changes == [Change.CLOSED, Change.OPENED, Change.LEARNED]
    # In two seconds until the first rejected request was sent, and five until the probe was.
    assert rates[0] == pytest.approx(math.sqrt(2 / 2 * 2 / 5))
    assert rates[1] == pytest.approx(math.sqrt(32 / 2 * 32 / 5))


def test_what_is_told_of_the_cycle_before() -> None:
    """If the gate is opened before the answer to a report arrives, the report says nothing of the new cycle."""
    process = closed_and_probing(accepted_by_others=30.0)
    limiter = process.limiter
    probe = let_one_out(limiter, 4.0)
    _, _, told = limiter.to_tell()
    limiter.answered(probe, 4.5)
    told.accepted += 20
    told.done += 20
    assert limiter.to_tell()[:2] == (0, 0)


def test_no_early_probes() -> None:
    """The learner waits until the others have told what they have sent."""
    process = Process(early_probe=True)
    limiter = process.limiter
    limiter.rejected(let_one_out(limiter, 0.0), 1.0, 8.0, 0.0)
    assert limiter.shut_until == limiter.closed_until == 9.0
    process.asks(1.0, is_learner=True)
    assert limiter.next_send(1.0) >= 9.0


def test_a_process_without_others_learns_from_itself() -> None:
    """What the store says of the cycle is less precise than what it has seen."""
    process = closed_and_probing(1, accepted_by_others=30.0)
    process.limiter.answered(let_one_out(process.limiter, 4.0), 4.5)
    assert process.limiter.curve is not None
    assert process.limiter.curve.base == pytest.approx(math.sqrt(2 / 1 * 2 / 4))


@each_row(("members", "window"), [(1, 10), (4, 3), (20, 1)])
def test_nothing_was_accepted_by_anyone(members: int, window: int) -> None:
    """After an outage, all begin anew together."""
    process = closed_and_probing(members, accepted=0)
    process.limiter.answered(let_one_out(process.limiter, 4.0), 4.5)
    assert process.limiter.curve is None
    process.asks(4.5)
    assert len(fill(process.limiter, 4.5)) == window


@each_row(("begins_cycle", "untold"), [(True, 0), (False, 2)])
def test_another_process_opens_the_gate(untold: int, *, begins_cycle: bool) -> None:
    """Its new cycle holds for all: what was accepted before counts no more."""
    process = Process()
    limiter = process.limiter
    late, *tickets = let_out(limiter, 0.0, 3)
    answer(limiter, tickets, 1.0)
    limiter.close_with_others(1.0, 2.0)
    limiter.open_with_others(2.5, 2.25, begins_cycle=begins_cycle)
    assert (limiter.closed_until, process.changes) == (None, [Change.CLOSED, Change.OPENED])
    assert limiter.to_tell()[0] == untold
    limiter.answered(late, 2.5)
    assert limiter.to_tell()[0] == (0 if begins_cycle else 3)
    # A rejection of a request that was sent before is no news, if it says nothing for how long.
    answer(limiter, [let_one_out(limiter, 3.0)], 3.5)
    assert limiter.to_tell()[0] == (1 if begins_cycle else 4)


def test_a_gate_that_is_open_already() -> None:
    """There is nothing to report."""
    process = Process()
    process.limiter.open_with_others(2.5, 2.25, begins_cycle=True)
    assert process.changes == []


@each_row(("now", "closed_until"), [(2.75, 3.0), (3.0, None)])
def test_what_the_server_said_here_holds(now: float, closed_until: float | None) -> None:
    """If this process was told to wait for longer, its gate stays closed, whatever happens to the others."""
    process = Process()
    limiter = process.limiter
    limiter.rejected(let_one_out(limiter, 0.0), 1.0, 2.0, 0.0)
    limiter.open_with_others(now, 2.5, begins_cycle=True)
    assert limiter.closed_until == closed_until


# --- The curve


def test_following() -> None:
    """The curve of all processes is taken over, and each answer moves it here before it has been told."""
    process = Process()
    limiter = process.limiter
    process.follows(done=10.0)
    assert (limiter.curve, limiter.rate, process.changes) == (CURVE, CURVE.rate(10.0), [Change.LEARNED])
    process.asks(0.0, turns=in_turns(0.0, 0.0, 3))
    for _ in range(2):
        answer(limiter, [let_one_out(limiter, 0.0)], 0.0)
    assert (limiter.rate, limiter.to_tell()[:2]) == (CURVE.rate(12.0), (2, 2.0))
    # The others have moved it as well, and do not know of these two.
    process.follows(done=30.0)
    assert (limiter.rate, limiter.to_tell()[1]) == (CURVE.rate(32.0), 2.0)
    told = limiter.to_tell()[2]
    told.accepted += 2
    told.done += 2
    process.follows(done=32.0)
    assert (limiter.rate, limiter.to_tell()[:2]) == (CURVE.rate(32.0), (0, 0.0))
    assert process.changes == [Change.LEARNED]
    # What was answered until another one was learned does not move that.
    answer(limiter, [let_one_out(limiter, 1.0)], 1.0)
    other = Curve(2.0, 4.0, 50.0)
    process.follows(curve=other, done=5.0)
    assert (limiter.rate, limiter.to_tell()[1], process.changes) == (other.rate(5.0), 0.0, [Change.LEARNED] * 2)


@each_row(("slow_start", "latency", "window"), [(True, 2.0, 3), (True, LATENCY, 1), (False, 2.0, MAX)])
def test_the_others_know_of_no_limit_any_more(slow_start: bool, latency: float, window: int) -> None:
    """All start slowly again, with this process's share of the requests that were in flight."""
    process = Process(slow_start=slow_start)
    process.follows()
    process.asks(0.0, turns=in_turns(0.0, 0.0, 1))
    serve(process.limiter, 0.0, latency=latency)
    process.follows(curve=None)
    assert (process.limiter.curve, process.limiter.rate, process.changes) == (None, INF, [Change.LEARNED])
    assert len(fill(process.limiter, 3.0)) == window


def on_trial() -> Process:
    """Return a process that tries out, at one rate, whether there is a limit."""
    process = Process()
    limiter = process.limiter
    tickets = let_out(limiter, 0.0, 3)
    while limiter.closed_until is None:
        limiter.doubt_with_others(0.0, 0.0)
    answer(limiter, tickets, LATENCY)
    process.asks(0.5, is_learner=True, accepted=3.0)
    limiter.answered(let_one_out(limiter, 0.5), 0.5 + LATENCY)
    process.asks(1.0, turns=in_turns(1.0, 0.0, 50))
    assert limiter.rate == TRIAL
    return process


# It is seven tenths of what was accepted within a latency: three requests and the probe.
TRIAL: object = pytest.approx(0.7 * 4 / LATENCY)


def test_what_the_others_know_waits_for_the_trial() -> None:
    """Neither a curve nor doubts of the others disturb it; the outcome is told."""
    process = on_trial()
    limiter = process.limiter
    process.follows()
    doubt(limiter, 50)
    assert limiter.rate == TRIAL
    assert (limiter.closed_until, process.share.has_news) == (None, False)
    serve(limiter, 1.0, 8)
    assert process.share.has_news
    assert TRIAL != limiter.rate < INF
    process.follows()
    assert limiter.curve == CURVE


def test_a_trial_that_shows_faults() -> None:
    """This is told as well, and as many may be in flight as before the closure."""
    process = on_trial()
    limiter = process.limiter
    for _ in range(2):
        limiter.rejected(let_one_out(limiter, 1.0), 1.0, None, 0.0, is_doubtful=True)
    assert (limiter.curve, limiter.rate, process.share.has_news) == (None, INF, True)
    assert len(fill(limiter, 1.0)) == math.ceil(10 + 4 * 0.47)


@each_row("closes", [True, False])
def test_the_others_end_a_trial(*, closes: bool) -> None:
    """If the gate is closed or opened by another process, its curve is followed again."""
    process = on_trial()
    if closes:
        process.limiter.close_with_others(1.0, 2.0)
    else:
        process.limiter.open_with_others(1.0, 0.5, begins_cycle=True)
    process.follows()
    assert process.limiter.rate == CURVE.rate(0.0)


def test_a_limiter_that_shares_nothing() -> None:
    """There is nothing to follow."""
    with pytest.raises(AssertionError):
        Limiter(max_in_flight=MAX).follow(None, 0.0, accepted=None)
