"""Share: what one process may send, in terms of its own clock."""

from __future__ import annotations

import math

from prefect_http._throttle.fleet_state import FleetState, KnownRate, Lease, Member, Report, Turns
from prefect_http._throttle.share import Share

# What the clock of the store shows at the zero of the process's.
SHIFT = 1000.0


def share_of_two(turns: Turns, *, known: KnownRate = KnownRate()) -> Share:  # noqa: B008
    """Return a share that has just got these turns, at the time 0, of a key that two processes use."""
    share = Share("me", known)
    share.saw_clock(SHIFT, 0.0, 0.0)
    members = {"me": Member(SHIFT + 1, 1), "you": Member(SHIFT + 1, 1)}
    share.apply(Report(member="me", number=1), Lease(FleetState(at=SHIFT, members=members), turns, False), 0.0, 0.0)
    return share


def test_turns_are_used_one_by_one() -> None:
    """Each request uses up a turn; when none is left, the others have to be asked."""
    share = share_of_two(Turns(SHIFT + 0.25, 0.125, 2))
    assert share.next_turn(0.0, 8.0, -math.inf) == 0.25
    share.sent()
    assert share.next_turn(0.25, 8.0, 0.25) == 0.375
    share.sent()
    assert share.next_turn(0.375, 8.0, 0.375) == math.inf


def test_late_turns_are_not_made_up_for_at_once() -> None:
    """A process that is late sends at twice the rate at most; with a known burst, the limit allows more."""
    turns = Turns(SHIFT, 0.125, 4)
    assert share_of_two(turns).next_turn(1.0, 8.0, 1.0) == 1.0625
    assert share_of_two(turns, known=KnownRate(8.0, 4)).next_turn(1.0, 8.0, 1.0) == 0.0


def test_turns_are_over_a_lease_after_the_last() -> None:
    """A process that was stopped sends nothing on them."""
    share = share_of_two(Turns(SHIFT, 0.125, 4))
    assert share.next_turn(1.5, 8.0, -math.inf) == 0.0
    assert share.next_turn(1.75, 8.0, -math.inf) == math.inf


def test_the_turn_of_a_cancelled_request_is_the_next_ones() -> None:
    """A request whose turn it was is not sent: another one is, at once."""
    share = share_of_two(Turns(SHIFT + 0.25, 0.125, 1))
    share.sent()
    assert share.next_turn(0.25, 8.0, -math.inf) == math.inf
    share.withdrawn(0.25)
    assert share.next_turn(0.25, 8.0, -math.inf) == 0.25
    share.sent()
    assert share.next_turn(0.25, 8.0, -math.inf) == math.inf


def test_alone_it_keeps_to_its_last_share() -> None:
    """Of two processes, each sends half as many requests when the store is away, whatever turns it has."""
    share = share_of_two(Turns())
    assert not share.is_valid(2.0)
    share.lost()
    assert share.is_valid(2.0)
    assert share.may_probe(0.0)
    assert share.next_turn(2.0, 8.0, 2.0) == 2.25
    share.withdrawn(2.0)
    assert share.next_turn(2.0, 8.0, 2.0) == 2.25


def test_leases_are_longer_if_the_store_is_slow_or_there_are_many() -> None:
    """So that the store is not asked more often than it can answer."""
    assert share_of_two(Turns()).lease == 1.0
    slow = Share("me", KnownRate())
    slow.members = 8
    slow.saw_clock(SHIFT, 0.0, 0.1)
    assert slow.lease == 8 * 4 * 0.1
    many = share_of_two(Turns())
    many.members = 100
    assert many.lease == 5.0
    many.members = 1000
    assert many.lease == 10.0


def test_a_clock_that_jumps_is_read_anew() -> None:
    """Small differences are delays, of which the smallest counts; a large one is another server's clock."""
    share = share_of_two(Turns())
    share.saw_clock(SHIFT + 0.75, 0.9, 1.0)
    assert share.local_time(SHIFT + 2) == 2.0
    share.saw_clock(SHIFT + 3600, 1.0, 1.0)
    assert share.local_time(SHIFT + 3600) == 1.0
    assert share.store_time(1.0) == SHIFT + 3600
