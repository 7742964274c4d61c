"""The Cookie headers of requests are httpx's, though they are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.cookiejar import Cookie, CookieJar
from typing import Any, cast

import httpx
import pytest
from support.rows import each_row

from prefect_http import PrefectHttpxClient
from prefect_http._client.cookie_headers import CookieHeaders

URLS = [
    *(
        "http://a.test/",
        "http://a.test/path/x",
        "http://a.test/path?q",
        "http://a.test:81/path/",
        "http://b.test/path/x",
    ),
    *("https://a.test/path/x", "http://www.a.test/"),
]
TRANSPORT = httpx.MockTransport(lambda _: httpx.Response(200))


def cookie(name: str, value: str = "1", *, domain: str = "", path: str = "/", expires: int | None = None) -> Cookie:
    """Make a cookie; one for https only if its name begins with ``secure``."""
    is_secure = name.startswith("secure")
    return Cookie(
        *(0, name, value, None, False, domain, bool(domain), domain.startswith("."), path, True),
        *(is_secure, expires, expires is None, None, None, {}),
    )


COOKIES = [
    cookie("everywhere"),
    cookie("host", domain="a.test"),
    cookie("user", domain="user:pw@a.test"),
    cookie("domain", domain=".a.test"),
    cookie("path", path="/path"),
    cookie("secure", domain="a.test"),
    cookie("expires", expires=1005),
    cookie("old", expires=900),
]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list with the time on the clock of the cookies' expiry."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def headers_of(client: httpx.AsyncClient) -> list[str | None]:
    """Return the Cookie headers of requests."""
    return [client.build_request("GET", url).headers.get("Cookie") for url in URLS]


def both() -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Return a client of httpx and one of ours, with cookies."""
    clients = httpx.AsyncClient(transport=TRANSPORT), PrefectHttpxClient(transport=TRANSPORT)
    for client in clients:
        for each in COOKIES:
            client.cookies.jar.set_cookie(cookie_like(each))
    return clients


def cookie_like(other: Cookie) -> Cookie:
    """Return a copy."""
    copy = cookie(other.name)
    vars(copy).update(vars(other))
    return copy


def only(client: httpx.AsyncClient, name: str) -> Cookie:
    """Return a cookie of a client."""
    return next(each for each in client.cookies.jar if each.name == name)


def nothing(_: httpx.AsyncClient, __: list[float]) -> None:
    """Change nothing."""


def expire(_: httpx.AsyncClient, clock: list[float]) -> None:
    """Let a cookie expire."""
    clock[0] = 1005.0


def go_back(_: httpx.AsyncClient, clock: list[float]) -> None:
    """Set the clock back, so that a cookie has not expired yet."""
    clock[0] = 800.0


def add(client: httpx.AsyncClient, _: list[float]) -> None:
    """Add a cookie."""
    client.cookies.set("new", "1")


def replace(client: httpx.AsyncClient, _: list[float]) -> None:
    """Replace a cookie."""
    client.cookies.set("everywhere", "2")


def delete(client: httpx.AsyncClient, _: list[float]) -> None:
    """Delete a cookie."""
    client.cookies.delete("domain")


def assign(client: httpx.AsyncClient, _: list[float]) -> None:
    """Replace all of them."""
    client.cookies = {"other": "1"}


def expire_soon(client: httpx.AsyncClient, clock: list[float]) -> None:
    """Let a cookie expire in the middle of a second, in place."""
    cast("Any", only(client, "host")).expires = 1000.5
    headers_of(client)
    clock[0] = 1001.0


def change_value(client: httpx.AsyncClient, _: list[float]) -> None:
    """Change a cookie in place."""
    only(client, "host").value = "2"


def change_path(client: httpx.AsyncClient, _: list[float]) -> None:
    """Change where a cookie goes, in place."""
    only(client, "path").path = "/"


CHANGES = [nothing, expire, go_back, add, replace, delete, assign, expire_soon, change_value, change_path]


@each_row("change", CHANGES)
def test_the_headers_are_httpxs(change: Callable[[httpx.AsyncClient, list[float]], None], clock: list[float]) -> None:
    """For any URL, and whatever happens to the cookies."""
    theirs, ours = both()
    expected = headers_of(theirs)
    for _ in range(2):
        assert headers_of(ours) == expected
    for client in (theirs, ours):
        clock[0] = 1000.0
        change(client, clock)
    assert headers_of(ours) == headers_of(theirs)
    assert headers_of(ours) != expected or change in (nothing, go_back)  # httpx2 forgets a cookie that has expired
    clock[0] = 1000.0
    assert headers_of(ours) == headers_of(theirs)


class Jar(CookieJar):
    """A jar that counts how often it is looked through, and tells so."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.on_count: Callable[[int], object] = lambda _: None

    def __iter__(self) -> Iterator[Cookie]:
        self.count += 1
        self.on_count(self.count)
        return super().__iter__()


def test_headers_are_remembered() -> None:
    """By host, and by path if a cookie is for some paths only, for 256 of them; the query does not matter."""
    jar, headers = Jar(), CookieHeaders()
    jar.set_cookie(cookie("a"))

    def is_made(url: str) -> bool:
        """Return whether a header is made for a URL: then the jar is looked through more than twice."""
        jar.count = 0
        assert headers.header(httpx.URL(f"http://{url}"), httpx.Cookies(jar)) == "a=1"
        return jar.count > 2

    urls = ["a/", "a/?q", "a/b", "b/b", "a/"]
    assert [is_made(url) for url in urls] == [True, False, False, True, False]
    jar.set_cookie(cookie("b", path="/elsewhere"))
    assert [is_made(url) for url in urls] == [True, False, True, True, False]
    assert all(is_made(f"a/{number}") for number in range(253))
    assert not is_made("a/252")
    assert is_made("a/new")
    assert [is_made("a/b"), is_made("a/")] == [False, True]


def test_cookies_that_another_thread_changes_while_a_header_is_made() -> None:
    """The header of what was before is not remembered for what is there now."""
    jar, headers, url = Jar(), CookieHeaders(), httpx.URL("http://a/")
    jar.set_cookie(cookie("a"))

    def change(count: int) -> None:
        if count == 3:  # then the header is made
            jar.on_count = lambda _: None
            jar.set_cookie(cookie("a", "2"))
            assert headers.header(httpx.URL("http://b/"), httpx.Cookies(jar)) == "a=2"
            jar.set_cookie(cookie("a", "1"))

    jar.on_count = change
    headers.header(url, httpx.Cookies(jar))
    jar.set_cookie(cookie("a", "2"))
    assert headers.header(url, httpx.Cookies(jar)) == "a=2"
