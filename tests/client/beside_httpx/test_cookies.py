"""Cookies are kept and sent as by httpx.AsyncClient."""

from __future__ import annotations

import warnings
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
import pytest
from support.beside_httpx import URL, Answer, Run, beside_httpx, in_both_modes


def setting(*cookies: str, status: int = 200, **headers: str) -> httpx.Response:
    """Return a response that sets cookies."""
    fields = [*(("Set-Cookie", cookie) for cookie in cookies), *headers.items()]
    return httpx.Response(status, headers=fields)


def ok(_: httpx.Request) -> httpx.Response:
    """Return a response that sets no cookie."""
    return httpx.Response(200)


SET_COOKIES = [
    *("a=1", "a=1; Path=/", "a=1; Path=/path", "a=1; Path=/other", "a=1; Domain=server", "a=1; Domain=.server.test"),
    *("a=1; Domain=other.test", "a=1; Secure", "a=1; HttpOnly; SameSite=Lax", "a=1; Max-Age=3600", "a=1; Max-Age=0"),
    *("a=1; Expires=Wed, 21 Oct 2015 07:28:00 GMT", "a=1; Expires=Wed, 21 Oct 2065 07:28:00 GMT", "a=1; Expires=no"),
    *("a", "=1", "", ";", "a=", 'a="1 2"', "a=1=2", "a=1, b=2", "a=b c", "a=1; Version=1", "a=1; Port=80"),
]
_URLS = [URL, "http://server/other", "https://server/path", "http://www.server.test/path", "http://server.test/path"]


@pytest.mark.trio
@beside_httpx
async def test_cookies_that_a_server_sets(run: Run) -> None:
    """Which cookies are kept, and which requests have them."""
    for cookie in SET_COOKIES:
        for url in (URL, "http://www.server.test/path"):
            run.case(cookie, url)
            client = run.client(setting(cookie), ok)
            await run.request(client, url=url)
            for other in _URLS:
                run.note([*client.build_request("GET", other).headers.get_list("Cookie")])
            await run.request(client, url=url)


@pytest.mark.trio
@in_both_modes
async def test_several_cookies(run: Run) -> None:
    """Cookies of several responses are merged, replaced and deleted."""
    client = run.client(
        setting("a=1", "b=2; Path=/path", "a=3; Path=/"), setting("a=; Max-Age=0; Path=/", "c=4"), setting("b=5"), ok
    )
    for _ in range(4):
        await run.request(client, url="http://server/path/x")
    client.cookies.delete("c")
    client.cookies.set("d", "6", domain="server", path="/path")
    await run.request(client, url="http://server/path/x")
    client.cookies.clear()
    await run.request(client, url="http://server/path/x")


@pytest.mark.trio
@in_both_modes
async def test_cookies_of_any_response(run: Run) -> None:
    """Cookies of redirects, challenges and errors are kept, and go with the next request."""
    answers: list[Answer] = [
        setting("a=1", status=302, Location="/next"),
        setting("b=2", status=401, **{"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'}),
        setting("c=3", status=307, Location="http://other/x"),
        setting("o=4", status=308, Location=URL),
        setting("d=5", status=503),
        ok,
    ]
    auth = httpx.DigestAuth("user", "pw")
    async with run.client(*answers, auth=auth, follow_redirects=True, event_hooks=run.hooks()) as client:
        await run.request(client, headers={"X-A": "1"})
        await run.request(client)
        await run.request(client, url="http://other/x")


@pytest.mark.trio
@in_both_modes
async def test_a_cookie_header_by_hand(run: Run) -> None:
    """It goes beside the cookies of the client, and never along with a redirect."""
    answers: list[Answer] = [setting("a=1", status=302, Location="/next"), ok]
    async with run.client(*answers, cookies={"c": "1"}, follow_redirects=True) as client:
        await run.request(client, headers={"Cookie": "by=hand"})
        client.headers["Cookie"] = "always=sent"
        await run.request(client)


_KINDS: dict[str, Any] = {
    "dict": lambda: {"a": "1", "b": "2"},
    "list": lambda: [("a", "1"), ("a", "2")],
    "Cookies": lambda: httpx.Cookies({"a": "1"}),
    "jar": lambda: _jar(),
    "empty": dict,
    "None": lambda: None,
    "number": lambda: {"a": 1},
}


def _jar() -> CookieJar:
    jar = CookieJar()
    arguments: Any = {"port": None, "port_specified": False, "domain": "server", "domain_specified": True}
    more: Any = {"domain_initial_dot": False, "path": "/", "path_specified": True, "secure": False, "expires": None}
    rest: Any = {"discard": True, "comment": None, "comment_url": None, "rest": {}}
    jar.set_cookie(Cookie(0, "jar", "1", **arguments, **more, **rest))
    return jar


@pytest.mark.trio
@beside_httpx
async def test_cookies_of_a_client(run: Run) -> None:
    """Which kinds of cookies the constructor, the property and build_request accept."""
    for kind, make in _KINDS.items():
        run.case(kind)
        try:
            client = run.client(setting("s=1"), ok, cookies=make())
            await run.request(client)
            await run.request(client)
        except Exception as error:
            run.note("constructor", type(error).__name__, str(error))
        client = run.client(setting("s=1"), ok, cookies={"old": "1"})
        try:
            client.cookies = make()
            await run.request(client)
            request = client.build_request("GET", URL, cookies=make())
            await run.send(client, request)
        except Exception as error:
            run.note("property", type(error).__name__, str(error))
            client.cookies = {}


@pytest.mark.trio
@beside_httpx
async def test_a_jar_that_is_shared(run: Run) -> None:
    """A jar is shared, httpx.Cookies are copied."""
    jar, cookies = _jar(), httpx.Cookies({"c": "1"})
    clients = [run.client(setting("s=1"), ok, cookies=given) for given in (jar, cookies)]
    for client in clients:
        await run.request(client)
        await run.request(client)
        run.note([cookie.name for cookie in jar], list(cookies), client.cookies.jar is jar)
    other = run.client(ok)
    other.cookies = clients[1].cookies
    await run.request(other)


@pytest.mark.trio
@beside_httpx
async def test_a_policy(run: Run) -> None:
    """The policy of a jar is asked."""
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=["other.test"]))
    client = run.client(lambda _: setting("s=1"), cookies=jar)
    for url in (URL, "http://other.test/", "http://other.test/"):
        await run.request(client, url=url)


@pytest.mark.trio
@pytest.mark.parametrize("verb", ["request", "get", "post", "stream"])
@beside_httpx
async def test_cookies_of_a_request(run: Run, verb: str) -> None:
    """They are deprecated, and sent together with those of the client, but not kept."""
    client = run.client(setting("s=1", status=302, Location="/next"), ok, cookies={"c": "1"}, follow_redirects=True)
    arguments: Any = (URL,) if verb in {"get", "post"} else ("GET", URL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if verb == "stream":
            async with client.stream(*arguments, cookies={"r": "2"}) as response:
                await response.aread()
        else:
            await run.outcome(getattr(client, verb)(*arguments, cookies={"r": "2"}))
    run.note([(each.category.__name__, str(each.message)) for each in caught])
    await run.request(client)


@pytest.mark.trio
@beside_httpx
async def test_cookies_of_responses(run: Run) -> None:
    """The cookies of a response are those that it has set; there may be two with one name."""
    client = run.client(setting("a=1; Path=/", "a=2; Path=/path"), ok)
    response = await run.request(client)
    assert response is not None
    for cookies in (response.cookies, client.cookies):
        run.note(len(cookies), bool(cookies), repr(cookies))
        try:
            run.note(cookies["a"])
        except Exception as error:
            run.note(type(error).__name__, str(error))
        run.note(cookies.get("a", path="/path"), cookies.get("b", "none"))
    await run.request(client)
