"""What the package relies on in httpx. A test fails if a version of httpx, or of httpx2, works differently inside."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import warnings
from collections.abc import Callable
from datetime import timedelta
from http.cookiejar import CookieJar
from typing import Any

import anyio
import httpx
import pytest
from support.scripted_transport import Body, Server

from prefect_http import PrefectHttpxClient, PrefectResponse
from prefect_http._client.verbs import VerbsWithRetry
from prefect_http._httpx_details import (
    LeanClient,
    NoAuth,
    ReadyResponse,
    change_class,
    copy_of,
    lent,
    set_content,
)

URL = "http://server/"


class OwnResponse(httpx.Response):
    """A response class with no state of its own."""


class Hooked:
    """An httpx.AsyncClient's event hook that reads each response."""

    async def __call__(self, response: httpx.Response) -> None:
        await response.aread()


async def received(
    response: httpx.Response, *, stream: bool = False, hooks: list[Callable[..., Any]] | None = None
) -> httpx.Response:
    """Return what a client of httpx's own makes of a transport's response."""
    async with httpx.AsyncClient(transport=Server(response), event_hooks={"response": hooks or []}) as client:
        return await client.send(client.build_request("GET", URL), stream=stream)


# --- ReadyResponse


@pytest.mark.anyio
@pytest.mark.parametrize("hooks", [[], [Hooked()]], ids=["client", "hook"])
@pytest.mark.parametrize("body", [b"", b"body"])
async def test_a_ready_response_is_read_like_any_other(body: bytes, hooks: list[Callable[..., Any]]) -> None:
    """It has content, text and elapsed time, is closed with its stream, and is the same object that was sent."""
    stream = Body([body])
    original = ReadyResponse(200, [(b"Content-Type", b"text/plain")], body, stream, {"a": 1})
    with anyio.fail_after(5):
        response = await received(original, hooks=hooks)
    assert response is original
    assert (response.content, response.text) == (body, body.decode())
    assert (response.is_closed, response.is_stream_consumed) == (True, True)
    assert response.elapsed >= timedelta()
    assert response.num_bytes_downloaded == len(body)
    assert response.extensions["a"] == 1
    assert (stream.is_started, stream.close_count) == (False, 1)
    change_class(response, PrefectResponse)
    assert pickle.loads(pickle.dumps(response)).content == body


@pytest.mark.anyio
async def test_a_ready_response_is_decoded() -> None:
    """Its content is decoded as its headers say; the stream is its body if none is given."""
    response = ReadyResponse(200, [(b"Content-Encoding", b"gzip")], gzip.compress(b"body"))
    with anyio.fail_after(5):
        assert (await received(response)).content == b"body"


@pytest.mark.anyio
async def test_a_ready_response_that_cannot_be_decoded_is_closed() -> None:
    """A body that is not what its headers say is httpx.DecodingError, and the stream is closed."""
    stream = Body([b"not gzip"])
    with anyio.fail_after(5), pytest.raises(httpx.DecodingError):
        await received(ReadyResponse(200, [(b"Content-Encoding", b"gzip")], b"not gzip", stream))
    assert stream.is_closed


@pytest.mark.anyio
async def test_a_ready_response_can_be_streamed() -> None:
    """If it is not read whole, it is read from its stream."""
    stream = Body([b"bo", b"dy"])
    with anyio.fail_after(5):
        response = await received(ReadyResponse(200, [], b"body", stream), stream=True)
        assert [chunk async for chunk in response.aiter_bytes()] == [b"bo", b"dy"]
    assert stream.is_closed


# --- Lending a response


@pytest.mark.anyio
@pytest.mark.parametrize("cls", [httpx.Response, OwnResponse, ReadyResponse, PrefectResponse])
async def test_a_lent_response_is_unread_again(cls: type[httpx.Response]) -> None:
    """Within the context it is read from the other stream; afterwards it can be read as if nothing had happened."""
    is_ready = issubclass(cls, ReadyResponse)
    headers, stream = [(b"Content-Encoding", b"gzip")], Body([gzip.compress(b"body")])
    response: httpx.Response = (
        ReadyResponse(200, headers, gzip.compress(b"body"), stream)
        if is_ready
        else cls(200, headers=headers, stream=stream)
    )
    before = dict(vars(response))
    for leave in (False, True):
        with contextlib.suppress(KeyError), lent(response, Body([b"other"]), httpx.Headers()):
            assert await response.aread() == b"other"
            assert (response.text, response.is_closed, response.num_bytes_downloaded) == ("other", True, 5)
            if leave:
                raise KeyError
        assert vars(response) == before
        assert type(response) is cls
    assert not stream.is_started
    assert (await received(response)).content == b"body"
    assert stream.close_count == 1


# --- change_class


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["read", "streamed"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: httpx.Response(200, headers={"A": "1"}, stream=Body([b"body"])),
        lambda: ReadyResponse(200, [(b"A", b"1")], b"body", Body([b"body"])),
    ],
    ids=["httpx", "ready"],
)
async def test_a_response_changes_its_class_in_place(make: Callable[[], httpx.Response], stream: bool) -> None:
    """The same object is then of the other class, with all that it had, whether its body has been read or not."""
    with anyio.fail_after(5):
        response = await received(make(), stream=stream)
        change_class(response, OwnResponse)
        assert type(response) is OwnResponse
        assert await response.aread() == b"body"
    assert response.headers["A"] == "1"
    assert response.request.url == URL
    assert response.elapsed >= timedelta()
    # A response of httpx has the same attributes after the same treatment.
    with anyio.fail_after(5):
        plain = await received(httpx.Response(200, headers={"A": "1"}, stream=Body([b"body"])), stream=stream)
        await plain.aread()
    assert vars(response).keys() == vars(plain).keys()


def test_only_httpxs_own_class_is_changed() -> None:
    """A response of another class may have state of its own, and is left alone."""
    response = OwnResponse(200)
    change_class(response, PrefectResponse)
    assert type(response) is OwnResponse


# --- copy_of


@pytest.mark.parametrize("more", [{"content": b"body"}, {"stream": httpx.ByteStream(b"body")}], ids=["read", "unread"])
def test_a_copy_has_the_same_state(more: dict[str, Any]) -> None:
    """Every attribute of the original is there, and what can be changed in place is not shared."""
    request = httpx.Request("GET", URL)
    original = httpx.Response(200, headers={"A": "1"}, request=request, extensions={"b": 2}, history=[], **more)
    copy = copy_of(original, OwnResponse)
    assert type(copy) is OwnResponse
    assert vars(copy).keys() == vars(original).keys()
    assert copy.request is request
    assert copy.stream is original.stream
    assert copy.read() == original.read() == b"body"
    copy.headers["A"] = "changed"
    copy.extensions["b"] = "changed"
    copy.history.append(original)
    assert (original.headers["A"], original.extensions, original.history) == ("1", {"b": 2}, [])


# --- set_content


@pytest.mark.anyio
async def test_the_content_can_be_set() -> None:
    """A response that was never read has the content, its own headers and its own stream."""
    body = Body([b"unread"])
    with anyio.fail_after(5):
        response = await received(
            httpx.Response(
                200, headers={"Content-Encoding": "gzip", "Content-Type": "a/b; charset=latin-1"}, stream=body
            ),
            stream=True,
        )
        stream = response.stream
        set_content(response, "Größe".encode("latin-1"))
        assert response.text == "Größe"
        assert await response.aread() == response.content
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.stream is stream
        assert not body.is_started
        await response.aclose()
    assert body.is_closed
    assert response.elapsed >= timedelta()


# --- LeanClient


def test_no_private_name_of_httpx_is_taken() -> None:
    """What our clients define privately does not hide anything of httpx's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that httpx has deprecated
        theirs = {*dir(httpx.AsyncClient), *vars(httpx.AsyncClient(transport=Server()))}
    for cls, base in (
        (LeanClient, httpx.AsyncClient),
        (VerbsWithRetry, LeanClient),
        (PrefectHttpxClient, VerbsWithRetry),
    ):
        client = PrefectHttpxClient(transport=Server())
        ours = {*vars(cls), *(vars(client).keys() - vars(httpx.AsyncClient(transport=Server())).keys())}
        assert base in cls.__bases__
        assert not {name for name in ours & theirs if name.startswith("_") and not name.startswith("__")}


def test_a_request_is_built_as_httpx_builds_it() -> None:
    """With a string, however often, with a URL object and with a base URL, the request is the same as with httpx."""
    arguments: dict[str, Any] = {"base_url": "http://base/api/", "params": {"p": "1"}, "transport": Server()}
    ours, theirs = PrefectHttpxClient(**arguments), httpx.AsyncClient(**arguments)
    for url in ("a?b=1", "a?b=1", "/a#b", "http://server/ü", "", httpx.URL("c"), httpx.URL("c")):
        assert ours.build_request("GET", url).url == theirs.build_request("GET", url).url


@pytest.mark.parametrize("url", ["http://a:b/", 5, None])
def test_an_invalid_url_raises_what_httpx_raises(url: Any) -> None:
    """Twice in a row, since URLs are kept."""
    ours, theirs = PrefectHttpxClient(transport=Server()), httpx.AsyncClient(transport=Server())
    with pytest.raises((httpx.InvalidURL, TypeError)) as expected:
        theirs.build_request("GET", url)
    for _ in range(2):
        with pytest.raises(type(expected.value)):
            ours.build_request("GET", url)


def test_headers_are_httpxs_but_for_the_user_agent() -> None:
    """The client's headers can be read and assigned as with httpx."""
    ours, theirs = PrefectHttpxClient(transport=Server()), httpx.AsyncClient(transport=Server())
    for client in (ours, theirs):
        assert isinstance(client.headers, httpx.Headers)
        client.headers = {"X-A": "1"}
        client.headers["X-B"] = "2"
    assert ours.headers["User-Agent"].startswith("prefect-http/")
    del ours.headers["User-Agent"], theirs.headers["User-Agent"]
    assert ours.headers == theirs.headers


def answering(*cookies: str | None) -> httpx.MockTransport:
    """Return a transport whose responses set these cookies, one after the other."""
    left = iter(cookies)

    def answer(request: httpx.Request) -> httpx.Response:
        cookie = next(left)
        return httpx.Response(200, headers={} if cookie is None else {"Set-Cookie": cookie})

    return httpx.MockTransport(answer)


async def sent_cookies(client: PrefectHttpxClient, times: int) -> list[str | None]:
    """Send some requests; return the cookies that each of them had."""
    return [(await client.get(URL)).request.headers.get("Cookie") for _ in range(times)]


@pytest.mark.anyio
@pytest.mark.parametrize("make_jar", [lambda: None, dict, CookieJar], ids=["own", "dict", "standard"])
async def test_cookies_are_kept_and_forgotten(make_jar: Callable[[], dict[str, str] | CookieJar | None]) -> None:
    """A cookie is sent from the next request on, whatever responses come between, until the server deletes it."""
    answers = answering("a=1", None, "b=2; Path=/", "a=0; Max-Age=0", None)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=answers, cookies=make_jar()) as client:
            seen = await sent_cookies(client, 5)
    assert seen == [None, "a=1", "a=1", "a=1; b=2", "b=2"]


@pytest.mark.anyio
async def test_cookies_can_be_set_by_hand() -> None:
    """The client's jar takes cookies from the program, too, and can be replaced."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=answering(None, "c=3", None)) as client:
            client.cookies.set("a", "1")
            assert await sent_cookies(client, 1) == ["a=1"]
            client.cookies = {"b": "2"}
            assert await sent_cookies(client, 2) == ["b=2", "b=2; c=3"]
            assert dict(client.cookies) == {"b": "2", "c": "3"}


# --- NoAuth


def echo(request: httpx.Request) -> httpx.Response:
    """Answer with what authenticates the request."""
    return httpx.Response(200, text=request.headers.get("Authorization", "none"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("client_auth", "url", "auth", "seen"),
    [
        (None, URL, httpx.USE_CLIENT_DEFAULT, "none"),
        (None, URL, None, "none"),
        (None, "http://a:b@server/", httpx.USE_CLIENT_DEFAULT, "Basic YTpi"),
        (None, "http://a:b@server/", ("c", "d"), "Basic Yzpk"),
        (("c", "d"), URL, httpx.USE_CLIENT_DEFAULT, "Basic Yzpk"),
        (("c", "d"), URL, None, "none"),
        (None, URL, ("c", "d"), "Basic Yzpk"),
    ],
)
async def test_which_credentials_are_sent(
    client_auth: tuple[str, str] | None, url: str, auth: tuple[str, str] | None, seen: str
) -> None:
    """The client's, the URL's or the request's are, as in httpx; without any, the request is sent as it is."""
    with anyio.fail_after(5):
        async with PrefectHttpxClient(auth=client_auth, transport=httpx.MockTransport(echo)) as client:
            assert (await client.get(url, auth=auth)).text == seen


@pytest.mark.anyio
@pytest.mark.parametrize("auth", [NoAuth(), httpx.Auth()], ids=["ours", "httpx"])
async def test_no_auth_does_what_httpxs_does(auth: httpx.Auth) -> None:
    """Its flow yields the request once, and raises an exception that is thrown into it."""
    request = httpx.Request("GET", URL)
    flow = auth.async_auth_flow(request)
    assert [each async for each in flow] == [request]
    flow = auth.async_auth_flow(request)
    assert await anext(flow) is request
    with pytest.raises(StopAsyncIteration):
        await flow.asend(httpx.Response(401))
    flow = auth.async_auth_flow(request)
    await anext(flow)
    with pytest.raises(ZeroDivisionError):
        await flow.athrow(ZeroDivisionError)
    await flow.aclose()
