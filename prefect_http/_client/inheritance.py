"""What other classes, and what has been put in the place of httpx's methods, have to do with a client's requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import httpx

from prefect_http._wire.replaced import is_own

_KNOWN = frozenset({__name__.partition(".")[0], httpx.__name__, "builtins"})


def overridden(classes: Iterable[type]) -> set[str]:
    """Return the names that are defined by classes which are neither httpx's nor this package's."""
    return {name for each in classes if each.__module__.partition(".")[0] not in _KNOWN for name in vars(each)}


def bases_after(cls: type, base: type) -> tuple[type, ...]:
    """Return the classes that follow one in the method resolution order of another."""
    return cls.__mro__[cls.__mro__.index(base) + 1 :]


class SendingMethods:
    """The methods by which an httpx.AsyncClient builds and sends requests, which tracers, recorders and mocks replace.

    Sentry, Datadog and New Relic replace ``send()``; vcrpy, before version 8, and ``respx.mock(using="httpx")`` private
    methods that it calls.
    """

    __slots__ = ("_own", "_own_build")

    def __init__(self) -> None:
        self._own_build: object = None  # the build_request() that has been found to be httpx's own
        self._own: tuple[object, ...] = ()  # those that have been found to be httpx's own

    def are_replaced(self) -> bool:
        """Whether one of them is not httpx's own now."""
        client = httpx.AsyncClient
        methods = (
            client.send,
            getattr(client, "_send_single_request", None),
            getattr(client, "_transport_for_url", None),
        )
        if methods != self._own:
            if not all(method is None or is_own(method, httpx.__name__) for method in methods):
                return True
            self._own = methods
        return False

    def builds_like_httpx(self, build_request: Callable[..., httpx.Request]) -> bool:
        """Whether a bound ``build_request()`` is httpx's own. Another one may do something different each time."""
        function = getattr(build_request, "__func__", None)
        if function is not self._own_build:
            if not is_own(function, httpx.__name__):
                return False
            self._own_build = function
        return True
