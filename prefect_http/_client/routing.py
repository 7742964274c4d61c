"""The transports of a client: HTTPTransport instead of httpx's own, and a wrapper around each of them.

If httpx is given a ``transport``, it ignores the environment's proxies, and it has no public way to get at the
transports that it makes. So they are made here, as it would make them, and passed to it as ``transport`` and
``mounts``. This follows ``AsyncClient.__init__`` and ``get_environment_proxies`` of httpx 0.27 and 0.28, and of httpx2,
which parses NO_PROXY differently (since 2.14).
"""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TypedDict, cast
from urllib.request import getproxies, getproxies_environment

import httpx

from prefect_http._client.arguments import HttpxArguments
from prefect_http._client.routes import Routes
from prefect_http._response import PrefectResponse
from prefect_http._telemetry import Telemetry
from prefect_http._types import Certificate

# Invalid as a pattern if an address may have a prefix length; otherwise "x" is the path of a URL, and ignored.
_NO_NETWORK = "all://[::1]/x"


class _PoolArguments(TypedDict, total=False):
    """What httpx.AsyncClient passes on to each transport that it makes; the defaults are the same there."""

    verify: ssl.SSLContext | str | bool
    cert: Certificate | None
    trust_env: bool
    http1: bool
    http2: bool
    limits: httpx.Limits


def make_transports(
    arguments: HttpxArguments,
    wrap: Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport] | None = None,
    telemetry: Telemetry | None = None,
) -> None:
    """Change the arguments, in place, so that an httpx.AsyncClient makes no transports itself.

    They then hold all that it would use: ``transport`` or an HTTPTransport, those of ``mounts``, and those for
    ``proxy`` or else for the environment's proxies. ``mounts`` itself is not changed but replaced.

    Args:
        arguments: the keyword arguments of an httpx.AsyncClient.
        wrap: called once with each transport, even if that is mounted several times; None: they stay as they are.
        telemetry: is told of the connections of those that are HTTPTransports; None: nothing is.

    Raises:
        TypeError: ``proxies`` is given, which httpx 0.27 still accepts with a warning, or something that is not an
            async transport.
        Exception: whatever httpx raises for a transport that cannot be made.
    """
    if "proxies" in arguments:
        raise TypeError("proxies= is not supported, as in httpx since 0.28; use proxy= or mounts=")
    transport, mounts = arguments.get("transport"), arguments.get("mounts")
    for each in (transport, *(mounted for _, mounted in (mounts or {}).items())):  # httpx as well asks for its items
        if each is not None and (isinstance(each, type) or not hasattr(each, "handle_async_request")):
            is_sync = isinstance(each, httpx.HTTPTransport)
            remedy = "; that is a sync transport, use prefect_http.HTTPTransport" if is_sync else ""
            raise TypeError(f"a transport must be an httpx.AsyncBaseTransport, not {each!r}{remedy}")
    pool = cast(
        _PoolArguments, {name: value for name, value in arguments.items() if name in _PoolArguments.__annotations__}
    )
    routes: dict[str, httpx.AsyncBaseTransport | None] = {
        pattern: None if proxy is None else _new_transport(pool, proxy)
        for pattern, proxy in _proxies(arguments).items()
    }
    if mounts is not None:
        routes.update(mounts.items())
    if transport is None:
        transport = _new_transport(pool)
    if telemetry is not None:
        for each in (transport, *routes.values()):
            _tell(each, telemetry)
    if wrap is not None:
        wrapped: dict[int, httpx.AsyncBaseTransport] = {}  # by identity, for transports need not hash
        for each in (transport, *routes.values()):
            if each is not None and id(each) not in wrapped:
                wrapped[id(each)] = wrap(each)
        transport = wrapped[id(transport)]
        # None as a mount is the default transport.
        routes = {pattern: None if each is None else wrapped[id(each)] for pattern, each in routes.items()}
    arguments["transport"], arguments["mounts"] = transport, routes
    arguments.pop("proxy", None)
    arguments.pop("http2", None)  # httpx would want the h2 package, for nothing


def _new_transport(
    pool: _PoolArguments, proxy: httpx.URL | str | httpx.Proxy | None = None
) -> httpx.AsyncBaseTransport:
    from prefect_http._wire.transport import HTTPTransport, answer_with

    transport = HTTPTransport(proxy=proxy, **pool)
    answer_with(transport, PrefectResponse)
    return transport


def _tell(transport: httpx.AsyncBaseTransport | None, telemetry: Telemetry) -> None:
    """Report the connections of an HTTPTransport, also of one behind a throttle, to a telemetry; ignore others."""
    from prefect_http._throttle.transport import transport_behind
    from prefect_http._wire.transport import HTTPTransport, tell

    sender = None if transport is None else transport_behind(transport)
    if isinstance(sender, HTTPTransport):
        tell(sender, telemetry)


def routes_to(arguments: HttpxArguments) -> Routes[httpx.AsyncBaseTransport]:
    """Return the routes to the transports that `make_transports()` has made, whose patterns httpx has accepted."""
    transport, mounts = arguments.get("transport"), arguments.get("mounts")
    assert transport is not None
    assert mounts is not None
    return Routes(transport, mounts, has_networks=bool(mounts) and _knows_networks())


def _proxies(arguments: HttpxArguments) -> Mapping[str, httpx.URL | str | httpx.Proxy | None]:
    """Return the proxy for each pattern of URLs; None: no proxy."""
    proxy = arguments.get("proxy")
    if proxy is not None:
        return {"all://": proxy}
    if arguments.get("transport") is None and arguments.get("trust_env", True):
        found = _found_proxies()
        return environment_proxies(found, has_networks="no" in found and _knows_networks())
    return {}


def _found_proxies() -> Mapping[str, str]:
    """Return what ``getproxies()`` does: the proxies of the environment, or else of the system, on macOS and Windows.

    It decodes all of the environment twice, which is more than half of the time that httpx takes to make a client. Most
    environments name no proxy, and the names alone tell.
    """
    is_of_environment = getproxies is getproxies_environment
    if is_of_environment and not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    return getproxies()


def environment_proxies(found: Mapping[str, str], *, has_networks: bool) -> dict[str, str | None]:
    """Return the environment's proxy for each pattern of URLs; None: no proxy.

    Args:
        found: the proxies for ``http``, ``https`` and ``all``, and the hosts for ``no``, as from ``getproxies()``.
        has_networks: whether NO_PROXY is parsed as httpx2 does: with networks, addresses in brackets and
            ``*.domain``, and ignoring what makes an invalid pattern. For httpx that is an error, which it raises
            itself.
    """
    proxies: dict[str, str | None] = {}
    for scheme in ("http", "https", "all"):
        if url := found.get(scheme):
            proxies[f"{scheme}://"] = url if "://" in url else f"http://{url}"
    for entry in found.get("no", "").split(","):
        host = entry.strip()
        if host == "*":
            return {}
        if host:
            pattern = _pattern_with_networks(host) if has_networks else _pattern(host)
            if pattern is not None:
                proxies[pattern] = None
    return proxies


@functools.cache
def _knows_networks() -> bool:
    """Whether the host of a pattern may be a network, as with httpx2."""
    return not _is_pattern(_NO_NETWORK)


def _pattern(host: str) -> str:
    """Return the pattern for an entry of NO_PROXY. A domain includes its subdomains, unless it begins with a dot."""
    if "://" in host:
        return host
    if _is_address(IPv6Address, host):
        return f"all://[{host}]"
    if _is_address(IPv4Address, host) or host.lower() == "localhost":
        return f"all://{host}"
    return f"all://*{host}"


def _pattern_with_networks(host: str) -> str | None:
    """Return the pattern for an entry of NO_PROXY as httpx2 does; None for one that it ignores."""
    pattern = _pattern(host)
    address, slash, length = host.partition("/")
    if "://" not in host:
        if slash and _is_address(IPv6Address, address):
            pattern = f"all://[{address}]/{length}"
        elif slash and not host.startswith("[") and not _is_address(IPv4Address, address):
            return None
        elif host.startswith(("[", "*.")):
            pattern = f"all://{host}"
    return pattern if _is_pattern(pattern) else None


def _is_address(kind: type[IPv4Address | IPv6Address], host: str) -> bool:
    try:
        kind(host.partition("/")[0])
    except ValueError:
        return False
    return True


def _is_pattern(pattern: str) -> bool:
    """Whether httpx accepts the pattern, which only a client of it can tell."""
    try:
        httpx.AsyncClient(transport=httpx.AsyncBaseTransport(), mounts={pattern: None}, trust_env=False)
    except httpx.InvalidURL:
        return False
    return True
