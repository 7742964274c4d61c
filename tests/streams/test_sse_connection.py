"""What a connection of an event stream is made of: its status and type, and its body, decoded in bounded steps."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import logging
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.cancelling import WAYS, Way, When, run_cancelled
from support.event_streams import API, EVENT_STREAM, URL, client_of, data_of, event, new_network, send_events
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import InvalidResponse, PrefectHTTPStatusError, PrefectHttpxClient, ResponseTooLarge

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


def answering(**response: Any) -> PrefectHttpxClient:
    """Return a client that gets one response to everything."""

    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(**response)

    return PrefectHttpxClient(transport=httpx.MockTransport(respond))


# --- The type

TYPES = [
    "text/event-stream",
    "TEXT/Event-Stream",
    "text/event-stream;charset=utf-8",
    'text/event-stream ; charset="iso-8859-1"; x=y',
    " text/event-stream;",
]


@each_row("content_type", TYPES)
async def test_event_streams(content_type: str) -> None:
    """Neither case nor parameters of the content type matter. It is always UTF-8."""
    body = event("\xe9")
    async with answering(status_code=200, headers={"Content-Type": content_type}, content=body) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert await data_of(events) == ["\xe9"]


OTHERS: list[tuple[list[tuple[str, str]], str]] = [
    ([("Content-Type", "text/html; charset=utf-8")], "its Content-Type is text/html; charset=utf-8, not"),
    ([("Content-Type", "text/event-streams")], "its Content-Type is text/event-streams, not"),
    ([("Content-Type", "x text/event-stream")], "its Content-Type is x text/event-stream, not"),
    ([("Content-Type", "text/event-stream"), ("Content-Type", "a/b")], "its Content-Type is a/b, not"),
    ([("Content-Type", "")], "it has no Content-Type;"),
    ([], "it has no Content-Type;"),
]


@each_row("headers, found", OTHERS)
async def test_wrong_types(headers: list[tuple[str, str]], found: str) -> None:
    """Another type is an error that names it and quotes the beginning of the body; it is not retried."""
    network, api = new_network()
    route = api.get("/events").reply(headers=headers, stream=[b"<html>\r\n<p>Hi"])
    async with network, client_of(network) as client:
        with pytest.raises(InvalidResponse) as caught:
            await client.sse("GET", URL).__aenter__()
        expected = "text/event-stream" if found.endswith("not") else "text/event-stream is expected"
        assert str(caught.value) == (
            f"the response is not an event stream: {found} {expected}; it begins with: <html> <p>Hi"
        )
        assert str(caught.value.request.url) == URL
    assert len(route.requests) == 1


async def test_wrong_type_of_a_later_connection() -> None:
    """A later connection may have the wrong type as well."""
    network, api = new_network()
    send_events(api.get("/events"), event("a")).reply(text="Please log in")
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert (await anext(events)).data == "a"
        with pytest.raises(InvalidResponse, match=r"text/plain; .*; it begins with: Please log in$"):
            await anext(events)
        assert await data_of(events) == []


async def test_what_is_quoted_is_bounded() -> None:
    """What is quoted is short, whatever the server sends, and has no credentials and no control characters."""
    headers = {"Content-Type": "a/b; " + "c" * 1000}
    body = b"secret token \x1b[31m\0\xff" + b"x" * 100_000
    async with answering(status_code=200, headers=headers, content=body) as client:
        with pytest.raises(InvalidResponse) as caught:
            async with client.sse("GET", URL, auth=("user", "secret")):
                pass
    message = str(caught.value)
    assert "it begins with: [secure] token [31m \ufffdxxx" in message
    assert "secret" not in message
    assert len(message) < 500
    assert message.isprintable()


async def test_wrong_type_of_an_endless_body() -> None:
    """The beginning of a body is waited for no longer than 5 s, or half the time until the caller's deadline."""
    network, api = new_network()
    api.get("/events").drip(every=1, content="0123456789", times=2)
    async with network, client_of(network) as client:
        with pytest.raises(InvalidResponse, match=r"it begins with: 01234?$"):
            await client.sse("GET", URL).__aenter__()
        assert anyio.current_time() == 5
        with anyio.fail_after(5), pytest.raises(InvalidResponse, match=r"it begins with: 012?$"):
            await client.sse("GET", URL).__aenter__()
        assert anyio.current_time() == 7.5
        assert [each.closed_by for each in network.connections] == ["client"] * 2


async def test_wrong_type_and_a_broken_body() -> None:
    """What came before the body broke off is quoted; nothing is, if nothing came."""
    for content, quoted in ((b"abc" + b"\n" * 1000, "; it begins with: abc"), (b"\n" * 1000, "")):
        network, api = new_network()
        api.get("/events").drop(500, headers={"Content-Type": "a/b"}, content=content)
        async with network, client_of(network) as client:
            with pytest.raises(InvalidResponse) as caught:
                await client.sse("GET", URL).__aenter__()
        assert str(caught.value).endswith(f"a/b, not text/event-stream{quoted}")


@WAYS
async def test_cancelled_while_the_beginning_is_read(way: Way, anyio_backend: object) -> None:
    """Wherever reading the body of another type is cancelled, the connection is closed."""
    network, api = new_network()
    api.get("/events").drip(every=0.005, size=10, headers={"Content-Type": "a/b"}, content=b"x" * 30, times=None)
    api.get("/").reply(times=None)

    async def enter() -> None:
        with contextlib.suppress(InvalidResponse):
            await client.sse("GET", URL).__aenter__()

    whens: tuple[When, ...] = ("waiting", "woken")
    async with network, client_of(network) as client:
        for when in whens:
            for number in itertools.count(1):
                if not await run_cancelled(number, way, when, enter):
                    assert number > 3
                    break
                await client.get(API)
                assert len([each for each in network.connections if each.closed_at is None]) == 1


# --- The status


async def test_bad_status_of_a_client_that_lets_it_pass() -> None:
    """With ``raise_on_all_errors=False`` there is no other way to tell of a bad status: it is raised all the same."""
    for headers in (EVENT_STREAM, {"Content-Type": "application/json"}):
        network, api = new_network()
        api.get("/events").reply(404, headers=headers, content=b'{"detail": "gone"}' + b" " * 100_000)
        async with network, client_of(network, raise_on_all_errors=False) as client:
            with pytest.raises(PrefectHTTPStatusError, match=r"^404 Not Found for GET \S+: ") as caught:
                await client.sse("GET", URL).__aenter__()
        assert len(caught.value.response.content) == 65_536
        assert caught.value.response.is_closed
        assert len(caught.value.attempts) == 1


@each_row("status", [200, 201, 206])
async def test_good_statuses(status: int) -> None:
    """Any good status will do."""
    async with answering(status_code=status, headers=EVENT_STREAM, content=event("a")) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert await data_of(events) == ["a"]


# --- The body


def _twice(data: bytes) -> bytes:
    return zlib.compress(gzip.compress(data))


ENCODED: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("gzip, deflate", _twice),
    ("identity", bytes),
    ("unknown", bytes),
]


@each_row("encoding, encode", ENCODED)
async def test_content_encodings(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    """A body may be encoded."""
    network, api = new_network()
    body = encode(b"".join(event(number) for number in range(50)))
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    api.get("/events").reply(headers=[*EVENT_STREAM.items(), ("Content-Encoding", encoding)], stream=pieces).reply(204)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert await data_of(events) == [str(number) for number in range(50)]


async def test_events_arrive_one_by_one_in_gzip() -> None:
    """An event is there as soon as the server has flushed it, though the encoding goes on."""
    compressor = zlib.compressobj(wbits=31)

    async def body() -> AsyncIterator[bytes]:
        for number in range(3):
            yield compressor.compress(event(number)) + compressor.flush(zlib.Z_SYNC_FLUSH)
            await anyio.sleep(10)

    headers = {**EVENT_STREAM, "Content-Encoding": "gzip"}
    async with answering(status_code=200, headers=headers, content=body()) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            times = [anyio.current_time() async for _ in events]
    assert times == [0, 10, 20]


def bomb_of(*parts: bytes) -> bytes:
    """Return the parts, encoded."""
    compressor = zlib.compressobj(wbits=31)
    return b"".join(map(compressor.compress, parts)) + compressor.flush()


async def test_limit_holds_for_what_is_decoded() -> None:
    """A few bytes that unpack to megabytes are not unpacked beyond the limit, in one event or in one step."""
    body = bomb_of(event("a") + b"data: ", *[bytes(1 << 20)] * 8)
    assert len(body) < 10_000
    network, api = new_network()
    api.get("/events").reply(headers={**EVENT_STREAM, "Content-Encoding": "gzip"}, content=body)
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        assert (await anext(events)).data == "a"
        tracemalloc.start()
        try:
            with pytest.raises(ResponseTooLarge, match="max_event_bytes of 1048576 bytes"):
                await anext(events)
            assert tracemalloc.get_traced_memory()[1] < 3_000_000
        finally:
            tracemalloc.stop()


async def test_endless_bomb_can_be_cancelled() -> None:
    """What unpacks to comments without end lets other tasks run, and can be cancelled, also if a hook has read it."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    async def count() -> None:
        for number in range(5):
            await anyio.lowlevel.checkpoint()
            ran.append(number)
        tasks.cancel_scope.cancel()

    body = bomb_of(*[b": ping\n" * 50_000] * 8)
    for hooks in ([], [read]):
        ran: list[int] = []
        network, api = new_network()
        api.get("/events").reply(headers={**EVENT_STREAM, "Content-Encoding": "gzip"}, content=body)
        async with network, client_of(network, event_hooks={"response": hooks}) as client:
            async with client.sse("GET", URL) as events, anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                await anext(events)
        assert ran == [0, 1, 2, 3, 4]


async def test_encoding_that_is_broken() -> None:
    """A body that does not match its encoding is an error that is not retried."""
    network, api = new_network()
    headers = [*EVENT_STREAM.items(), ("Content-Encoding", "gzip")]
    api.get("/events").reply(headers=headers, content=b"data: a\n\n")
    async with network, client_of(network) as client, client.sse("GET", URL) as events:
        with pytest.raises(httpx.DecodingError) as caught:
            await anext(events)
        assert str(caught.value.request.url) == URL
        assert caught.value.__notes__ == ["prefect_http did not reconnect: DecodingError is not retried"]
        assert await data_of(events) == []


async def test_closing_fails(caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong while a stream is closed is logged, and hides nothing."""

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield event("a")

        async def aclose(self) -> None:
            raise OSError("cannot close")

    caplog.set_level(logging.DEBUG, "prefect_http")
    async with answering(status_code=200, headers=EVENT_STREAM, stream=Stream()) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert (await anext(events)).data == "a"
    assert "closing an event stream failed: OSError: cannot close" in caplog.text


async def test_closing_hangs() -> None:
    """A stream that cannot be closed is left after 5 s."""

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield event("a")

        async def aclose(self) -> None:
            await anyio.sleep(1000)

    async with answering(status_code=200, headers=EVENT_STREAM, stream=Stream()) as client:
        async with client.sse("GET", URL, reconnect=False) as events:
            assert (await anext(events)).data == "a"
        assert anyio.current_time() == 5
