"""Responses are decoded and streamed as by httpx.AsyncClient."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from support.beside_httpx import (
    URL,
    Run,
    Stream,
    beside_httpx,
    describe_error,
    describe_response,
    in_both_modes,
)
from support.rows import each_row

TEXT = "Zwölf Boxkämpfer\njagen\r\nViktor\u2028quer"


@pytest.fixture
def anyio_backend() -> str:
    """Run these on asyncio: httpx leaves generators unfinished where a body is broken, and trio warns about that."""
    return "asyncio"


# --- What transports return


class Own(httpx.Response):
    """A transport's own kind of response."""

    @property
    def is_own(self) -> bool:
        """Whether it is."""
        return True


def _gzipped(text: str, *, cut: int | None = None) -> httpx.Response:
    return httpx.Response(
        200, headers={"Content-Encoding": "gzip"}, content=gzip.compress(text.encode(), mtime=0)[:cut]
    )


def _charset(name: str) -> Callable[[Run], httpx.Response]:
    headers = {"Content-Type": f"text/plain; charset={name}"}
    return lambda _: httpx.Response(
        200, headers=headers, content=TEXT.encode("utf-16" if "16" in name else "latin-1", "replace")
    )


def _stream(*parts: bytes | BaseException, **headers: str) -> Callable[[Run], httpx.Response]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda run: httpx.Response(200, headers=fields, stream=Stream(run, *parts))


RESPONSES: dict[str, Callable[[Run], Any]] = {
    "nothing": lambda _: httpx.Response(200),
    "content": lambda _: httpx.Response(200, content=b"content"),
    "text": lambda _: httpx.Response(200, text=TEXT),
    "html": lambda _: httpx.Response(200, html="<p>"),
    "json": lambda _: httpx.Response(200, json={"a": 1}),
    "stream": _stream(b"one", b"", b"two"),
    "empty stream": _stream(),
    "stream and length": _stream(b"one", Content_Length="3"),
    "generator": lambda _: httpx.Response(200, content=_chunks()),
    "gzip": lambda _: _gzipped(TEXT),
    "gzip in parts": lambda run: _stream(*_parts(gzip.compress(TEXT.encode(), mtime=0)), Content_Encoding="gzip")(run),
    "cut gzip": lambda _: _gzipped(TEXT, cut=20),
    "no gzip": _stream(b"no gzip", b"at all", Content_Encoding="gzip"),
    "deflate": _stream(zlib.compress(b"deflated"), Content_Encoding="deflate"),
    "unknown coding": _stream(b"x", Content_Encoding="own"),
    "two codings": _stream(gzip.compress(zlib.compress(b"x"), mtime=0), Content_Encoding="deflate, gzip"),
    "latin-1": _charset("latin-1"),
    "utf-16": _charset("utf-16"),
    "unknown charset": _charset("own"),
    "no text charset": _charset("hex"),
    "broken": _stream(b"one", httpx.ReadError("broken")),
    "slow": _stream(httpx.ReadTimeout("slow")),
    "cut": _stream(b"one", httpx.RemoteProtocolError("cut")),
    "failing": _stream(b"one", ZeroDivisionError("x")),
    "own class": lambda _: Own(201, headers={"X-A": "1"}, text="own"),
    "own class, stream": lambda run: Own(200, stream=Stream(run, b"own")),
    "extensions": lambda _: httpx.Response(
        200, extensions={"http_version": b"HTTP/2", "reason_phrase": b"Fine", "own": 1}
    ),
    "raw headers": lambda _: httpx.Response(200, headers=[(b"X-A", b"1"), (b"x-a", b"2"), (b"X-Latin", b"\xe9")]),
    "with a request": lambda _: httpx.Response(200, request=httpx.Request("PUT", "http://elsewhere/")),
    "history": lambda _: httpx.Response(200, history=[httpx.Response(302)]),
    "default encoding": lambda _: httpx.Response(
        200, content=TEXT.encode("latin-1", "replace"), default_encoding="latin-1"
    ),
    "204": lambda _: httpx.Response(204),
    "304": lambda _: httpx.Response(304, headers={"Content-Length": "5"}),
    "418": lambda _: httpx.Response(418, text="teapot"),
    "599": lambda _: httpx.Response(599),
    "99": lambda _: httpx.Response(99),
    "links": lambda _: httpx.Response(200, headers={"Link": '</2>; rel="next"'}),
    "read already": lambda _: _read(httpx.Response(200, content=b"read")),
    "sync stream": lambda _: httpx.Response(200, stream=_Sync()),
    "closed": lambda _: _closed(httpx.Response(200, content=b"closed")),
}


async def _chunks() -> AsyncIterator[bytes]:
    yield b"one-"
    yield b"two"


def _parts(data: bytes) -> Iterator[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def _read(response: httpx.Response) -> httpx.Response:
    response.read()
    return response


def _closed(response: httpx.Response) -> httpx.Response:
    response.close()
    return response


class _Sync(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"sync"


@pytest.mark.anyio
@in_both_modes
async def test_responses_of_transports(run: Run) -> None:
    """Whatever a transport returns is read, or fails, alike."""
    for kind, make in RESPONSES.items():
        run.case(kind)
        await run.request(run.client(make(run)))
    await run.request(run.client(httpx.Response(200, headers={"Content-Length": "5"})), "HEAD")


@pytest.mark.anyio
@beside_httpx
async def test_what_is_not_a_response(run: Run) -> None:
    """A transport that returns something else is at fault, and the caller is told so."""

    class Odd(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> Any:
            return None

    with pytest.raises((AttributeError, TypeError, AssertionError)):
        await run.client(transport=Odd()).get(URL)


@pytest.mark.anyio
@in_both_modes
async def test_default_encodings(run: Run) -> None:
    """The client's default encoding is a name, or a function of the content."""

    def guess(content: bytes) -> str:
        run.note("asked", content)
        return "latin-1"

    def fail(content: bytes) -> str:
        raise ZeroDivisionError("in the function")

    for default in ("utf-8", "latin-1", "ascii", "own", guess, fail):
        for headers in ({}, {"Content-Type": "text/plain; charset=utf-8"}, {"Content-Type": "text/plain; charset=?"}):
            run.case(getattr(default, "__name__", default), headers)
            answer = httpx.Response(200, headers=headers, content=TEXT.encode("latin-1", "replace"))
            response = await run.request(run.client(answer, default_encoding=default))
            if response is not None and callable(default):
                run.note(response.default_encoding is default)


@pytest.mark.anyio
@in_both_modes
async def test_the_encoding_of_a_response(run: Run) -> None:
    """It may be set before the text is asked for."""
    client = run.client(lambda _: httpx.Response(200, content=TEXT.encode("utf-16")))
    async with client.stream("GET", URL) as response:
        response.encoding = "utf-16"
        run.note([text async for text in response.aiter_text()])
    response = await client.get(URL)
    response.encoding = "utf-16"
    run.note(response.text, response.encoding)


@pytest.mark.anyio
@beside_httpx
async def test_pictures_of_objects(run: Run) -> None:
    """What is shown of responses; ours has a name of its own."""
    response = await run.client(404).get(URL)
    run.note(repr(response).removeprefix("<Prefect").removeprefix("<"), repr(response.request))


# --- Streams


async def _collect(run: Run, response: httpx.Response, iterator: AsyncIterator[object]) -> None:
    try:
        run.note("parts", [part async for part in iterator])
    except Exception as error:
        await response.aclose()  # httpx2 closes a response that cannot be read or decoded, httpx does not
        run.note("failed", describe_error(error))


_WAYS: dict[str, Callable[[httpx.Response], AsyncIterator[object]]] = {
    "bytes": lambda response: response.aiter_bytes(),
    "bytes of 4": lambda response: response.aiter_bytes(4),
    "text": lambda response: response.aiter_text(),
    "text of 4": lambda response: response.aiter_text(4),
    "lines": lambda response: response.aiter_lines(),
    "raw": lambda response: response.aiter_raw(),
    "raw of 4": lambda response: response.aiter_raw(4),
}
_STREAMED = [
    "nothing",
    "content",
    "stream",
    "gzip",
    "gzip in parts",
    "no gzip",
    "broken",
    "utf-16",
    "own class, stream",
]


@pytest.mark.anyio
@each_row("kind", _STREAMED)
@beside_httpx
async def test_ways_to_stream(run: Run, kind: str) -> None:
    """Each way to iterate gives the same parts, once."""
    for way, iterate in _WAYS.items():
        run.case(way)
        client = run.client(lambda _: RESPONSES[kind](run))
        async with client.stream("GET", URL) as response:
            run.note(describe_response(response))
            await _collect(run, response, iterate(response))
            run.note(describe_response(response))
            await _collect(run, response, iterate(response))  # a second time
            await run.result(response.aread())
        run.note(describe_response(response))


@pytest.mark.anyio
@beside_httpx
async def test_ways_to_leave_a_stream(run: Run) -> None:
    """A stream may be left at once, in between, by an error, or closed twice."""
    client = run.client(lambda _: httpx.Response(200, stream=Stream(run, b"one", b"two")))
    async with client.stream("GET", URL) as response:
        pass
    run.note(describe_response(response))
    await run.result(response.aread())
    with pytest.raises(ZeroDivisionError):
        async with client.stream("GET", URL) as response:
            raise ZeroDivisionError
    run.note(describe_response(response))
    response = await client.send(client.build_request("GET", URL), stream=True)
    parts = response.aiter_raw()
    run.note(await anext(parts), response.num_bytes_downloaded, response.is_stream_consumed, response.is_closed)
    await response.aclose()
    await response.aclose()
    run.note(describe_response(response))
    await _collect(run, response, response.aiter_bytes())


@pytest.mark.anyio
@beside_httpx
async def test_sync_methods(run: Run) -> None:
    """A stream cannot be read or closed synchronously, but for what has been read."""
    client = run.client(lambda _: httpx.Response(200, stream=Stream(run, b"one")))
    response = await client.send(client.build_request("GET", URL), stream=True)
    for method in ("read", "close", "json"):
        try:
            run.note(getattr(response, method)())
        except Exception as error:
            run.note(method, describe_error(error))
    await response.aread()
    run.note(response.read(), list(response.iter_bytes()), list(response.iter_lines()))


@pytest.mark.anyio
@in_both_modes
async def test_a_response_that_is_read_twice(run: Run) -> None:
    """Reading again gives the same."""
    response = await run.request(run.client(httpx.Response(200, stream=Stream(run, b"one", b"two"))))
    assert response is not None
    run.note(await response.aread(), await response.aread(), [part async for part in response.aiter_bytes(2)])
    run.note([line async for line in response.aiter_lines()], [part async for part in response.aiter_text()])
    run.note(describe_response(response))


@pytest.mark.anyio
@in_both_modes
async def test_interrupts(run: Run) -> None:
    """What is not an Exception closes the response as well, wherever it is raised."""

    async def hook(_: object) -> None:
        raise KeyboardInterrupt

    class Interrupted(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield request
            raise KeyboardInterrupt

    statuses: list[tuple[int, dict[str, str]]] = [
        (200, {}),
        (302, {"Location": "/next"}),
        (401, {"WWW-Authenticate": 'Digest realm="r", nonce="n"'}),
    ]
    for status, headers in statuses:
        run.case("stream", status)
        answer = httpx.Response(status, headers=headers, stream=Stream(run, b"one", KeyboardInterrupt()))
        client = run.client(answer, auth=httpx.DigestAuth("user", "pw"), follow_redirects=True)
        with pytest.raises(KeyboardInterrupt):
            await run.request(client)
    settings: list[dict[str, Any]] = [{"event_hooks": {"response": [hook]}}, {"auth": Interrupted()}]
    for setting in settings:
        run.case(*setting)
        client = run.client(httpx.Response(200, stream=Stream(run, b"one")), **setting)
        with pytest.raises(KeyboardInterrupt):
            await run.request(client)


@pytest.mark.anyio
@beside_httpx
async def test_raise_for_status(run: Run) -> None:
    """It raises an httpx.HTTPStatusError in the same cases; the message is ours."""
    for status in (200, 204, 302, 404, 500):
        response = await run.client(httpx.Response(status, stream=Stream(run, b"body"))).get(URL)
        try:
            run.note(response.raise_for_status() is response)
        except httpx.HTTPStatusError as error:
            run.note(status, error.response is response, str(error.request.url))
