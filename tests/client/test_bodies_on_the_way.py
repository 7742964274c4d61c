"""The bodies of redirects and challenges, which httpx reads on the way to the response that the caller gets."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Generator
from typing import Any

import anyio
import httpx
import pytest
from support.compression import gzip_bomb
from support.rows import each_row
from support.scripted_transport import ONCE, URL, Body, Server

from prefect_http import PrefectHttpxClient, PrefectResponse

Part = bytes | BaseException
MIB = 1024 * 1024
REDIRECT = 302, {"Location": "/elsewhere"}
CHALLENGE = 401, {"WWW-Authenticate": 'Digest realm="fruit", nonce="1", qop="auth"'}
BOTH = each_row("kind", [REDIRECT, CHALLENGE], ids=["redirect", "challenge"])


def answer(kind: tuple[int, dict[str, str]], *parts: Part, encoding: str | None = None) -> tuple[httpx.Response, Body]:
    """Return a redirect or a challenge, and its body."""
    body, (status, headers) = Body(parts), kind
    headers = headers if encoding is None else {**headers, "Content-Encoding": encoding}
    return httpx.Response(status, headers=headers, stream=body), body


def new_client(*script: object, **more: Any) -> PrefectHttpxClient:
    """Return a client that follows redirects and responds to challenges."""
    more = {"auth": httpx.DigestAuth("me", "password"), "follow_redirects": True, **more}
    return PrefectHttpxClient(transport=Server(*script), retry=ONCE, **more)


@BOTH
@pytest.mark.anyio
async def test_a_body_is_kept_in_the_history(kind: tuple[int, dict[str, str]]) -> None:
    """The body is read and decoded, as in httpx, and the response is closed."""
    first, body = answer(kind, gzip.compress(b"over there"), encoding="gzip")
    with anyio.fail_after(5):
        async with new_client(first, 200) as client:
            response = await client.get(URL)
    assert type(response) is PrefectResponse
    assert [(each.status_code, each.text) for each in response.history] == [(kind[0], "over there")]
    assert isinstance(response.history[0], httpx.Response)
    assert response.history[0].elapsed
    assert body.is_closed


@BOTH
@pytest.mark.anyio
@pytest.mark.parametrize("encoding", [None, "gzip, gzip"], ids=["long", "bomb"])
async def test_a_large_body_is_cut(kind: tuple[int, dict[str, str]], encoding: str | None) -> None:
    """No more than 1 MiB of it is read or unpacked; the redirect is followed, and the challenge met, all the same."""
    parts = [bytes(MIB)] * 64 if encoding is None else [gzip_bomb(64 * MIB, layers=2)]
    first, body = answer(kind, *parts, encoding=encoding)
    tracemalloc.start()
    try:
        with anyio.fail_after(60):
            async with new_client(first, 200) as client:
                response = await client.get(URL)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    assert [len(each.content) for each in response.history] == [MIB]
    assert body.given <= 2 * MIB
    assert body.is_closed


@BOTH
@pytest.mark.anyio
async def test_a_body_that_breaks_off(kind: tuple[int, dict[str, str]]) -> None:
    """That is an error, as with httpx, and the response is closed."""
    first, body = answer(kind, b"half", httpx.ReadError("broken"))
    with anyio.fail_after(5):
        async with new_client(first) as client:
            with pytest.raises(httpx.ReadError) as caught:
                await client.get(URL)
    assert caught.value.request.url == URL
    assert body.is_closed


@BOTH
@pytest.mark.anyio
async def test_a_body_that_cannot_be_decoded(kind: tuple[int, dict[str, str]]) -> None:
    """The headers are enough."""
    first, body = answer(kind, b"this is not gzip", encoding="gzip")
    with anyio.fail_after(5):
        async with new_client(first, 200) as client:
            response = await client.get(URL)
    assert [each.content for each in response.history] == [b""]
    assert body.is_closed


@BOTH
@pytest.mark.anyio
async def test_the_last_response_is_read_whole(kind: tuple[int, dict[str, str]]) -> None:
    """A redirect that is not followed, and a 401 without credentials, have no other limits than any response."""
    first, _ = answer(kind, bytes(2 * MIB))
    streamed, _ = answer(kind, bytes(2 * MIB))
    with anyio.fail_after(5):
        async with new_client(first, streamed, auth=None, follow_redirects=False, raise_on_all_errors=False) as client:
            response = await client.get(URL)
            assert type(response) is PrefectResponse
            assert len(response.content) == 2 * MIB
            async with client.stream("GET", URL) as response:
                assert len(await response.aread()) == 2 * MIB


@BOTH
@pytest.mark.anyio
async def test_an_event_hook_may_read_all_of_it(kind: tuple[int, dict[str, str]]) -> None:
    """With an event hook, the body is read as by httpx."""
    sizes: list[int] = []

    async def read(response: httpx.Response) -> None:
        sizes.append(len(await response.aread()))

    first, _ = answer(kind, bytes(2 * MIB))
    with anyio.fail_after(5):
        async with new_client(first, 200, event_hooks={"response": [read]}) as client:
            await client.get(URL)
    assert sizes == [2 * MIB, 0]


@pytest.mark.anyio
async def test_an_auth_flow_may_read_a_challenge() -> None:
    """An auth flow that needs the body of its responses has all of that of a challenge."""

    class Flow(httpx.Auth):
        requires_response_body = True

        def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response]:
            response = yield request
            request.headers["Authorization"] = response.text
            yield request

    sesame = "sesame " * 300_000
    with anyio.fail_after(5):
        for of_client, of_request in ((Flow(), httpx.USE_CLIENT_DEFAULT), (None, Flow())):
            server = Server(answer((401, {}), b"open ", sesame.encode())[0], 200)
            async with PrefectHttpxClient(transport=server, retry=ONCE, auth=of_client) as client:
                await client.get(URL, auth=of_request)
            assert server.seen[1].headers["Authorization"] == f"open {sesame}"
