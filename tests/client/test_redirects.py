"""The request that follows a redirect: httpx's, unless the Location is not a valid URL."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of

from prefect_http import InvalidResponse, PrefectHttpxClient, Throttle
from prefect_http._client.redirects import redirect_request, redirect_url

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


COOKIES = {"c": "1"}
HEADERS: list[dict[str, str]] = [
    {},
    {"Authorization": "secret", "Cookie": "by=hand", "X-A": "1"},
    {"Host": "virtual", "Content-Length": "4", "Content-Type": "a/b"},
    {"Transfer-Encoding": "chunked"},
]


def redirect(location: str, status: int = 302) -> httpx.Response:
    """Return a redirect."""
    return httpx.Response(status, headers=[(b"Location", location.encode())])


def next_by_httpx(request: httpx.Request, response: httpx.Response) -> httpx.Request:
    """Return the request that httpx makes of a redirect; httpx2 makes none of a bad one, which is a ValueError here."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: response), cookies=COOKIES) as client:
        following = client.send(request, auth=httpx.Auth()).next_request
    if following is None:
        raise ValueError("there is no next request")
    return following


def described(request: httpx.Request) -> tuple[object, ...]:
    """Return what can be seen of a request."""
    assert isinstance(request.stream, httpx.ByteStream)
    extensions = {name: value for name, value in request.extensions.items() if not name.startswith("prefect")}
    return request.method, request.url, request.headers.raw, extensions, b"".join(request.stream)


@pytest.mark.parametrize("url", ["http://server/path", "https://u:p@server:443/path#part"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_requests_are_made_as_by_httpx(status: int, url: str) -> None:
    """The method, the URL, the headers, the cookies, the body and the extensions are the same."""
    locations = [
        *GOOD,
        "http://server/b",
        "https://server/b",
        "https://server:443",
        "http://server:8080",
        "http://u@server/",
    ]
    methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "post", "OWN"]
    rows = [
        *itertools.product(methods, ["/b", "//other/b"], HEADERS[2:]),
        *itertools.product(["GET", "POST"], locations, HEADERS[1:]),
    ]
    for method, location, headers in rows:
        request = httpx.Request(method, url, headers=headers, content=b"body", extensions={"timeout": {}, "a": 1})
        before = described(request)
        answer = redirect(location, status)
        following = redirect_request(request, answer, redirect_url(answer, request), httpx.Cookies(COOKIES))
        assert described(request) == before
        expected = next_by_httpx(request, redirect(location, status))
        assert described(following) == described(expected), (method, location, headers)


@each_row(("status", "method"), [(301, "QUERY"), (302, "QUERY"), (303, "GET"), (307, "QUERY"), (308, "QUERY")])
def test_query(status: int, method: str) -> None:
    """A QUERY stays one, with its body, unless the redirect says to GET the result (RFC 10008 section 2.5)."""
    request = httpx.Request("QUERY", URL, content=b"body")
    following = redirect_request(request, redirect("/b", status), httpx.URL("http://server/b"), httpx.Cookies())
    assert (following.method, described(following)[-1]) == (method, b"" if method == "GET" else b"body")


locations = st.text("ab:/?#@[]%.\\0159 é-", max_size=12)


@given(
    location=locations | locations.map(lambda text: f"http://{text}") | locations.map(lambda text: f"http://a:{text}")
)
@settings(max_examples=40)
def test_any_location(location: str) -> None:
    """It leads where it leads with httpx, and is an InvalidResponse if httpx fails, or if there is no such port."""
    try:
        expected = next_by_httpx(httpx.Request("GET", f"{URL}#part"), redirect(location)).url
    except (httpx.RemoteProtocolError, httpx.InvalidURL, ValueError):
        expected = None
    try:
        url = redirect_url(redirect(location), httpx.Request("GET", f"{URL}#part"))
    except InvalidResponse:
        assert expected is None or expected.port not in {None, *range(65536)}
    else:
        assert url == expected


@each_row("location", BAD)
def test_bad_locations(location: str) -> None:
    """What httpx makes no request of, or one for a port that does not exist, is an error."""
    with pytest.raises(InvalidResponse):
        redirect_url(redirect(location), httpx.Request("GET", URL))


@each_row("location", GOOD)
def test_good_locations(location: str) -> None:
    """Anything else is followed as by httpx."""
    client = httpx.Client(transport=httpx.MockTransport(lambda _: redirect(location)))
    following = client.get(URL).next_request
    assert following is not None
    assert redirect_url(redirect(location), httpx.Request("GET", URL)) == following.url


@pytest.mark.anyio
@each_row("follow_redirects", [True, False])
@each_row("location", BAD)
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
@each_row(
    ("arguments", "location"),
    [
        ({"headers": {"Authorization": "Bearer s3cret"}}, "http://host:s3cret/"),
        ({"auth": ("me", "s3cret")}, "http://s3cret s3cret:bWU6czNjcmV0/"),
        ({"auth": ("s3cret", "")}, "http://host:s3cret/"),
        ({"headers": {"Authorization": 'Digest username="me", response="s3cret"'}}, 'http://host:_response="s3cret"/'),
        ({"headers": {"Cookie": "a=s3cret"}}, "http://host:s3cret/"),
    ],
)
async def test_credentials_that_a_bad_location_echoes_are_not_shown(
    arguments: dict[str, Any], location: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor are the credentials of the request, if the Location echoes them: also not in what led to the error."""
    caplog.set_level(logging.DEBUG, logger="prefect_http")
    server = Server(httpx.Response(302, headers={"Location": location}))
    async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
        with pytest.raises(InvalidResponse, match="the Location of the 302 is not a valid URL: Invalid ") as caught:
            await client.get(URL, **arguments)
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    text = "\n".join([str(error), notes_of(error), *(record.getMessage() for record in caplog.records)])
    assert "[secure]" in text
    assert "s3cret" not in text
    assert "bWU6czNjcmV0" not in text


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
