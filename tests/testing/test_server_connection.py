"""The server's end of a connection: several requests on it, mistakes in the test, and what is told of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import hpack
import httpx
import pytest
from support.h2_frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, frame, settings
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, RetryPolicy
from prefect_http._concurrency.socket_attributes import InputAttribute
from prefect_http.testing import FakeNetwork, ReceivedRequest, Reply, Route

pytestmark = pytest.mark.anyio
URL = "https://api.example.com"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


async def fetch(client: httpx.AsyncClient, met: list[str]) -> None:
    """Send a POST, and take note of the outcome."""
    try:
        met.append(str((await client.post(URL)).status_code))
    except httpx.HTTPError as error:
        met.append(type(error).__name__)


async def fetch_twice(client: httpx.AsyncClient, pause: float = 0) -> list[str]:
    """Send two requests at once, or one a little later."""
    met: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, client, met)
        if pause:
            await anyio.sleep(pause)
        tasks.start_soon(fetch, client, met)
    return sorted(met)


async def test_goaway_concerns_what_came_along() -> None:
    """Requests that arrive together with the one that a GOAWAY answers have never arrived, and use no step."""
    network = FakeNetwork()
    network.serve("http://a").any().reply(delay=5).goaway().reply()
    stream = await network.connect("a", 80)
    block = hpack.Encoder().encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
    requests = (frame(HEADERS, END_HEADERS | END_STREAM, number, block) for number in (1, 3, 5))
    await stream.send(PREFACE + settings() + b"".join(requests))
    while True:
        try:
            await stream.receive()
        except anyio.EndOfStream:
            break
    assert [each.status for each in network.requests] == [200, None]


async def test_whole_answer_behind_a_window() -> None:
    """An answer that the client's window holds back has ended when the client has let all of it pass."""
    network = FakeNetwork()
    network.serve("http://a").any().reply(content=b"abc")
    stream = await network.connect("a", 80)
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    request = frame(HEADERS, END_HEADERS | END_STREAM, 1, hpack.Encoder().encode(fields))
    await stream.send(PREFACE + settings(s4=0) + request)
    assert b"abc" not in await stream.receive()
    assert not network.requests[0].is_answered
    await stream.send(settings(s4=10))
    assert b"abc" in await stream.receive()
    assert network.requests[0].is_answered


async def test_refusing_while_an_answer_is_due() -> None:
    """A request on an open connection to a server that refuses others ends it; only the next connection counts."""
    network = FakeNetwork()
    network.serve(URL).any().reply(delay=5).refuse().reply(times=2)
    async with network.client(PrefectHttpxClient, retry=RetryPolicy(max_retries=0), http2=True) as client:
        assert await fetch_twice(client, pause=1) == ["RemoteProtocolError", "RemoteProtocolError"]
        with pytest.raises(httpx.ConnectError, match="refuses"):
            await client.get(URL)
        assert await fetch_twice(client) == ["200", "200"]
    network.check()


def h2_get(stream: int, *, reset: bool = False) -> bytes:
    """Return a GET over HTTP/2, and a reset of its stream."""
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    block = frame(HEADERS, END_HEADERS | END_STREAM, stream, hpack.Encoder().encode(fields))
    return block + (frame(RST_STREAM, 0, stream, bytes(4)) if reset else b"")


async def test_whole_answers_have_their_turn() -> None:
    """On HTTP/1.1, an answer waits for the one before it, and for the client to take what is there."""
    network = FakeNetwork()
    network.serve("http://a").any().reply(text="first", delay=1).reply(content=bytes(60_000), times=4)
    stream = await network.connect("a", 80)
    await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert (await stream.receive()).partition(b"first")[0].count(b"200 OK") == 1
    await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
    assert [each.is_answered for each in network.requests] == [True, True, True, True, False]


async def test_whole_answers_that_do_not_arrive() -> None:
    """A whole answer is not one if it is cut off, or if the client has reset the stream already."""
    network = FakeNetwork()
    network.serve("http://a").any().drop(after=200, delay=5).reply(times=None, content=bytes(300))
    stream = await network.connect("a", 80)
    await stream.send(PREFACE + settings() + h2_get(1))
    await stream.send(h2_get(3, reset=True) + h2_get(5))
    assert [each.is_answered for each in network.requests] == [False, False, False]
    assert network.connections[0].closed_by == "server"
    network.check()
    stream = await network.connect("a", 80)
    await stream.send(PREFACE + settings() + h2_get(1, reset=True))
    assert not network.requests[-1].is_answered


async def test_peek() -> None:
    """What would be received next can be looked at."""
    network = FakeNetwork()
    network.serve("http://a").any().drop(after=4)
    stream = await network.connect("a", 80)
    peek = stream.extra(InputAttribute.peek)
    assert peek() is None
    await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert peek() == b"HTTP"
    assert await stream.receive() == b"HTTP"
    assert peek() == b""
    network.serve("http://b").any().reply(delay=1)
    stream = await network.connect("b", 80)
    peek = stream.extra(InputAttribute.peek)
    await stream.send(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    assert peek() is None
    await anyio.sleep(1)
    assert peek() == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_all_faults_are_told() -> None:
    """If several answers on a connection fail, each is told."""

    def failing(name: str) -> Iterator[bytes]:
        try:
            while True:  # it cannot end before the client leaves
                yield bytes(70_000)
        finally:
            raise KeyError(name)

    network = FakeNetwork()
    network.serve(URL).any().reply(stream=failing("one")).reply(stream=failing("two"))
    client = network.client(httpx.AsyncClient, http2=True)
    with contextlib.suppress(KeyError):
        async with client.stream("GET", URL), client.stream("GET", URL):
            await client.aclose()
    with pytest.raises(AssertionError, match=r"(?s)(KeyError: '(one|two)'.*){2}"):
        network.check()


async def test_parts_that_are_not_bytes() -> None:
    """A part of a body that is not bytes is a mistake in the test."""
    network = FakeNetwork()
    network.serve(URL).any().reply(stream=["text"])  # type: ignore[list-item]
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(TypeError, match="must be bytes, not str"):
            await client.get(URL)


async def test_app_outside_the_network() -> None:
    """An app serves nothing before the network has been entered."""

    async def app(*_: object) -> None:
        raise AssertionError("it was called")

    network = FakeNetwork()
    network.serve(URL, app)
    async with network.client(httpx.AsyncClient) as client:
        with pytest.raises(RuntimeError, match="inside `async with network`"):
            await client.get(URL)
    with pytest.raises(AssertionError, match="inside `async with network`"):
        network.check()


def answer(_: ReceivedRequest) -> Reply:
    """Answer."""
    return Reply()


NAMES: dict[str, Callable[[Route], object]] = {
    "reply(404)": lambda at: at.reply(404),
    "call(answer)": lambda at: at.call(answer, times=1),
    "drop(after=7)": lambda at: at.drop(7),
    "drip(every=0.5)": lambda at: at.drip(every=0.5),
    "hang()": lambda at: at.hang(),
    "reset()": lambda at: at.reset(),
    "refuse()": lambda at: at.refuse(),
    "stale_keep_alive()": lambda at: at.stale_keep_alive(),
    "early_answer(413)": lambda at: at.early_answer(),
    "garbage(b'xyz')": lambda at: at.garbage(b"xyz"),
    "goaway()": lambda at: at.goaway(),
}


async def test_steps_are_told_as_they_were_written() -> None:
    """A step that is left over is told in the words of the script."""
    for name, add in NAMES.items():
        network = FakeNetwork()
        add(network.serve(URL).get("/"))
        with pytest.raises(AssertionError) as caught:
            network.check()
        assert f"GET /  {name}  1 request  {URL}" in str(caught.value)
