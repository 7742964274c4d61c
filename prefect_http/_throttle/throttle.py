"""Throttle: one queue for all requests to a rate-limited host."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any, cast, overload

import httpx

from prefect_http._callbacks import is_async
from prefect_http._ports import DEFAULT_PORTS
from prefect_http._throttle.fleet import Fleet
from prefect_http._throttle.fleet_state import KnownRate
from prefect_http._throttle.gates import Gates
from prefect_http._throttle.known_limit import KnownLimit
from prefect_http._throttle.statistics import ThrottleEvent, ThrottleStatistics
from prefect_http._throttle.store import SharedBackend, store_of

_LEAST, _MOST = 1e-6, 1e9
_ALL_KEYS: Any = ...  # which help() shows as what it is


def origin(request: httpx.Request) -> tuple[str, str, int | None]:
    """Return the scheme, host and port of a request's URL; the port is None if the scheme has no default."""
    url = request.url
    scheme = url.scheme
    return scheme, url.host, url.port or DEFAULT_PORTS.get(scheme)


class Throttle:
    """One queue for all requests to a rate-limited host.

    If a server asks a thousand tasks to retry in a second, they all retry in a second, and most are rejected again.
    Tasks that share a Throttle wait in one queue instead. After the first rejection, all of them wait. When the
    server's ``Retry-After`` has passed, one request is sent first. If it is accepted, the others follow at a rate that
    is learned from what the server has accepted. ``RateLimit`` headers are obeyed before any request is rejected.

    Args:
        key: returns the key of a request; requests with the same key share a limit. By default the origin: scheme, host
            and port. Add the credential if the host limits each credential, or the route if it limits each route.
            Requests with the same key wait for each other, so if their limits differ, the lowest applies to all.
        max_in_flight: how many requests of a key may be in flight (sent, but not answered yet), at least 1.
        max_wait: how many seconds a request may wait in the queue, above 0; None: no limit except its caller's
            deadline. A request that would have to wait longer fails at once. In a PrefectHttpxClient, this replaces the
            ``max_retry_after`` of the policies.
        rate: a limit that you know, in requests per ``per`` seconds, 1e-6 to 1e9; None if you do not know one. In any
            ``t`` seconds, no more than ``burst + rate * t / per`` requests of a key are sent: the burst first, then one
            at a time, evenly spaced. If the server still rejects requests, a lower rate is learned. With a ``rate``,
            there is no slow start. A request that cannot be sent in time, because of the others in the queue, fails at
            once.
        per: the seconds that ``rate`` is for, 1e-6 to 1e9. Only with ``rate``.
        burst: how many requests may be sent at once after a pause, an integer from 1 to 1e9. Only with ``rate``.
        is_throttled: returns whether a response is a rejection. By default, 429 and 503 are; see also
            ``is_throttled_by_github``. It may be async, or return an awaitable, and then read the response: it gets the
            first 64 KiB of the body, decoded, and the caller can still read all of it. If it raises an Exception, or
            takes longer than 10 s, the response does not count as a rejection, and a warning is logged.
        early_probe: whether, each time that all requests wait, one may be sent before the server's ``Retry-After`` has
            passed. Servers that round it up to whole seconds often accept requests earlier, but that is not what they
            ask for.
        slow_start: whether to begin with few requests in flight while the limit is unknown, and allow more with each
            response. False begins with ``max_in_flight``, and learns from the first rejection.
        on_event: called with each ThrottleEvent. It must not be async. An exception from it is raised by the request
            that caused the event; if one request causes several events, further exceptions are logged. So are
            exceptions for events that other processes have caused.
        shared: a ``prefect_http.redis.RedisBackend``, to share the limit with the Throttles of other processes; None:
            it is not shared. Give all of them the same arguments. ``rate`` and ``burst`` then apply to all processes
            together, ``max_in_flight`` applies to each, and ``early_probe`` has no effect. What ``key`` returns must
            have the same ``repr()`` in every process.

    Raises:
        ValueError: ``max_in_flight``, ``max_wait``, ``rate``, ``per`` or ``burst`` is out of range, or ``per`` or
            ``burst`` is given without ``rate``.
        TypeError: ``key`` or ``on_event`` is async, one of the functions is not callable, or ``shared`` is not a
            RedisBackend.

    Requests raise:
        ThrottleTimeout: the request cannot be sent in time.
        Exception: whatever ``key`` or ``on_event`` raises for this request.
        TypeError: ``key`` has returned something that is not hashable.

    A 503, or a 429 without a Retry-After, may be a fault of a server that fails now and then. Such rejections hold back
    other requests only if there are more of them than usual, and what is learned from them is dropped if they turn out
    not to come from a limit.

    If requests have to wait for more than 10 s, the logger ``prefect_http.throttle`` logs that once at level INFO: the
    origin of the rejected request, for how long, and why. It does not log the key, which may contain a credential.

    One Throttle may be shared by any number of clients and transports in one event loop, and with ``shared=`` by any
    number of processes. About 1,000 keys, the most recently used, are remembered; a key whose requests have to wait, or
    that has requests in flight, is never forgotten. If a server counts requests in time windows, and its responses do
    not announce them, the limit cannot be learned well: about one request in thirteen is rejected.
    """

    def __init__(
        self,
        *,
        key: Callable[[httpx.Request], Hashable] = origin,
        max_in_flight: int = 100,
        max_wait: float | None = 3900.0,
        rate: float | None = None,
        per: float = 1.0,
        burst: int = 1,
        is_throttled: Callable[[httpx.Response], bool | Awaitable[bool]] | None = None,
        early_probe: bool = False,
        slow_start: bool = True,
        on_event: Callable[[ThrottleEvent], object] | None = None,
        shared: SharedBackend | None = None,
    ) -> None:
        _check_function("key", key)
        if is_throttled is not None and not callable(is_throttled):
            raise TypeError(f"is_throttled must be a function, not {is_throttled!r}")
        if on_event is not None:
            _check_function("on_event", on_event)
        if not isinstance(max_in_flight, int) or isinstance(max_in_flight, bool) or max_in_flight < 1:
            raise ValueError(f"max_in_flight must be an integer of at least 1, not {max_in_flight!r}")
        if max_wait is not None and not _is_positive(max_wait):
            raise ValueError(f"max_wait must be a positive number of seconds, or None, not {max_wait!r}")
        known = _known_limit(rate, per, burst)
        known_rate = KnownRate() if rate is None else KnownRate(rate / per, burst)
        self._gates = Gates(
            key=key,
            is_key_of_url=key is origin,
            is_throttled=is_throttled,
            max_wait=math.inf if max_wait is None else max_wait,
            max_in_flight=max_in_flight,
            slow_start=slow_start,
            early_probe=early_probe,
            known=known,
            on_event=on_event,
            new_fleet=None if shared is None else partial(Fleet, store_of(shared), known_rate),
        )

    @overload
    def statistics(self) -> dict[Hashable, ThrottleStatistics]: ...

    @overload
    def statistics(self, key: Hashable | httpx.URL) -> ThrottleStatistics: ...

    def statistics(
        self, key: Hashable | httpx.URL = _ALL_KEYS
    ) -> ThrottleStatistics | dict[Hashable, ThrottleStatistics]:
        """Return the state of a key, or of all keys.

        Args:
            key: as the ``key`` function returns it, by default like ``("https", "example.org", 443)``; or a URL, as an
                httpx.URL or a string with ``://``, which stands for the key of a GET request for it. A key that is
                unknown, or has been forgotten, has the state of a new one.

        Returns:
            Without an argument, the state of each key that is remembered, the most recently used one last.

        Raises:
            httpx.InvalidURL: the URL is not valid.
            TypeError: the key is not hashable.
            Exception: whatever the ``key`` function raises for the GET request.
        """
        return self._gates.all_statistics() if key is _ALL_KEYS else self._gates.statistics(key)


def gates_of(throttle: Throttle) -> Gates:
    """Return the gates of a throttle, for the transports behind it; a Throttle's own methods are for its users.

    Raises:
        TypeError: it is no Throttle.
    """
    if not isinstance(throttle, Throttle):
        raise TypeError(f"throttle must be a Throttle, not {throttle!r}")
    return throttle._gates  # pyright: ignore[reportPrivateUsage]


def _known_limit(rate: float | None, per: float, burst: int) -> Callable[[], KnownLimit | None]:
    """Return a function that makes the known limit of a new key."""
    _check_number("per", per, "seconds")
    if not isinstance(burst, int) or isinstance(burst, bool) or not 1 <= burst <= _MOST:
        raise ValueError(f"burst must be an integer from 1 to {_MOST:g}, not {burst!r}")
    if rate is not None:
        _check_number("rate", rate, "requests")
        return partial(KnownLimit, rate, per, burst)
    for name, value, default in (("per", per, 1.0), ("burst", burst, 1)):
        if value != default:
            raise ValueError(f"{name} cannot be given without rate")
    return lambda: None


def _check_number(name: str, value: object, unit: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not _LEAST <= value <= _MOST:
        raise ValueError(f"{name} must be a number of {unit} from {_LEAST:g} to {_MOST:g}, not {value!r}")


def _is_positive(value: object) -> bool:
    try:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    except OverflowError:  # an integer beyond all floats
        return False
    return is_number and cast(float, value) > 0


def _check_function(name: str, function: object) -> None:
    if not callable(function) or is_async(function):
        raise TypeError(f"{name} must be a sync function, not {function!r}")
