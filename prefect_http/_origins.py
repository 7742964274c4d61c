"""The origins that have answered a client."""

from __future__ import annotations

import httpx

# Redirects choose origins, so their number is limited.
_MAX_ORIGINS = 1000


class AnsweredOrigins:
    """A bounded set of origins: scheme, host and port. The oldest are forgotten first."""

    __slots__ = ("_origins",)

    def __init__(self) -> None:
        self._origins: dict[tuple[str, str, int | None], None] = {}

    def add(self, url: httpx.URL) -> None:
        """Note that the URL's origin has answered."""
        origin = url.scheme, url.host, url.port
        if origin not in self._origins:
            if len(self._origins) == _MAX_ORIGINS:
                del self._origins[next(iter(self._origins))]
            self._origins[origin] = None

    def __contains__(self, url: httpx.URL) -> bool:
        return (url.scheme, url.host, url.port) in self._origins
