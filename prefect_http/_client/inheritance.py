"""What other classes, and what has been put in the place of httpx's methods, have to do with a client's requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import httpx

from prefect_http._wire.replaced import is_own

REQUESTING = frozenset(
    {"request", "build_request", "get", "options", "head", "post", "put", "patch", "delete", "stream"}
)
"""The methods of a client that return or send a new request."""
USED_IN_BUILDING = (
    {name for name in dir(httpx.AsyncClient) if not name.startswith("__")} - REQUESTING - {"send", "aclose"}
)
"""What these may use, in httpx: properties of the client, and methods that merge them with the arguments."""

_KNOWN = frozenset({__name__.partition(".")[0], httpx.__name__, "builtins"})


def overridden(classes: Iterable[type]) -> set[str]:
    """Return the names that are defined by classes which are neither httpx's nor this package's."""
    return {name for each in classes if each.__module__.partition(".")[0] not in _KNOWN for name in vars(each)}


def bases_after(cls: type, base: type) -> tuple[type, ...]:
    """Return the classes that follow one in the method resolution order of another."""
    return cls.__mro__[cls.__mro__.index(base) + 1 :]


class HttpxSending:
    """How a client would send as an httpx.AsyncClient: its methods and transports, which other code may have replaced.

    Sentry, Datadog and New Relic replace ``send()``; vcrpy, before version 8, and ``respx.mock(using="httpx")`` private
    methods that it calls; and many tests assign another transport to a client that exists already. Those names are
    private, but a mocked test must not reach the network.

    Args:
        client: the client, as it was made.
    """

    __slots__ = ("_mounts", "_own_build", "_own_methods", "_transport")

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._own_methods: tuple[object, ...] = ()  # those that have been found to be httpx's own
        self._own_build: object = None  # the build_request() that has been found to be httpx's own
        attributes = vars(client)
        self._transport, self._mounts = attributes.get("_transport"), attributes.get("_mounts")

    def is_replaced(self, client: httpx.AsyncClient) -> bool:
        """Whether one of these is not what it was."""
        attributes = vars(client)
        if attributes.get("_transport") is not self._transport or attributes.get("_mounts") is not self._mounts:
            return True
        cls = httpx.AsyncClient
        methods = cls.send, getattr(cls, "_send_single_request", None), getattr(cls, "_transport_for_url", None)
        if methods != self._own_methods:
            if not all(method is None or is_own(method, httpx.__name__) for method in methods):
                return True
            self._own_methods = methods
        return False

    def builds_like_httpx(self, build_request: Callable[..., httpx.Request]) -> bool:
        """Whether a bound ``build_request()`` is httpx's own. Another one may do something different each time."""
        function = getattr(build_request, "__func__", None)
        if function is not self._own_build:
            if not is_own(function, httpx.__name__):
                return False
            self._own_build = function
        return True
