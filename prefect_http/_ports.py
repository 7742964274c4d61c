"""The ports that URLs lead to."""

from __future__ import annotations

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}


def port_of(url: httpx.URL) -> int | None:
    """Give the port that a URL leads to; None if its scheme is unknown and it names none."""
    return url.port or _DEFAULT_PORTS.get(url.scheme)
