"""Sends requests through what a mock, a recorder or a tracer has put in the place of httpx's own method.

respx, pytest-httpx, vcrpy and OpenTelemetry's and logfire's global instrumentation replace
``httpx.AsyncHTTPTransport.handle_async_request``, or that of httpcore's pool below it. A transport that went past them
would send the requests of a mocked test to the network, and leave gaps in traces. A replacement is recognized by what
it is, and not by what was there at import, because it may have come first.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Generic, Protocol, TypeVar

from prefect_http._concurrency.backend import current_loop, has_ended

_logger = logging.getLogger("prefect_http")

# httpx imports its pool when it needs it, and replacing a method needs it as well.
_POOLS = {"httpx": "httpcore", "httpx2": "httpcore2"}
_METHOD = "handle_async_request"
_UNKNOWN = object()


class _Transport(Protocol):
    async def aclose(self) -> None: ...


T = TypeVar("T", bound=_Transport)


class StandIn(Generic[T]):
    """A library's own transport, for the requests that are sent while something has replaced its method, or its pool's.

    The methods that were found to be the library's own are remembered, so a request usually costs two comparisons.

    Each event loop has a transport of its own, because mocks may let requests through to the network, and connections
    belong to the loop that opened them.

    Args:
        library: httpx or httpx2.
        make: makes an AsyncHTTPTransport of the library; called when one is needed.
        has_connect: whether connections are opened by a ``connect=`` of the user's, which the library's transport
            cannot have. Then tracers are passed by: they call the library's method, which would connect past it.
    """

    __slots__ = (
        *("_has_connect", "_library", "_make", "_own_of_the_pool", "_own_of_the_transport", "_pool_package"),
        "_transports",
    )

    def __init__(self, library: ModuleType, make: Callable[[], T], *, has_connect: bool = False) -> None:
        self._library = library
        self._make = make
        self._has_connect = has_connect
        self._pool_package = _POOLS.get(library.__name__, "")
        self._own_of_the_transport: object = _UNKNOWN
        self._own_of_the_pool: object = _UNKNOWN
        # By the event loop, and the classes of the transport and its pool, since a whole class may have been replaced.
        self._transports: dict[tuple[object, object, object], T] = {}

    def find(self) -> T | None:
        """Return the transport to send a request through; None: nothing has been replaced."""
        kind, pool = self._library.AsyncHTTPTransport, self._pool_class()
        # Every request passes here.
        if getattr(kind, _METHOD, None) is self._own_of_the_transport and (
            pool is None or getattr(pool, _METHOD, None) is self._own_of_the_pool
        ):
            return None
        replaced = self._replaced(kind, pool)
        if replaced is None:
            return None
        loop = current_loop()
        transport = self._transports.get((loop, kind, pool))
        if transport is None:
            self._forget_ended_loops()
            _logger.debug("%s has been replaced: requests go through it, and not over prefect_http's wire", replaced)
            transport = self._make()
            self._transports[loop, kind, self._pool_class()] = transport  # making the first one has imported the pool
        return transport

    def _pool_class(self) -> object:
        return getattr(sys.modules.get(self._pool_package), "AsyncConnectionPool", None)

    def _replaced(self, kind: object, pool: object) -> str | None:
        """Return the name of the method that has been replaced, and remember those that have not."""
        method = getattr(kind, _METHOD, None)
        if not self._is_passed(method, self._library.__name__):
            return f"{self._library.__name__}.AsyncHTTPTransport.{_METHOD}"
        self._own_of_the_transport = method
        if pool is None:
            return None
        method = getattr(pool, _METHOD, None)
        if not self._is_passed(method, self._pool_package):
            return f"{self._pool_package}.AsyncConnectionPool.{_METHOD}"
        self._own_of_the_pool = method
        return None

    def _is_passed(self, method: object, package: str) -> bool:
        """Whether requests need not go through a method."""
        return is_own(method, package) or (self._has_connect and is_traced(method, package))

    async def aclose(self) -> None:
        """Close the transports that the running event loop has used. They may be used again afterwards, like httpx's.

        Those of loops that have ended are forgotten; those of other running loops can only be closed there.
        """
        self._forget_ended_loops()
        if not self._transports:
            return
        running = current_loop()
        async with contextlib.AsyncExitStack() as stack:
            for (loop, *_), transport in self._transports.items():
                if loop is running:
                    stack.push_async_callback(transport.aclose)

    def _forget_ended_loops(self) -> None:
        for key in [key for key in self._transports if has_ended(key[0])]:
            del self._transports[key]


def is_own(method: object, package: str) -> bool:
    """Return whether a method is a plain function that the package itself defines.

    A mock is no function, a wrapper made by functools.wraps has ``__wrapped__``, and any other function has the name of
    the module that defines it, or None if it was made by exec().
    """
    return (
        type(method) is FunctionType
        and not hasattr(method, "__wrapped__")
        and str(method.__module__).partition(".")[0] == package
    )


def is_traced(method: object, package: str) -> bool:
    """Return whether a method is a proxy of wrapt's for one that the package itself defines, as tracers make them.

    Recorders and mocks make functions, or objects without ``__wrapped__``.
    """
    return type(method) is not FunctionType and is_own(getattr(method, "__wrapped__", None), package)
