"""Cookies that a client keeps, and those that a rejection sets, and what the next attempt makes of them."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import CookieJar
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Server

from prefect_http import PrefectHttpxClient

PAST = "Thu, 01 Jan 1970 00:00:00 GMT"


def rejection(*set_cookies: str, status: int = 503, **headers: str) -> httpx.Response:
    """Return a rejection that sets cookies."""
    return httpx.Response(status, headers=[*(("Set-Cookie", each) for each in set_cookies), *headers.items()])


def new_client(server: Server, **more: Any) -> PrefectHttpxClient:
    """Return a client."""
    return PrefectHttpxClient(transport=server, retry=AT_ONCE, **more)


def sent_by(server: Server) -> list[str | None]:
    """Return the Cookie header of each request."""
    return [seen.headers.get("Cookie") for seen in server.seen]


def answering(*cookies: str | None) -> Server:
    """Return a server whose responses set these cookies, one after the other."""
    return Server(
        *(httpx.Response(200, headers={} if cookie is None else {"Set-Cookie": cookie}) for cookie in cookies)
    )


@pytest.mark.anyio
@each_row("make_jar", [lambda: None, dict, CookieJar], ids=["own", "dict", "standard"])
async def test_cookies_are_kept_and_forgotten(make_jar: Callable[[], dict[str, str] | CookieJar | None]) -> None:
    """A cookie is sent from the next request on, whatever responses come between, until the server deletes it."""
    server = answering("a=1", None, "b=2; Path=/", "a=0; Max-Age=0", None)
    with anyio.fail_after(5):
        async with new_client(server, cookies=make_jar()) as client:
            for _ in range(5):
                await client.get("http://server/")
    assert sent_by(server) == [None, "a=1", "a=1", "a=1; b=2", "b=2"]


@pytest.mark.anyio
async def test_cookies_can_be_set_by_hand() -> None:
    """The client's jar takes cookies from the program, too, and can be replaced."""
    server = answering(None, "c=3", None)
    with anyio.fail_after(5):
        async with new_client(server) as client:
            client.cookies.set("a", "1")
            await client.get(URL)
            client.cookies = {"b": "2"}
            await client.get(URL)
            await client.get(URL)
            assert dict(client.cookies) == {"b": "2", "c": "3"}
    assert sent_by(server) == ["a=1", "b=2", "b=2; c=3"]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Setting per-request cookies:DeprecationWarning")
@each_row(
    ("client", "request_", "set_cookies", "sent"),
    [
        ({}, {}, ["a=1"], [None, "a=1"]),
        ({}, {}, ["a=1; Path=/", "b=2"], [None, "a=1; b=2"]),
        ({"cookies": {"old": "0"}}, {}, ["a=1"], ["old=0", "old=0; a=1"]),
        ({"cookies": {"old": "0"}}, {"cookies": {"own": "9"}}, ["a=1"], ["old=0; own=9", "old=0; own=9; a=1"]),
        ({}, {"cookies": {"own": "9"}}, ["a=1"], ["own=9", "own=9; a=1"]),
        ({}, {}, ["a=1; Path=/elsewhere"], [None, None]),
        ({}, {}, ["a=1; Domain=other.example"], [None, None]),
        ({}, {}, ["a=1; Secure"], [None, None]),
        ({}, {}, [f"a=1; Expires={PAST}"], [None, None]),
        ({}, {}, [], [None, None]),
        ({}, {}, ["nameless"], [None, "nameless"]),
        ({}, {"headers": {"Cookie": "mine=1"}}, ["a=1"], ["mine=1", "mine=1"]),
        ({}, {"headers": {"cookie": "a=0"}}, ["a=1"], ["a=0", "a=0"]),
        ({}, {"headers": [(b"COOKIE", b"a=0")]}, ["a=1"], ["a=0", "a=0"]),
        ({"headers": {"Cookie": "a=0"}}, {}, ["a=1"], ["a=0", "a=0"]),
        ({"headers": {"Cookie": "a=0"}, "cookies": {"old": "0"}}, {}, ["a=1"], ["a=0", "a=0"]),
        ({"cookies": {"old": "0"}}, {"headers": {"Cookie": "a=0"}}, ["a=1"], ["a=0", "a=0"]),
    ],
)
async def test_a_cookie_of_a_rejection(
    client: dict[str, Any], request_: dict[str, Any], set_cookies: list[str], sent: list[str | None]
) -> None:
    """It is sent with the retry if it belongs to the URL, beside the cookies that were sent before.

    A Cookie header by hand stays as it is.
    """
    server = Server(rejection(*set_cookies), 200)
    with anyio.fail_after(5):
        async with new_client(server, **client) as http:
            await http.get(URL, **request_)
    assert sent_by(server) == sent


@pytest.mark.anyio
async def test_a_cookie_is_replaced_and_deleted() -> None:
    """A cookie of the server's may be set anew, and deleted, by each rejection."""
    server = Server(
        200, rejection("a=2; Path=/"), rejection("a=3; Path=/", "b=1"), rejection("a=; Path=/; Max-Age=0"), 200
    )
    server_sets = httpx.Response(200, headers={"Set-Cookie": "a=1; Path=/"})
    with anyio.fail_after(5):
        async with new_client(Server(server_sets)) as other:
            await other.get(URL)
            jar = other.cookies.jar
        async with new_client(server, cookies=jar) as client:
            await client.post(URL, content=b"body")
            await client.post(URL, content=b"body")
            assert sent_by(server) == ["a=1", "a=1", "a=2", "a=3; b=1", "b=1"]
            assert dict(client.cookies) == {"b": "1"}


@pytest.mark.anyio
async def test_a_request_by_hand() -> None:
    """A request that was made by hand gets the rejection's cookie alone, and not those of the client."""
    server = Server(rejection("a=1"), 200, rejection("a=1"), 200)
    with anyio.fail_after(5):
        async with new_client(server, cookies={"old": "0"}) as client:
            await client.send(httpx.Request("GET", URL))
            await client.send(httpx.Request("GET", URL, headers={"Cookie": "mine=1"}))
    assert sent_by(server) == [None, "a=1", "mine=1", "mine=1"]


@pytest.mark.anyio
async def test_a_cookie_of_a_redirect() -> None:
    """A cookie that a redirect sets before the rejection is sent with the retry as well."""
    redirect = httpx.Response(307, headers={"Location": "/elsewhere", "Set-Cookie": "hop=1; Path=/"})
    server = Server(redirect, rejection(), 200)
    with anyio.fail_after(5):
        async with new_client(server, follow_redirects=True) as client:
            await client.get(URL)
    assert sent_by(server) == [None, "hop=1", "hop=1"]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Setting per-request cookies:DeprecationWarning")
async def test_a_cookie_of_another_host() -> None:
    """A cookie of another host, where a redirect led to, is sent with the retry there, and not to the first host."""
    redirect = httpx.Response(307, headers={"Location": "http://other/"})
    server = Server(redirect, rejection("a=1; Path=/"), 200, 200)
    with anyio.fail_after(5):
        async with new_client(server, follow_redirects=True) as client:
            await client.get(URL, cookies={"a": "0"})
            await client.get(URL)
    assert sent_by(server) == ["a=0", None, "a=1", None]


@pytest.mark.anyio
async def test_a_cookie_that_cannot_be_sent() -> None:
    """A cookie that is not ASCII, which httpx cannot send, does not keep the request from being repeated."""
    server = Server(httpx.Response(503, headers=[(b"Set-Cookie", b"a=\xc3\xa9")]), 200)
    with anyio.fail_after(5):
        async with new_client(server) as client:
            assert (await client.get(URL)).status_code == 200
    assert sent_by(server) == [None, None]
