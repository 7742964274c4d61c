"""The Cookie headers of requests are httpx's, though they are remembered."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.cookiejar import Cookie
from typing import cast

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


def change_value(client: httpx.AsyncClient, _: list[float]) -> None:
    """Change a cookie in place."""
    only(client, "host").value = "2"


def change_path(client: httpx.AsyncClient, _: list[float]) -> None:
    """Change where a cookie goes, in place."""
    only(client, "path").path = "/"


CHANGES = [nothing, expire, go_back, add, replace, delete, assign, change_value, change_path]


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


def test_headers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """By host, and by path if a cookie is for some paths only, for 256 of them; the query does not matter."""
    made: list[httpx.URL] = []
    make = httpx.Request

    def request(method: str, url: httpx.URL, **arguments: object) -> httpx.Request:
        made.append(url)
        return cast("Callable[..., httpx.Request]", make)(method, url, **arguments)

    monkeypatch.setattr(httpx, "Request", request)
    cookies, headers = httpx.Cookies({"a": "1"}), CookieHeaders()
    path = cookie("b", path="/elsewhere")

    def get(url: str) -> int:
        """Return how many headers are made for a URL."""
        made.clear()
        assert headers.header(httpx.URL(url), cookies) == "a=1"
        return len(made)

    assert [get(f"http://{each}") for each in ("a/", "a/?q", "a/b", "b/b", "a/")] == [1, 0, 0, 1, 0]
    cookies.jar.set_cookie(path)
    assert [get(f"http://{each}") for each in ("a/", "a/?q", "a/b", "b/b", "a/")] == [1, 0, 1, 1, 0]
    for number in range(253):
        assert get(f"http://a/{number}") == 1
    assert get("http://a/252") == 0
    assert get("http://a/new") == 1
    assert [get("http://a/b"), get("http://a/")] == [0, 1]
