"""Where nobody authenticates, requests go out as they are; where somebody does, nothing has changed."""

from __future__ import annotations

import anyio
import httpx
import pytest

from prefect_http import PrefectHttpxClient
from prefect_http._httpx_details import NoAuth

pytestmark = pytest.mark.anyio


def echo(request: httpx.Request) -> httpx.Response:
    """Answer with what authenticates the request."""
    return httpx.Response(200, text=request.headers.get("Authorization", "nobody"))


@pytest.mark.parametrize(
    ("client_auth", "url", "auth", "seen"),
    [
        (None, "http://server/", httpx.USE_CLIENT_DEFAULT, "nobody"),
        (None, "http://server/", None, "nobody"),
        (None, "http://a:b@server/", httpx.USE_CLIENT_DEFAULT, "Basic YTpi"),
        (None, "http://a:b@server/", ("c", "d"), "Basic Yzpk"),
        (("c", "d"), "http://server/", httpx.USE_CLIENT_DEFAULT, "Basic Yzpk"),
        (("c", "d"), "http://server/", None, "nobody"),
        (None, "http://server/", ("c", "d"), "Basic Yzpk"),
    ],
)
async def test_who_authenticates(
    client_auth: tuple[str, str] | None, url: str, auth: tuple[str, str] | None, seen: str
) -> None:
    """The client, the URL or the request may authenticate, as in httpx; if none does, nobody does."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=client_auth, transport=httpx.MockTransport(echo)) as client:
            assert (await client.get(url, auth=auth)).text == seen


async def test_it_is_an_async_generator() -> None:
    """It gives the request once, and takes an exception, as any generator does."""
    request = httpx.Request("GET", "http://server/")
    flow = NoAuth().async_auth_flow(request)
    assert [each async for each in flow] == [request]
    with pytest.raises(ZeroDivisionError):
        await flow.athrow(ZeroDivisionError)
    await flow.aclose()
