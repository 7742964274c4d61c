"""The ports of URLs. Pure."""

from __future__ import annotations

import httpx

MAX_PORT = 0xFFFF
DEFAULT_PORTS = {"http": 80, "https": 443}


def port_of(url: httpx.URL) -> int | None:
    """Return a URL's port, or the default one of its scheme; None if the scheme is unknown."""
    return url.port or DEFAULT_PORTS.get(url.scheme)
