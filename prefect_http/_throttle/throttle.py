"""Throttle: what all requests to one host share, so that they behave like one polite client."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

import anyio
import httpx

from prefect_http._callbacks import is_async
from prefect_http._concurrency.backend import clock, current_loop
from prefect_http._fields.rate_limit_github import github_throttled
from prefect_http._ports import port_of
from prefect_http._response import REJECTED, rate_limit, retry_after
from prefect_http._throttle.gate import Gate
from prefect_http._throttle.limiter import Change, Limiter, Ticket

_MAX_KEYS = 1000
# How many keys are looked at for one to forget; if none can go, there are more for a while.
_FEW = 16
_THROTTLED = frozenset({429, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleStatistics:
    """The state of one key of a Throttle.

    Attributes:
        closed_until: when the gate opens, on the event loop's clock, for one request at first; None while it is open.
            It may have passed, while that request is under way or none has come.
        rate: requests per second that are let out; infinity while none has been learned.
        limit: how many requests may be under way.
        in_flight: how many are.
        waiting: how many queue.
        accepted: how many have been answered with something else than a rejection.
        rejected: how many have been rejected.
    """

    closed_until: float | None
    rate: float
    limit: int
    in_flight: int
    waiting: int
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleEvent:
    """Something that has happened to one key of a Throttle.

    Attributes:
        kind: "closed": a rejection, or word that nothing is left, holds back all requests; "opened": the first request
            that was let out since has been answered; "learned": there is a new rate.
        key: the key.
        time: when, in seconds on the event loop's clock.
        statistics: the state of the key afterwards.
    """

    kind: Literal["closed", "opened", "learned"]
    key: Hashable
    time: float
    statistics: ThrottleStatistics


def origin(request: httpx.Request) -> tuple[str, str, int | None]:
    """Give the scheme, the host and the port that a request goes to."""
    url = request.url
    return url.scheme, url.host, port_of(url)


def is_throttled_by_github(response: httpx.Response) -> bool:
    """Say whether GitHub throttles: by 429, by 503, or by a 403 that says so in its headers.

    For ``Throttle(is_throttled=...)``.
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    return response.status_code == 503 or github_throttled(response.status_code, response.headers)


def _is_throttled(response: httpx.Response) -> bool:
    return response.status_code in _THROTTLED


class Throttle:
    """One gate for all requests to a rate-limited host.

    A thousand tasks that are each told to come back later come back together, and most of them in vain. Those that
    share a Throttle wait in one queue. The first rejection closes the gate for all; when the server's ``Retry-After``
    has passed, one request goes first, and if it is answered, the others follow at a rate that is learned from what
    the server has accepted. ``RateLimit`` fields are minded before there is any rejection.

    Args:
        key: what shares a limit has the same key: the origin, unless something else is given. Add the credential if
            the host limits each, or the route if it limits each. Requests of one key wait for each other, so one key
            for limits that differ holds back the faster of them by the slower.
        max_in_flight: how many requests of a key may be under way, at least 1.
        max_wait: how many seconds a request may queue, above 0; None: as long as its caller's deadline lets it.
        is_throttled: says whether a response is a rejection, from its status and headers; 429 and 503, unless
            something else is given. See ``is_throttled_by_github``.
        early_probe: whether one request per closure may leave before the server's ``Retry-After`` has passed. Servers
            that round it up to whole seconds are often ready before, but it is not what they ask for.
        slow_start: whether few requests are let out at first, while the limit is unknown, and more with each answer.
            False begins with ``max_in_flight``, and learns from the first rejection.
        on_event: called with each ThrottleEvent. A plain function: an exception from it ends the request that it
            concerns.

    Raises:
        ValueError: ``max_in_flight`` or ``max_wait`` is out of range.
        TypeError: a function is not callable.

    One Throttle may be shared by any number of clients and transports in one event loop. It knows nothing of other
    processes. About 1,000 keys are remembered, those that were used last; a key that is closed, or has requests
    under way or waiting, is never forgotten. A limit by window whose answers carry no hints at all cannot be learned
    well: about one request in thirteen is rejected.
    """

    def __init__(
        self,
        *,
        key: Callable[[httpx.Request], Hashable] = origin,
        max_in_flight: int = 100,
        max_wait: float | None = None,
        is_throttled: Callable[[httpx.Response], bool] | None = None,
        early_probe: bool = False,
        slow_start: bool = True,
        on_event: Callable[[ThrottleEvent], object] | None = None,
    ) -> None:
        for name, function in (
            ("key", key),
            ("is_throttled", is_throttled or _is_throttled),
            ("on_event", on_event or _is_throttled),
        ):
            if not callable(function) or is_async(function):
                raise TypeError(f"{name} must be a plain function, and not an async one, not {function!r}")
        if not isinstance(max_in_flight, int) or isinstance(max_in_flight, bool) or max_in_flight < 1:
            raise ValueError(f"max_in_flight must be a whole number from 1, not {max_in_flight!r}")
        if max_wait is not None and (
            not isinstance(max_wait, int | float) or isinstance(max_wait, bool) or not max_wait > 0
        ):
            raise ValueError(f"max_wait must be a number of seconds above 0, or None, not {max_wait!r}")
        self._key = key
        self._max_in_flight = max_in_flight
        self._max_wait = math.inf if max_wait is None else max_wait
        self._is_throttled = is_throttled or _is_throttled
        self._early_probe = early_probe
        self._slow_start = slow_start
        self._on_event = on_event
        self._gates: OrderedDict[Hashable, Gate] = OrderedDict()
        self._events: list[tuple[Change, Hashable]] = []
        self._run: object = None

    def statistics(self, key: Hashable) -> ThrottleStatistics:
        """Give the state of a key, as the ``key`` function gives it; for the origin, ``("https", "example.org", 443)``.

        A key that is unknown, or has been forgotten, has the state of a new one.
        """
        gate = self._gates.get(key)
        return _statistics(self._new_limiter(key)) if gate is None else _statistics(gate.limiter, gate.waiting)

    def gate(self, request: httpx.Request) -> Gate:
        """Give the gate of a request's key; for ThrottledTransport.

        Raises:
            RuntimeError: the Throttle is used in a second event loop.
        """
        run = current_loop()
        if self._run is not run:
            if self._run is not None:
                raise RuntimeError("this Throttle is used in another event loop; make one for each")
            self._run = run
        key = self._key(request)
        gate = self._gates.get(key)
        if gate is None:
            self._forget_one()
            gate = self._gates[key] = Gate(self._new_limiter(key), self._max_wait, clock())
        else:
            self._gates.move_to_end(key)
        return gate

    def note_response(self, gate: Gate, ticket: Ticket, response: httpx.Response) -> None:
        """Learn from the status and headers of a response, and mark it if it is a rejection; likewise."""
        try:
            is_rejection = self._is_throttled(response)
            wait = retry_after(response) or None if is_rejection else None
            told = rate_limit(response)
            if told is not None and ("Age" in response.headers or response.is_redirect):
                told = None  # what comes from a cache is old, and what redirects may be another's
        except BaseException:
            gate.dropped(ticket, has_failed=False)
            raise
        if is_rejection:
            response.extensions[REJECTED] = True
            gate.rejected(ticket, told, wait, is_doubtful=response.status_code == 503 and wait is None)
        else:
            gate.answered(ticket, told)
        while self._events:
            self._tell(*self._events.pop(0))

    def _new_limiter(self, key: Hashable) -> Limiter:
        return Limiter(
            max_in_flight=self._max_in_flight,
            slow_start=self._slow_start,
            early_probe=self._early_probe,
            on_change=lambda change: self._events.append((change, key)),
        )

    def _forget_one(self) -> None:
        """Make room for a new key, if one of those that were used least lately can go."""
        if len(self._gates) >= _MAX_KEYS:
            for key, gate in itertools.islice(self._gates.items(), _FEW):
                if gate.is_idle():
                    del self._gates[key]
                    return

    def _tell(self, change: Change, key: Hashable) -> None:
        if self._on_event is not None:
            statistics, now = self.statistics(key), anyio.current_time()
            self._on_event(ThrottleEvent(kind=change.value, key=key, time=now, statistics=statistics))


def _statistics(limiter: Limiter, waiting: int = 0) -> ThrottleStatistics:
    return ThrottleStatistics(
        closed_until=limiter.closed_until,
        rate=limiter.rate,
        limit=limiter.limit,
        in_flight=limiter.in_flight,
        waiting=waiting,
        accepted=limiter.accepted,
        rejected=limiter.rejections,
    )
