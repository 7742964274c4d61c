"""Pool: which request gets which connection. Pure: it decides at once, and the caller does the I/O.

Every operation takes constant time, however many connections and requests there are:

- The idle connections of each origin form a stack: the one used last is the least likely to have been closed.
- Doubtful ones form a stack of their own. Some servers close a connection after a 5xx without saying so, and a request
  that is sent meanwhile is lost. So only requests that may be sent again use them, and use them first.
- All idle connections also stand in one queue, longest idle first. They expire in this order, and the first of them is
  closed when another origin needs room.
- Requests wait in one queue, first come, first served. While one waits, no connection is idle: a connection that is
  released goes to the first request in the queue. If that request has another origin, the connection is closed and the
  request opens a new one in its place.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from prefect_http._wire.origin import Origin

C = TypeVar("C", bound=Hashable)


class RequestState(enum.Enum):
    """Whether a request may use a connection."""

    WAITING = enum.auto()
    """In the queue: ``max_connections`` are in use."""
    GRANTED = enum.auto()
    """It may use a connection, or open one."""
    REFUSED = enum.auto()
    """The pool was closed while the request waited."""


# Every request looks at its state, and Python 3.11 takes 0.2 us to look up a member of an enum.
_WAITING, _GRANTED, _REFUSED = RequestState


@dataclass(slots=True, eq=False)
class PoolRequest(Generic[C]):
    """A request for a connection, from ``Pool.acquire()`` to ``Pool.release()``.

    Attributes:
        origin: where the connection leads.
        state: whether the request may use a connection yet.
        is_repeatable: whether the request may be sent again, so that it can use a doubtful connection.
        connection: the connection that it uses; None if it has to open one.
        is_doubtful: whether the server may be about to close the connection. To be set before ``Pool.release()``.
        on_resolved: called when a request that waited is granted or refused.
    """

    origin: Origin
    is_repeatable: bool = True
    state: RequestState = _WAITING
    connection: C | None = None
    is_doubtful: bool = False
    on_resolved: Callable[[], object] | None = None


class Pool(Generic[C]):
    """Limits the number of connections, and keeps the idle ones.

    Args:
        max_connections: the largest number of connections, in use or idle; None: no limit.
        max_idle: the largest number of idle connections; None: no limit; 0: no connection is used twice.
        expiry: the number of seconds after which an idle connection is no longer used; None: never.

    Attributes:
        max_connections: as given, or infinity.
        discarded: connections that are no longer in the pool. The caller of any method closes them afterwards.
    """

    def __init__(self, *, max_connections: int | None, max_idle: int | None, expiry: float | None) -> None:
        self.max_connections = math.inf if max_connections is None else max_connections
        self._max_idle = math.inf if max_idle is None else max_idle
        self._expiry = math.inf if expiry is None else expiry
        self._granted: dict[PoolRequest[C], None] = {}
        # The idle connections, oldest first, with the time of expiry and the stacks that hold them.
        self._idle: OrderedDict[C, tuple[Origin, float, dict[Origin, deque[C]]]] = OrderedDict()
        self._stacks: dict[Origin, deque[C]] = {}  # newest last
        self._doubtful: dict[Origin, deque[C]] = {}
        self._queue: OrderedDict[PoolRequest[C], None] = OrderedDict()
        self.discarded: list[C] = []

    @property
    def in_use(self) -> int:
        """The number of requests that use a connection, or are opening one."""
        return len(self._granted)

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a connection."""
        return len(self._queue)

    def holds(self, request: PoolRequest[C]) -> bool:
        """Return whether a request still counts as using a connection; closing the pool ends that."""
        return request in self._granted

    def acquire(self, origin: Origin, now: float, is_repeatable: bool = True) -> PoolRequest[C]:
        """Ask for a connection.

        Args:
            origin: where it leads.
            now: the current time, in seconds.
            is_repeatable: whether the request may be sent again.

        Returns:
            The request: granted, with an idle connection or without one, or else waiting.
        """
        request: PoolRequest[C] = PoolRequest(origin, is_repeatable)  # PoolRequest[C](...) would take 1 us longer
        if self._idle:
            self._discard_expired(now)
            self._take_idle(request)
            if request.connection is not None:
                request.state = _GRANTED
                self._granted[request] = None
                return request
        if len(self._granted) + len(self._idle) >= self.max_connections:
            if not self._idle:
                self._queue[request] = None
                return request
            self._discard_oldest()
        self._grant(request)
        return request

    def replace_stale(self, request: PoolRequest[C], now: float) -> None:
        """Discard a request's connection, and let it use another idle one, if there is any."""
        assert request.connection is not None
        self.discarded.append(request.connection)
        self._discard_expired(now)
        self._take_idle(request)

    def release(self, request: PoolRequest[C], now: float, *, keep: bool) -> None:
        """End a request, whatever its state, and grant the next one in the queue.

        Args:
            request: what ``acquire()`` returned.
            now: the current time, in seconds.
            keep: whether the connection can serve another request. If not, it is discarded.
        """
        if request.state is not _GRANTED:
            self._queue.pop(request, None)
            return
        connection, request.connection = request.connection, None
        is_held = self.holds(request)
        if connection is not None and not (keep and is_held and self._max_idle):
            self.discarded.append(connection)
            connection = None
        if not is_held:
            return
        del self._granted[request]
        if self._queue:
            self._hand_on(connection, request)
        elif connection is not None:
            self._add_idle(connection, request, now)

    def close(self, *, silently: bool = False) -> None:
        """Discard all connections, those in use included, and refuse all requests that wait.

        Args:
            silently: whether not to tell those requests, whose event loop has ended.
        """
        while self._idle:
            self._discard_oldest()
        for request in self._granted:
            if request.connection is not None:
                self.discarded.append(request.connection)
                request.connection = None
        self._granted.clear()
        while self._queue:
            request, _ = self._queue.popitem(last=False)
            if silently:
                request.on_resolved = None
            self._resolve(request, _REFUSED)

    def _hand_on(self, connection: C | None, released: PoolRequest[C]) -> None:
        """Grant the first request in the queue, with the connection of the one that is released if it may use it."""
        request, _ = self._queue.popitem(last=False)
        if connection is not None:
            if request.origin == released.origin and (request.is_repeatable or not released.is_doubtful):
                request.connection, request.is_doubtful = connection, released.is_doubtful
            else:
                self.discarded.append(connection)
        self._grant(request)

    def _add_idle(self, connection: C, released: PoolRequest[C], now: float) -> None:
        origin, stacks = released.origin, self._doubtful if released.is_doubtful else self._stacks
        self._idle[connection] = origin, now + self._expiry, stacks
        stack = stacks.get(origin)
        if stack is None:
            stacks[origin] = deque([connection])
        else:
            stack.append(connection)
        if len(self._idle) > self._max_idle:
            self._discard_oldest()

    def _grant(self, request: PoolRequest[C]) -> None:
        self._granted[request] = None
        self._resolve(request, _GRANTED)

    def _resolve(self, request: PoolRequest[C], state: RequestState) -> None:
        request.state = state
        if request.on_resolved is not None:
            request.on_resolved()

    def _take_idle(self, request: PoolRequest[C]) -> None:
        """Assign the best idle connection to a request; None if there is none."""
        connection, request.is_doubtful = None, False
        if self._doubtful and request.is_repeatable:
            connection = self._pop_idle(self._doubtful, request.origin)
            request.is_doubtful = connection is not None
        request.connection = self._pop_idle(self._stacks, request.origin) if connection is None else connection

    def _pop_idle(self, stacks: dict[Origin, deque[C]], origin: Origin) -> C | None:
        stack = stacks.get(origin)
        if stack is None:
            return None
        connection = stack.pop()
        if not stack:
            del stacks[origin]  # there may be any number of origins
        del self._idle[connection]
        return connection

    def _discard_expired(self, now: float) -> None:
        while self._idle:
            connection = next(iter(self._idle))
            if now < self._idle[connection][1]:
                return
            self._discard_oldest()

    def _discard_oldest(self) -> None:
        connection, (origin, _, stacks) = self._idle.popitem(last=False)
        stack = stacks[origin]
        stack.popleft()  # the oldest of all is the oldest of its stack
        if not stack:
            del stacks[origin]
        self.discarded.append(connection)
