"""The streams over TCP, on both backends: what is sent, received, waited for, cancelled and closed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import ByteStream, SocketAttribute
from support.cancelled_groups import run_in_cancelled_group
from support.rows import each_row
from support.systems import needs_local_addresses, needs_unix_sockets
from support.wire import is_asyncio, until

from prefect_http._concurrency import asyncio_stream
from prefect_http._concurrency.asyncio_stream import AsyncioStream
from prefect_http._concurrency.connecting import connect_tcp, connect_unix
from prefect_http._concurrency.eager_stream import EagerStream
from prefect_http._concurrency.socket_attributes import InputAttribute, socket_attributes
from prefect_http._concurrency.trio_stream import TrioStream

BIG = 16 * 1024 * 1024  # more than all buffers of a connection hold


@contextlib.asynccontextmanager
async def ends(host: str = "127.0.0.1") -> AsyncIterator[tuple[ByteStream, socket.socket]]:
    """Connect a stream with a plain socket."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        async with both_ends(server, lambda: connect_tcp(host, server.getsockname()[1], None)) as pair:
            yield pair


@contextlib.asynccontextmanager
async def both_ends(
    server: socket.socket, connect: Callable[[], Awaitable[ByteStream]]
) -> AsyncIterator[tuple[ByteStream, socket.socket]]:
    """Connect a stream with what a server accepts."""
    with anyio.fail_after(5):
        stream = await connect()
        other, _ = server.accept()
        with other:
            try:
                yield stream, other
            finally:
                await anyio.aclose_forcefully(stream)


def reset(other: socket.socket) -> None:
    """Close a socket such that the other side's connection is reset."""
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()


async def receive_all(stream: ByteStream, count: int) -> bytearray:
    """Receive so many bytes."""
    data = bytearray()
    while len(data) < count:
        data += await stream.receive()
    return data


async def send_all(other: socket.socket) -> None:
    """Send much from the other side."""
    await anyio.to_thread.run_sync(other.sendall, b"x" * BIG)


async def settle() -> None:
    """Let what has been sent arrive, and the tasks that wait for it run."""
    for _ in range(10):
        await anyio.sleep(0.001)


# --- There and back


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_there_and_back(host: str) -> None:
    """What is sent arrives, in both directions, and the stream tells its addresses."""
    with contextlib.suppress(OSError):
        async with ends(host) as (stream, other):
            await stream.send(b"question")
            assert other.recv(100) == b"question"
            other.send(b"answer")
            assert await stream.receive() == b"answer"
            assert stream.extra(SocketAttribute.remote_address) == other.getsockname()[:2]
            assert stream.extra(SocketAttribute.remote_port) == other.getsockname()[1]
            assert stream.extra(SocketAttribute.local_address) == other.getpeername()[:2]
            assert stream.extra(SocketAttribute.local_port) == other.getpeername()[1]
            assert stream.extra(SocketAttribute.family) == other.family
            assert stream.extra(SocketAttribute.raw_socket).fileno() >= 0
        await settle()
        assert stream.extra(SocketAttribute.raw_socket, None) is None


@pytest.mark.anyio
async def test_received_in_parts() -> None:
    """What exceeds the number of bytes that are asked for is received next."""
    async with ends() as (stream, other):
        other.send(b"answer")
        assert [await stream.receive(4), await stream.receive(4)] == [b"answ", b"er"]


@pytest.mark.anyio
async def test_large_pieces() -> None:
    """Much data is received whole, and little data after it."""
    async with ends() as (stream, other):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_all, other)
            assert await receive_all(stream, BIG) == b"x" * BIG
        for _ in range(2):
            other.send(b"!")
            assert await stream.receive() == b"!"


@pytest.mark.anyio
async def test_one_direction_is_closed() -> None:
    """After send_eof(), the other side sees the end, and may still send."""
    async with ends() as (stream, other):
        await stream.send(b"question")
        await stream.send_eof()
        assert [other.recv(100), other.recv(100)] == [b"question", b""]
        other.send(b"answer")
        assert await stream.receive() == b"answer"


# --- The end


@pytest.mark.anyio
@pytest.mark.parametrize("is_waiting", [True, False])
async def test_end(is_waiting: bool) -> None:
    """The end of the stream comes after all data, each time."""
    async with ends() as (stream, other), anyio.create_task_group() as tasks:
        if is_waiting:
            tasks.start_soon(settle)
        other.send(b"answer")
        other.close()
        await settle()
        assert await stream.receive() == b"answer"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


Use = Callable[[ByteStream], Awaitable[object]]
Spoil = Callable[[ByteStream, socket.socket], Awaitable[object]]


async def receive(stream: ByteStream) -> None:
    """Receive something."""
    await stream.receive()


async def send_much(stream: ByteStream) -> None:
    """Send more than is accepted."""
    await stream.send(b"x" * BIG)


async def receive_after_much(stream: ByteStream) -> None:
    """Receive when more is expected, and then wait."""
    while True:
        await stream.receive()


async def close_it(stream: ByteStream, _: socket.socket) -> None:
    """Close the stream."""
    await stream.aclose()


async def reset_it(_: ByteStream, other: socket.socket) -> None:
    """Reset the connection from the other side."""
    reset(other)
    await settle()


@pytest.mark.anyio
@each_row(("spoil", "expected"), [(close_it, anyio.ClosedResourceError), (reset_it, anyio.BrokenResourceError)])
@each_row("use", [receive, receive_after_much, send_much])
@each_row("is_waiting", [True, False], ids=["waiting", "later"])
async def test_closed_or_reset(use: Use, spoil: Spoil, expected: type[Exception], is_waiting: bool) -> None:
    """A stream that is closed, or reset by the other side, ends the waits and refuses others."""
    caught: list[type[Exception]] = []

    async def run() -> None:
        try:
            await use(stream)
        except Exception as error:
            caught.append(type(error))

    async with ends() as (stream, other), anyio.create_task_group() as tasks:
        if use is receive_after_much:
            other.send(b"x" * 20_000)
            await stream.receive()
        if is_waiting:
            tasks.start_soon(run)
            await settle()
        await spoil(stream, other)
        await settle()
        await run()
    # Who receives after a reset has been told of it once, may be told of an end.
    assert caught[0] is expected
    assert set(caught) <= {expected, anyio.EndOfStream} or expected is anyio.BrokenResourceError


async def send_until_broken(stream: ByteStream) -> None:
    """Send, without letting anything be received meanwhile, until that fails: on asyncio, that shows the next time."""
    with pytest.raises(anyio.BrokenResourceError):
        for _ in range(3):
            await stream.send(b"more")


@pytest.mark.anyio
@pytest.mark.parametrize("first", [b"", b"1" * 1_000])
async def test_what_arrived_before_sending_failed_can_be_received(first: bytes) -> None:
    """As when a server rejects an upload, and closes the connection without having read all of it."""
    async with ends() as (stream, other):
        await stream.send(b"x" * 100_000)
        other.sendall(first)
        await settle()  # asyncio reads it ahead
        other.sendall(b"2" * 30_000)
        other.close()
        await send_until_broken(stream)
        assert await receive_all(stream, len(first) + 30_000) == first + b"2" * 30_000
        for _ in range(2):  # what was received may have been cut off
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"more")


@contextlib.asynccontextmanager
async def ends_of_a_unix_socket(path: Path) -> AsyncIterator[tuple[ByteStream, socket.socket]]:
    """Connect a stream with a plain socket, over a Unix socket, which tells of a broken connection in other ways."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path / "socket"))
        server.listen()
        async with both_ends(server, lambda: connect_unix(str(path / "socket"))) as pair:
            yield pair


@needs_unix_sockets
@pytest.mark.anyio
async def test_what_a_broken_pipe_says_of_receiving(tmp_path: Path) -> None:
    """Nothing. What has arrived may be all, or it may have been cut off."""
    async with ends_of_a_unix_socket(tmp_path) as (stream, other):
        other.sendall(b"all")
        other.close()
        await send_until_broken(stream)
        assert await stream.receive() == b"all"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
    (tmp_path / "socket").unlink()
    async with ends_of_a_unix_socket(tmp_path) as (stream, other):
        await stream.send(b"unread")
        other.sendall(b"cut off")
        other.close()
        await send_until_broken(stream)
        assert await stream.receive() == b"cut off"
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@needs_unix_sockets
@pytest.mark.anyio
async def test_as_much_as_fits_into_the_buffer_of_the_other_side(tmp_path: Path) -> None:
    """That is where it is, on a Unix socket. If sending fails, all of it can still be received."""
    async with ends_of_a_unix_socket(tmp_path) as (stream, other):
        await stream.send(b"unread")
        other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024 * 1024)
        other.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 3_000_000:
                sent += other.send(b"x" * 10_000)
        other.close()
        await send_until_broken(stream)
        assert len(await receive_all(stream, sent)) == sent
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


class LostSocket(socket.socket):
    """A socket whose connection the system gives up when there is something to be sent, and which then says so once."""

    def send(self, *_: Any) -> int:
        """Fail."""
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_connection_that_is_given_up_while_sending() -> None:
    """What has arrived before may have been cut off, although the system tells of an end."""
    lost, other = socket.socketpair()
    with other:
        other.sendall(b"cut off")
        other.shutdown(socket.SHUT_WR)
        stream = TrioStream(LostSocket(fileno=lost.detach()))
        stream.extra(SocketAttribute.raw_socket).setblocking(False)
        await send_until_broken(stream)
        assert await stream.receive() == b"cut off"
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, TimeoutError)
        await stream.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_too_many_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still in the socket when sending fails cannot be received then."""
    async with ends() as (stream, other):
        other.close()
        monkeypatch.setattr(stream, "_socket", FullSystem())
        await send_until_broken(stream)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


class FullSystem:
    """A socket of which there can be no duplicate."""

    def dup(self) -> socket.socket:
        """Fail."""
        raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_more_than_a_system_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has arrived before sending failed may have been cut off if there is more of it than is received then."""
    monkeypatch.setattr(asyncio_stream, "_buffer_size", lambda _: 3)
    async with ends() as (stream, other):
        other.sendall(b"cut off")
        other.close()
        await send_until_broken(stream)
        assert await stream.receive() == b"cut"
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


@needs_unix_sockets
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_other_side_that_only_sends(tmp_path: Path) -> None:
    """If sending fails, no more is received than a system's buffer may hold, however much the other side sends."""
    async with ends_of_a_unix_socket(tmp_path) as (stream, other):
        other.shutdown(socket.SHUT_RD)
        with ThreadPoolExecutor(1) as threads:
            sending = threads.submit(send_for_ever, other)
            try:
                await send_until_broken(stream)
                received = 0
                with pytest.raises(anyio.BrokenResourceError):
                    while True:
                        received += len(await stream.receive())
                assert received < BIG
            finally:
                await stream.aclose()
                sending.result(5)


def send_for_ever(other: socket.socket) -> None:
    """Send until the connection breaks."""
    with contextlib.suppress(OSError):
        while True:
            other.sendall(b"x" * 65536)


@pytest.mark.anyio
async def test_the_end_and_then_a_reset() -> None:
    """What has ended before the connection was reset is whole."""
    async with ends() as (stream, other):
        other.sendall(b"whole")
        other.shutdown(socket.SHUT_WR)
        await settle()
        reset(other)
        await send_until_broken(stream)
        assert await stream.receive() == b"whole"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


@pytest.mark.anyio
async def test_closed_after_sending_failed() -> None:
    """Nothing can be received any more from a stream that has been closed meanwhile."""
    async with ends() as (stream, other):
        await stream.send(b"x" * 100_000)
        other.sendall(b"rest")
        other.close()
        await send_until_broken(stream)
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()


@pytest.mark.anyio
async def test_sending_after_a_reset() -> None:
    """Sending on a broken connection fails, at the latest the third time."""
    async with ends() as (stream, other):
        reset(other)
        with pytest.raises(anyio.BrokenResourceError):
            for _ in range(3):
                await stream.send(b"question")
                await settle()


@pytest.mark.anyio
async def test_two_at_once() -> None:
    """A second task that receives, or that sends while the first cannot go on, is refused."""
    async with ends() as (stream, _), anyio.create_task_group() as tasks:
        for use in receive, send_much:
            tasks.start_soon(use, stream)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                await use(stream)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_is_refused_is_not_sent(anyio_backend: str) -> None:
    """Even if the network could take more just now, since the first task has not gone on yet."""
    async with ends() as (stream, other):
        sent = 20_000_000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"a" * sent)
            await settle()
            if isinstance(stream, AsyncioStream):
                stream.resume_writing()
            with pytest.raises(anyio.BusyResourceError):
                await stream.send(b"b")
            received = bytearray()
            while len(received) < sent:
                received += await anyio.to_thread.run_sync(other.recv, 2**20)
        await stream.aclose()
        received += other.recv(1)
        assert received == b"a" * sent


@pytest.mark.anyio
async def test_sending_where_anyio_sends_no_cancellation() -> None:
    """The task is cancelled all the same, and does not wait for that in a busy loop."""
    async with ends() as (stream, other):
        other.setblocking(False)
        assert await run_in_cancelled_group(lambda: stream.send(b"question"))
        await settle()
        with pytest.raises(BlockingIOError):
            other.recv(1)


# --- Sending without an await


@pytest.mark.anyio
async def test_sending_without_an_await() -> None:
    """What the network takes is sent; what is left is for send()."""
    async with ends() as (stream, other):
        assert isinstance(stream, EagerStream)
        sent = 0
        for _ in range(2):
            await stream.send(b"question")
            assert stream.send_nowait(b"more") is None
            assert other.recv(100) == b"questionmore"
            other.send(b"answer")
            await stream.receive()
        await stream.send(b"x" * 8)
        while (rest := stream.send_nowait(b"x" * 65536)) is None:
            sent += 65536
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, rest)
            await settle()
            assert stream.send_nowait(b"!") == b"!"
            left = sent + 8 + 65536
            while left:
                left -= len(await anyio.to_thread.run_sync(other.recv, left))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("spoil", "expected"), [(close_it, anyio.ClosedResourceError), (reset_it, anyio.BrokenResourceError)]
)
async def test_sending_without_an_await_on_a_closed_stream(spoil: Spoil, expected: type[Exception]) -> None:
    """It raises what send() raises."""
    async with ends() as (stream, other):
        assert isinstance(stream, EagerStream)
        await stream.send(b"question")
        await spoil(stream, other)
        with pytest.raises(expected):
            for _ in range(3):
                stream.send_nowait(b"more")
                await settle()


# --- Waiting


class FullAtFirst(socket.socket):
    """A socket that takes nothing when it is first asked to send."""

    is_full = True

    def send(self, *args: Any) -> int:
        """Send, but not the first time."""
        if self.is_full:
            self.is_full = False
            raise BlockingIOError
        return super().send(*args)


@pytest.mark.trio
async def test_sending_when_all_is_full() -> None:
    """If the socket takes nothing at all, sending waits until it does."""
    one, other = socket.socketpair()
    full = FullAtFirst(fileno=one.detach())
    full.setblocking(False)
    with other:
        stream = TrioStream(full)
        with anyio.fail_after(5):
            await stream.send(b"!")
        await stream.aclose()
        assert other.recv(2) == b"!"


@pytest.mark.anyio
async def test_closed_with_much_to_receive() -> None:
    """What has been read ahead of a stream that is closed then can still be received, if anything."""
    async with ends() as (stream, other):
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.send(b"x" * 65536)
        await settle()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            while await stream.receive():
                pass


@pytest.mark.anyio
async def test_back_pressure() -> None:
    """Sending waits for the other side to receive; and what nobody receives stays within bounds."""
    async with ends() as (stream, other):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"x" * BIG)
            left = BIG
            while left:
                left -= len(await anyio.to_thread.run_sync(other.recv, left))
        other.setblocking(False)
        sent = 0
        for _ in range(20):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += other.send(b"x" * 65536)
            await anyio.sleep(0.001)
        assert sent < BIG
        peek = stream.extra(InputAttribute.peek, lambda: b"")()
        assert peek is not None
        assert len(peek) <= 256 * 1024
        assert len(await receive_all(stream, sent)) == sent


@pytest.mark.anyio
async def test_each_receive_lets_others_run() -> None:
    """Receiving what has arrived already lets other tasks run."""
    turns: list[int] = []

    async def take_turns() -> None:
        while True:
            turns.append(1)
            await anyio.lowlevel.checkpoint()

    async with ends() as (stream, other), anyio.create_task_group() as tasks:
        other.send(b"x" * 20_000)
        await settle()
        tasks.start_soon(take_turns)
        await anyio.lowlevel.checkpoint()
        before = len(turns)
        for _ in range(5):
            await stream.receive(4000)
        assert len(turns) - before >= 4  # trio changes the order of the tasks that run in the same round
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_cancelled() -> None:
    """Receiving that is cancelled loses nothing; sending that is cancelled before it begins sends nothing."""
    async with ends() as (stream, other):
        with anyio.move_on_after(0.001):
            await stream.receive()
        other.send(b"answer")
        await settle()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert scope.cancelled_caught
        assert await stream.receive() == b"answer"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.send(b"question")
        assert scope.cancelled_caught
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        with anyio.move_on_after(0.001) as scope:
            await send_much(stream)
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_peek() -> None:
    """What the event loop has read can be seen; trio reads nothing by itself."""
    async with ends() as (stream, other):
        peek = stream.extra(InputAttribute.peek, None)
        assert (peek is not None) is is_asyncio()
        if peek is not None:
            assert peek() is None
            other.send(b"answer")
            await until(lambda: peek() == b"answer")
            await stream.receive()
            assert peek() is None
            other.close()
            await until(lambda: peek() == b"")


@pytest.mark.anyio
async def test_end_after_much() -> None:
    """If the end comes after more than the event loop reads ahead, all of it is received, and then the end."""
    async with ends() as (stream, other):
        other.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += other.send(b"x" * 65536)
        await settle()
        other.close()
        received = 0
        with pytest.raises(anyio.EndOfStream):
            while True:
                received += len(await stream.receive(100_000))
                await settle()
        assert received == sent


def test_loop_that_moves_to_another_thread() -> None:
    """Two event loops that run in different threads do not read into the same memory, wherever they ran before."""

    async def make() -> AsyncioStream:
        return AsyncioStream()

    with asyncio.Runner() as one, asyncio.Runner() as other, ThreadPoolExecutor(1) as thread:
        moved, stayed = one.run(make()), other.run(make())
        assert thread.submit(moved.get_buffer, -1).result() is not stayed.get_buffer(-1)


def test_other_side_is_gone() -> None:
    """A socket that has been closed on the other side has no remote address, and one that is closed has nothing."""
    one, other = socket.socketpair()
    with one, other, socket.socket() as unconnected:
        attributes = socket_attributes(unconnected)
        assert SocketAttribute.raw_socket in attributes
        assert SocketAttribute.remote_address not in attributes
    assert not socket_attributes(one)


# --- Connecting


@pytest.mark.anyio
async def test_no_such_address() -> None:
    """A port that nothing listens on, or a host that is unknown, is an OSError."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for host in "127.0.0.1", "localhost", "host.invalid":
        with pytest.raises(OSError):  # noqa: PT011
            await connect_tcp(host, port, None)


@pytest.mark.anyio
@needs_local_addresses
async def test_local_address() -> None:
    """The local address can be chosen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await connect_tcp("localhost", server.getsockname()[1], "127.0.0.2")
        assert stream.extra(SocketAttribute.local_address)[0] == "127.0.0.2"
        await stream.aclose()


@pytest.mark.anyio
async def test_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told when a name has been looked up, before any of its addresses is connected to; an address is not."""
    told = list[str]()

    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(anyio, "getaddrinfo", resolve)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in "x", "127.0.0.1":
            stream = await connect_tcp(host, port, None, functools.partial(told.append, host))
            await stream.aclose()
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("y", port, None, lambda: told.append("y"))
    assert told == ["x", "y"]
