"""Routes: which of a client's transports sends a request. Pure.

httpx documents the patterns of ``mounts``, and has no public function that applies them.
https://www.python-httpx.org/advanced/transports/#routing
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Generic, TypeVar

import httpx

T = TypeVar("T")

_MAX_CACHED = 1000


class Routes(Generic[T]):
    """Finds the transport for a URL: that of the most specific pattern that matches it.

    Args:
        default: for URLs that no pattern matches.
        mounts: by pattern; None: the default.
        has_networks: whether a pattern may have a network as its host, as with httpx2.

    Attributes:
        default: see above.
    """

    def __init__(self, default: T, mounts: Mapping[str, T | None], *, has_networks: bool) -> None:
        self.default = default
        patterns = [(UrlPattern(pattern, has_networks=has_networks), mount) for pattern, mount in mounts.items()]
        self._patterns = sorted(patterns, key=lambda item: item[0].rank)
        # Programs send many requests to few servers.
        self._found: dict[tuple[str, str, int | None], T] = {}

    def find(self, url: httpx.URL) -> T:
        """Return the transport for a URL."""
        if not self._patterns:
            return self.default
        origin = url.scheme, url.host, url.port
        if origin not in self._found:
            if len(self._found) == _MAX_CACHED:
                self._found.clear()
            self._found[origin] = self._find(url)
        return self._found[origin]

    def _find(self, url: httpx.URL) -> T:
        for pattern, mount in self._patterns:
            if pattern.matches(url):
                return self.default if mount is None else mount
        return self.default


class UrlPattern:
    """A pattern of URLs: ``scheme://host:port``, where all but the scheme may be left out.

    The scheme may be ``all``, and the host ``*``, ``*.domain`` for the subdomains of a domain, or ``*domain`` for these
    and the domain itself. httpx has refused invalid patterns before.

    Args:
        pattern: the pattern.
        has_networks: whether the host may be a network, such as ``192.168.0.0/16``; else what follows it is ignored.

    Attributes:
        rank: patterns are to be tried in this order.
    """

    def __init__(self, pattern: str, *, has_networks: bool) -> None:
        url = httpx.URL(pattern)
        self._scheme = "" if url.scheme == "all" else url.scheme
        self._port = url.port
        host = "" if url.host == "*" else url.host
        length = url.path.removeprefix("/")
        self._network = _network(host, length) if has_networks and length else None
        self._host = _host_regex(host) if host and self._network is None else None
        # A port first, then hosts, then networks, from the smallest to the largest, then schemes.
        of_host = (0 if host else 2, 0, -len(host)) if self._network is None else (1, self._network.num_addresses, 0)
        self.rank = (self._port is None, *of_host, -len(self._scheme))

    def matches(self, url: httpx.URL) -> bool:
        """Whether the pattern matches a URL."""
        return (
            self._scheme in {"", url.scheme}
            and self._port in {None, url.port}
            and (self._host is None or self._host.fullmatch(url.host) is not None)
            and (self._network is None or _is_in(url.host, self._network))
        )


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _host_regex(host: str) -> re.Pattern[str]:
    if host.startswith("*."):
        return re.compile(rf".+\.{re.escape(host[2:])}")
    if host.startswith("*"):
        return re.compile(rf"(.+\.)?{re.escape(host[1:])}")
    return re.compile(re.escape(host))


def _network(address: str, length: str) -> _Network | None:
    try:
        return ipaddress.ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        return None


def _is_in(host: str, network: _Network) -> bool:
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
