"""The origins that have answered a client."""

from __future__ import annotations

import httpx
from support.rows import each_row

from prefect_http._client.answered_origins import AnsweredOrigins


def origins_of(*urls: str) -> AnsweredOrigins:
    """Return a set of the origins of these URLs."""
    origins = AnsweredOrigins()
    for url in urls:
        origins.add(httpx.URL(url))
    return origins


def test_no_origin_has_answered_at_first() -> None:
    """A new set is empty."""
    assert httpx.URL("http://a/") not in AnsweredOrigins()


@each_row(
    ("url", "known"),
    [
        ("http://a/", True),
        ("http://a", True),
        ("http://A/other?q#f", True),
        ("http://a:80/", True),
        ("http://user:pw@a/", True),
        ("https://a/", False),
        ("http://a:8080/", False),
        ("http://b/", False),
        ("http://a.a/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, *, known: bool) -> None:
    """An origin is the scheme, host and port of a URL, and nothing else."""
    assert (httpx.URL(url) in origins_of("http://a/path")) is known


def test_a_port_counts() -> None:
    """Another port is another origin."""
    origins = origins_of("http://a:8080/")
    assert httpx.URL("http://a:8080/x") in origins
    assert httpx.URL("http://a/") not in origins


def test_the_set_is_bounded() -> None:
    """The number of origins is limited, since redirects choose them; the oldest are forgotten first."""
    urls = [f"http://host{number}/" for number in range(1001)]
    origins = origins_of(*urls)
    known = [httpx.URL(url) in origins for url in urls]
    assert known == [False] + [True] * 1000


def test_an_origin_that_is_known_costs_no_place() -> None:
    """An origin that answers again is not counted twice."""
    urls = [f"http://host{number}/" for number in range(1000)]
    origins = origins_of(*urls, *urls)
    assert all(httpx.URL(url) in origins for url in urls)
