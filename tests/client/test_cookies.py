"""The client's own cookie jar does what any other does."""

from __future__ import annotations

from collections.abc import Callable
from http.cookiejar import CookieJar

import anyio
import httpx
import pytest

from prefect_http import PrefectHttpxClient


async def sent_cookies(client: PrefectHttpxClient, times: int) -> list[str | None]:
    """Ask so many times; give the cookies that the server saw."""
    return [(await client.get("http://server/")).request.headers.get("Cookie") for _ in range(times)]


def transport(*answers: str | None) -> httpx.MockTransport:
    """Answer with these cookies, one after the other."""
    left = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        cookie = next(left)
        return httpx.Response(200, headers={} if cookie is None else {"Set-Cookie": cookie})

    return httpx.MockTransport(answer)


@pytest.mark.anyio
@pytest.mark.parametrize("make_jar", [lambda: None, dict, CookieJar], ids=["own", "dict", "standard"])
async def test_cookies_are_kept_and_forgotten(make_jar: Callable[[], dict[str, str] | CookieJar | None]) -> None:
    """A cookie is sent from the next request on, whatever answers come between, until the server takes it back."""
    answers = transport("a=1", None, "b=2; Path=/", "a=0; Max-Age=0", None)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=answers, cookies=make_jar()) as client:
            seen = await sent_cookies(client, 5)
    assert seen == [None, "a=1", "a=1", "a=1; b=2", "b=2"]


@pytest.mark.anyio
async def test_cookies_can_be_set_by_hand() -> None:
    """The jar that the client makes for itself takes cookies from the program, too, and can be replaced."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=transport(None, None)) as client:
            client.cookies.set("a", "1")
            assert await sent_cookies(client, 1) == ["a=1"]
            client.cookies = {"b": "2"}
            assert await sent_cookies(client, 1) == ["b=2"]
