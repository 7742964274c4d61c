"""Gates: the gates of one Throttle, a gate for each key."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

import httpx

from prefect_http._concurrency.backend import clock, has_ended, loop_getter
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.limiter import Change, Limiter
from prefect_http._throttle.statistics import ThrottleEvent, ThrottleStatistics, statistics_of

_MAX_KEYS = 1000
# How many keys are looked at to find one that can be forgotten; if none can, there are more than _MAX_KEYS for a while.
_FEW = 16


class Gates:
    """The gates of a Throttle. They are made as requests come, and all belong to one event loop at a time.

    Args:
        key: returns the key of a request.
        is_throttled: returns whether a response is a rejection.
        max_wait: how many seconds a request may queue; infinity: until its caller's deadline.
        max_in_flight: for each Limiter, as the next two.
        slow_start: likewise.
        early_probe: likewise.
        on_event: called with each event.
    """

    def __init__(
        self,
        *,
        key: Callable[[httpx.Request], Hashable],
        is_throttled: Callable[[httpx.Response], bool | Awaitable[bool]],
        max_wait: float,
        max_in_flight: int,
        slow_start: bool,
        early_probe: bool,
        on_event: Callable[[ThrottleEvent], object] | None,
    ) -> None:
        self.is_throttled = is_throttled
        self._key = key
        self._max_wait = max_wait
        self._max_in_flight = max_in_flight
        self._slow_start = slow_start
        self._early_probe = early_probe
        self._on_event = on_event
        self._gates: OrderedDict[Hashable, Gate] = OrderedDict()
        self._changes: list[tuple[Change, Hashable]] = []
        # The event loop of the first request, and its clock.
        self._loop: object = None
        self._current_loop: Callable[[], object] = object
        self._now: Callable[[], float]

    def gate_for(self, request: httpx.Request) -> Gate:
        """Return the gate of a request's key.

        Raises:
            RuntimeError: the throttle is used in another event loop, which has not ended.
        """
        if not self._is_own_loop():
            self._begin()
        key = self._key(request)
        gate = self._gates.get(key)
        if gate is None:
            self._forget_one()
            gate = self._gates[key] = Gate(self._new_limiter(key), self._max_wait, self._now)
        else:
            self._gates.move_to_end(key)
        return gate

    def statistics(self, key: Hashable) -> ThrottleStatistics:
        """Return the state of a key; that of a new one if it is unknown."""
        gate = self._gates.get(key)
        if gate is None:
            return statistics_of(self._new_limiter(key), waiting=0)
        return statistics_of(gate.limiter, waiting=gate.waiting)

    def report_changes(self) -> None:
        """Call ``on_event`` for the changes since the last call."""
        while self._changes:
            change, key = self._changes.pop(0)
            if self._on_event is not None:
                statistics = self.statistics(key)
                self._on_event(ThrottleEvent(kind=change.value, key=key, time=self._now(), statistics=statistics))

    def _is_own_loop(self) -> bool:
        try:
            return self._current_loop() is self._loop
        except RuntimeError:  # another backend
            return False

    def _begin(self) -> None:
        if self._loop is not None:
            if not has_ended(self._loop):
                raise RuntimeError("this Throttle belongs to another event loop; make one Throttle for each event loop")
            # What was learned is in terms of that loop's clock, which nobody can read any more.
            self._gates.clear()
            self._changes.clear()
        self._current_loop = loop_getter()
        self._loop, self._now = self._current_loop(), clock()

    def _new_limiter(self, key: Hashable) -> Limiter:
        return Limiter(
            max_in_flight=self._max_in_flight,
            slow_start=self._slow_start,
            early_probe=self._early_probe,
            on_change=lambda change: self._changes.append((change, key)),
        )

    def _forget_one(self) -> None:
        """Make room for a new key, if one of the least recently used ones can be forgotten."""
        if len(self._gates) >= _MAX_KEYS:
            for key, gate in itertools.islice(self._gates.items(), _FEW):
                if gate.is_idle():
                    del self._gates[key]
                    return
