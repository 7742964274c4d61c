"""PoolRequest: a request's claim to a connection; and the connections that several requests share. Pure."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from prefect_http._wire.origin import Origin

C = TypeVar("C", bound=Hashable)


class RequestState(enum.Enum):
    """Whether a request may use a connection."""

    WAITING = enum.auto()
    """In a queue: ``max_connections`` are in use, or another request is opening a connection that both may share."""
    GRANTED = enum.auto()
    """It may use a connection, or open one."""
    REFUSED = enum.auto()
    """The pool was closed while the request waited."""


# Every request looks at its state, and Python 3.11 takes 0.2 us to look up a member of an enum.
WAITING, GRANTED, REFUSED = RequestState


@dataclass(slots=True, eq=False)
class PoolRequest(Generic[C]):
    """A request for a connection, from ``Pool.acquire()`` to ``Pool.release()``.

    Attributes:
        origin: where the connection leads.
        state: whether the request may use a connection yet.
        is_repeatable: whether the request may be sent again, so that it can use a doubtful connection.
        connection: the connection that it uses; None if it has to open one.
        shared: the same, if other requests use it at the same time; None if no others do.
        expires: when the connection would have expired if the request had not been granted it; infinity if it is new.
        is_doubtful: whether the server may be about to close the connection. To be set before ``Pool.release()``.
        on_resolved: called when a request that waited is granted or refused.
        on_released: to be called after each ``Pool.release()``, if a telemetry is to be told of that; else None.
    """

    origin: Origin
    is_repeatable: bool = True
    state: RequestState = WAITING
    connection: C | None = None
    shared: SharedConnection[C] | None = None
    expires: float = math.inf
    is_doubtful: bool = False
    on_resolved: Callable[[], object] | None = None
    on_released: Callable[[], object] | None = None

    def forget_connection(self) -> None:
        """Use another connection, of which nothing is known."""
        self.connection, self.is_doubtful, self.expires = None, False, math.inf

    def resolve(self, state: RequestState) -> None:
        """Set the state, and wake the task that waits for it."""
        self.state = state
        if self.on_resolved is not None:
            self.on_resolved()


@dataclass(slots=True, eq=False)
class SharedConnection(Generic[C]):
    """A connection that several requests use at the same time.

    Attributes:
        connection: the connection.
        origin: where it leads.
        max_requests: how many requests may use it now. The server may change it, even to less than there are.
        requests: those that use it.
        overtaken: the first in the queue when a request was last granted it.
        overtakings: how many requests have been granted it while that one waited.
        is_retired: whether it takes no more requests.
        reason: why it does not.
    """

    connection: C
    origin: SharedOrigin[C]
    max_requests: int
    requests: dict[PoolRequest[C], None] = field(default_factory=dict[PoolRequest[C], None])
    overtaken: object = None
    overtakings: int = 0
    is_retired: bool = False
    reason: str = ""

    @property
    def has_room(self) -> bool:
        """Whether another request may use it."""
        return not self.is_retired and len(self.requests) < self.max_requests


@dataclass(slots=True, eq=False)
class SharedOrigin(Generic[C]):
    """An origin whose connections may be shared: one of them is opened at a time, and the others wait for it.

    Attributes:
        origin: the origin.
        with_room: its connections that can take another request, in the order in which they got room.
        waiting: the requests that wait for one of them, or for a place to open another; first come, first served.
        opener: the request that is opening one. It decides whether they are shared at all.
        connections: the number of shared connections.
    """

    origin: Origin
    with_room: OrderedDict[SharedConnection[C], None] = field(default_factory=OrderedDict[SharedConnection[C], None])
    waiting: OrderedDict[PoolRequest[C], None] = field(default_factory=OrderedDict[PoolRequest[C], None])
    opener: PoolRequest[C] | None = None
    connections: int = 0
