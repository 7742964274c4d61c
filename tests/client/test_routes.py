"""Which of a client's transports sends a request: the one that a client of httpx with the same mounts would choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_http._client.arguments import HttpxArguments
from prefect_http._client.routes import Routes, UrlPattern
from prefect_http._client.routing import routes_to

HOSTS = [
    *("x.org", "www.x.org", "a.www.x.org", "wwwx.org", "X.ORG", "y.org", "org", "localhost", "b\u00fccher.de"),
    *("10.1.2.3", "10.0.0.1", "11.0.0.1", "127.0.0.1", "[::1]", "[fe80::1]", "[fe81::1]"),
]
URLS = [
    f"{scheme}://{host}{port}/p"
    for scheme in ("http", "https", "ws")
    for host in HOSTS
    for port in ("", ":80", ":8080")
]
PATTERNS = [
    *("all://", "http://", "https://", "ws://", "all://*", "http://*", "all://*:8080", "https://*:443"),
    *(
        "all://x.org",
        "http://x.org",
        "http://x.org:80",
        "all://x.org:8080",
        "all://*.x.org",
        "all://*x.org",
        "all://*org",
    ),
    *("all://www.x.org", "http://*.x.org:8080", "all://X.org", "all://*.", "all://**.x.org", "all://b\u00fccher.de"),
    *("all://localhost", "all://127.0.0.1", "all://[::1]", "https://[::1]:8080", "all://x.org/path", "all://u:p@x.org"),
    *("all://10.1.2.3", "all://10.0.0.0/8", "http://10.1.0.0/16", "all://10.1.2.3:8080", "all://10.1.2.3/31"),
    *("all://[fe80::]/10", "https://[fe80::]/64", "all://10.0.0.0/8/9", "all://10.0.0.0/", "all://0.0.0.0/0"),
]


def mounts_of(names: Sequence[str]) -> dict[str, httpx.MockTransport | None]:
    """Return mounts for patterns; every fourth is None."""
    return {
        name: None if number % 4 == 3 else httpx.MockTransport(lambda _: httpx.Response(200))
        for number, name in enumerate(names)
    }


def chosen_by(library: ModuleType, mounts: Mapping[str, Any], urls: Sequence[str]) -> list[str | None] | None:
    """Return the patterns of the transports that a client chooses, None for its own; None if it refuses them."""
    own = httpx.MockTransport(lambda _: httpx.Response(200))
    try:
        client = library.AsyncClient(transport=own, mounts=mounts)
    except Exception:
        return None
    names = {id(transport): name for name, transport in mounts.items() if transport is not None}
    return [names.get(id(client._transport_for_url(library.URL(url)))) for url in urls]


def chosen(routes: Routes[Any], mounts: Mapping[str, Any], urls: Sequence[str]) -> list[str | None]:
    """Return the patterns of the transports that our routes lead to, None for the client's own."""
    names = {id(transport): name for name, transport in mounts.items() if transport is not None}
    return [names.get(id(routes.find(httpx.URL(url)))) for url in urls]


NETWORK = "all://10.0.0.0/8"
HAS_NETWORKS = chosen_by(httpx2, mounts_of([NETWORK]), ["http://10.9.9.9"]) == [NETWORK]  # since httpx2 2.14


def compare(names: Sequence[str], urls: Sequence[str]) -> None:
    """Check that the routes are those of the installed httpx, and with networks those of httpx2."""
    mounts = mounts_of(names)
    own = httpx.MockTransport(lambda _: httpx.Response(200))
    expected = chosen_by(httpx, mounts, urls)
    if expected is not None:
        arguments: HttpxArguments = {"transport": own, "mounts": mounts}
        assert chosen(routes_to(arguments), mounts, urls) == expected
    expected = chosen_by(httpx2, mounts, urls)
    if expected is not None:
        assert chosen(Routes(own, mounts, has_networks=HAS_NETWORKS), mounts, urls) == expected


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_pattern(pattern: str) -> None:
    """A pattern matches the same URLs as in httpx."""
    compare([pattern], URLS)


def test_all_patterns() -> None:
    """Of all patterns, the same one wins, in whatever order they are given."""
    for names in (PATTERNS, PATTERNS[::-1]):
        for size in (6, len(PATTERNS)):
            for start in range(0, len(PATTERNS), size):
                compare(names[start : start + size], URLS[:: size // 6])


hosts = st.sampled_from([*HOSTS, ""]) | st.from_regex(r"\A\*?\.?([a-c]{1,2}\.){0,2}[a-c]\Z", fullmatch=True)
ports = st.sampled_from(["", ":80", ":443", ":8080"])
networks = st.sampled_from(["", "", "", "/8", "/16", "/31", "/x", "/99"])
wild_hosts = hosts | st.just("*") | hosts.map(lambda host: f"*.{host}") | hosts.map(lambda host: f"*{host}")
schemes = st.sampled_from(["all", "http", "https", "ws"])
patterns = st.builds("{}://{}{}{}".format, schemes, wild_hosts, ports, networks)
some_urls = st.builds("{}://{}{}/".format, schemes, hosts, ports)


@given(
    names=st.lists(patterns | st.sampled_from(PATTERNS), min_size=1, max_size=5, unique=True),
    urls=st.lists(some_urls, min_size=1, max_size=8),
)
@settings(max_examples=30)
def test_any_patterns(names: list[str], urls: list[str]) -> None:
    """Whatever the patterns and the URLs are, the same transport is chosen, unless httpx refuses the patterns."""
    compare(names, urls)


def test_a_port_that_is_the_default() -> None:
    """As in httpx, a URL with its scheme's default port has none, and a pattern has none either."""
    assert UrlPattern("http://x.org:80", has_networks=False).matches(httpx.URL("http://x.org/"))
    assert not UrlPattern("all://x.org:80", has_networks=False).matches(httpx.URL("http://x.org/"))


def test_routes_are_found_again() -> None:
    """However many origins there have been, each URL has its transport."""
    routes = Routes("own", {"all://even.org": "even", "all://odd.org": None}, has_networks=False)
    for number in range(1100):
        name = "odd" if number % 2 else "even"
        assert routes.find(httpx.URL(f"http://{name}.org:{number + 1}/")) == ("own" if number % 2 else "even")
        assert routes.find(httpx.URL(f"http://host{number}/")) == "own"


def test_without_patterns() -> None:
    """Without mounts, there is only the client's own transport."""
    assert Routes("own", {}, has_networks=True).find(httpx.URL("//x")) == "own"
