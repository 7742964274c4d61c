"""Pool: which request gets which connection. No clock and no event loop.

Connections are numbers; times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

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
from support.rows import each_row
from support.steps import steps

from prefect_http._wire.close_reasons import (
    CLOSED_BY_SERVER,
    EXPIRED,
    LOOP_ENDED,
    MAKES_ROOM,
    TOO_MANY_IDLE,
    TRANSPORT_CLOSED,
)
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool import Pool
from prefect_http._wire.pool_request import PoolRequest, RequestState

WAITING, GRANTED, REFUSED = RequestState


def origin(name: str) -> Origin:
    """Make an origin."""
    return Origin(b"http", name.encode(), 80, name)


A, B, C = origin("a"), origin("b"), origin("c")


def make(*, max_connections: int | None = None, max_idle: int | None = None, expiry: float | None = None) -> Pool[int]:
    """Make a pool with these limits, and no others."""
    return Pool(max_connections=max_connections, max_idle=max_idle, expiry=expiry)


def hold(pool: Pool[int], where: Origin, connection: int, now: float = 0.0) -> PoolRequest[int]:
    """Make a request, and open a connection for it."""
    request = pool.acquire(where, now)
    assert (request.state, request.connection) == (GRANTED, None)
    request.connection = connection
    return request


def let_idle(pool: Pool[int], *connections: tuple[Origin, int], now: float = 0.0) -> None:
    """Let connections become idle in this order, after all of them have been in use at the same time."""
    for request in [hold(pool, where, connection, now) for where, connection in connections]:
        pool.release(request, now, keep=True)


def counts(pool: Pool[int]) -> tuple[int, int, int]:
    """Return how many requests use a connection, how many connections are idle, and how many requests wait."""
    return pool.in_use, pool.idle, pool.waiting


# --- Limits


def test_a_new_pool() -> None:
    """A new pool is empty, and lets the first request open a connection."""
    pool = make(max_connections=1)
    assert (counts(pool), [*pool.discarded]) == ((0, 0, 0), [])
    request = pool.acquire(A, 0.0)
    assert (request.origin, request.state, request.connection) == (A, GRANTED, None)
    assert (counts(pool), pool.holds(request)) == ((1, 0, 0), True)


@each_row("max_connections", [0, 1, 2, 3])
def test_max_connections(max_connections: int) -> None:
    """At max_connections, further requests wait."""
    pool = make(max_connections=max_connections)
    requests = [pool.acquire(A, 0.0) for _ in range(5)]
    assert [request.state for request in requests] == [GRANTED] * max_connections + [WAITING] * (5 - max_connections)
    assert [pool.holds(request) for request in requests] == [request.state is GRANTED for request in requests]
    assert counts(pool) == (max_connections, 0, 5 - max_connections)


def test_no_limit() -> None:
    """Without a limit, no request waits."""
    pool = make()
    assert all(pool.acquire(A, 0.0).state is GRANTED for _ in range(1000))
    assert counts(pool) == (1000, 0, 0)


def test_max_connections_of_zero() -> None:
    """With max_connections=0, requests wait until they give up or the pool is closed."""
    pool = make(max_connections=0)
    first, second = pool.acquire(A, 0.0), pool.acquire(A, 0.0)
    pool.release(first, 1.0, keep=False)
    assert (second.state, counts(pool)) == (WAITING, (0, 0, 1))
    pool.close()
    assert (second.state, counts(pool)) == (REFUSED, (0, 0, 0))


# --- Idle connections


def test_reuse() -> None:
    """A kept connection serves the next request to its origin, and to no other."""
    pool = make()
    let_idle(pool, (A, 1))
    assert counts(pool) == (0, 1, 0)
    assert pool.acquire(B, 0.0).connection is None
    assert pool.acquire(A, 0.0).connection == 1
    assert (counts(pool), [*pool.discarded]) == ((2, 0, 0), [])


@each_row(
    "other",
    [A._replace(scheme=b"https"), A._replace(host=b"a."), A._replace(port=81), A._replace(server_name="b")],
    ids=["scheme", "host", "port", "TLS-name"],
)
def test_origins_are_separate(other: Origin) -> None:
    """A connection serves no other scheme, host or port, and no other TLS name."""
    pool = make()
    let_idle(pool, (A, 1))
    assert pool.acquire(other, 0.0).connection is None


def test_discarded_on_release() -> None:
    """A connection that is not kept is discarded, and makes room for another one."""
    pool = make(max_connections=1)
    pool.release(hold(pool, A, 1), 0.0, keep=False)
    assert (counts(pool), [*pool.discarded]) == ((0, 0, 0), [1])
    assert pool.acquire(A, 0.0).connection is None


@pytest.mark.parametrize("keep", [True, False])
def test_released_without_a_connection(keep: bool) -> None:
    """A request that could not open a connection leaves nothing behind."""
    pool = make(max_connections=1)
    pool.release(pool.acquire(A, 0.0), 0.0, keep=keep)
    assert (counts(pool), [*pool.discarded]) == ((0, 0, 0), [])


def test_last_used_first() -> None:
    """Of the idle connections to an origin, the one used last is taken first."""
    pool = make()
    let_idle(pool, (A, 1), (B, 2), (A, 3), (B, 4), (A, 5))
    taken = [pool.acquire(where, 0.0).connection for where in (A, B, A, B, A, A, B)]
    assert taken == [5, 4, 3, 2, 1, None, None]


@each_row(("max_idle", "kept"), [(0, []), (1, [5]), (2, [4, 5]), (4, [2, 3, 4, 5]), (5, [1, 2, 3, 4, 5])])
def test_max_idle(max_idle: int, kept: list[int]) -> None:
    """At max_idle, the connection that has been idle longest is discarded, whatever its origin."""
    pool = make(max_idle=max_idle)
    let_idle(pool, (A, 1), (B, 2), (A, 3), (C, 4), (A, 5))
    assert pool.idle == len(kept)
    assert [*pool.discarded] == [connection for connection in range(1, 6) if connection not in kept]
    taken = {pool.acquire(where, 0.0).connection for where in (A, A, A, B, C)}
    assert taken - {None} == set(kept)


def test_longest_idle_makes_room() -> None:
    """At max_connections, the connection that has been idle longest is discarded for a request to another origin."""
    pool = make(max_connections=3)
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    request = pool.acquire(C, 0.0)
    assert (request.state, request.connection, [*pool.discarded], counts(pool)) == (GRANTED, None, [1], (1, 2, 0))
    assert pool.acquire(C, 0.0).state is GRANTED
    assert ([*pool.discarded], counts(pool)) == ([1, 2], (2, 1, 0))
    assert pool.acquire(A, 0.0).connection == 3
    assert pool.acquire(C, 0.0).state is WAITING


def test_use_restarts_idle_time() -> None:
    """Idle time starts anew when a connection is used."""
    pool = make(max_connections=2)
    let_idle(pool, (A, 1), (B, 2))
    pool.release(pool.acquire(A, 0.0), 0.0, keep=True)
    pool.acquire(C, 0.0)
    assert [*pool.discarded] == [2]


# --- Expiry


@pytest.mark.parametrize(("expiry", "now", "is_used"), [(5.0, 4.75, True), (5.0, 5.0, False), (5.0, 99.0, False)])
def test_expiry(expiry: float, now: float, is_used: bool) -> None:
    """A connection that has been idle for the expiry is discarded, and not used again."""
    pool = make(expiry=expiry)
    let_idle(pool, (A, 1))
    request = pool.acquire(A, now)
    assert (request.connection, [*pool.discarded]) == ((1, []) if is_used else (None, [1]))


def test_no_expiry() -> None:
    """Without an expiry, a connection may be idle for any time."""
    pool = make()
    let_idle(pool, (A, 1))
    assert pool.acquire(A, 1e12).connection == 1


def test_expiry_of_zero() -> None:
    """With an expiry of 0, a connection is used twice only by requests that wait for it."""
    pool = make(expiry=0.0)
    let_idle(pool, (A, 1))
    assert (pool.acquire(A, 0.0).connection, [*pool.discarded]) == (None, [1])
    pool = make(max_connections=1, expiry=0.0)
    request, waiting = hold(pool, A, 1), pool.acquire(A, 0.0)
    pool.release(request, 0.0, keep=True)
    assert (waiting.connection, [*pool.discarded]) == (1, [])


@pytest.mark.parametrize(("where", "connection"), [(A, 4), (B, None), (C, None)])
def test_all_expired_are_discarded(where: Origin, connection: int | None) -> None:
    """The next request, to whatever origin, discards all expired connections, longest idle first."""
    pool = make(expiry=2.0)
    requests = [hold(pool, each, number) for number, each in enumerate([A, B, A, B, A])]
    for request, now in zip(requests, [0.0, 0.25, 0.5, 0.75, 1.0], strict=True):
        pool.release(request, now, keep=True)
    request = pool.acquire(where, 2.75)
    assert (request.connection, [*pool.discarded]) == (connection, [0, 1, 2, 3])


def test_expired_makes_room() -> None:
    """At max_connections, an expired connection makes room, and no other is discarded."""
    pool = make(max_connections=2, expiry=2.0)
    first, second = hold(pool, A, 1), hold(pool, B, 2)
    pool.release(first, 0.0, keep=True)
    pool.release(second, 1.0, keep=True)
    assert pool.acquire(C, 2.0).state is GRANTED
    assert ([*pool.discarded], pool.idle) == ([1], 1)


def test_unused() -> None:
    """A connection that is given back unused expires when it would have done, also behind others that expire later."""
    pool = make(expiry=2.0)
    let_idle(pool, (A, 1), (A, 2))
    unused = pool.acquire(A, 1.0)
    assert unused.connection == 2
    pool.release(hold(pool, B, 3), 1.0, keep=True)
    pool.release(unused, 1.5, keep=True, is_unused=True)
    assert (pool.acquire(A, 2.0).connection, [*pool.discarded]) == (None, [1, 2])
    assert (pool.acquire(B, 2.0).connection, [*pool.discarded]) == (3, [1, 2])


def test_unused_and_new() -> None:
    """The expiry of a new connection begins when it is given back."""
    pool = make(expiry=2.0)
    pool.release(hold(pool, A, 1), 1.0, keep=True, is_unused=True)
    pool.release(pool.acquire(A, 2.75), 2.75, keep=True, is_unused=True)
    assert (pool.acquire(A, 3.0).connection, [*pool.discarded]) == (None, [1])


def test_unused_and_never_idle() -> None:
    """A new connection that is given back unused goes to the next request, even if none is ever kept for long."""
    pool = make(max_connections=1, expiry=0.0)
    unused, waiting = hold(pool, A, 1), pool.acquire(A, 0.0)
    pool.release(unused, 0.0, keep=True, is_unused=True)
    assert (waiting.connection, [*pool.discarded]) == (1, [])


@pytest.mark.parametrize("waits", [True, False])
def test_unused_and_expired(waits: bool) -> None:
    """A connection that has expired while a request held it, without using it, is closed."""
    pool = make(max_connections=1, expiry=2.0)
    let_idle(pool, (A, 1))
    unused = pool.acquire(A, 1.5)
    waiting = pool.acquire(A, 1.5) if waits else None
    pool.release(unused, 2.0, keep=True, is_unused=True)
    assert ([*pool.discarded.values()], pool.idle) == (["it was idle for longer than keepalive_expiry"], 0)
    assert waiting is None or (waiting.state, waiting.connection) == (GRANTED, None)


def test_unused_and_handed_on() -> None:
    """A connection that several requests give back unused, one after the other, expires when it would have done."""
    pool = make(max_connections=1, expiry=2.0)
    let_idle(pool, (A, 1))
    given_up = [pool.acquire(A, 1.5), pool.acquire(A, 1.5), pool.acquire(A, 1.5)]
    for request in given_up:
        pool.release(request, 1.75, keep=True, is_unused=True)
    assert (pool.acquire(A, 2.0).connection, [*pool.discarded]) == (None, [1])


def test_used_and_handed_on() -> None:
    """The expiry of a connection that a request has used begins anew, even if the next one gives it back unused."""
    pool = make(max_connections=1, expiry=2.0)
    let_idle(pool, (A, 1))
    used, given_up = pool.acquire(A, 1.0), pool.acquire(A, 1.0)
    pool.release(used, 1.5, keep=True)
    pool.release(given_up, 1.75, keep=True, is_unused=True)
    assert pool.acquire(A, 3.25).connection == 1
    assert not pool.discarded


def test_unused_and_opened_instead() -> None:
    """The expiry of a connection that is opened in place of a stale one begins anew."""
    pool = make(expiry=2.0)
    let_idle(pool, (A, 1))
    request = pool.acquire(A, 1.0)
    pool.replace_stale(request, 1.0)
    assert request.connection is None
    request.connection = 2
    pool.release(request, 1.5, keep=True, is_unused=True)
    assert pool.acquire(A, 3.25).connection == 2


# --- Stale connections


def test_replace_stale() -> None:
    """A stale connection is replaced by the next idle one of its origin, if there is one."""
    pool = make(max_connections=4)
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    request = pool.acquire(A, 0.0)
    pool.replace_stale(request, 0.0)
    assert (request.connection, [*pool.discarded], counts(pool)) == (1, [3], (1, 1, 0))
    pool.replace_stale(request, 0.0)
    assert (request.connection, [*pool.discarded], counts(pool)) == (None, [3, 1], (1, 1, 0))
    assert pool.holds(request)


def test_replace_stale_ignores_expired() -> None:
    """A stale connection is not replaced by an expired one."""
    pool = make(expiry=2.0)
    let_idle(pool, (A, 1), (A, 2))
    request = pool.acquire(A, 1.75)
    pool.replace_stale(request, 2.0)
    assert (request.connection, [*pool.discarded], counts(pool)) == (None, [2, 1], (1, 0, 0))


# --- Waiting


def test_first_come_first_served() -> None:
    """Requests are granted in the order in which they were made, whatever their origins."""
    pool = make(max_connections=1)
    request = hold(pool, A, 1)
    granted: list[int] = []
    waiting = [pool.acquire(where, 0.0) for where in (B, A, C, A, B)]
    for number, each in enumerate(waiting):
        each.on_resolved = lambda number=number: granted.append(number)
    for each in waiting:
        assert each.state is WAITING
        pool.release(request, 0.0, keep=False)
        request = each
    assert (granted, counts(pool)) == ([0, 1, 2, 3, 4], (1, 0, 0))


def test_connection_is_handed_on() -> None:
    """A kept connection goes to the first waiting request, if it has the same origin; it is never idle in between."""
    pool = make(max_connections=1, max_idle=1)
    request, first, second = hold(pool, A, 1), pool.acquire(A, 0.0), pool.acquire(A, 0.0)
    pool.release(request, 0.0, keep=True)
    assert (first.state, first.connection, second.state) == (GRANTED, 1, WAITING)
    assert (request.connection, pool.holds(request)) == (None, False)
    assert (counts(pool), [*pool.discarded]) == ((1, 0, 1), [])


def test_connection_to_another_origin_is_not_handed_on() -> None:
    """If the first waiting request has another origin, it opens a connection, and the kept one is discarded."""
    pool = make(max_connections=1)
    request, first, second = hold(pool, A, 1), pool.acquire(B, 0.0), pool.acquire(A, 0.0)
    pool.release(request, 0.0, keep=True)
    assert (first.state, first.connection, second.state) == (GRANTED, None, WAITING)
    assert (counts(pool), [*pool.discarded]) == ((1, 0, 1), [1])


def test_on_resolved() -> None:
    """When on_resolved is called, the request has its state and its connection, and the counts are right."""
    pool = make(max_connections=1)
    request, waiting = hold(pool, A, 1), pool.acquire(A, 0.0)
    seen: list[object] = []
    waiting.on_resolved = lambda: seen.append((waiting.state, waiting.connection, pool.holds(waiting), counts(pool)))
    pool.release(request, 0.0, keep=True)
    assert seen == [(GRANTED, 1, True, (1, 0, 0))]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_giving_up(which: int) -> None:
    """A request that gives up waiting is passed over; giving up twice changes nothing."""
    pool = make(max_connections=1)
    request = hold(pool, A, 1)
    waiting = [pool.acquire(A, 0.0) for _ in range(3)]
    gone = waiting.pop(which)
    pool.release(gone, 0.0, keep=False)
    pool.release(gone, 0.0, keep=True)
    assert counts(pool) == (1, 0, 2)
    for each in waiting:
        pool.release(request, 0.0, keep=True)
        assert each.connection == 1
        request = each
    assert (gone.state, counts(pool)) == (WAITING, (1, 0, 0))


def test_why_connections_are_discarded() -> None:
    """The pool says why it discards a connection; what is released tells that itself."""
    pool = make(max_connections=3, max_idle=2, expiry=2.0)
    let_idle(pool, (A, 1), (A, 2), (B, 3))
    assert pool.discarded == {1: TOO_MANY_IDLE}
    stale = pool.acquire(A, 0.0)
    pool.replace_stale(stale, 0.0)
    stale.connection = 4
    more = [pool.acquire(C, 0.0) for _ in range(2)]
    assert pool.discarded == {1: TOO_MANY_IDLE, 2: CLOSED_BY_SERVER, 3: MAKES_ROOM}
    pool.release(stale, 0.0, keep=False, reason="a reason")
    more[0].connection = 5
    pool.release(more[0], 0.0, keep=True)
    held = pool.acquire(A, 2.0)
    held.connection = 6
    more[1].connection = 7
    pool.release(more[1], 2.0, keep=True)
    pool.close()
    late = pool.acquire(A, 2.0)
    late.connection = 8
    pool.close(silently=True)
    late.connection = 9
    pool.release(late, 2.0, keep=True)
    assert list(pool.discarded.items())[3:] == [
        *((4, "a reason"), (5, EXPIRED), (7, TRANSPORT_CLOSED), (6, TRANSPORT_CLOSED)),
        *((8, LOOP_ENDED), (9, TRANSPORT_CLOSED)),
    ]


@pytest.mark.parametrize(("keep", "connection", "discarded"), [(True, 1, []), (False, None, [1])])
def test_giving_up_when_just_granted(keep: bool, connection: int | None, discarded: list[int]) -> None:
    """A request that is cancelled just when it has been granted hands its connection on to the next."""
    pool = make(max_connections=1)
    request, first, second = hold(pool, A, 1), pool.acquire(A, 0.0), pool.acquire(A, 0.0)
    pool.release(request, 0.0, keep=True)
    pool.release(first, 0.0, keep=keep)
    assert (second.state, second.connection, [*pool.discarded]) == (GRANTED, connection, discarded)
    assert counts(pool) == (1, 0, 0)


def test_released_twice() -> None:
    """Releasing a request twice changes nothing."""
    pool = make(max_connections=1)
    request, first, second = hold(pool, A, 1), pool.acquire(A, 0.0), pool.acquire(A, 0.0)
    for _ in range(2):
        pool.release(request, 0.0, keep=True)
    assert (first.state, second.state, counts(pool)) == (GRANTED, WAITING, (1, 0, 1))


# --- Doubtful connections


def doubtful(pool: Pool[int], where: Origin, connection: int) -> None:
    """Let a doubtful connection become idle."""
    request = hold(pool, where, connection)
    request.is_doubtful = True
    pool.release(request, 0.0, keep=True)


def test_doubtful_connection_is_not_for_all() -> None:
    """A doubtful connection serves requests that may be sent again, which take it first, and no others."""
    pool = make()
    let_idle(pool, (A, 1))
    request = pool.acquire(A, 0.0)
    doubtful(pool, A, 2)
    pool.release(request, 0.0, keep=True)
    assert pool.acquire(B, 0.0).connection is None
    careful = pool.acquire(A, 0.0, False)
    assert (careful.connection, careful.is_doubtful) == (1, False)
    assert pool.acquire(A, 0.0, False).connection is None
    repeatable = pool.acquire(A, 0.0)
    assert (repeatable.connection, repeatable.is_doubtful) == (2, True)
    assert (counts(pool), [*pool.discarded]) == ((4, 0, 0), [])


@pytest.mark.parametrize("is_doubtful", [False, True])
def test_doubtful_until_it_has_served_again(is_doubtful: bool) -> None:
    """A connection that has served another request is as doubtful as that leaves it."""
    pool = make()
    doubtful(pool, A, 1)
    request = pool.acquire(A, 0.0)
    request.is_doubtful = is_doubtful
    pool.release(request, 0.0, keep=True)
    assert pool.acquire(A, 0.0, False).connection == (None if is_doubtful else 1)


@pytest.mark.parametrize(("is_repeatable", "connection", "discarded"), [(True, 1, []), (False, None, [1])])
def test_doubtful_connection_and_waiting_requests(
    is_repeatable: bool, connection: int | None, discarded: list[int]
) -> None:
    """A doubtful connection is handed on to a request that may be sent again, and not to another."""
    pool = make(max_connections=1)
    request, waiting, last = hold(pool, A, 1), pool.acquire(A, 0.0, is_repeatable), pool.acquire(A, 0.0)
    request.is_doubtful = True
    pool.release(request, 0.0, keep=True)
    assert (waiting.state, waiting.connection, waiting.is_doubtful) == (GRANTED, connection, connection == 1)
    assert ([*pool.discarded], counts(pool)) == (discarded, (1, 0, 1))
    pool.release(waiting, 0.0, keep=True)  # cancelled just when it has been granted
    assert (last.connection, last.is_doubtful) == (connection, connection == 1)


def test_doubtful_connections_are_idle_connections() -> None:
    """Doubtful connections expire, make room and are replaced like others."""
    pool = make(max_connections=4, expiry=1.0)
    let_idle(pool, (A, 1), (A, 2))
    doubtful(pool, B, 3)
    doubtful(pool, C, 4)
    for request in [pool.acquire(A, 0.0), pool.acquire(A, 0.0)]:
        pool.release(request, 0.0, keep=True)
    assert pool.acquire(A, 0.0, False).connection == 1
    assert pool.acquire(B, 0.0, False).connection is None
    assert ([*pool.discarded], counts(pool)) == ([3], (2, 2, 0))
    request = pool.acquire(C, 0.0)
    assert (request.connection, request.is_doubtful) == (4, True)
    pool.replace_stale(request, 0.0)
    assert (request.connection, request.is_doubtful, [*pool.discarded]) == (None, False, [3, 4])
    pool.release(request, 0.0, keep=False)
    doubtful(pool, C, 5)
    assert (pool.acquire(C, 1.0).connection, [*pool.discarded]) == (None, [3, 4, 2, 5])


def test_no_idle_connections() -> None:
    """With max_idle=0, a connection is used once, even if a request waits for it."""
    pool = make(max_connections=1, max_idle=0)
    request, waiting = hold(pool, A, 1), pool.acquire(A, 0.0)
    pool.release(request, 0.0, keep=True)
    assert (waiting.state, waiting.connection, [*pool.discarded]) == (GRANTED, None, [1])


# --- Closing


def test_closing() -> None:
    """Closing discards all connections, idle or in use."""
    pool = make()
    let_idle(pool, (A, 1), (B, 2), (A, 3))
    requests = [pool.acquire(A, 0.0), hold(pool, C, 4), pool.acquire(C, 0.0)]
    assert counts(pool) == (3, 2, 0)
    pool.close()
    assert (sorted(pool.discarded), counts(pool)) == ([1, 2, 3, 4], (0, 0, 0))
    assert not any(pool.holds(request) for request in requests)


def test_closing_refuses_waiting_requests() -> None:
    """Closing refuses all waiting requests, in order; releasing them changes nothing."""
    pool = make(max_connections=1)
    request = hold(pool, A, 1)
    waiting = [pool.acquire(where, 0.0) for where in (A, B, C)]
    resolved: list[tuple[int, RequestState]] = []
    for number, each in enumerate(waiting[:2]):
        each.on_resolved = lambda number=number, each=each: resolved.append((number, each.state))
    pool.close()
    assert resolved == [(0, REFUSED), (1, REFUSED)]
    assert [each.state for each in (request, *waiting)] == [GRANTED, REFUSED, REFUSED, REFUSED]
    for each in waiting:
        pool.release(each, 0.0, keep=False)
    assert (counts(pool), [*pool.discarded]) == ((0, 0, 0), [1])


def test_closing_an_empty_pool() -> None:
    """Closing an empty pool changes nothing."""
    pool = make()
    pool.close()
    assert (counts(pool), [*pool.discarded]) == ((0, 0, 0), [])


def test_used_after_closing() -> None:
    """A closed pool can be used again; requests from before the closing do not count."""
    pool = make(max_connections=1)
    before = pool.acquire(A, 0.0)
    pool.close()
    now, waiting = hold(pool, A, 2), pool.acquire(A, 0.0)
    before.connection = 1  # it was being opened meanwhile
    pool.release(before, 0.0, keep=True)
    assert (waiting.state, [*pool.discarded], counts(pool)) == (WAITING, [1], (1, 0, 1))
    pool.release(now, 0.0, keep=True)
    assert (waiting.connection, counts(pool)) == (2, (1, 0, 0))


@pytest.mark.parametrize("keep", [True, False])
def test_released_after_closing(keep: bool) -> None:
    """A connection that was discarded when the pool was closed is not discarded again when its request is released."""
    pool = make()
    request = hold(pool, A, 1)
    pool.close()
    pool.release(request, 0.0, keep=keep)
    assert ([*pool.discarded], counts(pool)) == ([1], (0, 0, 0))


def test_no_replacement_after_closing() -> None:
    """A request from before the closing gets no other connection: that would be one too many."""
    pool = make(max_connections=1)
    let_idle(pool, (A, 1))
    request = pool.acquire(A, 0.0)
    pool.close()
    let_idle(pool, (A, 2))
    if request.connection is not None:
        pool.replace_stale(request, 0.0)
    assert (request.connection, [*pool.discarded], counts(pool)) == (None, [1], (0, 1, 0))


# --- What is left behind


class Name(str):  # noqa: SLOT000, without a __dict__ it cannot be looked for
    """A name whose end of life can be observed."""


@each_row("way", ["no room", "expired", "max_idle", "not kept", "reused", "replaced", "closed"])
def test_origins_leave_nothing_behind(way: str) -> None:
    """Thousands of origins, one after the other, leave nothing behind but their idle connections."""
    expiry = 0.0 if way == "expired" else None
    pool = make(
        max_connections=3 if way == "no room" else None, max_idle=1 if way == "max_idle" else None, expiry=expiry
    )
    names: list[weakref.ref[Name]] = []
    for connection in range(1_000):
        name = Name(connection)
        names.append(weakref.ref(name))
        where = Origin(b"http", b"a", 80, name)
        pool.release(hold(pool, where, connection), 0.0, keep=way != "not kept")
        if way in {"reused", "replaced"}:
            request = pool.acquire(where, 0.0)
            if way == "replaced":
                pool.replace_stale(request, 0.0)
            pool.release(request, 0.0, keep=False)
            del request
        del name, where
    if way == "closed":
        pool.close()
    left = [name for name in names if name() is not None]
    assert len(left) == pool.idle <= 3
    assert sorted(pool.discarded) == list(range(1_000 - pool.idle))


# --- What an operation costs


def with_idle(count: int) -> Pool[int]:
    """Make a full pool of idle connections, half of them to one origin, and the others to one each."""
    pool = make(max_connections=count)
    let_idle(pool, *((A if n % 2 else origin(str(n)), n) for n in range(count)))
    return pool


def with_waiting(count: int) -> tuple[Pool[int], list[PoolRequest[int]], list[PoolRequest[int]]]:
    """Make a full pool, and as many waiting requests; return the pool, the granted and the waiting requests."""
    pool = make(max_connections=count)
    held = [hold(pool, A, n) for n in range(count)]
    return pool, held, [pool.acquire(A if n % 2 else B, 0.0) for n in range(count)]


def acquire_idle(count: int) -> int:
    """Take an idle connection."""
    pool = with_idle(count)
    return steps(lambda: pool.acquire(A, 0.0))


def acquire_without_room(count: int) -> int:
    """Discard an idle connection to make room."""
    pool = with_idle(count)
    return steps(lambda: pool.acquire(B, 0.0))


def replace(count: int) -> int:
    """Replace a stale connection."""
    pool = with_idle(count)
    request = pool.acquire(A, 0.0)
    return steps(lambda: pool.replace_stale(request, 0.0))


def keep(count: int) -> int:
    """Let a connection become idle."""
    pool = with_idle(count)
    request = pool.acquire(A, 0.0)
    return steps(lambda: pool.release(request, 0.0, keep=True))


def start_waiting(count: int) -> int:
    """Start to wait."""
    pool, _, _ = with_waiting(count)
    return steps(lambda: pool.acquire(A, 0.0))


def give_up(count: int) -> int:
    """Give up waiting, in the middle of the queue."""
    pool, _, waiting = with_waiting(count)
    return steps(lambda: pool.release(waiting[count // 2], 0.0, keep=False))


def hand_on(count: int) -> int:
    """Hand a connection on to the first waiting request."""
    pool, held, _ = with_waiting(count)
    return steps(lambda: pool.release(held[count // 2], 0.0, keep=True))


def read_counts(count: int) -> int:
    """Read the counts."""
    pool, held, _ = with_waiting(count)
    return steps(lambda: (counts(pool), pool.holds(held[count // 2])))


@each_row(
    "what",
    [acquire_idle, acquire_without_room, replace, keep, start_waiting, give_up, hand_on, read_counts],
)
def test_constant_time(what: Callable[[int], int]) -> None:
    """Each operation costs the same with ten connections and waiting requests as with a thousand."""
    assert 0 < what(10) == what(1_000) < 200


# --- Any order


class ModelRequest:
    """The expected state of a request.

    Attributes:
        request: what the pool returned.
        state: waiting, held, refused, or gone: released, or held when the pool was closed.
        connection: the connection that it uses.
        expires: when that would have expired.
    """

    def __init__(self, request: PoolRequest[int]) -> None:
        self.request = request
        self.state = "waiting"
        self.connection: int | None = None
        self.expires = 1e9


class AnyOrder(RuleBasedStateMachine):
    """Requests that come, open connections, end and give up in any order, beside a model made of plain lists.

    Attributes:
        requests: those that have not ended, in the order in which they came.
        idle: the idle connections, their origins, when they expire, and whether they are doubtful; longest idle first.
        discarded: what the pool should have discarded so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.requests: list[ModelRequest] = []
        self.idle: list[tuple[int, Origin, float, bool]] = []
        self.discarded: list[int] = []
        self.closed: list[int] = []
        self.resolved: list[PoolRequest[int]] = []
        self.expected_to_resolve: list[PoolRequest[int]] = []
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

    def having(self, *states: str) -> list[ModelRequest]:
        """Return the requests in these states, in the order in which they came."""
        return [each for each in self.requests if each.state in states]

    def pick(self, position: int, *states: str) -> ModelRequest:
        """Pick one of the requests in these states."""
        candidates = self.having(*states)
        return candidates[position % len(candidates)]

    def expire(self) -> None:
        """Discard the expired connections, up to the first that has not expired."""
        while self.idle and self.idle[0][2] <= self.now:
            self.discarded.append(self.idle.pop(0)[0])

    def take(self, each: ModelRequest) -> None:
        """Take the idle connection that was used last, and a doubtful one first or not at all."""
        fitting = [idle for idle in self.idle if idle[1] == each.request.origin]
        doubtful = [idle for idle in fitting if idle[3]]
        fitting = (doubtful if each.request.is_repeatable else []) or [idle for idle in fitting if not idle[3]]
        if fitting:
            self.idle.remove(fitting[-1])
            each.connection, _, each.expires, is_doubtful = fitting[-1]
            if each.expires <= self.now:
                self.discarded.append(each.connection)
                each.connection = None
                self.take(each)
                return
            assert each.request.is_doubtful is is_doubtful

    @rule(by=st.sampled_from([0.25, 0.5, 1.0]))
    def wait(self, by: float) -> None:
        """Let time pass."""
        self.now += by

    @rule(where=st.sampled_from([A, A, B, C]), is_repeatable=st.booleans())
    def acquire(self, where: Origin, is_repeatable: bool) -> None:
        """Make a request."""
        each = ModelRequest(self.pool.acquire(where, self.now, is_repeatable))
        each.request.on_resolved = lambda: self.resolved.append(each.request)
        self.requests.append(each)
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
        """Open a connection for a request without one; the pool may have been closed meanwhile."""
        candidates = [each for each in self.having("held", "gone") if each.connection is None]
        each = candidates[position % len(candidates)]
        each.connection = each.request.connection = next(self.opened)
        each.expires = 1e9

    @precondition(lambda self: self.having("held", "gone", "waiting", "refused"))
    @rule(position=st.integers(0, 9), keep=st.booleans(), is_doubtful=st.booleans(), is_unused=st.booleans())
    def release(self, position: int, keep: bool, is_doubtful: bool = False, is_unused: bool = False) -> None:
        """End a request, whether it was granted or not."""
        each = self.pick(position, "held", "gone", "waiting", "refused")
        self.requests.remove(each)
        each.request.is_doubtful = is_doubtful
        self.pool.release(each.request, self.now, keep=keep, is_unused=is_unused)
        kept = each.connection if keep and each.state == "held" and self.max_idle else None
        if each.connection is not None and kept is None:
            self.discarded.append(each.connection)
        if each.state != "held":
            return
        expires = self.now + self.expiry
        expires = min(expires, each.expires) if is_unused else expires
        if is_unused and kept is not None and each.expires <= self.now:
            self.discarded.append(kept)
            kept = None
        if waiting := self.having("waiting"):
            first = waiting[0]
            first.state = "held"
            self.expected_to_resolve.append(first.request)
            may_use = first.request.origin == each.request.origin and (first.request.is_repeatable or not is_doubtful)
            if kept is not None and may_use:
                first.connection, first.expires = kept, expires
                assert first.request.is_doubtful is is_doubtful
            elif kept is not None:
                self.discarded.append(kept)
        elif kept is not None:
            self.idle.append((kept, each.request.origin, expires, is_doubtful))
            if len(self.idle) > self.max_idle:
                self.discarded.append(self.idle.pop(0)[0])

    @precondition(lambda self: any(each.connection is not None for each in self.having("held")))
    @rule(position=st.integers(0, 9))
    def replace_stale(self, position: int) -> None:
        """Find a connection to be stale."""
        candidates = [each for each in self.having("held") if each.connection is not None]
        each = candidates[position % len(candidates)]
        self.pool.replace_stale(each.request, self.now)
        assert each.connection is not None
        self.discarded.append(each.connection)
        each.connection = None
        self.expire()
        self.take(each)

    @rule()
    def close_discarded(self) -> None:
        """Close the discarded connections."""
        self.closed += [*self.pool.discarded]
        self.pool.discarded.clear()

    @invariant()
    def is_as_it_should_be(self) -> None:
        """Check that the pool and the model agree."""
        held, waiting = self.having("held"), self.having("waiting")
        assert counts(self.pool) == (len(held), len(self.idle), len(waiting))
        for each in self.requests:
            request = each.request
            assert self.pool.holds(request) is (each.state == "held")
            assert (request.state is REFUSED) is (each.state == "refused")
            if each.state != "gone":
                assert (request.state is GRANTED) is (each.state == "held")
                assert request.connection == each.connection
        assert self.resolved == self.expected_to_resolve
        assert Counter([*self.closed, *self.pool.discarded]) == Counter(self.discarded)

    @invariant()
    def breaks_no_rule(self) -> None:
        """Check the limits, and that each connection is in exactly one place."""
        held, idle, waiting = counts(self.pool)
        assert held + idle <= self.max_connections
        assert idle <= self.max_idle
        assert not (idle and waiting)
        assert not (waiting and held < self.max_connections)
        somewhere = [each.connection for each in self.requests if each.connection is not None]
        somewhere += [connection for connection, _, _, _ in self.idle]
        somewhere += [*self.closed, *self.pool.discarded]
        assert len(somewhere) == len(set(somewhere))
        assert set(somewhere) == set(range(len(somewhere)))

    def teardown(self) -> None:
        """Check that all waiting requests are served in the end, in order, and that nothing is left."""
        if not self.max_connections:
            return
        waiting = self.having("waiting")
        for each in waiting:
            while each.request.state is WAITING:
                self.release(0, keep=True)
        while self.requests:
            self.release(0, keep=False)
        assert self.pool.in_use == self.pool.waiting == 0
        self.pool.close()
        assert counts(self.pool) == (0, 0, 0)
        opened = next(self.opened)
        assert sorted([*self.closed, *self.pool.discarded]) == list(range(opened))


class AnyOrderWithClosing(AnyOrder):
    """The same, with a pool that may be closed at any time."""

    @rule()
    def close_pool(self) -> None:
        """Close the pool."""
        self.pool.close()
        for each in self.having("held"):
            each.state = "gone"
            if each.connection is not None:
                self.discarded.append(each.connection)
                each.connection = None
        for each in self.having("waiting"):
            each.state = "refused"
            self.expected_to_resolve.append(each.request)
        self.discarded += [connection for connection, _, _, _ in self.idle]
        self.idle.clear()


@pytest.mark.parametrize("machine", [AnyOrder, AnyOrderWithClosing])
def test_any_order(machine: type[RuleBasedStateMachine]) -> None:
    """In whatever order requests come and go, the right one gets the right connection, and no connection is lost."""
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=30))
