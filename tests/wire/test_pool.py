"""Which request gets which connection: no clock, no loop.

Connections are numbers; times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

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

from prefect_http._wire.pool import Origin, Place, Pool


def origin(name: str) -> Origin:
    """Make an origin."""
    return b"http", name.encode(), 80, name


A, B, C = origin("a"), origin("b"), origin("c")


def make(*, max_connections: int | None = None, max_idle: int | None = None, expiry: float | None = None) -> Pool[int]:
    """Make a pool without limits, but for those that are given."""
    return Pool(max_connections=max_connections, max_idle=max_idle, expiry=expiry)


def hold(pool: Pool[int], where: Origin, connection: int, now: float = 0.0) -> Place[int]:
    """Take a place, and open a connection in it."""
    place = pool.enter(where, now)
    assert (place.is_granted, place.connection) == (True, None)
    place.connection = connection
    return place


def let_idle(pool: Pool[int], *connections: tuple[Origin, int], now: float = 0.0) -> None:
    """Let connections become idle, in their order, which are open at the same time."""
    for place in [hold(pool, where, connection, now) for where, connection in connections]:
        pool.leave(place, now, keep=True)


def counts(pool: Pool[int]) -> tuple[int, int, int]:
    """Count what is held, what is idle, and who waits."""
    return pool.held, pool.idle, pool.waiting


# --- Places


def test_a_new_pool() -> None:
    """It has nothing, and the first request is let in to open a connection."""
    pool = make(max_connections=1)
    assert (counts(pool), pool.discarded) == ((0, 0, 0), [])
    place = pool.enter(A, 0.0)
    assert (place.origin, place.is_granted, place.connection, place.is_refused) == (A, True, None, False)
    assert (counts(pool), pool.holds(place)) == ((1, 0, 0), True)


@pytest.mark.parametrize("max_connections", [0, 1, 2, 3])
def test_no_more_than_there_may_be(max_connections: int) -> None:
    """Whoever comes when all places are taken waits."""
    pool = make(max_connections=max_connections)
    places = [pool.enter(A, 0.0) for _ in range(5)]
    assert [place.is_granted for place in places] == [True] * max_connections + [False] * (5 - max_connections)
    assert [pool.holds(place) for place in places] == [place.is_granted for place in places]
    assert counts(pool) == (max_connections, 0, 5 - max_connections)


def test_any_number_of_connections() -> None:
    """Without a limit nobody waits."""
    pool = make()
    assert all(pool.enter(A, 0.0).is_granted for _ in range(1000))
    assert counts(pool) == (1000, 0, 0)


def test_no_connection_at_all() -> None:
    """Where there may be none, a request waits until it gives up, or until the pool is emptied."""
    pool = make(max_connections=0)
    first, second = pool.enter(A, 0.0), pool.enter(A, 0.0)
    pool.leave(first, 1.0, keep=False)
    assert (second.is_granted, counts(pool)) == (False, (0, 0, 1))
    pool.empty()
    assert (second.is_granted, second.is_refused, counts(pool)) == (False, True, (0, 0, 0))


# --- Idle connections


def test_a_connection_is_used_again() -> None:
    """A connection that is kept serves the next request to its origin, and no other."""
    pool = make()
    let_idle(pool, (A, 1))
    assert counts(pool) == (0, 1, 0)
    assert pool.enter(B, 0.0).connection is None
    assert pool.enter(A, 0.0).connection == 1
    assert (counts(pool), pool.discarded) == ((2, 0, 0), [])


@pytest.mark.parametrize(
    "other",
    [(b"https", b"a", 80, "a"), (b"http", b"a.", 80, "a"), (b"http", b"a", 81, "a"), (b"http", b"a", 80, "b")],
    ids=["scheme", "host", "port", "TLS-name"],
)
def test_what_makes_an_origin(other: Origin) -> None:
    """A connection serves no other scheme, host, port or name that its certificate was not checked for."""
    pool = make()
    let_idle(pool, (A, 1))
    assert pool.enter(other, 0.0).connection is None


def test_a_connection_that_is_not_kept() -> None:
    """A connection that is no good any more is discarded, and its place is free."""
    pool = make(max_connections=1)
    pool.leave(hold(pool, A, 1), 0.0, keep=False)
    assert (counts(pool), pool.discarded) == ((0, 0, 0), [1])
    assert pool.enter(A, 0.0).connection is None


@pytest.mark.parametrize("keep", [True, False])
def test_a_place_without_a_connection(keep: bool) -> None:
    """A request that could not open a connection leaves nothing."""
    pool = make(max_connections=1)
    pool.leave(pool.enter(A, 0.0), 0.0, keep=keep)
    assert (counts(pool), pool.discarded) == ((0, 0, 0), [])


def test_the_last_used_first() -> None:
    """Of the idle connections to an origin, the one that was used last is taken first."""
    pool = make()
    let_idle(pool, (A, 1), (B, 2), (A, 3), (B, 4), (A, 5))
    taken = [pool.enter(where, 0.0).connection for where in (A, B, A, B, A, A, B)]
    assert taken == [5, 4, 3, 2, 1, None, None]


@pytest.mark.parametrize(
    ("max_idle", "kept"), [(0, []), (1, [5]), (2, [4, 5]), (4, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5])]
)
def test_no_more_idle_than_there_may_be(max_idle: int, kept: list[int]) -> None:
    """Where too many are idle, the one that has been idle longest is discarded, whatever its origin is."""
    pool = make(max_idle=max_idle)
    let_idle(pool, (A, 1), (B, 2), (A, 3), (C, 4), (A, 5))
    assert pool.idle == len(kept)
    assert pool.discarded == [connection for connection in range(1, 6) if connection not in kept]
    taken = {pool.enter(where, 0.0).connection for where in (A, A, A, B, C)}
    assert taken - {None} == set(kept)


def test_the_longest_idle_one_makes_room() -> None:
    """At the limit the connection that has been idle longest is closed for a request to another origin."""
    pool = make(max_connections=3)
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    place = pool.enter(C, 0.0)
    assert (place.is_granted, place.connection, pool.discarded, counts(pool)) == (True, None, [1], (1, 2, 0))
    assert pool.enter(C, 0.0).is_granted
    assert (pool.discarded, counts(pool)) == ([1, 2], (2, 1, 0))
    assert pool.enter(A, 0.0).connection == 3
    assert not pool.enter(C, 0.0).is_granted


def test_a_connection_that_was_used_again_makes_room_later() -> None:
    """What counts is since when it has been idle, not since when it has been open."""
    pool = make(max_connections=2)
    let_idle(pool, (A, 1), (B, 2))
    pool.leave(pool.enter(A, 0.0), 0.0, keep=True)
    pool.enter(C, 0.0)
    assert pool.discarded == [2]


# --- Expiry


@pytest.mark.parametrize(("expiry", "now", "is_used"), [(5.0, 4.75, True), (5.0, 5.0, False), (5.0, 99.0, False)])
def test_an_old_connection(expiry: float, now: float, is_used: bool) -> None:
    """A connection that has been idle for the expiry is discarded, and not used any more."""
    pool = make(expiry=expiry)
    let_idle(pool, (A, 1))
    place = pool.enter(A, now)
    assert (place.connection, pool.discarded) == ((1, []) if is_used else (None, [1]))


def test_never_old() -> None:
    """Without an expiry a connection may be idle for any time."""
    pool = make()
    let_idle(pool, (A, 1))
    assert pool.enter(A, 1e12).connection == 1


def test_old_at_once() -> None:
    """With an expiry of 0 no connection is used twice, except by those who wait for it."""
    pool = make(expiry=0.0)
    let_idle(pool, (A, 1))
    assert (pool.enter(A, 0.0).connection, pool.discarded) == (None, [1])
    pool = make(max_connections=1, expiry=0.0)
    place, waiting = hold(pool, A, 1), pool.enter(A, 0.0)
    pool.leave(place, 0.0, keep=True)
    assert (waiting.connection, pool.discarded) == (1, [])


@pytest.mark.parametrize(("where", "connection"), [(A, 4), (B, None), (C, None)])
def test_all_old_ones_go_at_once(where: Origin, connection: int | None) -> None:
    """The next request, to whatever origin, discards all that are too old, the longest idle first."""
    pool = make(expiry=2.0)
    places = [hold(pool, each, number) for number, each in enumerate([A, B, A, B, A])]
    for place, now in zip(places, [0.0, 0.25, 0.5, 0.75, 1.0], strict=True):
        pool.leave(place, now, keep=True)
    place = pool.enter(where, 2.75)
    assert (place.connection, pool.discarded) == (connection, [0, 1, 2, 3])


def test_an_old_one_makes_room_without_pushing_out_another() -> None:
    """At the limit, where an old connection goes, no other has to."""
    pool = make(max_connections=2, expiry=2.0)
    first, second = hold(pool, A, 1), hold(pool, B, 2)
    pool.leave(first, 0.0, keep=True)
    pool.leave(second, 1.0, keep=True)
    assert pool.enter(C, 2.0).is_granted
    assert (pool.discarded, pool.idle) == ([1], 1)


# --- A connection that turns out to be no good


def test_another_one_instead() -> None:
    """In place of a connection that the server has closed there is the next idle one of its origin, and then none."""
    pool = make(max_connections=4)
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    place = pool.enter(A, 0.0)
    pool.replace(place, 0.0)
    assert (place.connection, pool.discarded, counts(pool)) == (1, [3], (1, 1, 0))
    pool.replace(place, 0.0)
    assert (place.connection, pool.discarded, counts(pool)) == (None, [3, 1], (1, 1, 0))
    assert pool.holds(place)


def test_no_old_one_instead() -> None:
    """A connection that has become too old meanwhile is none to give instead."""
    pool = make(expiry=2.0)
    let_idle(pool, (A, 1), (A, 2))
    place = pool.enter(A, 1.75)
    pool.replace(place, 2.0)
    assert (place.connection, pool.discarded, counts(pool)) == (None, [2, 1], (1, 0, 0))


# --- Waiting


def test_first_come_first_served() -> None:
    """Places are granted in the order of the requests, whatever their origins are."""
    pool = make(max_connections=1)
    place = hold(pool, A, 1)
    granted: list[int] = []
    waiting = [pool.enter(where, 0.0) for where in (B, A, C, A, B)]
    for number, each in enumerate(waiting):
        each.on_grant = lambda number=number: granted.append(number)
    for each in waiting:
        assert not each.is_granted
        pool.leave(place, 0.0, keep=False)
        place = each
    assert (granted, counts(pool)) == ([0, 1, 2, 3, 4], (1, 0, 0))


def test_the_first_gets_the_connection() -> None:
    """A connection that is kept goes to the first who waits, if it leads there; it is never idle in between."""
    pool = make(max_connections=1, max_idle=0)
    place, first, second = hold(pool, A, 1), pool.enter(A, 0.0), pool.enter(A, 0.0)
    pool.leave(place, 0.0, keep=True)
    assert (first.is_granted, first.connection, second.is_granted) == (True, 1, False)
    assert (place.connection, pool.holds(place)) == (None, False)
    assert (counts(pool), pool.discarded) == ((1, 0, 1), [])


def test_the_first_gets_the_place_alone() -> None:
    """The first who waits does not give way to one whose origin would fit: the connection is closed."""
    pool = make(max_connections=1)
    place, first, second = hold(pool, A, 1), pool.enter(B, 0.0), pool.enter(A, 0.0)
    pool.leave(place, 0.0, keep=True)
    assert (first.is_granted, first.connection, second.is_granted) == (True, None, False)
    assert (counts(pool), pool.discarded) == ((1, 0, 1), [1])


def test_a_place_is_there_when_its_request_is_told() -> None:
    """Whoever is told finds the connection, and the counts, as they are from then on."""
    pool = make(max_connections=1)
    place, waiting = hold(pool, A, 1), pool.enter(A, 0.0)
    seen: list[object] = []
    waiting.on_grant = lambda: seen.append((waiting.is_granted, waiting.connection, pool.holds(waiting), counts(pool)))
    pool.leave(place, 0.0, keep=True)
    assert seen == [(True, 1, True, (1, 0, 0))]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_who_gives_up_waiting(which: int) -> None:
    """A request that gives up while it waits is passed over; it may say so more than once."""
    pool = make(max_connections=1)
    place = hold(pool, A, 1)
    waiting = [pool.enter(A, 0.0) for _ in range(3)]
    gone = waiting.pop(which)
    pool.leave(gone, 0.0, keep=False)
    pool.leave(gone, 0.0, keep=True)
    assert counts(pool) == (1, 0, 2)
    for each in waiting:
        pool.leave(place, 0.0, keep=True)
        assert each.connection == 1
        place = each
    assert (gone.is_granted, counts(pool)) == (False, (1, 0, 0))


@pytest.mark.parametrize(("keep", "connection", "discarded"), [(True, 1, []), (False, None, [1])])
def test_who_gives_up_once_granted(keep: bool, connection: int | None, discarded: list[int]) -> None:
    """A request that is cancelled when its place has been granted hands it on to the next."""
    pool = make(max_connections=1)
    place, first, second = hold(pool, A, 1), pool.enter(A, 0.0), pool.enter(A, 0.0)
    pool.leave(place, 0.0, keep=True)
    pool.leave(first, 0.0, keep=keep)
    assert (second.is_granted, second.connection, pool.discarded) == (True, connection, discarded)
    assert counts(pool) == (1, 0, 0)


def test_leaving_twice() -> None:
    """A place that has been given back is nobody's: giving it back again changes nothing."""
    pool = make(max_connections=1)
    place, first, second = hold(pool, A, 1), pool.enter(A, 0.0), pool.enter(A, 0.0)
    for _ in range(2):
        pool.leave(place, 0.0, keep=True)
    assert (first.is_granted, second.is_granted, counts(pool)) == (True, False, (1, 0, 1))


# --- Emptying


def test_emptying() -> None:
    """All connections are discarded, whether they are idle or in use, and all places are free."""
    pool = make()
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    places = [pool.enter(A, 0.0), hold(pool, C, 4), pool.enter(C, 0.0)]
    assert counts(pool) == (3, 2, 0)
    pool.empty()
    assert (sorted(pool.discarded), counts(pool)) == ([1, 2, 3, 4], (0, 0, 0))
    assert not any(pool.holds(place) for place in places)


def test_emptying_refuses_who_waits() -> None:
    """Whoever waits is refused and told so, in order; what they give back is nothing."""
    pool = make(max_connections=1)
    place = hold(pool, A, 1)
    waiting = [pool.enter(where, 0.0) for where in (A, B, C)]
    told: list[tuple[int, bool, bool]] = []
    for number, each in enumerate(waiting[:2]):
        each.on_grant = lambda number=number, each=each: told.append((number, each.is_granted, each.is_refused))
    pool.empty()
    assert told == [(0, False, True), (1, False, True)]
    assert [each.is_refused for each in (place, *waiting)] == [False, True, True, True]
    for each in waiting:
        pool.leave(each, 0.0, keep=False)
    assert (counts(pool), pool.discarded) == ((0, 0, 0), [1])


def test_an_empty_pool_is_emptied() -> None:
    """There is nothing to do, and nothing is done."""
    pool = make()
    pool.empty()
    assert (counts(pool), pool.discarded) == ((0, 0, 0), [])


def test_used_again_after_emptying() -> None:
    """An emptied pool is like a new one; what is given back from before takes no place from those who come after."""
    pool = make(max_connections=1)
    before = pool.enter(A, 0.0)
    pool.empty()
    now, waiting = hold(pool, A, 2), pool.enter(A, 0.0)
    before.connection = 1  # it was being opened meanwhile
    pool.leave(before, 0.0, keep=True)
    assert (waiting.is_granted, pool.discarded, counts(pool)) == (False, [1], (1, 0, 1))
    pool.leave(now, 0.0, keep=True)
    assert (waiting.connection, counts(pool)) == (2, (1, 0, 0))


@pytest.mark.parametrize("keep", [True, False])
def test_given_back_after_emptying(keep: bool) -> None:
    """A connection that was discarded when the pool was emptied is not discarded once more when it is given back."""
    pool = make()
    place = hold(pool, A, 1)
    pool.empty()
    pool.leave(place, 0.0, keep=keep)
    assert (pool.discarded, counts(pool)) == ([1], (0, 0, 0))


def test_nothing_instead_after_emptying() -> None:
    """Who holds no place any more gets no other connection: it would be one more than there may be."""
    pool = make(max_connections=1)
    let_idle(pool, (A, 1))
    place = pool.enter(A, 0.0)
    pool.empty()
    let_idle(pool, (A, 2))
    if place.connection is not None:
        pool.replace(place, 0.0)
    assert (place.connection, pool.discarded, counts(pool)) == (None, [1], (0, 1, 0))


# --- What stays behind


class Name(str):  # noqa: SLOT000, without a __dict__ it cannot be looked for
    """A name that can be looked for when nobody should have it any more."""


@pytest.mark.parametrize("way", ["pushed out", "too old", "no room", "not kept", "taken", "replaced", "emptied"])
def test_nothing_stays_behind_of_an_origin(way: str) -> None:
    """Ten thousand origins, one after the other, leave nothing behind but what is idle."""
    expiry = 0.0 if way == "too old" else None
    pool = make(
        max_connections=3 if way == "pushed out" else None, max_idle=1 if way == "no room" else None, expiry=expiry
    )
    names: list[weakref.ref[Name]] = []
    for connection in range(10_000):
        name = Name(connection)
        names.append(weakref.ref(name))
        where = (b"http", b"a", 80, name)
        pool.leave(hold(pool, where, connection), 0.0, keep=way != "not kept")
        if way in {"taken", "replaced"}:
            place = pool.enter(where, 0.0)
            if way == "replaced":
                pool.replace(place, 0.0)
            pool.leave(place, 0.0, keep=False)
            del place
        del name, where
    if way == "emptied":
        pool.empty()
    left = [name for name in names if name() is not None]
    assert len(left) == pool.idle <= 3
    assert sorted(pool.discarded) == list(range(10_000 - pool.idle))


# --- How much there is to do


def steps(do: Callable[[], object]) -> int:
    """Count the lines that Python executes, in functions written in it."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def with_idle(count: int) -> Pool[int]:
    """Make a full pool with idle connections, half of them to one origin and the others to one each."""
    pool = make(max_connections=count)
    let_idle(pool, *((A if n % 2 else origin(str(n)), n) for n in range(count)))
    return pool


def with_waiting(count: int) -> tuple[Pool[int], list[Place[int]], list[Place[int]]]:
    """Make a pool with as many places, all held, and as many who wait; give both as well."""
    pool = make(max_connections=count)
    held = [hold(pool, A, n) for n in range(count)]
    return pool, held, [pool.enter(A if n % 2 else B, 0.0) for n in range(count)]


def enter_with_an_idle_one(count: int) -> int:
    """Take an idle connection."""
    pool = with_idle(count)
    return steps(lambda: pool.enter(A, 0.0))


def enter_without_room(count: int) -> int:
    """Push out an idle connection."""
    pool = with_idle(count)
    return steps(lambda: pool.enter(B, 0.0))


def replace(count: int) -> int:
    """Take another idle connection."""
    pool = with_idle(count)
    place = pool.enter(A, 0.0)
    return steps(lambda: pool.replace(place, 0.0))


def keep(count: int) -> int:
    """Let a connection become idle."""
    pool = with_idle(count)
    place = pool.enter(A, 0.0)
    return steps(lambda: pool.leave(place, 0.0, keep=True))


def enter_the_queue(count: int) -> int:
    """Begin to wait."""
    pool, _, _ = with_waiting(count)
    return steps(lambda: pool.enter(A, 0.0))


def leave_the_queue(count: int) -> int:
    """Give up waiting, in the middle of the queue."""
    pool, _, waiting = with_waiting(count)
    return steps(lambda: pool.leave(waiting[count // 2], 0.0, keep=False))


def hand_over(count: int) -> int:
    """Give a place to the first who waits."""
    pool, held, _ = with_waiting(count)
    return steps(lambda: pool.leave(held[count // 2], 0.0, keep=True))


def tell(count: int) -> int:
    """Tell the counts."""
    pool, held, _ = with_waiting(count)
    return steps(lambda: (counts(pool), pool.holds(held[count // 2])))


@pytest.mark.parametrize(
    "what",
    [enter_with_an_idle_one, enter_without_room, replace, keep, enter_the_queue, leave_the_queue, hand_over, tell],
)
def test_as_much_to_do_however_many_there_are(what: Callable[[int], int]) -> None:
    """Each step costs the same with ten connections and waiters as with ten thousand."""
    assert 0 < what(10) == what(10_000) < 200


# --- Any order


class ModelPlace:
    """What a place should be like.

    Attributes:
        place: what the pool gave.
        state: waiting, held, refused, or gone: given back, or held when the pool was emptied.
        connection: what is in it.
    """

    def __init__(self, place: Place[int]) -> None:
        self.place = place
        self.state = "waiting"
        self.connection: int | None = None


class AnyOrder(RuleBasedStateMachine):
    """Requests that come, open connections, go and give up in any order, next to a pool made of plain lists.

    Attributes:
        places: those that requests have, in the order of their coming.
        idle: connections, their origins and when they expire; the longest idle first.
        discarded: what the pool should have discarded so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.places: list[ModelPlace] = []
        self.idle: list[tuple[int, Origin, float]] = []
        self.discarded: list[int] = []
        self.closed: list[int] = []
        self.told: list[Place[int]] = []
        self.to_be_told: list[Place[int]] = []
        self.opened: Iterator[int] = itertools.count()

    @initialize(
        max_connections=st.sampled_from([0, 1, 2, 3, 3, 4, None]),
        max_idle=st.sampled_from([0, 1, 2, None, None]),
        expiry=st.sampled_from([0.0, 1.0, None, None]),
    )
    def begin(self, max_connections: int | None, max_idle: int | None, expiry: float | None) -> None:
        """Make the pool."""
        self.max_connections = 1000 if max_connections is None else max_connections
        self.max_idle = 1000 if max_idle is None else max_idle
        self.expiry = 1e9 if expiry is None else expiry
        self.pool = make(max_connections=max_connections, max_idle=max_idle, expiry=expiry)

    def having(self, *states: str) -> list[ModelPlace]:
        """Give the places in these states, in the order of their coming."""
        return [each for each in self.places if each.state in states]

    def pick(self, position: int, *states: str) -> ModelPlace:
        """Pick one of the places in these states."""
        candidates = self.having(*states)
        return candidates[position % len(candidates)]

    def expire(self) -> None:
        """Discard what is too old."""
        self.discarded += [connection for connection, _, expires in self.idle if expires <= self.now]
        self.idle = [each for each in self.idle if each[2] > self.now]

    def take(self, each: ModelPlace) -> None:
        """Take the idle connection that was used last."""
        fitting = [idle for idle in self.idle if idle[1] == each.place.origin]
        if fitting:
            self.idle.remove(fitting[-1])
            each.connection = fitting[-1][0]

    @rule(by=st.sampled_from([0.25, 0.5, 1.0]))
    def wait(self, by: float) -> None:
        """Let time pass."""
        self.now += by

    @rule(where=st.sampled_from([A, A, B, C]))
    def enter(self, where: Origin) -> None:
        """Let a request come."""
        each = ModelPlace(self.pool.enter(where, self.now))
        each.place.on_grant = lambda: self.told.append(each.place)
        self.places.append(each)
        self.expire()
        self.take(each)
        if each.connection is None and len(self.having("held")) + len(self.idle) >= self.max_connections:
            if not self.idle:
                return
            self.discarded.append(self.idle.pop(0)[0])
        each.state = "held"

    @precondition(lambda self: any(each.connection is None for each in self.having("held", "gone")))
    @rule(position=st.integers(0, 9))
    def open(self, position: int) -> None:
        """Open a connection in a place without one, which the pool may have been emptied of meanwhile."""
        candidates = [each for each in self.having("held", "gone") if each.connection is None]
        each = candidates[position % len(candidates)]
        each.connection = each.place.connection = next(self.opened)

    @precondition(lambda self: self.having("held", "gone", "waiting", "refused"))
    @rule(position=st.integers(0, 9), keep=st.booleans())
    def leave(self, position: int, keep: bool) -> None:
        """Let a request go, which may have waited only."""
        each = self.pick(position, "held", "gone", "waiting", "refused")
        self.places.remove(each)
        self.pool.leave(each.place, self.now, keep=keep)
        kept = each.connection if keep and each.state == "held" else None
        if each.connection is not None and kept is None:
            self.discarded.append(each.connection)
        if each.state != "held":
            return
        if waiting := self.having("waiting"):
            first = waiting[0]
            first.state = "held"
            self.to_be_told.append(first.place)
            if kept is not None and first.place.origin == each.place.origin:
                first.connection = kept
            elif kept is not None:
                self.discarded.append(kept)
        elif kept is not None:
            self.idle.append((kept, each.place.origin, self.now + self.expiry))
            if len(self.idle) > self.max_idle:
                self.discarded.append(self.idle.pop(0)[0])

    @precondition(lambda self: any(each.connection is not None for each in self.having("held")))
    @rule(position=st.integers(0, 9))
    def replace(self, position: int) -> None:
        """Find that a connection is no good."""
        candidates = [each for each in self.having("held") if each.connection is not None]
        each = candidates[position % len(candidates)]
        self.pool.replace(each.place, self.now)
        assert each.connection is not None
        self.discarded.append(each.connection)
        each.connection = None
        self.expire()
        self.take(each)

    @rule()
    def close(self) -> None:
        """Close what has been discarded."""
        self.closed += self.pool.discarded
        self.pool.discarded.clear()

    @invariant()
    def is_as_it_should_be(self) -> None:
        """See that the pool and the lists agree."""
        held, waiting = self.having("held"), self.having("waiting")
        assert counts(self.pool) == (len(held), len(self.idle), len(waiting))
        for each in self.places:
            place = each.place
            assert self.pool.holds(place) is (each.state == "held")
            assert place.is_refused is (each.state == "refused")
            if each.state != "gone":
                assert place.is_granted is (each.state == "held")
                assert place.connection == each.connection
        assert self.told == self.to_be_told
        assert Counter(self.closed + self.pool.discarded) == Counter(self.discarded)

    @invariant()
    def breaks_no_rule(self) -> None:
        """See that there are not too many, and that each connection is somewhere, once."""
        held, idle, waiting = counts(self.pool)
        assert held + idle <= self.max_connections
        assert idle <= self.max_idle
        assert not (idle and waiting)
        assert not (waiting and held < self.max_connections)
        somewhere = [each.connection for each in self.places if each.connection is not None]
        somewhere += [connection for connection, _, _ in self.idle]
        somewhere += self.closed + self.pool.discarded
        assert len(somewhere) == len(set(somewhere))
        assert set(somewhere) == set(range(len(somewhere)))

    def teardown(self) -> None:
        """See that those who wait are all served in the end, in their order, and that nothing is left."""
        if not self.max_connections:
            return
        waiting = self.having("waiting")
        for each in waiting:
            while not each.place.is_granted:
                self.leave(0, keep=True)
        while self.places:
            self.leave(0, keep=False)
        assert self.pool.held == self.pool.waiting == 0
        self.pool.empty()
        assert counts(self.pool) == (0, 0, 0)
        opened = next(self.opened)
        assert sorted(self.closed + self.pool.discarded) == list(range(opened))


class AnyOrderWithEmptying(AnyOrder):
    """The same, with a pool that is emptied in the middle of it."""

    @rule()
    def empty(self) -> None:
        """Empty the pool."""
        self.pool.empty()
        for each in self.having("held"):
            each.state = "gone"
            if each.connection is not None:
                self.discarded.append(each.connection)
                each.connection = None
        for each in self.having("waiting"):
            each.state = "refused"
            self.to_be_told.append(each.place)
        self.discarded += [connection for connection, _, _ in self.idle]
        self.idle.clear()


@pytest.mark.parametrize("machine", [AnyOrder, AnyOrderWithEmptying])
def test_any_order(machine: type[RuleBasedStateMachine]) -> None:
    """In whatever order requests come and go, the right one gets the right connection, and none is lost."""
    run_state_machine_as_test(machine, settings=settings(max_examples=50, stateful_step_count=40))
