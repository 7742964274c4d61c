"""Redirects to something that is not a valid URL."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import httpx
import pytest
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of

from prefect_http import InvalidResponse, PrefectHttpxClient, Throttle
from prefect_http._client.redirects import redirect_url

# For httpx2, it is a name that nobody knows.
NO_IDN = ["http://xn--a/", "//xn--a/"] if httpx.__name__ == "httpx" else []
BAD = [
    *NO_IDN,
    "javascript:1",
    "mailto:a@b",
    "http://x:99999/",
    "http://x:-5/",
    "http://x:port/",
    "http://[::1:80/",
    "https://:bad",
    "/" + "x" * 70_000,
]
GOOD = [
    "/a",
    "",
    "?a",
    "#a",
    "//other/",
    "http://other:0/",
    "https://other:65535/",
    "http:///a",
    "app://callback?code=1",
]


def redirect(location: str) -> httpx.Response:
    """Return a redirect."""
    return httpx.Response(302, headers={"Location": location})


@pytest.mark.parametrize("location", BAD)
def test_bad_locations(location: str) -> None:
    """What httpx makes no request of, or one for a port that does not exist, is an error."""
    with pytest.raises(InvalidResponse):
        redirect_url(redirect(location), httpx.URL(URL))


@pytest.mark.parametrize("location", GOOD)
def test_good_locations(location: str) -> None:
    """Anything else is followed as by httpx."""
    client = httpx.Client(transport=httpx.MockTransport(lambda _: redirect(location)))
    following = client.get(URL).next_request
    assert following is not None
    assert redirect_url(redirect(location), httpx.URL(URL)) == following.url


@pytest.mark.anyio
@pytest.mark.parametrize("follow_redirects", [True, False])
@pytest.mark.parametrize("location", BAD)
async def test_bad_location_is_not_asked_for_again(location: str, follow_redirects: bool) -> None:
    """It is an InvalidResponse, raised plain at once, whatever the transport, and the response is closed."""
    body = Body([b"moved"])
    server = Server(httpx.Response(302, headers={"Location": location}, stream=body))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=follow_redirects) as client:
            with pytest.raises(InvalidResponse, match="the Location of the 302 is not a valid URL") as caught:
                await client.get(URL)
    assert "InvalidResponse is not retried" in notes_of(caught.value)
    assert str(caught.value.request.url) == URL
    assert (server.count, body.is_closed) == (1, True)


@pytest.mark.anyio
async def test_credentials_of_a_bad_location_are_not_shown() -> None:
    """If there are credentials in the Location, the message does not quote from it."""
    server = Server(httpx.Response(302, headers={"Location": "http://me:secret@[::1:80/"}))
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        with pytest.raises(InvalidResponse) as caught:
            await client.get(URL)
    assert "secret" not in str(caught.value) + notes_of(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("make_throttle", [lambda: None, Throttle])
async def test_good_redirects_are_followed(make_throttle: Callable[[], Throttle | None]) -> None:
    """A redirect to a valid URL is followed; and a status of 3xx may be without a Location."""
    moved = httpx.Response(307, headers={"Location": "//other/a"})
    server = Server(moved, 200, httpx.Response(304))
    async with PrefectHttpxClient(
        transport=server, retry=AT_ONCE, follow_redirects=True, raise_on_all_errors=False, throttle=make_throttle()
    ) as client:
        assert (await client.get(URL)).status_code == 200
        assert (await client.get(URL)).status_code == 304
    assert [seen.url for seen in server.seen] == [URL, "http://other/a", URL]
