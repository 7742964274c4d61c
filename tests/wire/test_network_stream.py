"""NetworkStream: reading, writing, TLS and get_extra_info(), on fakes in virtual time and over loopback."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import anyio
import anyio.abc
import httpx
import pytest
import trio
from anyio.streams.tls import TLSListener, TLSStream
from support.fake_stream import FakeStream
from support.rows import each_row
from support.servers import raw_server, upgrade_to_echo
from support.tls_servers import client_context, listening, server_context
from trio.testing import MockClock

from prefect_http import HTTPTransport
from prefect_http._wire.network_stream import NetworkStream

FAILURES: list[Exception] = [
    anyio.BrokenResourceError(),
    anyio.ClosedResourceError(),
    OSError(104, "Connection reset by peer"),
    ssl.SSLError(1, "decryption failed"),
]


# --- With fakes


@pytest.mark.trio
async def test_reading(autojump_clock: MockClock) -> None:
    """What arrives is returned, and at the end of the stream nothing, however often."""
    stream = NetworkStream(FakeStream(b"one", b"two", anyio.EndOfStream(), anyio.EndOfStream(), delay=1))
    assert [await stream.read(100, timeout=2) for _ in range(4)] == [b"one", b"two", b"", b""]
    assert trio.current_time() == 4


@pytest.mark.trio
async def test_reading_takes_too_long(autojump_clock: MockClock) -> None:
    """A read that takes longer than its timeout is a ReadTimeout, exactly then, and another read may follow."""
    fake = FakeStream(b"late", delay=3)
    stream = NetworkStream(fake)
    with pytest.raises(httpx.ReadTimeout, match=r"within 2\.5 s"):
        await stream.read(100, timeout=2.5)
    assert trio.current_time() == 2.5
    assert await stream.read(100, timeout=None) == b"late"
    assert trio.current_time() == 5.5
    assert fake.closings == 0


@pytest.mark.trio
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
async def test_reading_fails(error: Exception, autojump_clock: MockClock) -> None:
    """A broken connection is a ReadError, with the reason as its cause."""
    with pytest.raises(httpx.ReadError) as caught:
        await NetworkStream(FakeStream(error)).read(100, timeout=1)
    assert caught.value.__cause__ is error
    assert type(caught.value) is httpx.ReadError


@pytest.mark.trio
async def test_trailing_data(autojump_clock: MockClock) -> None:
    """Data that arrived along with the head is read first, in parts of the requested size, without waiting."""
    stream = NetworkStream(FakeStream(b"rest"), b"trailing")
    assert [await stream.read(4, timeout=0.001), await stream.read(100), await stream.read(100)] == [
        b"trai",
        b"ling",
        b"rest",
    ]
    assert trio.current_time() == 0


@pytest.mark.trio
async def test_writing(autojump_clock: MockClock) -> None:
    """All of the bytes are written; writing none does not wait."""
    fake = FakeStream(delay=1)
    stream = NetworkStream(fake)
    await stream.write(b"")
    assert trio.current_time() == 0
    await stream.write(b"one")
    await stream.write(b"two", timeout=2)
    assert fake.sent == [b"one", b"two"]


@pytest.mark.trio
async def test_writing_takes_too_long(autojump_clock: MockClock) -> None:
    """A write that takes longer than its timeout is a WriteTimeout, exactly then."""
    with pytest.raises(httpx.WriteTimeout, match="within 2 s"):
        await NetworkStream(FakeStream(delay=3)).write(b"x", timeout=2)
    assert trio.current_time() == 2


@pytest.mark.trio
@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
async def test_writing_fails(error: Exception, autojump_clock: MockClock) -> None:
    """A broken connection is a WriteError, with the reason as its cause."""
    with pytest.raises(httpx.WriteError) as caught:
        await NetworkStream(FakeStream(failure=error)).write(b"x", timeout=1)
    assert caught.value.__cause__ is error
    assert type(caught.value) is httpx.WriteError


@pytest.mark.trio
async def test_no_time_at_all(autojump_clock: MockClock) -> None:
    """With a timeout of 0, anything that has to wait fails at once."""
    with pytest.raises(httpx.ReadTimeout):
        await NetworkStream(FakeStream(b"x", delay=1)).read(100, timeout=0)
    with pytest.raises(httpx.WriteTimeout):
        await NetworkStream(FakeStream(delay=1)).write(b"x", timeout=0)
    assert trio.current_time() == 0


@pytest.mark.trio
async def test_closing_under_cancellation(autojump_clock: MockClock) -> None:
    """A cancellation does not keep a connection from being closed."""
    fake = FakeStream()
    with trio.CancelScope() as scope:
        scope.cancel()
        await NetworkStream(fake).aclose()
    assert fake.closings == 1


@pytest.mark.trio
@pytest.mark.parametrize("call", ["read", "write", "start_tls"])
async def test_cancellation(call: str, autojump_clock: MockClock) -> None:
    """A cancellation is not a timeout, and closes the connection only during a handshake."""
    fake = FakeStream(delay=10)
    stream = NetworkStream(fake)
    with trio.move_on_after(1) as scope:
        match call:
            case "read":
                await stream.read(100, timeout=5)
            case "write":
                await stream.write(b"x", timeout=5)
            case _:
                await stream.start_tls(client_context(), "localhost", timeout=5)
    assert scope.cancelled_caught
    assert trio.current_time() == 1
    assert fake.closings == (call == "start_tls")


@pytest.mark.trio
async def test_tls_takes_too_long(autojump_clock: MockClock) -> None:
    """A handshake that takes longer than its timeout is a ConnectTimeout, and closes the connection."""
    fake = FakeStream()
    with pytest.raises(httpx.ConnectTimeout, match="within 3 s"):
        await NetworkStream(fake).start_tls(client_context(), "localhost", timeout=3)
    assert trio.current_time() == 3
    assert fake.closings == 1


@pytest.mark.trio
@pytest.mark.parametrize("answer", [*FAILURES, anyio.EndOfStream(), b"220 smtp.example.org ESMTP\r\n"], ids=repr)
async def test_tls_fails(answer: bytes | Exception, autojump_clock: MockClock) -> None:
    """A handshake that fails is a ConnectError, and closes the connection."""
    fake = FakeStream(answer)
    with pytest.raises(httpx.ConnectError):
        await NetworkStream(fake).start_tls(client_context(), "localhost", timeout=3)
    assert fake.closings == 1


@each_row("info", ["ssl_object", "client_addr", "server_addr", "socket", "nonsense"])
def test_unknown_information(info: str) -> None:
    """Information that a stream does not have is None."""
    assert NetworkStream(FakeStream()).get_extra_info(info) is None


# --- Over loopback


async def _connect(port: int) -> NetworkStream:
    return NetworkStream(await anyio.connect_tcp("127.0.0.1", port))


async def _echo(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        while True:
            await stream.send(await stream.receive())


@pytest.mark.anyio
async def test_information() -> None:
    """A connection knows its addresses and its socket, and whether there is something to read."""
    async with listening(_echo) as port:
        stream = await _connect(port)
        own = stream.get_extra_info("client_addr")
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        raw_socket: Any = stream.get_extra_info("socket")
        assert raw_socket.getsockname() == own
        assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("is_readable") is False
        await stream.write(b"x")
        while not stream.get_extra_info("is_readable"):
            await anyio.lowlevel.checkpoint()
        assert await stream.read(10, timeout=5) == b"x"
        await stream.aclose()


@pytest.mark.anyio
async def test_information_about_a_closed_connection() -> None:
    """A closed connection counts as readable, as in httpcore; reading and writing fail."""
    async with listening(_echo) as port:
        stream = await _connect(port)
        await stream.aclose()
        assert stream.get_extra_info("is_readable") is True
        with pytest.raises(httpx.ReadError):
            await stream.read(10, timeout=5)
        with pytest.raises(httpx.WriteError):
            await stream.write(b"x", timeout=5)
        await stream.aclose()


@pytest.mark.anyio
async def test_reading_in_parts() -> None:
    """No more is read than was requested, and the rest is kept."""
    async with listening(_echo) as port:
        stream = await _connect(port)
        await stream.write(b"0123456789")
        while not stream.get_extra_info("is_readable"):
            await anyio.lowlevel.checkpoint()
        assert [await stream.read(4, timeout=5) for _ in range(3)] == [b"0123", b"4567", b"89"]
        with pytest.raises(httpx.ReadTimeout):
            await stream.read(4, timeout=0.01)
        await stream.write(b"on")
        assert await stream.read(4, timeout=5) == b"on"
        await stream.aclose()


@pytest.mark.anyio
async def test_server_that_reads_nothing() -> None:
    """A write that fills all buffers is a WriteTimeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.fail_after(5):
        stream = await _connect(listener.getsockname()[1])
        with pytest.raises(httpx.WriteTimeout):
            await stream.write(b"x" * 20_000_000, timeout=0.03)
        await stream.aclose()


@pytest.mark.anyio
async def test_a_tunnel_through_connect() -> None:
    """After the 200 to a CONNECT, TLS can be started on the stream, and TLS within it once more."""
    secure = server_context("outer.test", "inner.test")

    async def proxy(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")
            outer = await TLSStream.wrap(stream, server_side=True, ssl_context=secure, standard_compatible=False)
            inner = await TLSStream.wrap(outer, server_side=True, ssl_context=secure, standard_compatible=False)
            await _echo(inner)

    async with listening(proxy) as port, HTTPTransport(verify=False) as transport:
        request = httpx.Request("CONNECT", f"http://127.0.0.1:{port}", extensions={"target": b"x.test:443"})
        response = await transport.handle_async_request(request)
        stream = response.extensions["network_stream"]
        for name in ("outer.test", "inner.test"):
            stream = await stream.start_tls(client_context(), name, timeout=5)
            assert stream.get_extra_info("ssl_object") is not None
        await stream.write(b"hello", timeout=5)
        assert await stream.read(100, timeout=5) == b"hello"
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        assert transport.statistics().connections == 1
        await response.aclose()
        assert transport.statistics().connections == 0
        with pytest.raises(httpx.ReadError):
            await stream.read(100, timeout=5)


@pytest.mark.anyio
async def test_a_handshake_with_the_wrong_name() -> None:
    """A certificate for another name is a ConnectError, and closes the connection."""
    is_closed = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                while True:
                    await stream.receive()
            finally:
                is_closed.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    context = server_context("one.test")
    with anyio.fail_after(5):
        async with TLSListener(listener, context), anyio.create_task_group() as tasks:
            tasks.start_soon(TLSListener(listener, context).serve, serve)
            stream = await _connect(port)
            with pytest.raises(httpx.ConnectError, match=r"two\.test"):
                await stream.start_tls(client_context(), "two.test", timeout=5)
            with pytest.raises(httpx.WriteError):
                await stream.write(b"x", timeout=5)
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_upgrade() -> None:
    """After a 101, the stream leads to the server, until the response is closed."""
    async with raw_server(upgrade_to_echo) as server, HTTPTransport(verify=False) as transport:
        headers = {"Connection": "upgrade", "Upgrade": "echo"}
        async with (
            httpx.AsyncClient(transport=transport, headers=headers) as client,
            client.stream("GET", server.url) as response,
        ):
            stream = response.extensions["network_stream"]
            await stream.write(b"hello", timeout=5)
            assert await stream.read(100, timeout=5) == b"hello"
        with pytest.raises(httpx.WriteError):
            await stream.write(b"too late", timeout=5)
