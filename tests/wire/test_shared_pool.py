"""Pool: connections that several requests share. No clock and no event loop.

Connections are numbers; times are binary fractions, so that their sums are exact.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
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

from prefect_http._wire.origin import Origin
from prefect_http._wire.pool import Pool
from prefect_http._wire.pool_request import PoolRequest, RequestState
from prefect_http._wire.protocols import Protocols

WAITING, GRANTED, REFUSED = RequestState


def origin(name: str, scheme: bytes = b"https") -> Origin:
    """Make an origin."""
    return Origin(scheme, name.encode(), 443, name)


A, B, C, PLAIN = origin("a"), origin("b"), origin("c"), origin("p", b"http")


def make(
    *, max_connections: int | None = None, max_idle: int | None = None, expiry: float | None = None, http1: bool = True
) -> Pool[int]:
    """Make a pool with these limits, and no others."""
    protocols = Protocols(http1=http1, http2=True)
    return Pool(max_connections=max_connections, max_idle=max_idle, expiry=expiry, protocols=protocols)


def share(pool: Pool[int], where: Origin, connection: int, streams: int = 100, now: float = 0.0) -> PoolRequest[int]:
    """Make a request, and open a connection for it that has so many streams."""
    request = pool.acquire(where, now)
    assert (request.state, request.connection) == (GRANTED, None)
    request.connection = connection
    pool.share(request, streams)
    return request


def ask(pool: Pool[int], count: int, where: Origin = A) -> list[PoolRequest[int]]:
    """Make several requests."""
    return [pool.acquire(where, 0.0) for _ in range(count)]


def end(pool: Pool[int], *requests: PoolRequest[int], now: float = 0.0) -> None:
    """End requests whose connections can serve others."""
    for request in requests:
        pool.release(request, now, keep=True)


def counts(pool: Pool[int]) -> tuple[int, int, int, int]:
    """Return how many connections are used, how many are idle, how many requests wait, and how many share."""
    return pool.in_use, pool.idle, pool.waiting, pool.sharing


def used(*requests: PoolRequest[int]) -> list[int | str | None]:
    """Return the connection of each request, or that it has none."""
    return [each.connection if each.state is GRANTED else each.state.name.lower() for each in requests]


# --- Before it is known whether a connection can be shared


def test_burst_waits_for_the_first_connection() -> None:
    """Of many requests to an unknown origin, the first opens a connection, and the others wait for it."""
    pool = make(max_connections=10)
    requests = ask(pool, 5)
    assert used(*requests) == [None, *["waiting"] * 4]
    assert (counts(pool), pool.is_opening(A), pool.is_opening(B)) == ((1, 0, 4, 0), True, False)
    requests[0].connection = 1
    pool.share(requests[0], 100)
    assert used(*requests) == [1] * 5
    assert (counts(pool), pool.is_opening(A)) == ((1, 0, 0, 5), False)
    assert all(pool.holds(each) for each in requests)


def test_other_origins_do_not_wait() -> None:
    """Another origin, or a connection that cannot be HTTP/2, does not wait for it."""
    pool = make()
    requests = [pool.acquire(where, 0.0) for where in (A, B, PLAIN, PLAIN, A)]
    assert used(*requests) == [None, None, None, None, "waiting"]


def test_prior_knowledge() -> None:
    """Without HTTP/1.1, connections without TLS are shared as well."""
    pool = make(http1=False)
    first, second = ask(pool, 2, PLAIN)
    assert used(first, second) == [None, "waiting"]


@each_row(("max_connections", "granted"), [(10, 4), (3, 2), (1, 0)])
def test_first_connection_cannot_be_shared(max_connections: int, granted: int) -> None:
    """If the first connection is HTTP/1.1, each of the others opens one; so does what comes later, without waiting."""
    pool = make(max_connections=max_connections)
    first, *others = ask(pool, 5)
    first.connection = 1
    pool.keep_apart(first)
    assert used(first, *others) == [1, *[None] * granted, *["waiting"] * (4 - granted)]
    end(pool, first)
    assert pool.acquire(A, 0.0).state is (GRANTED if max_connections == 10 else WAITING)


@each_row("is_first", [True, False])
def test_first_connection_fails(is_first: bool) -> None:
    """If the first connection cannot be opened, all that wait try it; what another one fails at changes nothing."""
    pool = make(max_connections=3)
    first, *others = ask(pool, 5)
    pool.opening_failed(first if is_first else others[0])
    assert used(*others) == ([None, None, "waiting", "waiting"] if is_first else ["waiting"] * 4)


def test_first_request_is_cancelled() -> None:
    """If the request that opens the first connection is cancelled, the next one opens it."""
    pool = make()
    first, *others = ask(pool, 4)
    pool.release(first, 0.0, keep=False)
    assert used(*others) == [None, "waiting", "waiting"]
    assert counts(pool) == (1, 0, 2, 0)


def test_verdict_may_change() -> None:
    """An origin that has used HTTP/1.1 may use HTTP/2 later, and the other way round."""
    pool = make()
    first, second = ask(pool, 1)[0], None
    first.connection = 1
    pool.keep_apart(first)
    second = pool.acquire(A, 0.0)
    assert used(second) == [None]
    second.connection = 2
    pool.share(second, 2)
    assert used(*ask(pool, 3)) == [2, None, "waiting"]
    end(pool, first)


def test_idle_connection_of_one_request_is_used() -> None:
    """An idle HTTP/1.1 connection is used even if a new one could be HTTP/2."""
    protocols = Protocols(http1=True, http2=True)
    pool = Pool[int](max_connections=None, max_idle=None, expiry=None, protocols=protocols)
    first = pool.acquire(A, 0.0)
    first.connection = 1
    pool.keep_apart(first)
    end(pool, first)
    protocols.remember(A, is_http2=True)
    assert used(*ask(pool, 3)) == [1, None, "waiting"]


def test_released_connection_of_one_request_is_handed_on() -> None:
    """A request that waits for HTTP/2 takes an HTTP/1.1 connection to its origin that is released to it."""
    protocols = Protocols(http1=True, http2=True)
    pool = Pool[int](max_connections=1, max_idle=None, expiry=None, protocols=protocols)
    first = pool.acquire(A, 0.0)
    first.connection = 1
    pool.keep_apart(first)
    protocols.remember(A, is_http2=True)
    second, third = ask(pool, 2)
    end(pool, first)
    assert used(second, third) == [1, "waiting"]
    end(pool, second)
    assert used(third) == [1]
    assert (counts(pool), pool.is_opening(A)) == ((1, 0, 0, 0), False)


# --- Sharing


def test_max_requests() -> None:
    """When a connection is full, another is opened, one at a time, up to max_connections; then requests wait."""
    pool = make(max_connections=2)
    requests = [share(pool, A, 1, 2), *ask(pool, 5)]
    assert used(*requests) == [1, 1, None, "waiting", "waiting", "waiting"]
    requests[2].connection = 2
    pool.share(requests[2], 2)
    assert used(*requests) == [1, 1, 2, 2, "waiting", "waiting"]
    assert counts(pool) == (2, 0, 2, 4)
    end(pool, requests[1], requests[2])
    assert used(*requests[3:]) == [2, 1, 2]


def test_idle_and_used_again() -> None:
    """A shared connection is idle when none uses it, and is used again by any number."""
    pool = make()
    requests = [share(pool, A, 1), *ask(pool, 2)]
    end(pool, *requests[:2])
    assert counts(pool) == (1, 0, 0, 1)
    end(pool, requests[2])
    assert counts(pool) == (0, 1, 0, 0)
    assert not any(pool.holds(each) for each in requests)
    assert used(*ask(pool, 3)) == [1, 1, 1]
    assert (counts(pool), [*pool.discarded]) == ((1, 0, 0, 3), [])


def test_last_with_room_first() -> None:
    """Of several connections, the one that got room last is used, so that the others become idle."""
    pool = make()
    requests = [share(pool, A, 1, 1), share(pool, A, 2, 1), share(pool, A, 3, 1)]
    end(pool, requests[2], requests[0], requests[1])
    assert used(*ask(pool, 3)) == [2, 1, 3]


def test_released_twice() -> None:
    """Releasing a request twice changes nothing."""
    pool = make()
    first, second = share(pool, A, 1), pool.acquire(A, 0.0)
    for _ in range(2):
        end(pool, first)
    assert (counts(pool), used(second)) == ((1, 0, 0, 1), [1])


def test_giving_up() -> None:
    """Requests that give up waiting are passed over; the last of them leaves the queue of all."""
    pool = make(max_connections=1)
    first = share(pool, A, 1, 1)
    waiting, other = ask(pool, 3), pool.acquire(B, 0.0)
    end(pool, waiting[0], waiting[0], waiting[2])
    assert counts(pool) == (1, 0, 2, 1)
    end(pool, first)
    assert used(waiting[1], other) == [1, "waiting"]
    end(pool, waiting[1])
    assert used(other) == [None]
    assert [*pool.discarded] == [1]


# --- What the server changes


def test_fewer_requests_than_there_are() -> None:
    """The server may allow fewer requests than there are: these go on, and others wait until there is room."""
    pool = make(max_connections=1)
    requests = [share(pool, A, 1), *ask(pool, 3)]
    pool.set_max_requests(1, 2)
    waiting = ask(pool, 2)
    end(pool, requests[0], requests[1])
    assert used(*waiting) == ["waiting", "waiting"]
    end(pool, requests[2])
    assert used(*waiting) == [1, "waiting"]
    pool.set_max_requests(1, 3)
    assert used(*waiting) == [1, 1]


def test_no_requests_at_all() -> None:
    """The server may allow no request; another connection is opened, in its place if need be."""
    pool = make(max_connections=1)
    first = share(pool, A, 1)
    pool.set_max_requests(1, 0)
    waiting = ask(pool, 2)
    assert used(*waiting) == ["waiting", "waiting"]
    end(pool, first)
    assert (used(*waiting), [*pool.discarded]) == ([None, "waiting"], [1])
    pool.set_max_requests(1, 5)  # too late
    pool.retire(1, "a reason")
    assert counts(pool) == (1, 0, 1, 0)


def test_no_requests_while_idle() -> None:
    """A connection that becomes useless while it is idle stays, and is used when it can be."""
    pool = make()
    end(pool, share(pool, A, 1))
    pool.set_max_requests(1, 0)
    first = pool.acquire(A, 0.0)
    assert (used(first), counts(pool)) == ([None], (1, 1, 0, 0))
    second = pool.acquire(A, 0.0)
    pool.set_max_requests(1, 1)
    assert (used(second), counts(pool)) == ([1], (2, 0, 0, 1))


def test_retired_while_used() -> None:
    """A retired connection serves those that use it, takes no more, and is discarded at their end."""
    pool = make(max_connections=2)
    first, second = share(pool, A, 1), pool.acquire(A, 0.0)
    for _ in range(2):
        pool.retire(1, "a reason")
    third = pool.acquire(A, 0.0)
    pool.set_max_requests(1, 200)
    assert (used(first, second, third), counts(pool)) == ([1, 1, None], (2, 0, 0, 2))
    end(pool, first)
    assert [*pool.discarded] == []
    end(pool, second)
    assert ([*pool.discarded], counts(pool)) == ([1], (1, 0, 0, 0))


def test_retired_while_idle() -> None:
    """An idle connection that is retired is discarded at once."""
    pool = make()
    end(pool, share(pool, A, 1))
    pool.retire(1, "a reason")
    assert ([*pool.discarded], counts(pool), used(pool.acquire(A, 0.0))) == ([1], (0, 0, 0, 0), [None])


def test_why_shared_connections_are_discarded() -> None:
    """The first reason to retire a connection holds, whatever happens until its last request ends."""
    pool = make(max_connections=1)
    request = share(pool, A, 1)
    pool.acquire(C, 0.0)
    for reason in "first", "second":
        pool.retire(1, reason)
    end(pool, request)
    assert pool.discarded == {1: "first"}


def test_retired_by_a_request() -> None:
    """A request that breaks its connection retires it; the others find that out by themselves."""
    pool = make(max_connections=1)
    first, second = share(pool, A, 1), pool.acquire(A, 0.0)
    pool.release(first, 0.0, keep=False)
    waiting = pool.acquire(A, 0.0)
    assert (used(second, waiting), [*pool.discarded]) == ([1, "waiting"], [])
    pool.release(second, 0.0, keep=False)
    assert (used(waiting), [*pool.discarded]) == ([None], [1])


def test_moved_to_another_connection() -> None:
    """A request that finds its connection retired moves to another one, or opens one."""
    pool = make()
    first, second = share(pool, A, 1, 2), pool.acquire(A, 0.0)
    other = share(pool, A, 2, 2)
    pool.retire(1, "a reason")
    pool.replace_stale(first, 0.0)
    assert (used(first, second, other), counts(pool)) == ([2, 1, 2], (2, 0, 0, 3))
    assert pool.holds(first)
    pool.replace_stale(second, 0.0)
    assert (used(second), [*pool.discarded], counts(pool)) == ([None], [1], (2, 0, 0, 2))


def test_moved_to_the_front() -> None:
    """A request that has to wait again is the first to be served."""
    pool = make(max_connections=2)
    first, second, other = share(pool, A, 1, 2), pool.acquire(A, 0.0), share(pool, A, 2, 1)
    waiting = pool.acquire(A, 0.0)
    pool.retire(1, "a reason")
    pool.replace_stale(first, 0.0)
    assert used(first, second, waiting) == ["waiting", 1, "waiting"]
    end(pool, other)
    assert used(first, second, waiting) == [2, 1, "waiting"]
    pool.replace_stale(second, 0.0)
    assert (used(second, waiting), [*pool.discarded]) == ([None, "waiting"], [1])


def test_moved_when_there_are_fewer() -> None:
    """A request that comes too late for its stream waits for the next one; the connection goes on."""
    pool = make(max_connections=1)
    first, second = share(pool, A, 1, 2), pool.acquire(A, 0.0)
    pool.set_max_requests(1, 1)
    pool.replace_stale(second, 0.0)
    waiting = pool.acquire(A, 0.0)
    end(pool, first)
    assert used(second, waiting) == [1, "waiting"]
    end(pool, second)
    assert (used(waiting), [*pool.discarded]) == ([1], [])


@each_row(("max_connections", "others"), [(2, 0), (2, 1), (1, 0), (1, 1)])
def test_moved_to_a_connection_of_its_own(max_connections: int, others: int) -> None:
    """If HTTP/1.1 is required, a request leaves a shared connection, and opens one of its own."""
    protocols = Protocols(http1=True, http2=True)
    pool = Pool[int](max_connections=max_connections, max_idle=None, expiry=None, protocols=protocols)
    first, *sharing = share(pool, A, 1), *ask(pool, others)
    protocols.require_http1(A)
    pool.replace_stale(first, 0.0)
    assert used(first, *sharing) == ["waiting" if others and max_connections == 1 else None, *[1] * others]
    end(pool, *sharing)
    assert used(first) == [None]
    assert pool.acquire(A, 0.0).shared is None


# --- Idle connections


def test_expiry() -> None:
    """A shared connection that has been idle for the expiry is discarded, and not used again."""
    pool = make(expiry=5.0)
    end(pool, share(pool, A, 1))
    assert used(pool.acquire(A, 4.75)) == [1]
    pool = make(expiry=5.0)
    end(pool, share(pool, A, 1))
    assert (used(pool.acquire(A, 5.0)), [*pool.discarded]) == ([None], [1])


@each_row(("max_idle", "discarded"), [(0, [1, 2]), (1, [1]), (2, [])])
def test_max_idle(max_idle: int, discarded: list[int]) -> None:
    """At max_idle, the connection that has been idle longest is discarded; with 0, each is used until it is idle."""
    pool = make(max_idle=max_idle)
    first, second = share(pool, A, 1), share(pool, B, 2)
    third = pool.acquire(A, 0.0)
    assert used(third) == [1]
    end(pool, first, third, second)
    assert ([*pool.discarded], pool.idle) == (discarded, max_idle)


def test_longest_idle_makes_room() -> None:
    """At max_connections, the connection that has been idle longest is discarded for another origin."""
    pool = make(max_connections=2)
    end(pool, share(pool, A, 1), share(pool, B, 2))
    assert (used(pool.acquire(C, 0.0)), [*pool.discarded]) == ([None], [1])
    assert used(pool.acquire(B, 0.0), pool.acquire(A, 0.0)) == [2, "waiting"]


# --- Other origins


def test_first_come_first_served() -> None:
    """An origin waits for a place for another connection like a single request does, whatever waits for its streams."""
    pool = make(max_connections=2)
    first, plain = share(pool, A, 1, 1), pool.acquire(PLAIN, 0.0)
    waiting = [pool.acquire(where, 0.0) for where in (B, PLAIN, A, C, A)]
    assert counts(pool) == (2, 0, 5, 1)
    end(pool, plain)
    assert used(*waiting) == [None, *["waiting"] * 4]
    end(pool, waiting[0])
    assert used(*waiting[1:]) == [None, "waiting", "waiting", "waiting"]
    end(pool, first)
    assert used(*waiting[2:]) == [1, "waiting", "waiting"]
    end(pool, waiting[1])
    assert used(*waiting[3:]) == [None, "waiting"]


@each_row("backlog", [0, 3])
def test_no_origin_waits_forever(backlog: int) -> None:
    """A connection that is shared without a pause is retired when it has overtaken another origin often enough."""
    pool = make(max_connections=1)
    using = [share(pool, A, 1, 2), *ask(pool, 1 + backlog)]
    other, overtakings = pool.acquire(B, 0.0), 0
    while other.state is WAITING:
        assert overtakings <= 103
        using.append(pool.acquire(A, 0.0))
        end(pool, using.pop(0))
        overtakings += 1
    assert overtakings > 90
    assert (used(other), [*pool.discarded]) == ([None], [1])


def test_overtaking_is_counted_for_each_that_waits() -> None:
    """Overtaking counts while the same request waits."""
    pool = make(max_connections=1)
    using = [share(pool, A, 1, 2)]
    for _ in range(20):
        other = pool.acquire(B, 0.0)
        for _ in range(20):
            using.append(pool.acquire(A, 0.0))
            end(pool, using.pop(0))
        end(pool, other)
    assert (counts(pool), [*pool.discarded]) == ((1, 0, 0, 1), [])


# --- Closing


def test_closing() -> None:
    """Closing discards all connections and refuses all that wait; what is released later changes nothing."""
    pool = make(max_connections=4)
    requests = [share(pool, A, 1, 1), *ask(pool, 2)]
    retired = share(pool, B, 2)
    pool.retire(2, "a reason")
    end(pool, share(pool, C, 3))
    more = pool.acquire(B, 0.0)
    pool.close()
    assert sorted(pool.discarded) == [1, 2, 3]
    assert (counts(pool), used(requests[2])) == ((0, 0, 0, 0), ["refused"])
    assert not any(pool.holds(each) for each in (*requests, retired, more))
    end(pool, *requests, retired, more)
    pool.set_max_requests(1, 5)
    pool.retire(1, "a reason")
    assert (sorted(pool.discarded), counts(pool)) == ([1, 2, 3], (0, 0, 0, 0))
    assert used(*ask(pool, 2)) == [None, "waiting"]


# --- What an operation costs


def crowd(count: int, streams: int) -> tuple[Pool[int], list[PoolRequest[int]], list[PoolRequest[int]]]:
    """Make a pool with so many shared connections and waiting requests; return it, those that share, and the others."""
    pool = make(max_connections=count)
    sharing = [share(pool, origin(str(n)), n, streams) for n in range(count)]
    return pool, sharing, [pool.acquire(origin(str(n // 2)), 0.0) for n in range(count)]


def join(count: int) -> int:
    """Share a connection."""
    pool, _, _ = crowd(count, 5)
    return steps(lambda: pool.acquire(origin("7"), 0.0))


def start_waiting(count: int) -> int:
    """Start to wait."""
    pool, _, _ = crowd(count, 1)
    return steps(lambda: pool.acquire(origin("2"), 0.0))


def leave(count: int) -> int:
    """Leave a connection to the first that waits for it."""
    pool, sharing, _ = crowd(count, 1)
    return steps(lambda: pool.release(sharing[count // 4], 0.0, keep=True))


def become_idle(count: int) -> int:
    """Let a connection become idle."""
    pool = make()
    sharing = [share(pool, origin(str(n)), n) for n in range(count)]
    return steps(lambda: pool.release(sharing[count // 2], 0.0, keep=True))


def make_way(count: int) -> int:
    """Discard a connection for the first in the queue."""
    pool, sharing, _ = crowd(count, 1)
    return steps(lambda: pool.release(sharing[-1], 0.0, keep=True))


def give_up(count: int) -> int:
    """Give up waiting."""
    pool, _, waiting = crowd(count, 1)
    return steps(lambda: pool.release(waiting[count // 2], 0.0, keep=False))


def retire(count: int) -> int:
    """Retire a connection."""
    pool, _, _ = crowd(count, 1)

    def do() -> object:
        pool.retire(3, "a reason")
        return pool.in_use, pool.idle, pool.waiting

    return steps(do)


@each_row("what", [join, start_waiting, leave, become_idle, make_way, give_up, retire])
def test_constant_time(what: Callable[[int], int]) -> None:
    """Each operation costs the same with ten connections and waiting requests as with a thousand."""
    assert 0 < what(10) == what(1_000) < 200


def test_nothing_is_left() -> None:
    """When all requests have ended and all connections are gone, the pool knows nothing of their origins."""
    pool, sharing, waiting = crowd(20, 1)
    for _ in range(2):
        for request in (*sharing, *waiting):
            pool.release(request, 0.0, keep=False)
    assert counts(pool) == (0, 0, 0, 0)
    assert not pool._shared_origins  # pyright: ignore[reportPrivateUsage]


# --- Any order


class AnyOrder(RuleBasedStateMachine):
    """Requests that come, share connections, move, end and give up in any order, while servers change their minds.

    Attributes:
        requests: those that have not ended, in the order in which they wait or were granted.
        limits: how many requests each shared connection may take.
        retired: the connections that take no more.
        wanted: the order in which the requests to each origin should be granted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.requests: list[PoolRequest[int]] = []
        self.limits: dict[int, int] = {}
        self.owners: dict[int, Origin] = {}
        self.retired: set[int] = set()
        self.closed: list[int] = []
        self.wanted: defaultdict[Origin, list[PoolRequest[int]]] = defaultdict(list)
        self.opened: Iterator[int] = itertools.count()
        self.gone: set[PoolRequest[int]] = set()
        # Origins to which requests wait that need a connection of their own, perhaps along with others that do not.
        self.mixed = {PLAIN}

    @initialize(
        max_connections=st.sampled_from([1, 2, 3, 3, 4, None]),
        max_idle=st.sampled_from([0, 1, 2, None, None]),
        expiry=st.sampled_from([0.0, 1.0, None, None]),
    )
    def begin(self, max_connections: int | None, max_idle: int | None, expiry: float | None) -> None:
        """Make the pool."""
        self.max_connections = 1000 if max_connections is None else max_connections
        self.max_idle = 1000 if max_idle is None else max_idle
        self.protocols = Protocols(http1=True, http2=True)
        self.pool = Pool[int](
            max_connections=max_connections, max_idle=max_idle, expiry=expiry, protocols=self.protocols
        )

    def having(self, state: RequestState) -> list[PoolRequest[int]]:
        """Return the requests in a state that the pool still counts."""
        return [each for each in self.requests if each.state is state and each not in self.gone]

    def opening(self) -> list[PoolRequest[int]]:
        """Return the requests that are opening a connection."""
        return [each for each in self.having(GRANTED) if each.connection is None]

    def sharing(self) -> list[PoolRequest[int]]:
        """Return the requests that share a connection."""
        return [each for each in self.having(GRANTED) if each.connection in self.limits]

    def enter(self, request: PoolRequest[int]) -> None:
        """Expect a request to be granted in its turn."""
        if request.state is not WAITING:
            self.check_grant(request)
            return
        request.on_resolved = lambda: self.resolved(request)

    def resolved(self, request: PoolRequest[int]) -> None:
        """Check that it is a request's turn."""
        if request.state is GRANTED:
            if request.origin not in self.mixed:
                assert self.wanted[request.origin][0] is request
            self.check_grant(request)
        self.wanted[request.origin].remove(request)

    def check_grant(self, request: PoolRequest[int]) -> None:
        """Check that a shared connection takes a request only while it may."""
        if request.connection in self.limits:
            using = [each for each in self.sharing() if each.connection == request.connection and each is not request]
            assert len(using) < self.limits[request.connection]
            assert request.connection not in self.retired
            assert self.owners[request.connection] == request.origin

    @rule(by=st.sampled_from([0.25, 1.0]))
    def wait(self, by: float) -> None:
        """Let time pass."""
        self.now += by

    @rule(where=st.sampled_from([A, A, A, B, C, PLAIN]))
    def acquire(self, where: Origin) -> None:
        """Make a request."""
        request = self.pool.acquire(where, self.now)
        self.requests.append(request)
        if request.state is WAITING:
            self.wanted[where].append(request)
        self.enter(request)

    @precondition(lambda self: self.opening())
    @rule(position=st.integers(0, 9), streams=st.sampled_from([None, 1, 2, 3]))
    def open(self, position: int, streams: int | None) -> None:
        """Open a connection, which may be shared or not."""
        opening = self.opening()
        request = opening[position % len(opening)]
        request.connection = connection = next(self.opened)
        self.owners[connection] = request.origin
        if streams is None or request.origin == PLAIN:
            self.mixed.add(request.origin)
            self.pool.keep_apart(request)
        else:
            self.limits[connection] = streams
            self.pool.share(request, streams)

    @precondition(lambda self: self.opening())
    @rule(position=st.integers(0, 9))
    def fail_to_open(self, position: int) -> None:
        """Fail to open a connection."""
        opening = self.opening()
        request = opening[position % len(opening)]
        self.pool.opening_failed(request)
        self.end(request, keep=False)

    def end(self, request: PoolRequest[int], *, keep: bool) -> None:
        """End a request."""
        if request.connection is not None and not keep and request.shared is not None and request not in self.gone:
            self.retired.add(request.connection)
        self.requests.remove(request)
        if request in self.wanted[request.origin]:
            self.wanted[request.origin].remove(request)
        self.pool.release(request, self.now, keep=keep)

    @precondition(lambda self: self.requests)
    @rule(position=st.integers(0, 9), keep=st.sampled_from([True, True, True, False]))
    def release(self, position: int, keep: bool) -> None:
        """End a request, whatever its state."""
        self.end(self.requests[position % len(self.requests)], keep=keep)

    @precondition(lambda self: self.limits)
    @rule(position=st.integers(0, 9), streams=st.integers(0, 3))
    def change_limit(self, position: int, streams: int) -> None:
        """Change how many requests a connection may take."""
        connection = list(self.limits)[position % len(self.limits)]
        self.limits[connection] = streams
        self.pool.set_max_requests(connection, streams)

    @precondition(lambda self: self.limits)
    @rule(position=st.integers(0, 9))
    def retire(self, position: int) -> None:
        """Retire a connection."""
        connection = list(self.limits)[position % len(self.limits)]
        self.retired.add(connection)
        self.pool.retire(connection, "a reason")

    @precondition(lambda self: self.sharing())
    @rule(position=st.integers(0, 9))
    def move(self, position: int) -> None:
        """Find that a connection takes no more requests."""
        sharing = self.sharing()
        request = sharing[position % len(sharing)]
        assert request.connection is not None
        self.retired.add(request.connection)
        self.pool.retire(request.connection, "a reason")
        self.wanted[request.origin].insert(0, request)
        request.on_resolved = lambda: self.resolved(request)
        self.pool.replace_stale(request, self.now)

    @precondition(lambda self: not self.protocols.may_be_http2(A))
    @rule()
    def forget(self) -> None:
        """Forget that an origin has chosen HTTP/1.1."""
        self.protocols.remember(A, is_http2=True)

    @rule()
    def close_discarded(self) -> None:
        """Close the discarded connections."""
        self.closed += [*self.pool.discarded]
        self.pool.discarded.clear()

    @invariant()
    def breaks_no_rule(self) -> None:
        """Check the limits, that each connection is in one place, and that no request waits without a reason."""
        in_use, idle, waiting, sharing = counts(self.pool)
        assert in_use + idle <= self.max_connections
        assert idle <= self.max_idle
        assert waiting == len(self.having(WAITING))
        assert sharing == len(self.sharing())
        using = {each.connection for each in self.having(GRANTED) if each.connection is not None}
        assert in_use == len(using) + len(self.opening())
        away = [*self.closed, *self.pool.discarded]
        assert len(away) == len(set(away))
        assert not using & set(away)
        assert len(using) + idle + len(away) == len(self.owners)
        for each in self.requests:
            assert self.pool.holds(each) is (each.state is GRANTED and each not in self.gone)
        for where in {each.origin for each in self.having(WAITING)}:
            if not self.pool.is_opening(where):
                assert in_use == self.max_connections
                assert not idle
            if where not in self.mixed:
                self.check_no_room(where, set(away))

    def check_no_room(self, where: Origin, away: set[int]) -> None:
        """Check that no shared connection to an origin could take another request."""
        for connection, limit in self.limits.items():
            if self.owners[connection] == where and connection not in self.retired | away:
                assert sum(each.connection == connection for each in self.sharing()) >= limit

    def teardown(self) -> None:
        """Check that all waiting requests are served in the end, and that nothing is left."""
        while self.having(WAITING):
            self.end(self.having(GRANTED)[0], keep=True)
        while self.requests:
            self.end(self.requests[0], keep=False)
        assert counts(self.pool)[2:] == (0, 0)
        self.pool.close()
        assert counts(self.pool) == (0, 0, 0, 0)
        assert sorted([*self.closed, *self.pool.discarded]) == list(range(next(self.opened)))
        assert not self.pool._shared_origins  # pyright: ignore[reportPrivateUsage]


class AnyOrderWithClosing(AnyOrder):
    """The same, with a pool that may be closed at any time."""

    @rule()
    def close_pool(self) -> None:
        """Close the pool."""
        self.gone |= set(self.having(GRANTED))
        self.pool.close()
        self.gone |= {each for each in self.requests if each.state is REFUSED}


@pytest.mark.parametrize("machine", [AnyOrder, AnyOrderWithClosing])
def test_any_order(machine: type[RuleBasedStateMachine]) -> None:
    """In whatever order requests come and go, limits hold, none waits without a reason, and no connection is lost."""
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=30))
