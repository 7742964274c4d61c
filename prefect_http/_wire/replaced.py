"""Whether a mock, a recorder or a tracer has replaced the method that httpx's own transport sends requests with.

respx, pytest-httpx, vcrpy and OpenTelemetry's and logfire's global instrumentation replace
``httpx.AsyncHTTPTransport.handle_async_request``, or that of httpcore's pool below it. A transport that went past them
would send the requests of a mocked test to the network, and leave gaps in traces. A replacement is recognized by what
it is, and not by what was there at import, because it may have come first.
"""

from __future__ import annotations

import sys
from types import FunctionType, ModuleType

# httpx imports its pool when it needs it, and replacing a method needs it as well.
_POOLS = {"httpx": "httpcore", "httpx2": "httpcore2"}
_METHOD = "handle_async_request"


class ReplacementProbe:
    """Finds out, for each request, whether something has replaced a method of httpx's transport or of its pool.

    It remembers the methods that it has found to be the library's own, so usually this takes two comparisons.

    Args:
        library: httpx or httpx2.
    """

    __slots__ = ("_library", "_own_of_the_pool", "_own_of_the_transport", "_pool", "_pool_package")

    def __init__(self, library: ModuleType) -> None:
        self._library = library
        self._pool_package = _POOLS.get(library.__name__, "")
        self._pool: type | None = None
        self._own_of_the_transport: object = None
        self._own_of_the_pool: object = None

    def find(self) -> str | None:
        """Return what has been replaced, for a log line; None: nothing."""
        transport = self._library.AsyncHTTPTransport
        method = getattr(transport, _METHOD)
        if method is not self._own_of_the_transport:
            if not is_own(method, self._library.__name__):
                return f"{self._library.__name__}.AsyncHTTPTransport.{_METHOD}"
            self._own_of_the_transport = method
        pool = self._pool or self._find_pool()
        if pool is None:
            return None
        method = getattr(pool, _METHOD)
        if method is not self._own_of_the_pool:
            if not is_own(method, self._pool_package):
                return f"{self._pool_package}.AsyncConnectionPool.{_METHOD}"
            self._own_of_the_pool = method
        return None

    def _find_pool(self) -> type | None:
        self._pool = getattr(sys.modules.get(self._pool_package), "AsyncConnectionPool", None)
        return self._pool


def is_own(method: object, package: str) -> bool:
    """Return whether a method is a plain function that the package itself defines.

    A mock is no function, a wrapper made by functools.wraps has ``__wrapped__``, and any other function has the name of
    the module that defines it.
    """
    return (
        type(method) is FunctionType
        and not hasattr(method, "__wrapped__")
        and method.__module__.partition(".")[0] == package
    )
