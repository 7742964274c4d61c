"""Requests are built as by httpx, whether there has been a similar one before or not."""

from __future__ import annotations

import enum
import io
import itertools
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, LWPCookieJar
from typing import Any, cast

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http import PrefectHttpxClient
from prefect_http._client.building import RequestBuilder
from prefect_http._client.cookies import COOKIES_OF_CLIENT

URL = "http://server/path"
TRANSPORT = httpx.MockTransport(lambda _: httpx.Response(200))

pytestmark = pytest.mark.filterwarnings("ignore:Setting per-request cookies:DeprecationWarning")

Outcome = Mapping[str, object] | tuple[type[Exception], str]


def outcome(client: httpx.AsyncClient, method: str, url: Any, arguments: Mapping[str, Any]) -> Outcome:
    """Return what can be seen of a request that a client builds, or the error; without the default User-Agent."""
    try:
        request = client.build_request(method, url, **arguments)
    except Exception as error:
        return type(error), str(error)
    assert isinstance(request.stream, httpx.ByteStream | httpx.AsyncByteStream)
    return {
        "method": request.method,
        "url": request.url,
        "headers": [header for header in request.headers.raw if b"python-httpx" not in header[1]],
        "extensions": {name: value for name, value in request.extensions.items() if not name.startswith("prefect")},
        "content": request.read(),
    }


def both(**arguments: Any) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Return a client of httpx and one of ours."""
    return httpx.AsyncClient(transport=TRANSPORT, **arguments), PrefectHttpxClient(transport=TRANSPORT, **arguments)


# --- The same as with httpx

CLIENTS: list[dict[str, Any]] = [
    {},
    {"base_url": "http://base/api/"},
    {"base_url": "/api"},
    {"base_url": "//base"},
    {"headers": {"X-A": "1", "User-Agent": "mine", "Accept": "text/plain"}},
    {"headers": [("X-A", "1"), ("x-a", "2"), (b"X-B", b"\xff")]},
    {"headers": {"Host": "virtual", "Content-Length": "9", "Cookie": "by=hand"}},
    {"params": {"p": "1"}},
    {"cookies": {"c": "1"}},
    {"cookies": {"c": "1"}, "headers": {"Cookie": "by=hand"}},
    {"cookies": {"c": "ä"}},
    {"timeout": None},
    {"timeout": httpx.Timeout(1, read=2)},
]

BOUNDARY = {"Content-Type": "multipart/form-data; boundary=x"}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"headers": None},
    {"headers": {}},
    {"headers": {"X-A": "own", "accept": "own", "ACCEPT-ENCODING": ""}},
    {"headers": [("X-A", "1"), ("X-A", "2"), ("x-a", "3")]},
    {"headers": [(b"X-A", b"\xff"), (b"User-Agent", b"own")]},
    {"headers": httpx.Headers([("X-B", "1"), ("X-B", "2")])},
    {"headers": {"Host": "other"}},
    {"headers": {"hOST": "other"}},
    {"headers": {"Content-Length": "3", "Transfer-Encoding": "chunked", "Content-Type": "a/b"}},
    {"headers": {"Cookie": "by=hand"}},
    {"headers": {"X-A": "ä"}},
    {"headers": {"X-A": None}},
    {"headers": 5},
    {"timeout": 3},
    {"timeout": None},
    {"timeout": (1, 2, 3, 4)},
    {"timeout": "soon"},
    {"extensions": None},
    {"extensions": {}},
    {"extensions": {"a": 1}, "timeout": 3},
    {"extensions": {"timeout": {"read": 7}}, "timeout": 3},
    {"params": {"q": "2"}},
    {"params": {}},
    {"params": {"q": []}},
    {"params": {"q": ["a b", "ü&=?#/"], "": None, "n": 1.5, "t": True}},
    {"params": [("q", "2"), ("q", "3")]},
    {"params": "q=2&r"},
    {"params": b"q=2"},
    {"params": httpx.QueryParams("q=2")},
    {"params": ""},
    {"params": 5},
    {"params": {"q": "x" * 3000}},
    {"params": {"q": "x" * 65_530}},
    {"params": 5, "headers": {"X-A": 5}},
    {"extensions": {1: 2}},
    {"cookies": {"d": "2"}},
    {"cookies": {}},
    {"content": b""},
    {"content": b"body"},
    {"json": {"a": 1}},
    {"json": None},
    {"json": {1, 2}},
    {"json": {"a": 1}, "headers": {"Content-Type": "a/b"}, "params": {"q": "2"}},
    {"data": {}},
    {"data": {"a": ["1", "2"]}},
    {"content": "text", "headers": {"Content-Length": "3", "Transfer-Encoding": "chunked"}},
    {"content": 5},
    {"data": {"a": "1"}, "files": {"f": ("name", b"content", "a/b")}, "headers": BOUNDARY},
    {"unknown": 1},
    {"unknown": 1, "headers": {"X-A": 5}},
]

URLS: list[Any] = [
    *("", "a", "/a", "?q", "#f", "?", "//host/a", "\n", None, 5, b"http://server/"),
    *("http://server", URL, "http://server/?", "http://server/#", "http://user:pw@server:80/%20ü?a=b#c"),
    *("HTTP://server:80/", "HTTP://server/", "http://user:pw@server/", "https://server:8443/", "http://[::1]:1/"),
    *("http://xn--nxasmq6b/", "app://callback/x", "mailto:a@b", "http:///a", "http://a:b/", "http://[/"),
    *(httpx.URL(url) for url in ("", "a", "//host/a", URL, "mailto:a@b", "http:///a")),
]


class Method(str, enum.Enum):  # noqa: UP042 - a StrEnum is the text that it stands for
    """A method that is more than a text."""

    GET = "GET"


METHODS = [Method.GET, "GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "POST", "PUT", "PATCH", "QUERY", "get", "Get", ""]


@pytest.mark.parametrize("of_client", CLIENTS, ids=repr)
def test_requests_are_built_as_by_httpx(of_client: dict[str, Any]) -> None:
    """With any defaults and arguments, the request is the same, the first time and the second; or the error is."""
    theirs, ours = both(**of_client)
    rows = [
        *itertools.product(["GET", "POST"], [URL, "a"], REQUESTS),
        *itertools.product(["GET", "POST"], URLS, [{}, {"params": {"q": "2"}}, {"unknown": 1}]),
        *itertools.product(METHODS, [URL], [{}, {"headers": {"X-A": "1"}}, {"params": {"q": "2"}}]),
    ]
    for method, url, arguments in rows:
        expected = outcome(theirs, method, url, arguments)
        for time in ("the first time", "the second time"):
            assert outcome(ours, method, url, arguments) == expected, (method, url, arguments, time)


def set_header(client: httpx.AsyncClient) -> None:
    """Set a header of a client."""
    client.headers["X-New"] = "1"


def delete_header(client: httpx.AsyncClient) -> None:
    """Delete a header of a client."""
    client.headers.pop("Accept", None)


def set_headers(client: httpx.AsyncClient) -> None:
    """Assign the headers of a client."""
    client.headers = {"X-New": "2"}


def set_base_url(client: httpx.AsyncClient) -> None:
    """Assign a client's base URL."""
    client.base_url = "http://new/v2"


def set_params(client: httpx.AsyncClient) -> None:
    """Assign the parameters of a client."""
    client.params = {"p": "9"}


def set_cookie(client: httpx.AsyncClient) -> None:
    """Set a cookie of a client."""
    client.cookies.set("new", "1")


def set_cookie_that_is_not_ascii(client: httpx.AsyncClient) -> None:
    """Set a cookie of a client that only some requests can be sent with."""
    client.cookies.set("new", "ä")


def clear_cookies(client: httpx.AsyncClient) -> None:
    """Delete the cookies of a client."""
    client.cookies.clear()


def set_timeout(client: httpx.AsyncClient) -> None:
    """Assign the timeouts of a client."""
    client.timeout = 9


CHANGES = [
    *(set_header, delete_header, set_headers, set_base_url, set_params, set_cookie, set_cookie_that_is_not_ascii),
    *(clear_cookies, set_timeout),
]


@each_row("change", CHANGES)
def test_changed_defaults_count(change: Callable[[httpx.AsyncClient], None]) -> None:
    """Whatever of a client is changed, the next request has it."""
    theirs, ours = both(base_url="http://base/api/", cookies={"c": "1"}, headers={"Accept": "a/b"})
    rows: list[tuple[str, dict[str, Any]]] = [("a", {}), (URL, {}), ("a", {"headers": {"X-Own": "1"}})]
    before = [outcome(ours, "GET", url, arguments) for url, arguments in rows]
    change(theirs)
    change(ours)
    after = [outcome(ours, "GET", url, arguments) for url, arguments in rows]
    assert after == [outcome(theirs, "GET", url, arguments) for url, arguments in rows]
    assert after != before


names = st.sampled_from(["X-A", "x-a", "Accept", "Host", "Cookie", "User-Agent", "Content-Length"])
values = st.sampled_from(["1", "2", "a, b", ""])
headers = st.lists(st.tuples(names, values), max_size=4)
arguments_of_requests = st.fixed_dictionaries(
    {},
    optional={
        "headers": headers | headers.map(dict) | headers.map(httpx.Headers) | st.none(),
        "params": st.dictionaries(st.sampled_from("pq"), values, max_size=2) | st.none(),
        "timeout": st.none() | st.integers(1, 3),
        "extensions": st.none() | st.dictionaries(st.sampled_from(["a", "sni_hostname"]), values, max_size=2),
        "content": st.binary(max_size=3) | st.none(),
        "cookies": st.dictionaries(st.sampled_from("cd"), st.just("1"), max_size=2) | st.none(),
    },
)
urls = st.sampled_from([*filter(None, URLS)]) | st.text("ab/:?#@[]%. é", max_size=8)
steps = st.sampled_from(CHANGES) | st.tuples(st.sampled_from(METHODS), urls, arguments_of_requests)


@given(of_client=st.sampled_from(CLIENTS), steps=st.lists(steps, max_size=6))
@settings(max_examples=30)
def test_any_requests(of_client: dict[str, Any], steps: list[Any]) -> None:
    """Any requests of one client are built as by httpx, whatever was built and changed before."""
    theirs, ours = both(**of_client)
    for step in steps:
        if callable(step):
            step(theirs)
            step(ours)
        else:
            assert outcome(ours, *step) == outcome(theirs, *step)


# --- What is reused


def jar_of_another_class() -> CookieJar:
    """Return a jar with a cookie, which may have rules of its own."""
    jar = LWPCookieJar()
    for each in httpx.Cookies({"c": "1"}).jar:
        jar.set_cookie(each)
    return jar


class Builder:
    """Builds requests with a RequestBuilder, and counts how many of them httpx has built.

    Attributes:
        urls: of those that httpx has built.
    """

    def __init__(self, **arguments: Any) -> None:
        self._client = httpx.AsyncClient(transport=TRANSPORT, **arguments)
        self._builder = RequestBuilder()
        self._count = 0
        self.urls: list[httpx.URL] = []

    def _by_httpx(self, method: str, url: Any, **arguments: Any) -> httpx.Request:
        self._count += 1
        self.urls.append(url)
        return self._client.build_request(method, url, **arguments)

    def count(self, method: str = "GET", url: Any = URL, **arguments: Any) -> int:
        """Build a request, and return how many httpx has built for it."""
        self._count = 0
        self._builder.build(self._client, self._by_httpx, method, url, arguments)
        return self._count


@each_row(
    ("arguments", "count"),
    [
        ({}, 0),
        ({"url": "http://server/other?a=b"}, 0),
        ({"url": httpx.URL(URL)}, 0),
        ({"method": "DELETE"}, 0),
        ({"headers": {"X-A": "1"}, "timeout": 3, "extensions": {"a": 1}}, 0),
        ({"headers": {"Host": "other"}}, 1),
        ({"method": "POST"}, 0),
        ({"method": "get"}, 0),
        ({"params": {"a": "b"}}, 0),
        ({"params": {"a": "b"}, "url": f"{URL}?c=d"}, 0),
        ({"json": {"a": "b"}}, 0),
        ({"content": b"body"}, 0),
        ({"cookies": {"a": "b"}}, 1),
        ({"url": "http://other/"}, 1),
        ({"url": "https://server:1/"}, 1),
    ],
)
def test_what_httpx_builds(arguments: dict[str, Any], count: int) -> None:
    """Of two requests to a host, httpx builds one, unless there is something that only it can tell."""
    builder = Builder()
    assert builder.count() == 1
    assert builder.count(**arguments) == count


@pytest.mark.parametrize(
    ("of_client", "count"),
    [
        ({"params": {"p": "1"}}, 0),
        ({"cookies": {"c": "1"}}, 0),
        ({"cookies": jar_of_another_class()}, 1),
        ({"headers": {"X-A": "1"}}, 0),
    ],
)
def test_defaults(of_client: dict[str, Any], count: int) -> None:
    """The same goes for what a client adds to each request, but for cookies in a jar of another class."""
    builder = Builder(**of_client)
    builder.count()
    assert builder.count() == count


def test_a_host_that_is_forgotten() -> None:
    """The headers of 100 hosts are kept, whatever hosts there are; the oldest is forgotten first."""
    builder = Builder()
    hosts = [httpx.URL(f"http://host{number}/") for number in range(101)]
    assert [builder.count(url=host) for host in hosts] == [1] * 101
    assert [builder.count(url=hosts[number]) for number in (1, 100, 0, 2, 1)] == [0, 0, 1, 0, 1]
    for number in range(300):
        builder.count(url=f"http://name{number}/")
    assert [builder.count(url=f"http://name{number}/") for number in (299, 60, 0)] == [0, 0, 1]


def test_a_url_that_is_forgotten() -> None:
    """256 URLs are kept, whatever URLs there are; the oldest is forgotten first."""
    builder = Builder()

    def url(number: int) -> httpx.URL:
        builder.count(url=f"http://server/{number}", cookies={"a": "b"})
        return builder.urls[-1]

    kept = [url(number) for number in range(256)]
    assert url(0) is kept[0]
    url(256)
    assert url(1) is kept[1]
    assert url(0) is not kept[0]
    assert url(0) == kept[0]


@each_row("change", [set_header, set_headers, set_base_url, set_params, set_cookie, clear_cookies])
def test_defaults_that_another_thread_changes_after_a_request_was_built(
    change: Callable[[httpx.AsyncClient], None],
) -> None:
    """What was built with the old ones is not remembered for the new ones."""
    client = httpx.AsyncClient(transport=TRANSPORT, base_url="http://old/", headers={"X-New": "0"}, cookies={"c": "1"})
    builder = RequestBuilder()

    def build(method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        request = client.build_request(method, url, **arguments)
        if not changed:
            changed.append(True)
            change(client)
            builder.build(client, client.build_request, "GET", "/other", {})
        return request

    changed: list[bool] = []
    builder.build(client, build, "GET", "/path", {})
    assert changed
    request, expected = builder.build(client, build, "GET", "/path", {}), client.build_request("GET", "/path")
    assert (request.url, request.headers.raw) == (expected.url, expected.headers.raw)


def test_defaults_that_another_thread_changes_before_a_request_is_built() -> None:
    """Nor is what was built with the new ones remembered for the old ones, which may come back."""
    client = httpx.AsyncClient(transport=TRANSPORT, headers={"X-New": "old"})
    builder = RequestBuilder()

    def build(method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        client.headers["X-New"] = "new"
        return client.build_request(method, url, **arguments)

    builder.build(client, build, "GET", URL, {})
    client.headers["X-New"] = "old"
    assert builder.build(client, client.build_request, "GET", URL, {}).headers["X-New"] == "old"


# --- Requests are independent of each other


@pytest.mark.parametrize("arguments", [{}, {"headers": {"X-Own": "1"}}, {"extensions": {"a": 1}}], ids=repr)
def test_changing_a_request_changes_no_other(arguments: dict[str, Any]) -> None:
    """Neither the headers nor the extensions of two requests are the same objects, nor those of the caller."""
    client = PrefectHttpxClient(transport=TRANSPORT)
    first, second = (client.build_request("GET", URL, **arguments) for _ in range(2))
    expected = outcome(client, "GET", URL, arguments)
    given = {name: dict(value) for name, value in arguments.items()}
    first.headers["X-Changed"] = "1"
    first.headers["Host"] = "changed"
    first.extensions["changed"] = 1
    cast("dict[str, object]", first.extensions["timeout"])["read"] = "changed"
    first.stream = httpx.ByteStream(b"changed")
    first.url = first.url.copy_with(path="/changed")
    assert "X-Changed" not in second.headers
    assert "changed" not in second.extensions
    assert cast("dict[str, object]", second.extensions["timeout"])["read"] == 5
    assert cast(httpx.ByteStream, second.stream) is not first.stream
    assert outcome(client, "GET", URL, arguments) == expected
    assert arguments == given
    assert "X-Changed" not in client.headers


@pytest.mark.parametrize("of_client", [{}, {"cookies": {"c": "1"}}], ids=repr)
def test_headers_that_are_not_ascii_may_be_added(of_client: dict[str, Any]) -> None:
    """To a request that has been built, and to the client afterwards."""
    client = PrefectHttpxClient(transport=TRANSPORT, **of_client)
    bodies: list[dict[str, Any]] = [{}, {"json": {}}, {"content": anyio.wrap_file(io.BytesIO(b"content"))}]
    for body in bodies:
        request = client.build_request("POST", URL, **body)
        request.headers["X-Name"] = "ü"
        assert request.headers.raw[-1] == (b"X-Name", "ü".encode())
    client.headers["X-Name"] = "ü"
    assert (b"X-Name", "ü".encode()) in client.build_request("GET", URL).headers.raw


def test_headers_that_can_be_iterated_over_once() -> None:
    """A Cookie header among them is told from one that is made of cookies."""
    client = PrefectHttpxClient(transport=TRANSPORT, cookies={"c": "1"})
    for _ in range(2):
        request = client.build_request("GET", URL, headers=cast(Any, iter([("Cookie", "hand=1")])))
        assert request.headers["Cookie"] == "hand=1"
        assert COOKIES_OF_CLIENT not in request.extensions


def of_subclass(base: type[httpx.AsyncClient]) -> list[httpx.Request]:
    """Return requests of classes that override what a client adds."""

    class WithParams(base):  # type: ignore[misc, valid-type]
        @property
        def params(self) -> Any:
            return {"key": "1"}

    class WithMerger(base):  # type: ignore[misc, valid-type]
        def _merge_queryparams(self, params: Any = None) -> Any:
            return {**(params or {}), "key": "1"}

    clients = WithParams(transport=TRANSPORT), WithMerger(transport=TRANSPORT)
    return [client.build_request("GET", URL, params={"a": "b"}) for client in clients for _ in range(2)]


def test_subclasses_may_override_what_a_client_adds() -> None:
    """Properties, and what httpx calls itself."""
    theirs, ours = of_subclass(httpx.AsyncClient), of_subclass(PrefectHttpxClient)
    assert [request.url for request in ours] == [request.url for request in theirs]


# --- The client's headers


def test_headers_are_httpxs_but_for_the_user_agent() -> None:
    """The client's headers can be read and assigned as with httpx."""
    theirs, ours = both()
    for client in (theirs, ours):
        assert isinstance(client.headers, httpx.Headers)
        client.headers = {"X-A": "1"}
        client.headers["X-B"] = "2"
    assert ours.headers["User-Agent"].startswith("prefect-http/")
    del ours.headers["User-Agent"], theirs.headers["User-Agent"]
    assert ours.headers == theirs.headers


def test_the_users_own_user_agent() -> None:
    """It is sent if there is one, whether it is given, assigned or part of a request."""
    client = PrefectHttpxClient(transport=TRANSPORT, headers={"user-agent": "mine"})
    assert client.build_request("GET", URL).headers["User-Agent"] == "mine"
    assert client.build_request("GET", URL, headers={"USER-AGENT": "own"}).headers.get_list("User-Agent") == ["own"]
    client.headers = {"User-Agent": "new"}
    assert client.build_request("GET", URL).headers["User-Agent"] == "new"
