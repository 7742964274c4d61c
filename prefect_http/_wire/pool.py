"""Which request gets which connection. Pure: it decides at once, and whoever asks does the I/O.

Each step costs the same, however many connections and requests there are:

- The idle connections of an origin are a stack: the one used last is the least likely to have been closed.
- All idle ones also stand in one queue, the longest idle first: they expire in this order, and the first of them makes
  room when another origin needs it.
- Requests wait in one queue, first come, first served. While there is one, no connection is idle: what becomes free
  goes to the first at once. If that one wants another origin, the connection is closed and its place goes over.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)
Origin = tuple[bytes, bytes, int, str]
"""Scheme, host, port, and the name that TLS asks for."""


@dataclass(slots=True, eq=False)
class Place(Generic[C]):
    """What a request holds in the pool: a place for a connection, or one in the queue for it.

    Attributes:
        origin: where its connection leads.
        is_granted: the place is there, and the request may go on.
        connection: the connection in it; None: open one.
        on_grant: called when a place that was waited for is granted, or is refused.
        is_refused: the pool was emptied while the request waited.
    """

    origin: Origin
    is_granted: bool = False
    connection: C | None = None
    on_grant: Callable[[], object] | None = None
    is_refused: bool = False


class Pool(Generic[C]):
    """Hands out places for connections, and keeps the idle ones.

    Args:
        max_connections: how many there may be, idle or not; None: any number.
        max_idle: how many of them may be idle; None: any number.
        expiry: after how many seconds an idle one is not used any more; None: never.

    Attributes:
        discarded: connections that are in the pool no more. Whoever calls a method closes them afterwards.
    """

    def __init__(self, *, max_connections: int | None, max_idle: int | None, expiry: float | None) -> None:
        self._max_connections = math.inf if max_connections is None else max_connections
        self._max_idle = math.inf if max_idle is None else max_idle
        self._expiry = math.inf if expiry is None else expiry
        self._held: dict[Place[C], None] = {}
        self._idle: OrderedDict[C, tuple[Origin, float]] = OrderedDict()  # with when it expires; the oldest first
        self._stacks: dict[Origin, deque[C]] = {}  # the newest last
        self._queue: OrderedDict[Place[C], None] = OrderedDict()
        self.discarded: list[C] = []

    @property
    def held(self) -> int:
        """How many places are held by requests."""
        return len(self._held)

    @property
    def idle(self) -> int:
        """How many connections are idle."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._queue)

    def holds(self, place: Place[C]) -> bool:
        """Say whether a granted place is still the request's; it is not, once the pool has been emptied."""
        return place in self._held

    def enter(self, origin: Origin, now: float) -> Place[C]:
        """Ask for a place: it may be granted at once, with an idle connection or without one, or else it waits."""
        place: Place[C] = Place(origin)  # Place[C](...) would take 1 us longer
        if self._idle:
            self._expire(now)
            place.connection = self._pop_idle(origin)
        if place.connection is None and len(self._held) + len(self._idle) >= self._max_connections:
            if not self._idle:
                self._queue[place] = None
                return place
            self._discard_oldest()
        self._grant(place)
        return place

    def replace(self, place: Place[C], now: float) -> None:
        """Give another connection in place of one that is no good; none, if no other is idle."""
        assert place.connection is not None
        self.discarded.append(place.connection)
        self._expire(now)
        place.connection = self._pop_idle(place.origin)

    def leave(self, place: Place[C], now: float, *, keep: bool) -> None:
        """Give a place back, granted or not.

        Args:
            place: what ``enter()`` gave.
            now: the time.
            keep: its connection can serve another request. If it cannot, it is discarded.
        """
        if not place.is_granted:
            self._queue.pop(place, None)
            return
        connection, place.connection = place.connection, None
        is_held = self.holds(place)
        if connection is not None and not (keep and is_held):
            self.discarded.append(connection)
            connection = None
        if not is_held:
            return
        del self._held[place]
        if self._queue:
            first, _ = self._queue.popitem(last=False)
            if connection is not None and first.origin != place.origin:
                self.discarded.append(connection)
                connection = None
            first.connection = connection
            self._grant(first)
        elif connection is not None:
            self._idle[connection] = place.origin, now + self._expiry
            self._stacks.setdefault(place.origin, deque()).append(connection)
            if len(self._idle) > self._max_idle:
                self._discard_oldest()

    def empty(self) -> None:
        """Discard all connections, those in use as well, and refuse all who wait."""
        while self._idle:
            self._discard_oldest()
        for place in self._held:
            if place.connection is not None:
                self.discarded.append(place.connection)
                place.connection = None
        self._held.clear()
        while self._queue:
            place, _ = self._queue.popitem(last=False)
            place.is_refused = True
            if place.on_grant is not None:
                place.on_grant()

    def _grant(self, place: Place[C]) -> None:
        self._held[place] = None
        place.is_granted = True
        if place.on_grant is not None:
            place.on_grant()

    def _pop_idle(self, origin: Origin) -> C | None:
        stack = self._stacks.get(origin)
        if stack is None:
            return None
        connection = stack.pop()
        if not stack:
            del self._stacks[origin]  # there may be any number of origins
        del self._idle[connection]
        return connection

    def _expire(self, now: float) -> None:
        while self._idle:
            connection = next(iter(self._idle))
            if now < self._idle[connection][1]:
                return
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        connection, (origin, _) = self._idle.popitem(last=False)
        stack = self._stacks[origin]
        stack.popleft()  # the oldest of all is the oldest of its origin
        if not stack:
            del self._stacks[origin]
        self.discarded.append(connection)
