"""What the package relies on in httpx. A test fails if a version of httpx, or of httpx2, works differently inside."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import warnings
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import each_row
from support.scripted_transport import Body, Server

from prefect_http import PrefectHttpxClient, PrefectResponse
from prefect_http._client.verbs import VerbsWithRetry
from prefect_http._httpx_details import (
    NO_HEADERS,
    ReadyResponse,
    copy_of,
    header_names,
    hold_body,
    hold_whole,
    keep_content,
    lent,
    read_held_body,
)

URL = "http://server/"
GZIP = {"Content-Encoding": "gzip"}


class OwnResponse(httpx.Response):
    """A response class with no state of its own."""


def ready(
    body: bytes = b"body",
    stream: httpx.AsyncByteStream | None = None,
    cls: type[ReadyResponse] = ReadyResponse,
    **more: Any,
) -> ReadyResponse:
    """Return a response whose body has come along with its head."""
    response = cls(200, stream=httpx.ByteStream(body) if stream is None else stream, **more)
    hold_body(response, body)
    return response


def kept(content: bytes = b"body", downloaded: int = 3, cls: type[ReadyResponse] = ReadyResponse) -> ReadyResponse:
    """Return a response whose content was decoded elsewhere."""
    response = cls(200, stream=Body([b"unread"]))
    keep_content(response, content, downloaded)
    return response


def plain(body: bytes = b"body", **more: Any) -> httpx.Response:
    """Return a response of httpx's own."""
    return httpx.Response(200, stream=Body([body]), **more)


async def read_it(response: httpx.Response) -> None:
    """Read a response, as an event hook may."""
    await response.aread()


async def received(
    response: httpx.Response, *, stream: bool = False, hooks: list[Callable[..., Any]] | None = None, **more: Any
) -> httpx.Response:
    """Return what a client of httpx's own makes of a transport's response."""
    async with httpx.AsyncClient(transport=Server(response), event_hooks={"response": hooks or []}, **more) as client:
        return await client.send(client.build_request("GET", URL), stream=stream)


# --- Headers that are held


FIELDS = [(b"Content-Type", b"text/plain"), (b"A", b"1"), (b"a", b"2")]


def whole(cls: type[ReadyResponse] = ReadyResponse, fields: list[tuple[bytes, bytes]] = FIELDS) -> ReadyResponse:
    """Return a response that has arrived whole."""
    response = cls(200, headers=NO_HEADERS, stream=httpx.ByteStream(b"body"))
    hold_whole(response, fields, [name.lower() for name, _ in list(fields)], b"body")
    return response


@each_row("cls", [ReadyResponse, PrefectResponse])
def test_held_headers(cls: type[ReadyResponse]) -> None:
    """They are those of any response, once they are asked for, and then stay the same object."""
    response = whole(cls)
    assert header_names(response) == [b"content-type", b"a", b"a"]
    headers = response.headers
    assert headers == httpx.Headers([("Content-Type", "text/plain"), ("A", "1"), ("a", "2")])
    assert headers.get_list("a") == ["1", "2"]
    assert headers.raw[0] == (b"Content-Type", b"text/plain")
    assert response.headers is headers
    assert httpx.Headers(NO_HEADERS) == httpx.Headers()


def test_held_headers_that_are_changed() -> None:
    """What a hook makes of them holds."""
    response = whole()
    response.headers["Content-Encoding"] = "gzip"
    assert header_names(response) == [b"content-type", b"a", b"a", b"content-encoding"]
    assert not read_held_body(response)
    replaced = whole()
    replaced.headers = httpx.Headers({"B": "1"})
    assert header_names(replaced) == [b"b"]
    assert replaced.headers == httpx.Headers({"B": "1"})


@each_row("is_asked_for", [False, True])
def test_held_headers_are_copied(*, is_asked_for: bool) -> None:
    """By pickling, and by a copy of another class."""
    response = whole()
    assert not is_asked_for or len(response.headers) == 3
    assert read_held_body(response)
    for copy in (pickle.loads(pickle.dumps(response)), copy_of(response, PrefectResponse)):
        assert copy.headers == whole().headers
        assert copy.content == b"body"


def test_held_headers_for_two_threads() -> None:
    """What one thread makes of them holds, even if another one asks for them at the same time."""

    class Fields(list[tuple[bytes, bytes]]):
        def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
            if is_begun and not response.extensions:
                response.extensions["was another thread's turn"] = True
                response.headers["Mine"] = "1"
            return super().__iter__()

    is_begun = False
    response, is_begun = whole(fields=Fields([(b"A", b"1")])), True
    assert response.headers == httpx.Headers({"A": "1", "Mine": "1"})


def test_the_state_is_that_of_any_response() -> None:
    """Another class can take it over, and there is nothing of a body in it that has not been read."""
    response, other = whole(), httpx.Response.__new__(httpx.Response)
    other.__setstate__(response.__getstate__())
    assert other.headers == whole().headers
    again = pickle.loads(pickle.dumps(response))
    for unread in other, again:
        with pytest.raises(httpx.ResponseNotRead):
            _ = unread.content
    assert b"body" not in pickle.dumps(response)


# --- A body that is held


@pytest.mark.anyio
@each_row("hooks", [[], [read_it]], ids=["client", "hook"])
@each_row("cls", [ReadyResponse, PrefectResponse])
@each_row("body", [b"", b"body"])
async def test_a_ready_response_is_read_like_any_other(
    body: bytes, cls: type[ReadyResponse], hooks: list[Callable[..., Any]]
) -> None:
    """It has content, text and elapsed time, is closed with its stream, which is not read, and can be pickled."""
    stream = Body([body])
    original = ready(body, stream, cls, headers={"Content-Type": "text/plain"}, extensions={"a": 1})
    with anyio.fail_after(5):
        response = await received(original, hooks=hooks)
        assert await response.aread() == body
    assert response is original
    assert (response.content, response.text, response.read()) == (body, body.decode(), body)
    assert (response.is_closed, response.is_stream_consumed) == (True, True)
    assert response.elapsed >= timedelta()
    assert response.num_bytes_downloaded == len(body)
    assert response.extensions["a"] == 1
    assert (stream.is_started, stream.close_count) == (False, 1)
    copy = pickle.loads(pickle.dumps(response))
    assert (copy.content, copy.text, copy.num_bytes_downloaded) == (body, body.decode(), len(body))


@pytest.mark.anyio
async def test_an_unread_ready_response_is_closed_once_pickled() -> None:
    """As in httpx, what has not been read before is lost."""
    for response in (plain(), ready()):
        with pytest.raises(httpx.StreamClosed):
            await pickle.loads(pickle.dumps(response)).aread()


@pytest.mark.anyio
@each_row(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes), ("unknown", bytes), ("", bytes)],
)
async def test_a_ready_response_is_decoded(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """Its content is decoded as its headers say, and the number of bytes is that of before."""
    body = encode(b"body" * 100)
    stream = Body([body])
    with anyio.fail_after(5):
        response = await received(ready(body, stream, headers={"content-ENCODING": encoding}))
    assert response.content == await response.aread() == response.read() == b"body" * 100
    assert response.num_bytes_downloaded == len(body)
    assert (response.is_closed, response.is_stream_consumed) == (True, True)
    assert (stream.is_started, stream.close_count) == (False, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("cls", [ReadyResponse, PrefectResponse])
async def test_a_ready_response_that_cannot_be_decoded_is_closed(cls: type[ReadyResponse]) -> None:
    """A body that is not what its headers say is httpx.DecodingError, and the stream is closed."""
    stream = Body([b"not gzip"])
    with anyio.fail_after(5), pytest.raises(httpx.DecodingError):
        await received(ready(b"not gzip", stream, cls, headers=GZIP))
    assert stream.close_count == 1


@pytest.mark.anyio
async def test_a_ready_response_can_be_streamed() -> None:
    """If it is not read whole, it is read from its stream, once; then it has no content, as in httpx."""
    stream = Body([b"bo", b"dy"])
    with anyio.fail_after(5):
        response = await received(ready(b"body", stream), stream=True)
        assert [chunk async for chunk in response.aiter_bytes()] == [b"bo", b"dy"]
        with pytest.raises(httpx.StreamConsumed):
            await response.aread()
        with pytest.raises(httpx.ResponseNotRead):
            assert response.content
    assert response.num_bytes_downloaded == 4
    assert stream.close_count == 1


@pytest.mark.anyio
async def test_a_ready_response_that_was_closed_cannot_be_read() -> None:
    """As in httpx, closing comes before reading."""
    for make in (plain, ready):
        with anyio.fail_after(5):
            response = await received(make(), stream=True)
            await response.aclose()
            with pytest.raises(httpx.StreamClosed):
                await response.aread()


def iterate(response: httpx.Response, size: int | None) -> dict[str, list[Any]]:
    """Return what each way to iterate yields without waiting."""
    ways: dict[str, Callable[[], Iterator[Any]]] = {
        "bytes": lambda: response.iter_bytes(size),
        "text": lambda: response.iter_text(size),
        "lines": response.iter_lines,
    }
    return {name: list(way()) for name, way in ways.items()}


async def async_iterate(response: httpx.Response, size: int | None) -> dict[str, list[Any]]:
    """Return what each way to iterate yields."""
    ways: dict[str, Callable[[], AsyncIterator[Any]]] = {
        "bytes": lambda: response.aiter_bytes(size),
        "text": lambda: response.aiter_text(size),
        "lines": response.aiter_lines,
    }
    return {name: [each async for each in way()] for name, way in ways.items()}


@pytest.mark.anyio
@each_row("size", [None, 1, 4, 100])
@each_row("body", ["", "ä\nb\r\nc", "x" * 9], ids=["empty", "lines", "long"])
async def test_what_was_read_can_be_iterated_over(body: str, size: int | None) -> None:
    """Each way to iterate yields the same parts as of a response of httpx's own, as often as is wanted."""
    with anyio.fail_after(5):
        theirs = await received(plain(body.encode()))
        for ours in (await received(ready(body.encode())), kept(body.encode())):
            for _ in range(2):
                assert iterate(ours, size) == iterate(theirs, size)
                assert await async_iterate(ours, size) == await async_iterate(theirs, size)


@given(st.binary(max_size=20), st.none() | st.integers(1, 25))
def test_slices(body: bytes, size: int | None) -> None:
    """A kept body is cut as httpx cuts one that it has read."""
    assert list(kept(body).iter_bytes(size)) == list(httpx.Response(200, content=body).iter_bytes(size))


@pytest.mark.anyio
async def test_raw_bytes_can_be_streamed_once() -> None:
    """As in httpx, they are gone once the response has been read."""
    for response in (await received(plain()), await received(ready()), kept()):
        with pytest.raises(httpx.StreamConsumed):
            [chunk async for chunk in response.aiter_raw()]


# --- A content that is kept


@pytest.mark.anyio
async def test_the_content_can_be_set() -> None:
    """A response that was never read has the content, its own headers, and its own stream, still to be closed."""
    body = Body([b"unread"])
    response = ReadyResponse(200, headers={**GZIP, "Content-Type": "a/b; charset=latin-1"}, stream=body)
    keep_content(response, "Größe".encode("latin-1"), 33)
    assert response.text == "Größe"
    assert await response.aread() == response.content == response.read()
    assert response.headers["Content-Encoding"] == "gzip"
    assert (response.is_stream_consumed, response.is_closed, response.num_bytes_downloaded) == (True, False, 33)
    await response.aclose()
    assert (body.is_started, body.close_count) == (False, 1)
    assert pickle.loads(pickle.dumps(response)).text == "Größe"


def test_json_of_a_kept_content() -> None:
    """It is parsed as httpx parses it."""
    assert kept(b'{"a": 1}').json() == {"a": 1}


# --- The encoding of the text


def detect(content: bytes) -> str:
    """Return a default encoding that depends on the content."""
    return "latin-1" if content.isascii() else "utf-16"


ENCODINGS: list[tuple[bytes, dict[str, Any], str | None]] = [
    (content, more, encoding)
    for content in (b"", b"body", b"\xff\xfeb\x00")
    for more in (
        {},
        {"default_encoding": "cp1252"},
        {"default_encoding": detect},
        {"default_encoding": lambda _: ""},
        {"default_encoding": detect, "headers": {"Content-Type": "a/b; charset=utf-8"}},
        {"default_encoding": detect, "headers": {"Content-Type": "a/b; charset=nonsense"}},
        {"default_encoding": "cp1252", "headers": {"Content-Type": "a/b; charset=nonsense"}},
    )
    for encoding in (None, "ascii")
]


@pytest.mark.anyio
@each_row("make", [ready, kept], ids=["ready", "kept"])
@each_row(("content", "more", "encoding"), ENCODINGS)
async def test_the_encoding(
    content: bytes, more: dict[str, Any], encoding: str | None, make: Callable[..., ReadyResponse]
) -> None:
    """It is what was set, else that of the headers, else the default, which may be a function of the content."""
    theirs, ours = httpx.Response(200, content=content, **more), make(content)
    ours.headers = theirs.headers
    ours.default_encoding = theirs.default_encoding
    await ours.aread()
    if encoding is not None:
        ours.encoding = theirs.encoding = encoding
    assert (ours.encoding, ours.charset_encoding) == (theirs.encoding, theirs.charset_encoding)
    outcomes = []
    for response in (ours, theirs):
        try:
            outcomes.append(response.text)
        except UnicodeError as error:
            outcomes.append(repr(error))
    assert outcomes[0] == outcomes[1]


@pytest.mark.anyio
@each_row("is_encoded", [False, True], ids=["identity", "gzip"])
@each_row("make", [plain, ready], ids=["httpx", "ours"])
async def test_a_default_encoding_is_asked_for_once(make: Callable[..., httpx.Response], *, is_encoded: bool) -> None:
    """The function is called with the decoded content, once, and not before that is there."""
    asked: list[bytes] = []

    def note(content: bytes) -> str:
        asked.append(content)
        return "latin-1"

    body = "Größe".encode("latin-1")
    answer = make(gzip.compress(body), headers=GZIP) if is_encoded else make(body)
    with anyio.fail_after(5):
        response = await received(answer, default_encoding=note)
    assert asked == []
    assert (response.text, response.encoding, response.text) == ("Größe", "latin-1", "Größe")
    assert asked == [body]


@pytest.mark.anyio
async def test_an_encoding_that_is_asked_for_too_early() -> None:
    """As in httpx, it stays what it was before the response was read, and it cannot be set behind its text."""
    for make in (plain, ready):
        with anyio.fail_after(5):
            response = await received(make(b"\xe4"), stream=True, default_encoding=lambda _: "latin-1")
            assert response.encoding == "utf-8"
            await response.aread()
        assert response.text == "\ufffd"
        with pytest.raises(ValueError, match="encoding"):
            response.encoding = "ascii"


# --- Lending a response


@pytest.mark.anyio
@each_row("cls", [httpx.Response, OwnResponse, ReadyResponse, PrefectResponse])
async def test_a_lent_response_is_unread_again(cls: type[httpx.Response]) -> None:
    """Within the context it is read from the other stream; afterwards it can be read as if nothing had happened."""
    stream = Body([gzip.compress(b"body")])
    response = cls(200, headers=GZIP, stream=stream)
    if isinstance(response, ReadyResponse):
        hold_body(response, gzip.compress(b"body"))
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


# --- copy_of


@pytest.mark.parametrize("more", [{"content": b"body"}, {"stream": httpx.ByteStream(b"body")}], ids=["read", "unread"])
def test_a_copy_has_the_same_state(more: dict[str, Any]) -> None:
    """It is a response of the class, with the original's request, stream and extensions, and behaves the same."""
    request = httpx.Request("GET", URL)
    original = httpx.Response(200, headers={"A": "1"}, request=request, extensions={"b": 2}, history=[], **more)
    copy = copy_of(original, OwnResponse)
    assert type(copy) is OwnResponse
    assert vars(original) == {**vars(original), **vars(copy)}
    assert (copy.request, copy.stream, copy.is_closed) == (request, original.stream, original.is_closed)
    assert copy.extensions is original.extensions
    assert copy.read() == original.read() == b"body"


@pytest.mark.anyio
async def test_a_copy_of_a_response_that_was_read() -> None:
    """It is closed, and has the content and the elapsed time, whichever class has read it."""
    with anyio.fail_after(5):
        for original in (await received(plain()), await received(ready()), kept()):
            copy = copy_of(original, PrefectResponse)
            assert (copy.content, copy.is_closed) == (b"body", original.is_closed)
            assert (copy.is_stream_consumed, copy.num_bytes_downloaded) == (True, original.num_bytes_downloaded)
            assert await copy.aread() == b"body"
            if original.is_closed:
                assert copy.elapsed == original.elapsed


@pytest.mark.anyio
async def test_a_copy_of_a_ready_response_is_ready() -> None:
    """Its stream is not read."""
    stream = Body([b"body"])
    copy = copy_of(ready(b"body", stream), PrefectResponse)
    assert await copy.aread() == b"body"
    assert (stream.is_started, stream.close_count) == (False, 1)


# --- The clients


def test_no_private_name_of_httpx_is_taken() -> None:
    """What our clients and responses define privately does not hide anything of httpx's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that httpx has deprecated
        theirs = {*dir(httpx.AsyncClient), *vars(httpx.AsyncClient(transport=Server()))}
    client = PrefectHttpxClient(transport=Server())
    ours = {*vars(VerbsWithRetry), *vars(PrefectHttpxClient)}
    ours |= vars(client).keys() - vars(httpx.AsyncClient(transport=Server())).keys()
    response = httpx.Response(200, content=b"body", request=httpx.Request("GET", URL))
    assert response.text
    theirs |= {*dir(httpx.Response), *vars(response), "_elapsed", "_decoder"}
    ours |= {*vars(ReadyResponse), *vars(PrefectResponse)}
    assert not {name for name in ours & theirs if name.startswith("_") and not name.startswith("__")}
