"""Which origins have answered a client."""

from __future__ import annotations

import httpx

from prefect_http._caching import remember

# Redirects choose origins, so their number is limited.
_MAX_ORIGINS = 1000
# Every response adds a URL and few are ever looked up, so URLs are kept for a while: taking one apart costs more.
_BATCH = 100


class AnsweredOrigins:
    """A bounded set of origins: scheme, host and port. The oldest are forgotten first."""

    __slots__ = ("_origins", "_urls")

    def __init__(self) -> None:
        self._origins: dict[tuple[str, str, int | None], None] = {}
        self._urls: list[httpx.URL] = []

    def add(self, url: httpx.URL) -> None:
        """Note that the URL's origin has answered."""
        self._urls.append(url)
        if len(self._urls) >= _BATCH:
            self._add_origins()

    def __contains__(self, url: httpx.URL) -> bool:
        self._add_origins()
        return (url.scheme, url.host, url.port) in self._origins

    def _add_origins(self) -> None:
        for url in self._urls:
            origin = url.scheme, url.host, url.port
            if origin not in self._origins:
                remember(self._origins, origin, None, _MAX_ORIGINS)
        self._urls.clear()
