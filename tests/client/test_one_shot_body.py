"""Request bodies that can be sent again, and those that cannot."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from support.rows import each_row
from support.scripted_transport import AT_ONCE, URL, Body, Server, notes_of

from prefect_http import PrefectHTTPStatusError, PrefectHttpxClient
from prefect_http._client.one_shot_body import OneShotBody, mark_one_shot_body

PARTS = (b"one ", b"two ", b"three")
WHOLE = b"".join(PARTS)


async def generated() -> AsyncIterator[bytes]:
    """Yield the body as an async generator."""
    for part in PARTS:
        yield part


class OnceOnly:
    """Yield the body as a file with a position does: the second time, nothing is left."""

    def __init__(self) -> None:
        self._parts = iter(PARTS)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


class OneWay(io.RawIOBase):
    """A file that cannot be rewound, like a pipe."""

    def __init__(self) -> None:
        self._left = io.BytesIO(WHOLE)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._left.read(size)


class Reader:
    """A file that can only be read."""

    def __init__(self) -> None:
        self._left = io.BytesIO(WHOLE)

    def read(self, size: int = -1) -> bytes:
        return self._left.read(size)


def half_read() -> io.BytesIO:
    """Return a file whose position is not at its start; httpx sends it whole nevertheless."""
    file = io.BytesIO(WHOLE)
    file.read(3)
    return file


RESENDABLE: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing": dict,
    "bytes": lambda: {"content": WHOLE},
    "text": lambda: {"content": "täxt"},
    "json": lambda: {"json": {"a": [1, 2]}},
    "form": lambda: {"data": {"a": "1", "b": ["2", "3"]}},
    "multipart of bytes": lambda: {"files": {"f": WHOLE}},
    "multipart of text": lambda: {"files": {"f": ("name", "text", "text/plain")}},
    "multipart of a file": lambda: {"files": {"f": io.BytesIO(WHOLE)}},
    "multipart of a half-read file": lambda: {"files": {"f": half_read()}},
    "multipart of files and fields": lambda: {
        "files": [("f", io.BytesIO(WHOLE)), ("g", b"bytes")],
        "data": {"a": "1", "b": ["2", "3"]},
    },
}
ONE_SHOT: dict[str, Callable[[], dict[str, Any]]] = {
    "async generator": lambda: {"content": generated()},
    "async iterable": lambda: {"content": OnceOnly()},
    "stream": lambda: {"content": Body(PARTS)},
    "multipart of a pipe": lambda: {"files": {"f": OneWay()}},
    "multipart of a reader": lambda: {"files": {"f": Reader()}},
    "multipart of a file and a pipe": lambda: {"files": [("f", io.BytesIO(WHOLE)), ("g", OneWay())]},
}


def request_of(arguments: dict[str, Any]) -> httpx.Request:
    """Return a request with the body."""
    return httpx.Request("POST", URL, **arguments)


# --- Which bodies are one-shot


@each_row("kind", RESENDABLE)
def test_what_can_be_sent_again_is_left_alone(kind: str) -> None:
    """A body that can be sent again stays as httpx made it."""
    request = request_of(RESENDABLE[kind]())
    stream = request.stream
    assert mark_one_shot_body(request) is None
    assert request.stream is stream


@each_row("kind", ONE_SHOT)
def test_what_can_be_sent_once_is_marked(kind: str) -> None:
    """A body that cannot be sent again, or is not known to, is wrapped, and is not spent yet."""
    request = request_of(ONE_SHOT[kind]())
    body = mark_one_shot_body(request)
    assert isinstance(body, OneShotBody)
    assert request.stream is body
    assert not body.is_spent


def test_a_body_is_marked_once() -> None:
    """A request that the caller sends again keeps its wrapper."""
    request = request_of({"content": generated()})
    assert mark_one_shot_body(request) is mark_one_shot_body(request)


def test_a_stream_given_as_such_is_one_shot() -> None:
    """A stream of a user's own class counts as one-shot."""
    request = httpx.Request("POST", URL, stream=Body(PARTS))
    assert mark_one_shot_body(request) is request.stream


@each_row(
    "fields",
    [None, 3, [object()], ["text"], [3]],
    ids=["none", "no list", "an object", "a text", "a number"],
)
def test_what_only_looks_like_multipart_is_one_shot(fields: object) -> None:
    """A stream that happens to have an attribute ``fields`` is not taken for a multipart body."""
    stream = Body(PARTS)
    stream.fields = fields  # type: ignore[attr-defined]
    assert mark_one_shot_body(httpx.Request("POST", URL, stream=stream)) is not None


def test_a_sync_stream_is_left_to_httpx() -> None:
    """A sync stream, which httpx refuses to send, is left alone."""
    request = request_of({"content": iter(PARTS)})
    stream = request.stream
    assert mark_one_shot_body(request) is None
    assert request.stream is stream


@pytest.mark.anyio
async def test_a_marked_body_is_spent_once_it_is_read() -> None:
    """A body counts as spent from its first chunk on, and is read unchanged."""
    body = OneShotBody(Body(PARTS))
    states = [(chunk, body.is_spent) async for chunk in body]
    assert states == [(part, True) for part in PARTS]


@pytest.mark.anyio
async def test_a_body_that_is_not_read_is_not_spent() -> None:
    """A body that is not read is not spent."""
    body = OneShotBody(Body(PARTS))
    aiter(body)
    assert not body.is_spent


@pytest.mark.anyio
async def test_a_marked_body_cannot_be_read_twice() -> None:
    """A second reading raises, even if the stream would be empty instead of raising."""
    body = OneShotBody(Body(PARTS))
    [_ async for _ in body]
    with pytest.raises((httpx.StreamError, httpx.RequestError)):
        [_ async for _ in body]


@pytest.mark.anyio
async def test_closing_a_marked_body_closes_the_body() -> None:
    """Closing the wrapper closes the stream."""
    stream = Body(PARTS)
    await OneShotBody(stream).aclose()
    assert stream.is_closed


# --- Through the client


@pytest.mark.anyio
@each_row("failure", [503, httpx.WriteError("broken")], ids=["status", "exception"])
@each_row("kind", RESENDABLE)
async def test_what_can_be_sent_again_is_sent_whole(kind: str, failure: object) -> None:
    """Bytes, JSON, forms and seekable files are the same, to the byte, in every attempt."""
    server = Server(failure, failure, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.put(URL, **RESENDABLE[kind]())
    first, second, third = [seen.body for seen in server.seen]
    assert first == second == third
    assert bool(first) is (kind != "nothing")


@pytest.mark.anyio
async def test_a_file_on_disk_is_sent_whole(tmp_path: Path) -> None:
    """A file of the file system is rewound and resent whole."""
    (tmp_path / "file").write_bytes(WHOLE)
    server = Server(503, 200)
    with anyio.fail_after(5), (tmp_path / "file").open("rb") as file:
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.post(URL, files={"f": file})
    assert server.seen[0].body == server.seen[1].body
    assert WHOLE in (server.seen[1].body or b"")


@pytest.mark.anyio
@each_row("kind", ONE_SHOT)
async def test_a_touched_one_shot_body_is_not_sent_again_after_a_status(kind: str) -> None:
    """The bad status is raised, with a note that says why there was no retry."""
    server = Server(503, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(PrefectHTTPStatusError) as caught:
                await client.post(URL, **ONE_SHOT[kind]())
    assert server.count == 1
    assert WHOLE in (server.seen[0].body or b"")
    assert "one-shot" in notes_of(caught.value)


@pytest.mark.anyio
@each_row("kind", ONE_SHOT)
async def test_a_touched_one_shot_body_is_not_sent_again_after_an_exception(kind: str) -> None:
    """The exception is raised, with a note that says why there was no retry."""
    server = Server(error := httpx.ReadTimeout("slow"), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ReadTimeout) as caught:
                await client.put(URL, **ONE_SHOT[kind]())
    assert caught.value is error
    assert server.count == 1
    assert "one-shot" in notes_of(error)


@pytest.mark.anyio
@each_row("kind", ONE_SHOT)
@each_row("failure", [503, httpx.ConnectTimeout("no")], ids=["status", "exception"])
async def test_an_untouched_one_shot_body_is_sent_later(kind: str, failure: object) -> None:
    """A one-shot body that has not been read is still whole, so the request is repeated with it."""
    bodies: list[bytes] = []

    async def reads(request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        bodies.append(b"".join([chunk async for chunk in request.stream]))
        return httpx.Response(200)

    server = Server(failure, failure, reads, reads_body=False)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            await client.post(URL, **ONE_SHOT[kind]())
    assert server.count == 3
    assert len(bodies) == 1
    assert WHOLE in bodies[0]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of httpx, whose transports do not close it
async def test_a_body_touched_by_its_first_chunk_is_spent() -> None:
    """If the connection breaks after the first chunk, the body is spent."""

    async def breaks(request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for _ in request.stream:
            raise httpx.WriteError("broken")
        raise AssertionError

    stream = Body(PARTS)
    server = Server(breaks, 200, reads_body=False)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.WriteError) as caught:
                await client.put(URL, content=stream)
    assert server.count == 1
    assert stream.given == len(PARTS[0])
    assert "one-shot" in notes_of(caught.value)


@pytest.mark.anyio
@each_row("kind", ONE_SHOT)
async def test_a_one_shot_body_is_sent_whole_without_failures(kind: str) -> None:
    """Without a failure a one-shot body is sent like any other."""
    server = Server(200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server) as client:
            await client.post(URL, **ONE_SHOT[kind]())
    assert WHOLE in (server.seen[0].body or b"")


@pytest.mark.anyio
async def test_a_body_that_raises_ends_the_request() -> None:
    """What the user's own generator raises is raised at once, unchanged."""
    bug = ValueError("bug in the generator")

    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise bug

    server = Server(200, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(ValueError, match="bug in the generator") as caught:
                await client.put(URL, content=broken())
    assert caught.value is bug
    assert server.count == 0


@pytest.mark.anyio
async def test_a_body_that_comes_from_another_response_may_break_off() -> None:
    """If the body is another server's response and breaks off, its own error is raised, without a retry."""
    error = httpx.ReadError("upstream", request=httpx.Request("GET", "http://upstream/"))

    async def forwarded() -> AsyncIterator[bytes]:
        yield b"half"
        raise error

    server = Server(200, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(httpx.ReadError) as caught:
                await client.put(URL, content=forwarded())
    assert caught.value is error
    assert server.count == 0
    assert notes_of(error) == ""


@pytest.mark.anyio
async def test_a_sync_iterator_is_refused_as_in_httpx() -> None:
    """A sync iterator as content is httpx's RuntimeError, raised once, with a note that says what to use instead."""
    server = Server(200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE) as client:
            with pytest.raises(RuntimeError, match="sync request with an AsyncClient") as caught:
                await client.post(URL, content=iter(PARTS))
    assert "anyio.open_file()" in notes_of(caught.value)
    assert server.count == 0


@pytest.mark.anyio
@each_row("kind", ["async generator", "async iterable", "stream"])
async def test_a_one_shot_body_and_a_redirect(kind: str) -> None:
    """A redirect that needs the body again ends in an error, not in a partial or empty body."""
    server = Server(httpx.Response(307, headers={"Location": "/elsewhere"}), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            with pytest.raises((httpx.RequestError, httpx.HTTPStatusError)):
                await client.post(URL, **ONE_SHOT[kind]())
    assert [seen.body for seen in server.seen] == [WHOLE]


@pytest.mark.anyio
@each_row("kind", ["async generator", "async iterable", "stream"])
async def test_a_one_shot_body_and_an_authentication(kind: str) -> None:
    """An auth flow that needs the body again ends in an error, not in a partial or empty body."""
    challenge = {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'}
    server = Server(httpx.Response(401, headers=challenge), 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, auth=httpx.DigestAuth("u", "p")) as client:
            with pytest.raises((httpx.RequestError, httpx.HTTPStatusError)):
                await client.post(URL, **ONE_SHOT[kind]())
    assert [seen.body for seen in server.seen] == [WHOLE]


@pytest.mark.anyio
async def test_a_resendable_body_and_a_redirect() -> None:
    """Bytes are sent again after a redirect that keeps the method, and in a retry."""
    redirect = httpx.Response(307, headers={"Location": "/elsewhere"})
    server = Server(redirect, 503, redirect, 200)
    with anyio.fail_after(5):
        async with PrefectHttpxClient(transport=server, retry=AT_ONCE, follow_redirects=True) as client:
            await client.post(URL, content=WHOLE)
    assert [(seen.method, seen.body) for seen in server.seen] == [("POST", WHOLE)] * 4
