"""``max_response_bytes``: how large a body may be that is read whole."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from support.compression import gzip_bomb
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of

from prefect_http import (
    PrefectHTTPStatusError,
    PrefectHttpxClient,
    PrefectResponse,
    Receive,
    ResponseTooLarge,
    Scope,
    Send,
)

MIB = 1024 * 1024


def limited(*script: object, max_bytes: int | None = 1000, **more: Any) -> PrefectHttpxClient:
    """Return a client with a limit."""
    return PrefectHttpxClient(transport=Server(*script), retry=AT_ONCE, max_response_bytes=max_bytes, **more)


def answer(content: bytes, status: int = 200, encoding: str | None = None) -> tuple[httpx.Response, Body]:
    """Return a response and its body."""
    body = Body([content])
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    return httpx.Response(status, headers=headers, stream=body), body


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"", b"x" * 1000], ids=["empty", "all of it"])
async def test_a_body_within_the_limit(content: bytes) -> None:
    """A body within the limit is read, whether by the verb or by aread(), and once more."""
    with anyio.fail_after(5):
        async with limited(answer(content)[0], answer(gzip.compress(content), 200, "gzip")[0]) as client:
            response = await client.get(URL)
            assert type(response) is PrefectResponse
            assert await response.aread() == response.content == content
            assert response.elapsed
            async with client.stream("GET", URL) as response:
                assert await response.aread() == content
                assert await response.aread() == content


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("make", "encoding"),
    [
        (lambda: b"x" * 1001, None),
        (lambda: gzip_bomb(64 * MIB), "gzip"),
        (lambda: gzip.compress(b"x") + bytes(2 * MIB), "gzip"),
        (lambda: gzip.compress(gzip.compress(b"x") + bytes(2 * MIB)), "gzip, gzip"),
    ],
    ids=["long", "bomb", "much that is passed over", "a bomb that is passed over"],
)
async def test_a_body_beyond_the_limit(make: Callable[[], bytes], encoding: str | None) -> None:
    """A longer one is an error that is not retried, with the response closed."""
    response, body = answer(make(), 200, encoding)
    with anyio.fail_after(5):
        async with limited(response) as client:
            with pytest.raises(ResponseTooLarge, match=r"^the response body is larger than max_response_bytes of 1000"):
                await client.get(URL)
    assert body.is_closed


@pytest.mark.anyio
async def test_the_error() -> None:
    """The error is an httpx.RequestError with its request, says why there was no retry, and can be pickled."""
    with anyio.fail_after(5):
        async with limited(answer(b"x" * 1001)[0]) as client:
            with pytest.raises(httpx.RequestError) as caught:
                await client.get(URL)
    assert type(caught.value) is ResponseTooLarge
    assert caught.value.request.url == URL
    assert "ResponseTooLarge is not retried" in notes_of(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.anyio
async def test_a_stream_has_no_limit_but_when_it_is_read_whole() -> None:
    """A stream may be as long as it likes, unless aread() reads it."""
    long, body = answer(b"x" * 5000)
    with anyio.fail_after(5):
        async with limited(answer(b"x" * 5000)[0], long) as client:
            async with client.stream("GET", URL) as response:
                assert b"".join([chunk async for chunk in response.aiter_bytes()]) == b"x" * 5000
            async with client.stream("GET", URL) as response:
                with pytest.raises(ResponseTooLarge) as caught:
                    await response.aread()
                assert body.is_closed
    assert caught.value.request.url == URL
    assert notes_of(caught.value) == ""


@pytest.mark.anyio
async def test_a_body_that_the_transport_has_read_has_the_limit() -> None:
    """As those of mocks, which make responses of bytes; but the body of an error can be read."""
    sizes = [(200, 1000), (200, 1001), (404, 1001)]
    with anyio.fail_after(5):
        async with limited(*(httpx.Response(status, content=b"x" * size) for status, size in sizes)) as client:
            assert len((await client.get(URL)).content) == 1000
            with pytest.raises(ResponseTooLarge, match="larger than max_response_bytes of 1000 bytes"):
                await client.get(URL)
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.get(URL)
            assert await caught.value.response.aread() == b"x" * 1001


@pytest.mark.anyio
async def test_a_response_of_another_class_has_the_limit() -> None:
    """A response that is not of httpx's own class is limited as well."""

    class Odd(httpx.Response):
        pass

    with anyio.fail_after(5):
        async with limited(Odd(200, stream=Body([b"x" * 1001]))) as client, client.stream("GET", URL) as response:
            with pytest.raises(ResponseTooLarge):
                await response.aread()


@pytest.mark.anyio
async def test_a_bad_status_that_is_returned_has_the_limit() -> None:
    """With raise_on_all_errors=False, the limit holds for a bad status too, retried or not."""
    with anyio.fail_after(5):
        async with limited(answer(b"x" * 1001, 404)[0], raise_on_all_errors=False) as client:
            with pytest.raises(ResponseTooLarge):
                await client.get(URL)
        last = [answer(b"x" * 1001, 503)[0] for _ in range(6)]
        async with limited(*last, raise_on_all_errors=False) as client:
            with pytest.raises(ResponseTooLarge) as caught:
                await client.get(URL)
    assert "all retries are used up" in notes_of(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
async def test_the_body_of_an_error_is_cut(stream: bool) -> None:
    """A bad status that is raised has the body's beginning, up to the limit."""
    with anyio.fail_after(5):
        async with limited(answer(b"x" * 5000, 404)[0]) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.send(client.build_request("GET", URL), stream=stream)
    assert caught.value.response.content == b"x" * 1000
    assert "too long" in notes_of(caught.value)


@pytest.mark.anyio
async def test_an_app_in_this_process_is_read_up_to_the_limit() -> None:
    """An app that sends without end is disconnected."""
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] == "http.request":
            for _ in range(100):
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                sent += 1

    with anyio.fail_after(10):
        async with PrefectHttpxClient(app=app, max_response_bytes=10_000) as client:
            with pytest.raises(ResponseTooLarge):
                await client.get("/")
    assert sent < 100 + 1


@each_row("wrong", [-1, 1.5, "1 MiB", True])
def test_wrong_limits(wrong: Any) -> None:
    """Anything but None and an integer of 0 or more is a ValueError."""
    with pytest.raises(ValueError, match=r"^max_response_bytes must be None or an integer, 0 or more, not "):
        limited(max_bytes=wrong)


@pytest.mark.anyio
async def test_a_limit_of_nothing() -> None:
    """A limit of 0 allows empty bodies."""
    with anyio.fail_after(5):
        async with limited(204, answer(b"x")[0], max_bytes=0) as client:
            assert (await client.get(URL)).content == b""
            with pytest.raises(ResponseTooLarge):
                await client.get(URL)
