"""The scope of a request, key by key, as a server on a socket would build it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._asgi.scope import http_scope, read_head


def scope_of(
    url: str = "http://example.org/",
    method: str = "GET",
    *,
    root_path: str = "",
    client: tuple[str, int] = ("127.0.0.1", 123),
    state: Mapping[str, Any] | None = None,
    **request: Any,
) -> Mapping[str, Any]:
    """Return the scope of a request."""
    sent = httpx.Request(method, url, **request)
    headers = read_head(sent.method, tuple(sent.headers.raw)).headers
    return http_scope(sent, headers, root_path=root_path, client=client, state=state)


def test_all_keys() -> None:
    """A scope has these keys and no others."""
    scope = scope_of("http://example.org:8000/a%20b/?c=d%20e#f", "POST", headers={"X-One": "1"}, content=b"text")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a b/",
        "raw_path": b"/a%20b/",
        "query_string": b"c=d%20e",
        "root_path": "",
        "headers": [(b"host", b"example.org:8000"), (b"x-one", b"1"), (b"content-length", b"4")],
        "client": ("127.0.0.1", 123),
        "server": ("example.org", 8000),
    }


def test_scopes_share_nothing() -> None:
    """What an app changes in its scope affects no other scope."""
    first = scope_of()
    first["asgi"].clear()
    first["headers"].clear()
    assert scope_of()["asgi"] == {"version": "3.0", "spec_version": "2.3"}
    assert scope_of()["headers"] == [(b"host", b"example.org")]


def test_scope_and_request_share_nothing() -> None:
    """What an app changes in its scope does not change the request."""
    request = httpx.Request("GET", "http://example.org", headers={"X-One": "1"})
    head = read_head("GET", tuple(request.headers.raw))
    scope = http_scope(request, head.headers, root_path="", client=("127.0.0.1", 123), state=None)
    scope["headers"].clear()
    assert request.headers["X-One"] == "1"
    assert head.headers == ((b"host", b"example.org"), (b"x-one", b"1"))


@each_row("method", ["GET", "HEAD", "POST", "get", "PROPFIND", "X-OWN"])
def test_method(method: str) -> None:
    """A method is in upper case, including an unknown one."""
    assert scope_of(method=method)["method"] == method.upper()


# Headers.


@each_row(
    ("headers", "expected"),
    [
        ({}, []),
        ({"X-One": "1"}, [(b"x-one", b"1")]),
        ([("X-Two", "a"), ("X-One", "b"), ("x-TWO", "c")], [(b"x-two", b"a"), (b"x-one", b"b"), (b"x-two", b"c")]),
        ([("X-One", "A, B"), ("X-One", "A, B")], [(b"x-one", b"A, B"), (b"x-one", b"A, B")]),
        ([(b"X-One", b"\xff")], [(b"x-one", b"\xff")]),
        ([("X-Empty", "")], [(b"x-empty", b"")]),
    ],
)
def test_headers(headers: Any, expected: list[tuple[bytes, bytes]]) -> None:
    """Header names are in lower case; the order, repetitions and values are kept."""
    scope = scope_of(headers=headers)
    assert scope["headers"] == [(b"host", b"example.org"), *expected]


@each_row(
    ("url", "host"),
    [
        ("http://example.org", b"example.org"),
        ("http://EXAMPLE.org:80", b"example.org"),
        ("http://example.org:8000", b"example.org:8000"),
        ("https://example.org:443", b"example.org"),
        ("https://example.org:80", b"example.org:80"),
        ("http://[::1]:8000", b"[::1]:8000"),
        ("http://user:password@example.org", b"example.org"),
        ("http://bücher.example", b"xn--bcher-kva.example"),
    ],
)
def test_host_header(url: str, host: bytes) -> None:
    """The Host header comes first, as on the wire."""
    assert scope_of(url)["headers"][0] == (b"host", host)


def test_explicit_host_header() -> None:
    """A Host header that the caller sets replaces the default one."""
    assert scope_of(headers={"Host": "other.example"})["headers"] == [(b"host", b"other.example")]


def test_length_beside_chunks() -> None:
    """A Content-Length beside a Transfer-Encoding is left out, as on the wire."""
    head = read_head("POST", ((b"Host", b"a"), (b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")))
    assert head == (((b"host", b"a"), (b"transfer-encoding", b"chunked")), None)


# URLs.


@each_row(
    ("url", "path", "raw_path", "query_string"),
    [
        ("", "/", b"/", b""),
        ("/", "/", b"/", b""),
        ("?", "/", b"/", b""),
        ("?a=b", "/", b"/", b"a=b"),
        ("/a", "/a", b"/a", b""),
        ("/a/", "/a/", b"/a/", b""),
        ("/a?", "/a", b"/a", b""),
        ("/a?b=c&b=d&e", "/a", b"/a", b"b=c&b=d&e"),
        ("/a?b=c?d=e", "/a", b"/a", b"b=c?d=e"),
        ("/a#b", "/a", b"/a", b""),
        ("/a?b#c?d", "/a", b"/a", b"b"),
        ("/a b", "/a b", b"/a%20b", b""),
        ("/a%20b", "/a b", b"/a%20b", b""),
        ("/a+b?c+d", "/a+b", b"/a+b", b"c+d"),
        ("/a%2Fb", "/a/b", b"/a%2Fb", b""),
        ("/a%2fb", "/a/b", b"/a%2fb", b""),
        ("/a%3Fb?c", "/a?b", b"/a%3Fb", b"c"),
        ("/a%25b", "/a%b", b"/a%25b", b""),
        ("/ü?ü", "/ü", b"/%C3%BC", b"%C3%BC"),
        ("/%C3%BC?%C3%BC=%26", "/ü", b"/%C3%BC", b"%C3%BC=%26"),
        ("/☃", "/☃", b"/%E2%98%83", b""),
        ("/%FF", "/\N{REPLACEMENT CHARACTER}", b"/%FF", b""),
    ],
)
def test_path_and_query(url: str, path: str, raw_path: bytes, query_string: bytes) -> None:
    """The path is decoded; the raw path and the query string are as on the wire, each without the other."""
    scope = scope_of(f"http://example.org{url}")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query_string)


@settings(max_examples=30)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_path_and_query(path: str, query: str) -> None:
    """Any text in a path or query arrives at the app."""
    quoted = quote(path, safe="")
    scope = scope_of(f"http://example.org/x{quoted}", params={"query": query})
    assert scope["path"] == f"/x{path}"
    assert scope["raw_path"] == b"/x" + quoted.encode()
    assert parse_qs(scope["query_string"].decode(), keep_blank_values=True) == {"query": [query]}


def test_params() -> None:
    """The params of a request are in the query string."""
    assert scope_of(params=[("a", "1"), ("a", "{}"), ("d", "&")])["query_string"] == b"a=1&a=%7B%7D&d=%26"


@each_row(
    ("url", "scheme", "server"),
    [
        ("http://example.org", "http", ("example.org", 80)),
        ("https://example.org", "https", ("example.org", 443)),
        ("http://example.org:80", "http", ("example.org", 80)),
        ("https://example.org:443", "https", ("example.org", 443)),
        ("http://example.org:443", "http", ("example.org", 443)),
        ("https://example.org:8443", "https", ("example.org", 8443)),
        ("HTTP://EXAMPLE.ORG", "http", ("example.org", 80)),
        ("http://127.0.0.1:8000", "http", ("127.0.0.1", 8000)),
        ("http://[::1]", "http", ("::1", 80)),
        ("https://[2001:db8::1]:8443", "https", ("2001:db8::1", 8443)),
        ("http://user:password@example.org:8000", "http", ("example.org", 8000)),
        ("own://example.org", "own", ("example.org", None)),
        ("own://example.org:8000", "own", ("example.org", 8000)),
    ],
)
def test_scheme_and_server(url: str, scheme: str, server: tuple[str, int | None]) -> None:
    """The server is a host without brackets and a port, which may be the scheme's default; None if that is unknown."""
    scope = scope_of(url)
    assert (scope["scheme"], scope["server"]) == (scheme, server)


def test_credentials_of_a_url() -> None:
    """The userinfo of a URL is nowhere in the scope."""
    assert "password" not in repr(scope_of("http://user:password@example.org/a?b"))


# The arguments of the transport.


def test_root_path() -> None:
    """The root path is passed on unchanged, and does not change the path."""
    scope = scope_of("http://example.org/mount/a", root_path="/mount")
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/mount", "/mount/a", b"/mount/a")


def test_client() -> None:
    """The client is passed on unchanged."""
    assert scope_of(client=("::1", 54321))["client"] == ("::1", 54321)


# State.


def test_no_state() -> None:
    """Without a lifespan, the scope has no state."""
    assert "state" not in scope_of(state=None)


@pytest.mark.parametrize("state", [{}, {"a": 1}, MappingProxyType({"a": 1})], ids=repr)
def test_state(state: Mapping[str, Any]) -> None:
    """The state of the lifespan is in the scope as a dict, even if it is empty."""
    scope = scope_of(state=state)
    assert scope["state"] == state
    assert type(scope["state"]) is dict


def test_state_is_a_copy_per_request() -> None:
    """What an app changes in the state of a request affects neither other requests nor the lifespan."""
    state = {"kept": 1}
    first, second = scope_of(state=state)["state"], scope_of(state=state)["state"]
    first["added"] = 2
    del first["kept"]
    assert second == state == scope_of(state=state)["state"] == {"kept": 1}


def test_state_is_a_shallow_copy() -> None:
    """The objects in the state are the lifespan's own, so that all requests share a pool."""
    pool = [1]
    assert scope_of(state={"pool": pool})["state"]["pool"] is pool


def test_state_is_as_it_is_at_the_request() -> None:
    """What is added to the lifespan's state later is there for later requests."""
    state: dict[str, Any] = {}
    before = scope_of(state=state)["state"]
    state["late"] = 1
    assert (before, scope_of(state=state)["state"]) == ({}, {"late": 1})
