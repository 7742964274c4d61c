"""Gates: the gates of one Throttle, a gate for each key."""

from __future__ import annotations

import itertools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import partial

import httpx

from prefect_http._concurrency.backend import has_ended
from prefect_http._concurrency.loop_binding import LoopBinding
from prefect_http._telemetry import Telemetry, call_safely
from prefect_http._throttle.fleet import Fleet
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.known_limit import KnownLimit
from prefect_http._throttle.limiter import Change, Limiter
from prefect_http._throttle.share import Share
from prefect_http._throttle.statistics import ThrottleEvent, ThrottleStatistics, statistics_of

_MAX_KEYS = 1000
# How many keys are looked at to find one that can be forgotten; if none can, there are more than _MAX_KEYS for a while.
_FEW = 16
_logger = logging.getLogger("prefect_http.throttle")


class Gates:
    """The gates of a Throttle. They are made as requests come, and all belong to one event loop at a time.

    Args:
        key: returns the key of a request.
        is_key_of_url: whether that depends on nothing but the URL. Programs often send many requests to the same URL,
            and need not have the key of each.
        is_throttled: returns whether a response is a rejection; None: the usual statuses tell.
        max_wait: how many seconds a request may queue; infinity: until its caller's deadline.
        max_in_flight: for each Limiter, as the next two.
        slow_start: likewise.
        early_probe: likewise.
        known: returns what is known of the limit of a new key.
        new_fleet: makes what shares the gates with other processes; None if they are not shared.
        on_event: called with each event.

    Attributes:
        is_throttled: likewise.
        max_wait: likewise.
        changes: what has changed since ``report_changes()`` was called, and for which key.
    """

    def __init__(
        self,
        *,
        key: Callable[[httpx.Request], Hashable],
        is_key_of_url: bool,
        is_throttled: Callable[[httpx.Response], bool | Awaitable[bool]] | None,
        max_wait: float,
        max_in_flight: int,
        slow_start: bool,
        early_probe: bool,
        known: Callable[[], KnownLimit | None],
        new_fleet: Callable[[Callable[[], float]], Fleet] | None,
        on_event: Callable[[ThrottleEvent], object] | None,
    ) -> None:
        self.is_throttled = is_throttled
        self.max_wait: float = max_wait
        self._key = key
        self._is_key_of_url = is_key_of_url
        self._max_in_flight = max_in_flight
        self._slow_start = slow_start
        self._early_probe = early_probe
        self._known = known
        self._new_fleet = new_fleet
        self._fleet: Fleet | None = None
        self._on_event = on_event
        self._gates: OrderedDict[Hashable, Gate] = OrderedDict()
        self.changes: list[tuple[Change, Hashable]] = []
        self._telemetries = weakref.WeakValueDictionary[int, Telemetry]()  # by identity, for they need not hash
        # The gate of the last request, and the request's URL if the key depends on nothing else.
        self._last_gate: Gate | None = None
        self._last_url: httpx.URL | None = None
        self._binding: LoopBinding | None = None  # to the event loop of the first request
        self._now: Callable[[], float]

    def gate_for(self, request: httpx.Request) -> Gate:
        """Return the gate of a request's key.

        Raises:
            RuntimeError: the throttle is used in another event loop, which has not ended.
            TypeError: the key cannot be hashed.
            Exception: whatever the key function raises.
        """
        if self._binding is None or not self._binding.is_current():
            self._begin()
        last = self._last_gate
        if last is not None and request.url is self._last_url:
            return last
        key = self._key(request)
        try:
            gate = self._gates.get(key)
        except TypeError as error:
            raise TypeError(f"key must return a hashable value: {error}") from error
        if gate is None:
            gate = self._new_gate(key, request.url)
            self._forget_one()
            self._gates[key] = gate
        elif gate is not last:
            self._gates.move_to_end(key)
        self._last_gate = gate
        if self._is_key_of_url:
            self._last_url = request.url
        return gate

    def statistics(self, key: Hashable) -> ThrottleStatistics:
        """Return the state of a key, or of the key of a URL; that of a new one if it is unknown.

        Raises:
            httpx.InvalidURL: it looks like a URL, but is not valid.
            TypeError: it cannot be hashed.
            Exception: whatever the key function raises.
        """
        gate = self._find(key, "be hashable")
        if gate is None and (isinstance(key, httpx.URL) or (isinstance(key, str) and "://" in key)):
            gate = self._find(self._key(httpx.Request("GET", key)), "return a hashable value")
        if gate is None:
            return statistics_of(self._new_limiter(key), waiting=0)
        return statistics_of(gate.limiter, waiting=gate.waiting)

    def all_statistics(self) -> dict[Hashable, ThrottleStatistics]:
        """Return the state of each key that is remembered, the most recently used one last."""
        return {key: statistics_of(gate.limiter, waiting=gate.waiting) for key, gate in self._gates.items()}

    def tell(self, telemetry: Telemetry) -> None:
        """Report each event from now on to a telemetry, once, as long as something else refers to it."""
        self._telemetries[id(telemetry)] = telemetry

    def report_changes(self) -> None:
        """Call ``on_event``, and tell the telemetries, for the changes since the last call.

        The first exception that it raises is raised when all changes have been reported; further ones are logged.
        """
        changes, self.changes = self.changes, []
        if self._on_event is None and not self._telemetries:
            return
        error: Exception | None = None
        try:
            for change, key in changes:
                statistics = self.statistics(key)
                event = ThrottleEvent(kind=change.value, key=key, time=self._now(), statistics=statistics)
                for telemetry in list(self._telemetries.values()):
                    call_safely(telemetry.throttle_event, event)
                if self._on_event is None:
                    continue
                try:
                    self._on_event(event)
                except Exception as raised:
                    if error is None:
                        error = raised
                    else:
                        _logger.error("on_event has raised another exception", exc_info=raised)
            if error is not None:
                raise error
        finally:
            error = None  # its traceback holds this frame

    async def settle(self) -> None:
        """Release the shares of the keys that are not in use. Does nothing in another event loop.

        Cancellation:
            The shares are still released, or expire in a few seconds.
        """
        if self._fleet is not None and self._binding is not None and self._binding.is_current():
            await self._fleet.settle()

    def _find(self, key: Hashable, rule: str) -> Gate | None:
        """Return the gate of a key, if there is one; the rule is what an error says that ``key`` must do."""
        try:
            return self._gates.get(key)
        except TypeError as error:
            raise TypeError(f"key must {rule}: {error}") from error

    def _begin(self) -> None:
        if self._binding is not None:
            if not has_ended(self._binding.loop):
                raise RuntimeError("this Throttle belongs to another event loop; make one Throttle for each event loop")
            # What was learned is in terms of that loop's clock, which nobody can read any more.
            self._gates.clear()
            self._last_gate = None
            self.changes.clear()
        self._binding = LoopBinding()
        self._now = self._binding.now
        if self._new_fleet is not None:
            self._fleet = self._new_fleet(self._now)

    def _changed_by_others(self, gate: Gate, key: Hashable, url: httpx.URL, kind: str | None) -> None:
        """Report changes that no request has caused, so that no request can raise what ``on_event`` raises."""
        log_notice(gate, url)
        if kind is not None:
            self.changes.append((Change(kind), key))
        if self.changes:
            try:
                self.report_changes()
            except Exception:
                _logger.exception("on_event has raised an exception")

    def _new_gate(self, key: Hashable, url: httpx.URL) -> Gate:
        fleet = self._fleet
        if fleet is None:
            return Gate(self._new_limiter(key), self.max_wait, self._now)
        part = fleet.new_part(key)
        gate = Gate(self._new_limiter(key, part.share), self.max_wait, self._now)
        fleet.watch(part, gate, partial(self._changed_by_others, gate, key, url))
        return gate

    def _new_limiter(self, key: Hashable, share: Share | None = None) -> Limiter:
        return Limiter(
            max_in_flight=self._max_in_flight,
            slow_start=self._slow_start,
            early_probe=self._early_probe,
            known=self._known() if self._new_fleet is None else None,
            share=share,
            on_change=lambda change: self.changes.append((change, key)),
        )

    def _forget_one(self) -> None:
        """Make room for a new key, if one of the least recently used ones can be forgotten."""
        if len(self._gates) >= _MAX_KEYS:
            for key, gate in itertools.islice(self._gates.items(), _FEW):
                if gate.is_idle():
                    del self._gates[key]
                    return


def log_notice(gate: Gate, url: httpx.URL) -> None:
    """Log what is to be told about a gate, if anything. The key may contain a credential, the origin of the URL not."""
    if gate.notice is not None:
        _logger.info("%s://%s: %s", url.scheme, url.netloc.decode("ascii"), gate.notice)
        gate.notice = None
