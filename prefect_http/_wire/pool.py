"""Pool: which request gets which connection. Pure: it decides at once, and the caller does the I/O.

Every operation takes constant time, however many connections and requests there are:

- The idle connections of each origin form a stack: the one used last is the least likely to have been closed.
- Doubtful ones form a stack of their own. Some servers close a connection after a 5xx, or a 413, without saying so, and
  a request that is sent meanwhile is lost. So only requests that may be sent again use them, and use them first.
- All idle connections also stand in one queue, longest idle first. They expire in this order, but for those that were
  given back unused. The first in the queue is closed when another origin needs room.
- Requests wait in one queue, first come, first served. While one waits, no connection is idle: a connection that is
  released goes to the first request in the queue. If that request has another origin, the connection is closed and the
  request opens a new one in its place.

If connections may be HTTP/2, several requests can share one:

- Whether they can is known when a connection is open. Until then, all other requests to its origin wait for it. If it
  cannot be shared, each of them needs a connection of its own. The verdict is remembered (`Protocols`).
- A shared connection takes as many requests as the server allows, which may change at any time. Of several connections
  to an origin, the one that got room last is used, so that the others become idle.
- Requests that find no room wait in a queue of their origin. That queue has one place in the queue of all: when its
  turn comes, its first request opens another connection.
- A request for another origin waits until one connection is no longer used at all. So that it does not wait forever, a
  shared connection takes a limited number of requests meanwhile, and is then retired.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Generic

from prefect_http._wire.close_reasons import (
    CLOSED_BY_SERVER,
    EXPIRED,
    LOOP_ENDED,
    MAKES_ROOM,
    TOO_MANY_IDLE,
    TRANSPORT_CLOSED,
)
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool_request import (
    GRANTED,
    REFUSED,
    WAITING,
    C,
    PoolRequest,
    SharedConnection,
    SharedOrigin,
)
from prefect_http._wire.protocols import Protocols

# How many requests a shared connection may take while one for another origin waits.
_MAX_OVERTAKINGS = 100


class Pool(Generic[C]):
    """Limits the number of connections, and keeps the idle ones.

    Args:
        max_connections: the largest number of connections, in use or idle; None: no limit.
        max_idle: the largest number of idle connections; None: no limit; 0: no connection is used twice.
        expiry: the number of seconds after which an idle connection is no longer used; None: never.
        protocols: whether connections may be HTTP/2; None: none is.

    Attributes:
        max_connections: as given, or infinity.
        discarded: connections that are no longer in the pool, and why. The caller of any method closes them afterwards.
    """

    def __init__(
        self,
        *,
        max_connections: int | None,
        max_idle: int | None,
        expiry: float | None,
        protocols: Protocols | None = None,
    ) -> None:
        self.max_connections = math.inf if max_connections is None else max_connections
        self._max_idle = math.inf if max_idle is None else max_idle
        self._expiry = math.inf if expiry is None else expiry
        self._protocols = protocols if protocols is not None and protocols.http2 else None
        self._granted: dict[PoolRequest[C], None] = {}  # but for those that share a connection
        # The idle connections, longest idle first; when they expire, and the stacks that hold them, or the sharing.
        self._idle: OrderedDict[C, tuple[Origin, float, dict[Origin, deque[C]] | SharedConnection[C]]] = OrderedDict()
        self._stacks: dict[Origin, deque[C]] = {}  # newest last
        self._doubtful: dict[Origin, deque[C]] = {}
        self._queue: OrderedDict[PoolRequest[C] | SharedOrigin[C], None] = OrderedDict()
        self._shared: dict[C, SharedConnection[C]] = {}
        self._shared_origins: dict[Origin, SharedOrigin[C]] = {}
        self._shared_idle = 0
        self._queued_origins = 0
        self._waiting = 0  # in the queues of origins
        self.discarded: dict[C, str] = {}

    @property
    def in_use(self) -> int:
        """The number of connections that are used by requests, or being opened."""
        return len(self._granted) + len(self._shared) - self._shared_idle

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a connection."""
        return len(self._queue) - self._queued_origins + self._waiting

    @property
    def sharing(self) -> int:
        """The number of requests that share a connection with others, or could."""
        return sum(len(each.requests) for each in self._shared.values())

    def holds(self, request: PoolRequest[C]) -> bool:
        """Return whether a request still counts as using a connection; closing the pool ends that."""
        return request in self._granted or (request.shared is not None and request in request.shared.requests)

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
        if self._protocols is not None and self._share(request, self._protocols, now):
            return request
        if self._idle:
            self._discard_expired(now)
            self._take_idle(request, now)
            if request.connection is not None:
                request.state = GRANTED
                self._granted[request] = None
                return request
        if self._has_place():
            self._grant(request)
        else:
            self._queue[request] = None
        return request

    def replace_stale(self, request: PoolRequest[C], now: float) -> None:
        """Discard a request's connection, and let it use another idle one, if there is any.

        A shared connection is not discarded. The request leaves it, and may have to wait again, before all others to
        its origin. What makes the connection useless is to be said first, with `set_max_requests()` or `retire()`.
        """
        assert request.connection is not None
        if request.shared is not None:
            self._move(request, request.shared, now)
            return
        self._discard(request.connection, CLOSED_BY_SERVER)
        self._discard_expired(now)
        self._take_idle(request, now)

    def release(
        self, request: PoolRequest[C], now: float, *, keep: bool, reason: str = "", is_unused: bool = False
    ) -> None:
        """End a request, whatever its state, and grant the next one in the queue.

        Args:
            request: what ``acquire()`` returned.
            now: the current time, in seconds.
            keep: whether the connection can serve another request. If not, it is discarded; if others share it, when
                all of them have ended.
            reason: why not.
            is_unused: whether nothing has been sent on it, so that it expires when it would have done, unless it is
                shared: with HTTP/2, a server can tell that it closes a connection, and no request is lost.
        """
        if request.state is not GRANTED:
            self._give_up(request)
            return
        if request.shared is not None:
            self._leave(request, request.shared, now, keep=keep, reason=reason)
            return
        connection, request.connection = request.connection, None
        is_held = self.holds(request)
        if connection is not None and not (keep and is_held and self._max_idle):
            if keep:
                reason = TOO_MANY_IDLE if is_held else TRANSPORT_CLOSED
            self._discard(connection, reason)
            connection = None
        if not is_held:
            return
        del self._granted[request]
        if self._protocols is not None:
            self._end_opening(request)
        expires = now + self._expiry
        if is_unused:
            expires = min(expires, request.expires)
            if connection is not None and request.expires <= now:
                self._discard(connection, EXPIRED)
                connection = None
        if self._queue:
            self._hand_on(connection, request, expires)
        elif connection is not None:
            self._add_idle(connection, request, expires)

    def close(self, *, silently: bool = False) -> None:
        """Discard all connections, those in use included, and refuse all requests that wait.

        Args:
            silently: whether not to tell those requests, whose event loop has ended.
        """
        reason = LOOP_ENDED if silently else TRANSPORT_CLOSED
        while self._idle:
            self._discard_oldest(reason)
        for request in self._granted:
            if request.connection is not None:
                self._discard(request.connection, reason)
                request.connection = None
        self._granted.clear()
        for shared in self._shared.values():
            self._discard(shared.connection, reason)
            for request in shared.requests:
                request.connection = None
            shared.requests.clear()
        self._shared.clear()
        waiting: list[PoolRequest[C]] = [each for each in self._queue if isinstance(each, PoolRequest)]
        waiting += [each for origin in self._shared_origins.values() for each in origin.waiting]
        self._queue.clear()
        self._shared_origins.clear()
        self._queued_origins = self._waiting = 0
        for request in waiting:
            if silently:
                request.on_resolved = None
            request.resolve(REFUSED)

    # What the caller finds out about connections that may be shared.

    def share(self, request: PoolRequest[C], max_requests: int) -> None:
        """Let others share the connection that a request has opened.

        Args:
            request: the request, which has its connection.
            max_requests: how many requests may use it at once.
        """
        connection, protocols = request.connection, self._protocols
        assert connection is not None
        assert protocols is not None
        protocols.remember(request.origin, is_http2=True)
        del self._granted[request]
        origin = self._shared_origins.get(request.origin) or self._add_origin(request.origin)
        self._shared[connection] = request.shared = SharedConnection(connection, origin, max_requests)
        request.shared.requests[request] = None
        origin.connections += 1
        if origin.opener is request:
            origin.opener = None
        self._update(request.shared)

    def keep_apart(self, request: PoolRequest[C]) -> None:
        """Take note that the connection which a request has opened cannot be shared."""
        if self._protocols is None:
            return
        self._protocols.remember(request.origin, is_http2=False)
        origin = self._shared_origins.get(request.origin)
        if origin is None:
            return
        if origin.opener is request:
            origin.opener = None
        self._leave_queue(origin)
        while origin.waiting:
            waiting = self._pop_waiting(origin)
            if not self._queue and self._has_place():
                self._grant(waiting)
            else:
                self._queue[waiting] = None
        self._forget_if_unused(origin)

    def opening_failed(self, request: PoolRequest[C]) -> None:
        """Let the requests that wait for the connection which a request has tried to open try it themselves.

        As many at once as there are places, since it may take long to fail.
        """
        origin = self._shared_origins.get(request.origin)
        if origin is None or origin.opener is not request:
            return
        origin.opener = None
        while origin.waiting and not self._queue and self._has_place():
            self._grant(self._pop_waiting(origin))
        self._serve(origin)

    def set_max_requests(self, connection: C, max_requests: int) -> None:
        """Change how many requests may use a shared connection; those that use it already go on."""
        shared = self._shared.get(connection)
        if shared is not None and shared.max_requests != max_requests:
            shared.max_requests = max_requests
            self._update(shared)

    def retire(self, connection: C, reason: str) -> None:
        """Accept no more requests on a shared connection, and discard it when the last of them has ended."""
        shared = self._shared.get(connection)
        if shared is not None and not shared.is_retired:
            self._retire(shared, reason)

    def is_opening(self, origin: Origin) -> bool:
        """Return whether requests to an origin wait until another one has opened a connection."""
        found = self._shared_origins.get(origin)
        return found is not None and found.opener is not None

    # Connections of one request.

    def _has_place(self) -> bool:
        """Return whether there is a place for another connection, after an idle one has been discarded for it."""
        if len(self._granted) + len(self._shared) - self._shared_idle + len(self._idle) < self.max_connections:
            return True
        if not self._idle:
            return False
        self._discard_oldest(MAKES_ROOM)
        return True

    def _hand_on(self, connection: C | None, released: PoolRequest[C], expires: float) -> None:
        """Grant the first request in the queue, with the connection of the one that is released if it may use it."""
        request = self._pop_first()
        if connection is not None:
            if request.origin == released.origin and (request.is_repeatable or not released.is_doubtful):
                request.connection, request.is_doubtful = connection, released.is_doubtful
                request.expires = expires
            else:
                self._discard(connection, MAKES_ROOM)
        self._grant(request)
        if request.connection is not None and self._protocols is not None:
            self._end_opening(request)

    def _add_idle(self, connection: C, released: PoolRequest[C], expires: float) -> None:
        origin, stacks = released.origin, self._doubtful if released.is_doubtful else self._stacks
        self._idle[connection] = origin, expires, stacks
        stack = stacks.get(origin)
        if stack is None:
            stacks[origin] = deque([connection])
        else:
            stack.append(connection)
        if len(self._idle) > self._max_idle:
            self._discard_oldest(TOO_MANY_IDLE)

    def _grant(self, request: PoolRequest[C]) -> None:
        self._granted[request] = None
        request.resolve(GRANTED)

    def _take_idle(self, request: PoolRequest[C], now: float) -> None:
        """Assign the best idle connection to a request; None if there is none."""
        origin = request.origin
        while True:
            request.is_doubtful = request.is_repeatable and origin in self._doubtful
            stacks = self._doubtful if request.is_doubtful else self._stacks
            stack = stacks.get(origin)
            if stack is None:
                request.forget_connection()
                return
            connection = stack.pop()
            if not stack:
                del stacks[origin]  # there may be any number of origins
            _, request.expires, _ = self._idle.pop(connection)
            if now < request.expires:
                request.connection = connection
                return
            self._discard(connection, EXPIRED)  # it was given back unused, after others that expire later

    def _discard_expired(self, now: float) -> None:
        while self._idle:
            connection = next(iter(self._idle))
            if now < self._idle[connection][1]:
                return
            self._discard_oldest(EXPIRED)

    def _discard_oldest(self, reason: str) -> None:
        connection, (origin, _, held) = self._idle.popitem(last=False)
        if isinstance(held, SharedConnection):
            self._shared_idle -= 1
            self._remove(held, reason)
            return
        stack = held[origin]
        stack.popleft()  # the oldest of all is the oldest of its stack
        if not stack:
            del held[origin]
        self._discard(connection, reason)

    def _discard(self, connection: C, reason: str) -> None:
        assert connection not in self.discarded
        self.discarded[connection] = reason

    # Connections of several requests.

    def _share(self, request: PoolRequest[C], protocols: Protocols, now: float) -> bool:
        """Deal with a request whose connection may be shared; False: it cannot be, or there is one that is not."""
        if not protocols.may_be_http2(request.origin):
            return False
        if self._idle:
            self._discard_expired(now)
        origin = self._shared_origins.get(request.origin)
        if origin is not None and origin.with_room:  # then no other request waits
            self._assign(request, next(reversed(origin.with_room)))
        elif request.origin in self._stacks or request.origin in self._doubtful:
            return False
        else:
            self._wait(request, origin or self._add_origin(request.origin))
        return True

    def _add_origin(self, origin: Origin) -> SharedOrigin[C]:
        added = self._shared_origins[origin] = SharedOrigin[C](origin)
        return added

    def _wait(self, request: PoolRequest[C], origin: SharedOrigin[C]) -> None:
        """Let a request wait for a connection to an origin, if it has to."""
        origin.waiting[request] = None
        self._waiting += 1
        self._serve(origin)

    def _serve(self, origin: SharedOrigin[C]) -> None:
        """Grant the requests to an origin what there is, and let the first of the others open another connection."""
        while origin.waiting and origin.with_room:
            self._assign(self._pop_waiting(origin), next(reversed(origin.with_room)))
        if not origin.waiting:
            self._leave_queue(origin)
        elif origin.opener is None and origin not in self._queue:
            if not self._queue and self._has_place():
                origin.opener = self._pop_waiting(origin)
                self._grant(origin.opener)
            else:
                self._queue[origin] = None
                self._queued_origins += 1
        self._forget_if_unused(origin)

    def _pop_waiting(self, origin: SharedOrigin[C]) -> PoolRequest[C]:
        self._waiting -= 1
        return origin.waiting.popitem(last=False)[0]

    def _leave_queue(self, origin: SharedOrigin[C]) -> None:
        if origin in self._queue:
            del self._queue[origin]
            self._queued_origins -= 1

    def _forget_if_unused(self, origin: SharedOrigin[C]) -> None:
        if not origin.connections and not origin.waiting and origin.opener is None:
            self._shared_origins.pop(origin.origin, None)

    def _pop_first(self) -> PoolRequest[C]:
        """Take the first request out of the queue. If its connection may be shared, the others wait for it."""
        first, _ = self._queue.popitem(last=False)
        if isinstance(first, PoolRequest):
            return first
        self._queued_origins -= 1
        first.opener = self._pop_waiting(first)
        return first.opener

    def _assign(self, request: PoolRequest[C], shared: SharedConnection[C]) -> None:
        """Let a request use a shared connection that has room."""
        if not shared.requests and self._idle.pop(shared.connection, None) is not None:
            self._shared_idle -= 1
        shared.requests[request] = None
        request.connection, request.shared = shared.connection, shared
        if not shared.has_room:
            del shared.origin.with_room[shared]
        if self._queue:
            self._overtake(shared)
        request.resolve(GRANTED)

    def _overtake(self, shared: SharedConnection[C]) -> None:
        """Retire a shared connection if a request for another origin has waited for its place long enough."""
        if shared.origin in self._queue:
            self._queue.move_to_end(shared.origin)  # it has had its turn
        first = next(iter(self._queue))
        if first is shared.origin:
            return
        if shared.overtaken is not first:
            shared.overtaken, shared.overtakings = first, 0
        shared.overtakings += 1
        if shared.overtakings >= _MAX_OVERTAKINGS:
            self._retire(shared, MAKES_ROOM)

    def _update(self, shared: SharedConnection[C]) -> None:
        """Take note that a shared connection may have got room, or no longer has any."""
        with_room = shared.origin.with_room
        if not shared.has_room:
            with_room.pop(shared, None)
        elif shared not in with_room:
            with_room[shared] = None
        if shared.origin.waiting:
            self._serve(shared.origin)

    def _leave(
        self, request: PoolRequest[C], shared: SharedConnection[C], now: float, *, keep: bool, reason: str = ""
    ) -> None:
        request.connection = request.shared = None
        if shared.requests.pop(request, shared) is shared:  # the pool was closed meanwhile
            return
        if not keep or shared.is_retired:
            self._retire(shared, reason)
            return
        self._update(shared)
        if shared.requests:
            return
        if self._queue or not self._max_idle:
            self._retire(shared, MAKES_ROOM if self._queue else TOO_MANY_IDLE)
            return
        self._idle[shared.connection] = shared.origin.origin, now + self._expiry, shared
        self._shared_idle += 1
        if len(self._idle) > self._max_idle:
            self._discard_oldest(TOO_MANY_IDLE)

    def _retire(self, shared: SharedConnection[C], reason: str) -> None:
        if not shared.is_retired:
            shared.is_retired, shared.reason = True, reason
        shared.origin.with_room.pop(shared, None)
        if shared.requests:
            return
        if self._idle.pop(shared.connection, None) is not None:
            self._shared_idle -= 1
        self._remove(shared, shared.reason)
        if self._queue:
            self._grant(self._pop_first())

    def _remove(self, shared: SharedConnection[C], reason: str) -> None:
        """Discard a shared connection that no request uses."""
        origin = shared.origin
        del self._shared[shared.connection]
        origin.with_room.pop(shared, None)
        origin.connections -= 1
        self._forget_if_unused(origin)
        self._discard(shared.connection, reason)

    def _move(self, request: PoolRequest[C], shared: SharedConnection[C], now: float) -> None:
        """Let a request leave a shared connection for another one, before all others that wait."""
        request.state = WAITING
        assert self._protocols is not None
        if self._protocols.may_be_http2(request.origin):
            shared.origin.waiting[request] = None
            shared.origin.waiting.move_to_end(request, last=False)
            self._waiting += 1
        else:
            self._queue[request] = None
            self._queue.move_to_end(request, last=False)
        self._leave(request, shared, now, keep=True)
        self._serve(shared.origin)
        if request in self._queue and self._has_place():
            self._grant(self._pop_first())

    def _give_up(self, request: PoolRequest[C]) -> None:
        """Take a request out of the queue that it waits in, if any."""
        if self._queue.pop(request, self) is not self:
            return
        origin = self._shared_origins.get(request.origin)
        if origin is not None and origin.waiting.pop(request, self) is not self:
            self._waiting -= 1
            self._serve(origin)

    def _end_opening(self, request: PoolRequest[C]) -> None:
        """Let the next request open a connection, if this one has ended without."""
        origin = self._shared_origins.get(request.origin)
        if origin is not None and origin.opener is request:
            origin.opener = None
            self._serve(origin)
