"""Methods of httpx.AsyncClient that a tracer, a recorder or a mock has replaced: requests go through them."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import anyio
import httpx
import pytest
import respx
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server

from prefect_http import InvalidResponse, PrefectHttpxClient
from prefect_http._client.inheritance import HttpxSending

CHALLENGE = {"WWW-Authenticate": 'Digest realm="r", nonce="abc", qop="auth", algorithm=MD5'}

# What replaces a method is made from it, and from a function that is called with each request.
Replace = Callable[[Any, Callable[[httpx.Request], None]], Any]


def with_wraps(method: Any, note: Callable[[httpx.Request], None]) -> Any:
    """Replace an async method as sentry-sdk does."""

    @functools.wraps(method)
    async def replacement(self: Any, request: httpx.Request, **arguments: Any) -> httpx.Response:
        note(request)
        response: httpx.Response = await method(self, request, **arguments)
        return response

    return replacement


def with_function(method: Any, note: Callable[[httpx.Request], None]) -> Any:
    """Replace an async method by another function, as vcrpy did."""

    async def replacement(self: Any, request: httpx.Request, **arguments: Any) -> httpx.Response:
        note(request)
        response: httpx.Response = await method(self, request, **arguments)
        return response

    return replacement


class WithObject:
    """Replaces an async method by a descriptor, as wrapt does for Datadog and New Relic."""

    def __init__(self, method: Any, note: Callable[[httpx.Request], None]) -> None:
        self.__wrapped__ = method
        self.__module__ = method.__module__
        self._note = note

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self._send, instance)

    async def _send(self, client: Any, request: httpx.Request, **arguments: Any) -> httpx.Response:
        self._note(request)
        response: httpx.Response = await self.__wrapped__(client, request, **arguments)
        return response


REPLACEMENTS: dict[str, tuple[str, Replace]] = {
    "wraps": ("send", with_wraps),
    "function": ("send", with_function),
    "object": ("send", WithObject),
    "single": ("_send_single_request", with_function),
}


@contextmanager
def replaced(name: str, seen: list[str]) -> Generator[None]:
    """Replace a method of httpx.AsyncClient, and note the URLs of the requests that it is called with."""
    method, replace = REPLACEMENTS[name]
    replacement = replace(getattr(httpx.AsyncClient, method), lambda request: seen.append(str(request.url)))
    with mock.patch.object(httpx.AsyncClient, method, replacement):
        yield


async def story_of(client: PrefectHttpxClient, server: Server, hooked: list[str]) -> object:
    """Send a request that is rejected, redirected, challenged and lost, and return all that can be seen of it."""
    response = await client.post(
        URL, content=b"body", auth=httpx.DigestAuth("user", "pw"), headers={"Idempotency-Key": "k"}
    )
    return (
        response.text,
        response.default_encoding,
        [earlier.status_code for earlier in response.history],
        [attempt.status_code for attempt in response.attempts],
        [attempt.reason for attempt in response.attempts],
        [(seen.method, seen.url, seen.headers.get("Cookie"), seen.body) for seen in server.seen],
        ["Authorization" in seen.headers for seen in server.seen],
        hooked,
        dict(client.cookies),
        response.elapsed.total_seconds() >= 0,
        response.is_closed,
    )


def answers() -> list[Any]:
    """Return what a server answers to the request of a story."""
    return [
        httpx.Response(503, headers={"Set-Cookie": "a=1; Path=/"}, stream=Body([b"busy"])),
        httpx.Response(401, headers=CHALLENGE, stream=Body([b"who"])),
        httpx.ReadError("broken"),
        httpx.Response(307, headers={"Location": "/b"}, stream=Body([b"there"])),
        httpx.Response(200, stream=Body([b"fine"])),
    ]


def hooks_of(seen: list[str]) -> dict[str, list[Callable[..., object]]]:
    """Return event hooks that note what they are called with."""

    async def on_request(request: httpx.Request) -> None:
        seen.append(f"request {request.url}")

    async def on_response(response: httpx.Response) -> None:
        seen.append(f"response {response.status_code}")

    return {"request": [on_request], "response": [on_response]}


@pytest.mark.anyio
@each_row("when", ["before", "after"])
@each_row("name", REPLACEMENTS)
async def test_a_replaced_method_sees_each_attempt(name: str, when: str) -> None:
    """It sees each attempt once, whether it or the client was there first, and nothing else is different."""
    stories: list[object] = []
    seen: list[str] = []
    for replacing in (nullcontext(), replaced(name, seen)):
        hooked: list[str] = []
        server = Server(*answers())

        def new_client(server: Server = server, hooked: list[str] = hooked) -> PrefectHttpxClient:
            return PrefectHttpxClient(
                transport=server,
                retry=AT_ONCE,
                follow_redirects=True,
                event_hooks=hooks_of(hooked),
                default_encoding="ascii",
            )

        client = new_client() if when == "after" else None
        with anyio.fail_after(5), replacing:
            client = client or new_client()
            async with client:
                stories.append(await story_of(client, server, hooked))
        assert len(hooked) == 9
    assert stories[1] == stories[0]
    assert seen == [URL] * 4 + ["http://server/b"]


@pytest.mark.anyio
@each_row("name", REPLACEMENTS)
async def test_a_replacement_that_is_undone(name: str) -> None:
    """It sees the requests between, and none before and after, of one client."""
    seen: list[str] = []
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(200, ...)) as client:
            await client.get("http://server/1")
            for url in ("http://server/2", "http://server/3"):
                with replaced(name, seen):
                    await client.get(url)
                await client.get("http://server/4")
    assert seen == ["http://server/2", "http://server/3"]


@pytest.mark.anyio
async def test_a_failure_behind_a_replaced_method() -> None:
    """What the transport raises is what it is without the replacement, and is retried."""
    broken = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    seen: list[str] = []
    with anyio.fail_after(5), replaced("wraps", seen):
        async with PrefectHttpxClient(transport=Server(broken, 200), retry=AT_ONCE) as client:
            assert (await client.get(URL)).status_code == 200
    assert seen == [URL, URL]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error", [UnicodeDecodeError("utf-8", b"", 0, 1, "no"), httpx.InvalidURL("no"), KeyError("no")], ids=repr
)
async def test_what_an_app_raises_behind_a_replaced_method(error: Exception) -> None:
    """It is raised itself, and not taken for what httpx raises for a bad Location."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise error

    with anyio.fail_after(5), replaced("wraps", []):
        async with PrefectHttpxClient(app=app, retry=AT_ONCE) as client:
            with pytest.raises(type(error)) as caught:
                await client.get(URL)
    assert caught.value is error


@pytest.mark.anyio
async def test_what_a_hook_raises_behind_a_replaced_method() -> None:
    """A hook may fail to decode a body, which says nothing about a Location."""

    async def decode(response: httpx.Response) -> None:
        (await response.aread()).decode("ascii")

    with anyio.fail_after(5), replaced("wraps", []):
        async with PrefectHttpxClient(
            transport=Server(httpx.Response(200, content=b"\xff")), event_hooks={"response": [decode]}
        ) as client:
            with pytest.raises(UnicodeDecodeError):
                await client.get(URL)


BAD = ["http://x:99999/", "http://x:-5/", "http://x:port/", "http://[::1:80/", "https://:bad", "/" + "x" * 70_000]
if httpx.__name__ == "httpx":
    BAD.append("http://xn--a/")  # for httpx2, it is a name that nobody knows


@pytest.mark.anyio
@each_row("name", REPLACEMENTS)
async def test_a_bad_location_behind_a_replaced_method(name: str) -> None:
    """It is an InvalidResponse as well, it is not asked for again, and the response is closed."""
    for location, follow_redirects in itertools.product(BAD, (False, True)):
        await check_bad_location(name, location, follow_redirects=follow_redirects)


async def check_bad_location(name: str, location: str, *, follow_redirects: bool) -> None:
    """Send a request that is redirected to a bad Location."""
    body = Body([b"moved"])
    server = Server(httpx.Response(302, headers={"Location": location}, stream=body))
    with anyio.fail_after(5), replaced(name, []):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=follow_redirects) as client:
            with pytest.raises(InvalidResponse, match="Location") as caught:
                await client.get(URL)
    assert str(caught.value.request.url) == URL
    assert (server.count, body.is_closed) == (1, True)


@pytest.mark.anyio
async def test_the_requests_of_respx_for_httpx() -> None:
    """``respx.mock(using="httpx")`` replaces a private method of httpx.AsyncClient that finds the transport."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(), retry=AT_ONCE) as client:
            with respx.mock(using="httpx") as router:
                route = router.get(URL).mock(side_effect=[httpx.Response(503), httpx.Response(200, text="mocked")])
                assert (await client.get(URL)).text == "mocked"
            assert route.call_count == 2


def test_a_method_that_does_not_exist() -> None:
    """A version of httpx without one of the private methods is as good as one where nothing is replaced."""
    client = PrefectHttpxClient(transport=Server())
    with mock.patch.object(httpx, "AsyncClient", type("AsyncClient", (), {"send": httpx.AsyncClient.send})):
        assert not HttpxSending(client).is_replaced(client)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["_transport", "_mounts"])
async def test_a_transport_that_is_put_into_a_client(name: str) -> None:
    """Many tests assign a mock to the private attribute of a client; its requests go there, and are retried."""
    mocked = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=Server(), retry=AT_ONCE) as client:
            other = httpx.AsyncClient(transport=mocked, mounts={"all://": mocked})
            setattr(client, name, getattr(other, name))
            assert (await client.get(URL)).status_code == 200
    assert mocked.count == 2


def test_replaced_before_the_import() -> None:
    """What was replaced before the package is imported is replaced."""
    program = f"""
import functools
import httpx, anyio
real, seen = httpx.AsyncClient.send, []

@functools.wraps(real)
async def send(self, request, **arguments):
    seen.append(request.method)
    return await real(self, request, **arguments)

httpx.AsyncClient.send = send
from prefect_http import PrefectHttpxClient

async def main():
    async with PrefectHttpxClient(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        await client.get({URL!r})

anyio.run(main)
assert seen == ["GET"], seen
"""
    assert subprocess.run([sys.executable, "-P", "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.anyio
async def test_replaced_request() -> None:
    """A mock in the place of request(), of the class or of one client, gets what get() and the others send."""
    async with PrefectHttpxClient(transport=Server()) as client:
        for owner in client, PrefectHttpxClient:
            with mock.patch.object(owner, "request", return_value="mine") as request:
                response: object = await client.get(URL, headers={"a": "b"})
                assert response == "mine"
            request.assert_awaited_once_with("GET", URL, retry=None, headers={"a": "b"})
