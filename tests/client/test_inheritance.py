"""A class may inherit from PrefectHttpxClient and from another subclass of httpx.AsyncClient, in either order.

The other one may take more arguments, in its constructor and in its methods, and override any public method, as
Authlib's AsyncOAuth2Client does. Then both of them count: what the other one adds is sent, and requests are retried.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client  # type: ignore[import-untyped]
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Server
from trio.testing import MockClock

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient, PrefectResponse, RetryPolicy


class Tenant(httpx.AsyncClient):
    """A client with a header of its own, which its constructor and its methods take, and which counts its calls."""

    def __init__(self, *, tenant: str = "none", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.tenant = tenant
        self.calls: list[str] = []

    def build_request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        self.calls.append("build_request")
        request = super().build_request(method, url, **arguments)
        request.headers["X-Tenant"] = self.tenant
        return request

    async def request(self, method: str, url: httpx.URL | str, *, token: str = "", **arguments: Any) -> httpx.Response:
        self.calls.append("request")
        return await super().request(method, url, **_with_token(token, arguments))

    @asynccontextmanager
    async def stream(
        self, method: str, url: httpx.URL | str, *, token: str = "", **arguments: Any
    ) -> AsyncGenerator[httpx.Response]:
        self.calls.append("stream")
        async with super().stream(method, url, **_with_token(token, arguments)) as response:
            yield response

    async def send(self, request: httpx.Request, **arguments: Any) -> httpx.Response:
        self.calls.append("send")
        request.headers["X-Send"] = "1"
        return await super().send(request, **arguments)

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await super().aclose()


class DirectTenant(Tenant):
    """The same, but it calls the constructor of httpx itself, as Authlib does, and takes only known arguments."""

    def __init__(self, *, tenant: str = "none", **arguments: Any) -> None:
        httpx.AsyncClient.__init__(self, **{name: arguments[name] for name in ("transport",) if name in arguments})
        self.tenant = tenant
        self.calls = []


def _with_token(token: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "headers": {"X-Token": token, **(arguments.get("headers") or {})}}


class OursFirst(PrefectHttpxClient, Tenant):  # type: ignore[misc]
    pass


class OursLast(Tenant, PrefectHttpxClient):  # type: ignore[misc]
    pass


class OursFirstDirect(PrefectHttpxClient, DirectTenant):  # type: ignore[misc]
    pass


class OursLastDirect(DirectTenant, PrefectHttpxClient):  # type: ignore[misc]
    pass


# Their constructors reach ours, so that they take its arguments.
BOTH_ARGUMENTS: list[Any] = [OursFirst, OursLast, OursFirstDirect]
ALL: list[Any] = [*BOTH_ARGUMENTS, OursLastDirect]


@pytest.mark.trio
@pytest.mark.parametrize("client_class", BOTH_ARGUMENTS)
async def test_constructors_take_the_arguments_of_both(client_class: Any) -> None:
    """Arguments of ours, of the other class and of httpx."""
    server = Server(503, 503, 200)
    client = client_class(tenant="t", retry=AT_ONCE, raise_on_all_errors=False, transport=server)
    response = await client.get(URL)
    assert client.tenant == "t"
    assert type(response) is PrefectResponse
    assert [attempt.status_code for attempt in response.attempts] == [503, 503, 200]
    assert [seen.headers["X-Tenant"] for seen in server.seen] == ["t"] * 3


@pytest.mark.parametrize("client_class", [OursFirst, OursLast])
def test_arguments_that_do_not_exist(client_class: Any) -> None:
    """What neither class knows is a TypeError."""
    with pytest.raises(TypeError, match="nonsense"):
        client_class(nonsense=1)


@pytest.mark.trio
@pytest.mark.parametrize("client_class", ALL)
async def test_a_constructor_that_is_not_ours(client_class: Any, autojump_clock: MockClock) -> None:
    """If the other one leaves our constructor out, its defaults count."""
    server = Server(503, 200, 404)
    client = client_class(tenant="t", transport=server)
    assert type(await client.get(URL)) is PrefectResponse
    with pytest.raises(PrefectHTTPStatusError, match="404"):
        await client.get(URL)
    assert client.lifespan is None
    await client.aclose()
    assert client.is_closed


@pytest.mark.trio
@each_row("client_class", ALL)
async def test_methods_of_the_other_class_are_called(client_class: Any) -> None:
    """Each verb reaches the methods that the other class overrides, with their arguments; ``send()`` at least once."""
    server = Server(200, ...)
    client = client_class(tenant="t", transport=server)
    await client.get(URL)
    await client.post(URL, json={"a": 1})
    await client.request("PUT", URL, token="mine")
    async with client.stream("DELETE", URL, token="mine") as response:
        await response.aread()
    await client.aclose()
    assert [seen.headers["X-Token"] for seen in server.seen] == ["", "", "mine", "mine"]
    assert [seen.headers["X-Send"] for seen in server.seen] == ["1"] * 4
    assert [seen.headers["X-Tenant"] for seen in server.seen] == ["t"] * 4
    calls = [call for call in client.calls if call != "send"]
    assert calls == [*["request", "build_request"] * 3, "stream", "build_request", "aclose"]


@pytest.mark.trio
@each_row("client_class", ALL)
async def test_requests_have_a_policy_of_their_own(client_class: Any) -> None:
    """Each verb takes ``retry=``, beside the arguments of the other class."""
    server = Server(503, 200, 503, 200, 503, 200)
    client = client_class(transport=server)
    assert len((await client.get(URL, retry=AT_ONCE)).attempts) == 2
    assert len((await client.request("GET", URL, retry=AT_ONCE, token="mine")).attempts) == 2
    async with client.stream("GET", URL, retry=AT_ONCE, token="mine") as response:
        assert len(response.attempts) == 2
    assert [seen.headers["X-Token"] for seen in server.seen] == ["", "", "mine", "mine", "mine", "mine"]


@pytest.mark.trio
@each_row("client_class", ALL)
async def test_redirects_and_credentials(client_class: Any) -> None:
    """They are handled once: the other class does not see the requests in between twice."""
    challenge = httpx.Response(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
    server = Server(challenge, httpx.Response(302, headers={"Location": "/next"}), 200)
    client = client_class(transport=server)
    response = await client.get(URL, auth=httpx.DigestAuth("user", "pw"), follow_redirects=True)
    assert [each.status_code for each in response.history] == [401, 302]
    assert server.count == 3


# --- Authlib's, in an application that has the same httpx as it

_TOKEN = {"access_token": "secret", "token_type": "Bearer", "expires_at": 4_000_000_000}
if issubclass(AsyncOAuth2Client, httpx.AsyncClient):

    class OAuthFirst(AsyncOAuth2Client, PrefectHttpxClient):  # type: ignore[misc]
        pass

    class OAuthLast(PrefectHttpxClient, AsyncOAuth2Client):  # type: ignore[misc]
        pass

    @pytest.mark.trio
    @pytest.mark.parametrize("client_class", [OAuthFirst, OAuthLast])
    async def test_oauth(client_class: Any, autojump_clock: MockClock) -> None:
        """Requests have the token, and are retried."""
        server = Server(503, 200, 503, 200)
        client = client_class(client_id="id", token=_TOKEN, transport=server)
        assert (await client.get(URL)).status_code == 200
        async with client.stream("GET", URL) as response:
            assert response.status_code == 200
        assert [seen.headers["Authorization"] for seen in server.seen] == ["Bearer secret"] * 4

    @pytest.mark.trio
    async def test_oauth_with_a_policy() -> None:
        """With our class first, the constructor takes the arguments of both."""
        server = Server(503, 404)
        client_class: Any = OAuthLast
        client = client_class(
            client_id="id",
            token=_TOKEN,
            transport=server,
            retry=RetryPolicy(backoff_base=0),
            raise_on_all_errors=False,
        )
        assert (await client.get(URL)).status_code == 404
