"""FakeStream, the client's end of a connection in memory, as a stream of bytes."""

from __future__ import annotations

import errno
import ssl
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSAttribute
from support.virtual_time import virtual_time_backend

from prefect_http.testing import FakeNetwork, Route
from prefect_http.testing._stream import FakeStream

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run each test on both backends, in virtual time."""
    return virtual_time_backend(request.param)


async def connected(url: str = "http://a") -> tuple[FakeStream, Route]:
    """Return a connection to a server, and the server's route for anything."""
    network = FakeNetwork()
    server = network.serve(url)
    stream = await network.connect("a", 443 if url.startswith("https") else 80)
    assert isinstance(stream, FakeStream)
    return stream, server.any()


async def test_bytes_are_cut_anywhere() -> None:
    """A request may come in any parts, and an answer may be received in any."""
    stream, route = await connected()
    route.reply(content="ok")
    for at in range(0, len(GET), 5):
        await stream.send(GET[at : at + 5])
    received = [await stream.receive(7) for _ in range(0, len(ANSWER), 7)]
    assert b"".join(received) == ANSWER
    assert {len(part) for part in received[:-1]} == {7}


async def test_two_tasks_receive() -> None:
    """A second task that receives gets a BusyResourceError, and takes nothing from the first."""
    stream, route = await connected()
    route.reply(content="ok", delay=5)
    await stream.send(GET)
    received: list[bytes] = []
    errors: list[Exception] = []

    async def receive() -> None:
        try:
            received.append(await stream.receive())
        except anyio.BusyResourceError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(receive)
        await anyio.sleep(1)
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
    assert (received, len(errors)) == ([ANSWER], 1)


async def test_closing_wakes_the_receiver() -> None:
    """A task that receives finds that another one has closed the stream; closing twice does nothing."""
    stream, route = await connected()
    route.hang()
    await stream.send(GET)

    async def close() -> None:
        await anyio.sleep(1)
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
    await stream.aclose()
    for use in (stream.receive(), stream.send(GET)):
        with pytest.raises(anyio.ClosedResourceError):
            await use


async def test_cancelled_receiving_loses_nothing() -> None:
    """What arrives as a task that receives is cancelled is there for the next one."""
    stream, route = await connected()
    route.reply(content="ok", delay=5)
    await stream.send(GET)
    for seconds in (0, 1, 4):
        with anyio.move_on_after(seconds):
            await stream.receive()
    assert await stream.receive() == ANSWER
    assert anyio.current_time() == pytest.approx(5)


async def test_cancelled_sending_sends_nothing() -> None:
    """What a cancelled task was about to send does not arrive."""
    stream, route = await connected()
    route.reply(content="ok")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.send(GET)
    await stream.send(GET)
    assert await stream.receive() == ANSWER


@pytest.mark.parametrize("is_reset", [False, True])
async def test_end(is_reset: bool) -> None:
    """At the end, what has been sent comes first; sending fails with what the operating system says."""
    stream, route = await connected()
    if is_reset:
        route.reset()
    else:
        route.drop(after=5, content="ok")
    await stream.send(GET)
    if not is_reset:
        assert await stream.receive() == ANSWER[:5]
    with pytest.raises(anyio.EndOfStream if not is_reset else anyio.BrokenResourceError):
        await stream.receive()
    with pytest.raises(anyio.EndOfStream if not is_reset else anyio.BrokenResourceError) as caught:
        await stream.receive()
    if is_reset:
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert caught.value.__cause__.errno == errno.ECONNRESET
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await stream.send(GET)
    assert isinstance(caught.value.__cause__, BrokenPipeError)


async def test_early_answer_takes_no_more() -> None:
    """What is sent after an early answer, before the connection is closed, is dropped."""
    stream, route = await connected()
    route.early_answer(delay=2, headers={"connection": "keep-alive"})
    await stream.send(POST)
    await stream.send(b"something else")
    received = await stream.receive()
    assert b"\r\nConnection: close\r\n" in received
    assert b"keep-alive" not in received
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    assert route.requests[0].body == b""


async def test_late_looks() -> None:
    """A server does what is due when it is due, also if the client looks later, and takes note of that time."""
    stream, route = await connected()
    route.drip(every=0.5, delay=1.5, text="abc").reply(delay=1, headers={"Connection": "close"})
    await stream.send(GET)
    await anyio.sleep(10)
    assert (await stream.receive()).endswith(b"abc")
    assert route.requests[0].ended_at == 3
    await stream.send(GET)
    await anyio.sleep(10)
    await stream.receive()
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    assert route.requests[1].ended_at == route.requests[1].connection.closed_at == 11


async def test_end_of_a_large_answer() -> None:
    """An answer has ended when the client has taken all of it, without another look."""
    stream, route = await connected()
    route.reply(stream=[bytes(70_000)] * 2)
    await stream.send(GET)
    taken = len(await stream.receive(100_000))
    assert route.requests[0].ended_at is None
    await anyio.sleep(5)
    taken += len(await stream.receive(100_000))
    assert taken > 140_000
    assert route.requests[0].ended_at == 5


async def test_half_closing() -> None:
    """A connection cannot be closed in one direction."""
    stream, _ = await connected()
    with pytest.raises(NotImplementedError):
        await stream.send_eof()


async def test_tls() -> None:
    """TLS begins at once, and chooses a protocol; with a server that does not speak it, it fails."""
    stream, _ = await connected("https://a")
    assert stream.extra(TLSAttribute.alpn_protocol, "none") == "none"
    assert stream.start_tls(["http/1.1", "h2"]) is stream
    assert stream.extra(TLSAttribute.alpn_protocol) == "http/1.1"
    stream, _ = await connected()
    with pytest.raises(ssl.SSLError, match="speaks http, not https"):
        stream.start_tls([])
    assert stream.extra(anyio.abc.SocketAttribute.remote_address) == ("a", 80)
    assert stream.extra(anyio.abc.SocketAttribute.remote_port) == 80
    assert stream.extra(anyio.abc.SocketAttribute.local_address)[0] == "127.0.0.1"
