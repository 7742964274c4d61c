"""Iterating over a response's body: it may be left at any time, quietly, and ends what it reads from."""

from __future__ import annotations

import contextlib
import gc
import gzip
import pickle
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.garbage import garbage_of
from support.rows import each_row
from support.scripted_transport import Body

from prefect_http import PrefectHttpxClient, PrefectResponse, Receive, Scope, Send
from prefect_http._body_iterator import OneChunk
from prefect_http.testing import FakeNetwork

LINES = b"one\ntwo\nthree\n"
URL = "http://server/path"

ITERATORS: dict[str, Callable[[httpx.Response], AsyncIterator[bytes | str]]] = {
    "raw": lambda response: response.aiter_raw(),
    "bytes": lambda response: response.aiter_bytes(),
    "bytes of a size": lambda response: response.aiter_bytes(2),
    "text": lambda response: response.aiter_text(),
    "lines": lambda response: response.aiter_lines(),
}


class Peer:
    """Somebody else's async generators, one within the other, that note how they end."""

    def __init__(self, *, encoding: str = "") -> None:
        self.ended: list[str] = []
        self._encoding = encoding

    async def _inner(self) -> AsyncIterator[bytes]:
        try:
            for number in range(100):
                await anyio.lowlevel.checkpoint()
                lines = b"%d\n" % number + LINES
                yield gzip.compress(lines) if self._encoding else lines
        finally:
            self.ended.append("inner")

    async def _outer(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner():
                yield chunk
        finally:
            self.ended.append("outer")

    def client(self) -> PrefectHttpxClient:
        """Return a client of a mock that responds with them."""
        headers = {"Content-Encoding": self._encoding} if self._encoding else {}
        respond = lambda _: httpx.Response(200, headers=headers, content=self._outer())  # noqa: E731
        return PrefectHttpxClient(base_url="http://server", transport=httpx.MockTransport(respond))


@contextlib.contextmanager
def quiet(case: str = "") -> Iterator[None]:
    """Fail if there is any warning, of the garbage collector's as well."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen] == [], case


async def read_and_leave(
    client: httpx.AsyncClient, iterate: Callable[[httpx.Response], AsyncIterator[object]], way: str, after: int
) -> None:
    """Stream a response, and leave the loop after so many pieces."""
    with anyio.CancelScope() as scope, contextlib.suppress(ZeroDivisionError):
        async with client.stream("GET", "/path") as response:
            async for _ in iterate(response):
                after -= 1
                if after == 0:
                    if way == "break":
                        break
                    if way == "exception":
                        raise ZeroDivisionError
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
    assert response.is_closed


async def leave_in_all_ways(client: httpx.AsyncClient) -> int:
    """Leave each iterator in each way, at once and later; return how many responses that took."""
    count = 0
    for name, iterate in ITERATORS.items():
        for way in ("break", "exception", "cancellation"):
            for after in (1, 4):
                with quiet(f"{name}, {way}, after {after}"):
                    await read_and_leave(client, iterate, way, after)
                count += 1
    return count


# --- Leaving is quiet


@pytest.mark.anyio
@each_row("encoding", ["", "gzip"], ids=["plain", "compressed"])
async def test_generators_of_others_are_ended(encoding: str) -> None:
    """Generators within generators, as mocks and other transports have them, end when the response is closed."""
    peer = Peer(encoding=encoding)
    with anyio.fail_after(5):
        async with peer.client() as client:
            count = await leave_in_all_ways(client)
    assert peer.ended == ["inner", "outer"] * count


@pytest.mark.anyio
@each_row("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_leaving_a_response_of_the_wire(*, http2: bool) -> None:
    """Over a connection there is no generator at all."""
    async with FakeNetwork() as network:
        network.serve("https://server").get("/path").drip(content=LINES * 20, every=0, times=None)
        with anyio.fail_after(5):
            async with network.client(PrefectHttpxClient, base_url="https://server", http2=http2) as client:
                await leave_in_all_ways(client)


@pytest.mark.anyio
async def test_leaving_a_response_of_an_app() -> None:
    """Nor is there one in this process."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": LINES, "more_body": True})

    with anyio.fail_after(5):
        async with PrefectHttpxClient(app=app) as client:
            await leave_in_all_ways(client)


@pytest.mark.anyio
async def test_a_response_that_was_read_can_be_left() -> None:
    """There is nothing to end, and the same can be iterated over again."""
    with anyio.fail_after(5):
        async with Peer(encoding="gzip").client() as client:
            response = await client.get(URL)
            for name, iterate in ITERATORS.items():
                with quiet(name), contextlib.suppress(httpx.StreamConsumed):
                    async for _ in iterate(response):
                        break
            with pytest.raises(httpx.StreamConsumed):
                await anext(response.aiter_raw())
            assert [line async for line in response.aiter_lines()][:4] == ["0", "one", "two", "three"]


@pytest.mark.anyio
async def test_the_iterator_can_be_closed() -> None:
    """Code that closes generators, as with contextlib.aclosing(), closes the response."""
    peer = Peer()
    with quiet(), anyio.fail_after(5):
        async with peer.client() as client:
            response = await client.send(client.build_request("GET", URL), stream=True)
            lines: Any = response.aiter_lines()
            async with contextlib.aclosing(lines):
                assert [await anext(lines) for _ in range(3)] == ["0", "one", "two"]
            assert [line async for line in lines] == []
    assert response.is_closed
    assert peer.ended == ["inner", "outer"]


@pytest.mark.anyio
async def test_a_response_is_collected_without_the_garbage_collector() -> None:
    """A response that is dropped while it is read is freed at once, and holds nothing."""

    async def drop() -> None:
        async with Peer().client() as client, client.stream("GET", URL) as response:
            async for _ in response.aiter_lines():
                break

    with anyio.fail_after(5):
        assert await garbage_of(drop) == [0, 0, 0]


@pytest.mark.anyio
async def test_a_response_can_be_pickled_while_it_is_read() -> None:
    """As in httpx, whatever it is read from."""
    async with Peer().client() as client, client.stream("GET", URL) as response:
        await anext(response.aiter_lines())
        again = pickle.loads(pickle.dumps(response))
    assert (again.status_code, again.num_bytes_downloaded) == (200, len(b"0\n" + LINES))
    with pytest.raises(httpx.StreamConsumed):
        await again.aread()


# --- What else could go wrong


@pytest.mark.anyio
async def test_an_iterator_ends_with_the_first_error() -> None:
    """What came before it is not returned as if it were whole; the error names the request."""
    async with FakeNetwork() as network:
        network.serve("http://server").get("/path").drop(after=60, content=LINES * 20)
        with anyio.fail_after(5):
            async with network.client(PrefectHttpxClient) as client, client.stream("GET", URL) as response:
                lines = response.aiter_lines()
                with pytest.raises(httpx.RemoteProtocolError) as caught:
                    while True:
                        await anext(lines)
                assert caught.value.request is response.request
                assert [line async for line in lines] == []


@pytest.mark.anyio
async def test_only_one_task_reads() -> None:
    """The second one gets an error, and the first one goes on."""
    is_asked = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one\n"
        await is_asked.wait()
        yield b"two\n"

    response, found = PrefectResponse(200, content=body()), list[str]()
    lines = response.aiter_lines()

    async def read() -> None:
        found.extend([line async for line in lines])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task is reading the response body"):
                await anext(lines)
            is_asked.set()
    assert found == ["one", "two"]


@pytest.mark.anyio
async def test_only_one_task_decodes() -> None:
    """The second one gets an error between the steps in which a chunk is decoded, too, and no line is lost."""
    lines = [f"{number:09}" for number in range(50_000)]
    body = Body([gzip.compress("\n".join(lines).encode())])
    iterator = PrefectResponse(200, headers={"Content-Encoding": "gzip"}, stream=body).aiter_lines()
    found, refused = list[str](), set[str]()

    async def read() -> None:
        while True:
            try:
                found.append(await anext(iterator))
            except RuntimeError as error:
                refused.add(str(error))
                await anyio.lowlevel.checkpoint()
            except StopAsyncIteration:
                return

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(read)
    assert found == lines
    assert refused == {"another task is reading the response body"}


@pytest.mark.anyio
async def test_closing_ends_what_another_task_reads() -> None:
    """A task that waits for the next chunk gets an error, or the generator's end."""
    network = FakeNetwork()
    network.serve("http://server").get("/path").drip(content=LINES, every=1000)
    with quiet(), anyio.fail_after(5):
        async with network.client(PrefectHttpxClient) as client:
            response = await client.send(client.build_request("GET", URL), stream=True)
            failed = list[BaseException]()

            async def read() -> None:
                try:
                    async for _ in response.aiter_lines():
                        pass
                except httpx.HTTPError as error:
                    failed.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                await response.aclose()
    assert [type(error) for error in failed] == [httpx.ReadError]


@pytest.mark.anyio
async def test_closing_leaves_a_generator_that_is_running_alone() -> None:
    """It ends when the task that reads it has come to its end."""
    is_closed = anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"one\n"
        await is_closed.wait()
        yield b"two\n"

    response = PrefectResponse(200, content=body())

    async def close() -> None:
        await response.aclose()
        is_closed.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            lines = response.aiter_lines()
            assert await anext(lines) == "one"
            tasks.start_soon(close)
            assert [line async for line in lines] == ["two"]


@pytest.mark.anyio
async def test_all_iterators_stay_at_their_end() -> None:
    """Beyond the end there is nothing, of a body that is at hand as well."""
    iterators = [iterate(PrefectResponse(200, stream=Body([b"", b"one"]))) for iterate in ITERATORS.values()]
    for iterator in (*iterators, OneChunk(b"one")):
        assert [piece async for piece in iterator] != []
        assert [piece async for piece in iterator] == []


@pytest.mark.anyio
async def test_a_chunk_that_decodes_to_much_is_decoded_in_steps() -> None:
    """Other tasks run in between, and no piece is larger than 64 KiB."""
    others = 0

    async def count() -> None:
        nonlocal others
        while True:
            await anyio.lowlevel.checkpoint()
            others += 1

    body = gzip.compress(bytes(4_000_000))
    response = PrefectResponse(200, headers={"Content-Encoding": "gzip"}, stream=Body([body]))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            sizes = [len(piece) async for piece in response.aiter_bytes()]
            tasks.cancel_scope.cancel()
    assert (sum(sizes), max(sizes)) == (4_000_000, 64 * 1024)
    assert others >= len(sizes) - 1
    assert response.num_bytes_downloaded == len(body)


@pytest.mark.anyio
async def test_a_bad_size_is_an_error_at_once() -> None:
    """It is not found out when the loop begins."""
    response = PrefectResponse(200, content=b"body")
    for iterate in (response.aiter_raw, response.aiter_bytes, response.aiter_text):
        with pytest.raises(ValueError, match="chunk_size must be 1 or more, or None, not 0"):
            iterate(0)


@pytest.mark.anyio
async def test_a_sync_stream_cannot_be_read() -> None:
    """The error says which methods can read it."""
    response = PrefectResponse(200, content=iter([b"body"]))
    with pytest.raises(RuntimeError, match="the response has a sync stream, which only the sync methods can read"):
        await anext(response.aiter_bytes())
