"""Which credentials a request is sent with, and the requests of auth flows."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, Body, Server, notes_of

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient
from prefect_http._client.authentication import authentication

URL = "http://server/"
WITH_USER = "http://a:b@server/"

DEFAULT = httpx.USE_CLIENT_DEFAULT
BASIC = httpx.BasicAuth("e", "f")


def credentials_of(flow: httpx.Auth, url: str) -> str:
    """Return the credentials that a flow adds to a request."""
    return str(next(flow.sync_auth_flow(httpx.Request("GET", url))).headers["Authorization"])


def add_token(request: httpx.Request) -> httpx.Request:
    """Add a token to a request."""
    request.headers["Authorization"] = "token"
    return request


@each_row(
    ("auth", "default", "url", "credentials"),
    [
        (DEFAULT, None, URL, None),
        (None, None, URL, None),
        (None, BASIC, URL, None),
        (DEFAULT, BASIC, URL, "Basic ZTpm"),
        (DEFAULT, BASIC, WITH_USER, "Basic ZTpm"),
        (DEFAULT, None, WITH_USER, "Basic YTpi"),
        (DEFAULT, None, "http://a@server/", "Basic YTo="),
        (DEFAULT, None, "http://:b@server/", "Basic OmI="),
        (DEFAULT, None, "http://%40:%2F@server/", "Basic QDov"),
        (None, BASIC, WITH_USER, "Basic YTpi"),
        (("c", "d"), None, URL, "Basic Yzpk"),
        ((b"c", b"d"), BASIC, WITH_USER, "Basic Yzpk"),
        (BASIC, None, WITH_USER, "Basic ZTpm"),
        (add_token, BASIC, WITH_USER, "token"),
    ],
)
def test_which_auth_applies(auth: object, default: httpx.Auth | None, url: str, credentials: str | None) -> None:
    """The request's own, or else the client's, or else that of the URL; None: the request is sent as it is."""
    flow = authentication(auth, default, httpx.URL(url))
    assert (flow and credentials_of(flow, url)) == credentials


def test_a_flow_is_used_itself() -> None:
    """An httpx.Auth is neither copied nor wrapped, since it may have a state."""
    assert authentication(BASIC, None, httpx.URL(URL)) is BASIC
    assert authentication(DEFAULT, BASIC, httpx.URL(URL)) is BASIC


@each_row("auth", [5, "user:pw", ["user", "pw"], b""])
def test_an_invalid_auth(auth: object) -> None:
    """It is a TypeError, as in httpx, which does not quote what may be credentials."""
    with pytest.raises(TypeError, match=f"auth must be .*, not a {type(auth)!r}"):
        authentication(auth, None, httpx.URL(URL))


def test_a_tuple_of_another_length() -> None:
    """As in httpx, what is missing is an IndexError, and what is too much is ignored."""
    for auth in ((), ("a",)):
        with pytest.raises(IndexError):
            authentication(auth, None, httpx.URL(URL))
    flow = authentication(("a", "b", "c"), None, httpx.URL(URL))
    assert flow is not None
    assert credentials_of(flow, URL) == "Basic YTpi"


def echo(request: httpx.Request) -> httpx.Response:
    """Answer with what authenticates the request."""
    return httpx.Response(200, text=request.headers.get("Authorization", "none"))


@pytest.mark.anyio
@each_row(
    ("client_auth", "url", "more", "seen"),
    [
        (None, URL, {}, "none"),
        (None, WITH_USER, {}, "Basic YTpi"),
        (("c", "d"), URL, {}, "Basic Yzpk"),
        (("c", "d"), URL, {"auth": None}, "none"),
        (None, URL, {"auth": ("c", "d")}, "Basic Yzpk"),
        (None, URL, {"auth": add_token}, "token"),
        (None, URL, {"headers": {"Authorization": "by hand"}}, "by hand"),
    ],
)
async def test_which_credentials_are_sent(
    client_auth: tuple[str, str] | None, url: str, more: dict[str, Any], seen: str
) -> None:
    """The client's, the URL's or the request's are; without any, the request is sent as it is."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=client_auth, transport=httpx.MockTransport(echo)) as client:
            assert (await client.get(url, **more)).text == seen


# --- Flows of several requests


class RefreshAuth(httpx.Auth):
    """Fetches a token when the server asks for one, and notes what it was given."""

    requires_response_body = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        response = yield request
        self.seen.append(response.status_code)
        if response.status_code == 401:
            token = yield httpx.Request("POST", request.url.copy_with(path="/token"))
            self.seen.append(token.status_code)
            await token.aread()
            request.headers["Authorization"] = token.json()["token"]
            self.seen.append((yield request).status_code)


def paths(server: Server) -> list[str]:
    """Return the paths that a server was asked for."""
    return [httpx.URL(seen.url).path for seen in server.seen]


@pytest.mark.anyio
async def test_a_token_refresh_that_is_rejected() -> None:
    """A 503 to it repeats that request, for any method, and not what went before it; the flow sees what came last."""
    auth = RefreshAuth()
    server = Server(401, 503, httpx.Response(200, json={"token": "t"}), 429, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=auth, transport=server, retry=AT_ONCE, base_url=URL) as client:
            response = await client.get("/me")
    assert paths(server) == ["/me", "/token", "/token", "/me", "/me"]
    assert auth.seen == [401, 200, 200]
    assert server.seen[-1].headers["Authorization"] == "t"
    assert [earlier.status_code for earlier in response.history] == [401, 200]
    assert [attempt.status_code for attempt in response.attempts] == [401, 503, 200, 429, 200]
    assert [attempt.reason for attempt in response.attempts] == [
        "the auth flow sent another request",
        "backoff of 0 s",
        "the auth flow sent another request",
        "backoff of 0 s",
        "the response was accepted",
    ]


@pytest.mark.anyio
async def test_a_token_refresh_that_keeps_being_rejected() -> None:
    """Retries are those of the whole send(); the flow sees the last rejection, and what it raises then is raised."""
    auth = RefreshAuth()
    policy = type(AT_ONCE)(max_retries=2, backoff_base=0, jitter=0)
    server = Server(503, 401, 503, 503)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=auth, transport=server, retry=policy, base_url=URL) as client:
            with pytest.raises(ValueError, match="Expecting value"):
                await client.get("/me")
    assert paths(server) == ["/me", "/me", "/token", "/token"]
    assert auth.seen == [401, 503]


@pytest.mark.anyio
async def test_a_flow_that_gives_up_after_a_rejection() -> None:
    """If the flow ends with a rejection, that is raised, with all attempts."""

    class OneMore(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
            yield httpx.Request("GET", "http://server/first")
            yield request

    policy = type(AT_ONCE)(max_retries=1, backoff_base=0, jitter=0)
    server = Server(503, 503, 503)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=OneMore(), transport=server, retry=policy, base_url=URL) as client:
            with pytest.raises(PrefectHTTPStatusError, match="503") as caught:
                await client.get("/me")
    assert paths(server) == ["/first", "/first", "/me"]
    assert [attempt.number for attempt in caught.value.attempts] == [1, 2, 3]
    assert "prefect_http made 3 of at most 3 attempts" in notes_of(caught.value)


@pytest.mark.anyio
async def test_the_bodies_within_a_flow_are_closed() -> None:
    """Each response of a flow has been read and closed when the next request is sent."""
    bodies = [Body([b"a"]), Body([b"b"]), Body([b'{"token": "t"}']), Body([b"d"])]
    statuses = [401, 503, 200, 200]
    server = Server(*(httpx.Response(status, stream=body) for status, body in zip(statuses, bodies, strict=True)))
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=RefreshAuth(), transport=server, retry=AT_ONCE, base_url=URL) as client:
            async with client.stream("GET", "/me") as response:
                assert [body.is_closed for body in bodies] == [True, True, True, False]
                assert await response.aread() == b"d"
    assert bodies[3].is_closed
