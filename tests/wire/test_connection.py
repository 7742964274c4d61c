"""Connection over a fake stream: exact timeouts on trio, errors, staleness and closing."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
import trio
import trio.testing
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute
from support.scripted_servers import settle
from support.tls_ends import deliver, tls_pair

from prefect_http._concurrency.eager_stream import Data, EagerStream
from prefect_http._wire.connection import Connection
from prefect_http._wire.network_errors import NETWORK_ERRORS
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.timeouts import TimeoutWatcher

PEER = "example.org:443"
MAX_BYTES = 1000


class FakeStream(ByteStream):
    """A stream that leads nowhere, with a socket that can be asked.

    Attributes:
        delay: how long it takes to send or to receive; closing the stream ends that.
        error: raised by sending and receiving.
        data: what is received.
        sent: what has been sent.
        asked: how many bytes were asked for, each time.
        closings: the number of times that it was closed.
        close_error: raised by closing.
    """

    def __init__(self, raw_socket: socket.socket, ssl_object: ssl.SSLObject | None = None) -> None:
        self.delay = 0.0
        self.error: Exception | None = None
        self.data = b"data"
        self.sent: list[bytes] = []
        self.asked: list[int] = []
        self.closings = 0
        self.close_error: Exception | None = None
        self._closed = anyio.Event()
        self._raw_socket = raw_socket
        self._ssl_object = ssl_object

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: dict[Any, Callable[[], Any]] = {SocketAttribute.raw_socket: lambda: self._raw_socket}
        if self._ssl_object is not None:
            attributes[TLSAttribute.ssl_object] = lambda: self._ssl_object
        return attributes

    async def send(self, item: Data) -> None:
        await self._network()
        self.sent.append(bytes(item))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.asked.append(max_bytes)
        await self._network()
        return self.data

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closings += 1
        self._closed.set()
        self._raw_socket.close()
        if self.close_error is not None:
            raise self.close_error
        await anyio.lowlevel.checkpoint()

    async def _network(self) -> None:
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(self.delay):
            await self._closed.wait()
        if self._closed.is_set():
            raise anyio.ClosedResourceError
        if self.error is not None:
            raise self.error


class Net:
    """Makes connections over pairs of sockets, all with the same TimeoutWatcher.

    Attributes:
        watcher: of all connections.
        server: the other end of the last connection.
    """

    def __init__(self) -> None:
        self.watcher = TimeoutWatcher()
        self.server: socket.socket
        self._sockets: list[socket.socket] = []

    def connect(
        self, ssl_object: ssl.SSLObject | None = None, kind: type[FakeStream] = FakeStream
    ) -> tuple[Connection, FakeStream]:
        """Make a connection, and the stream under it."""
        ours, self.server = socket.socketpair()
        self._sockets += [ours, self.server]
        stream = kind(ours, ssl_object)
        return Connection(stream, PEER, self.watcher, anyio.current_time, MAX_BYTES), stream

    def close(self) -> None:
        """Close all sockets."""
        for each in self._sockets:
            each.close()


@pytest.fixture
def net() -> Iterator[Net]:
    """Make a Net."""
    made = Net()
    yield made
    made.close()


Use = Callable[[Connection, float | None], Awaitable[object]]


async def send(connection: Connection, timeout: float | None) -> None:
    """Send something."""
    await connection.send(b"something", timeout)


async def receive(connection: Connection, timeout: float | None) -> bytes:
    """Receive something."""
    return await connection.receive(timeout)


USES = pytest.mark.parametrize(
    ("use", "timed_out", "failed"),
    [
        pytest.param(send, httpx.WriteTimeout, httpx.WriteError, id="send"),
        pytest.param(receive, httpx.ReadTimeout, httpx.ReadError, id="receive"),
    ],
)


# --- Sending and receiving


@pytest.mark.anyio
async def test_a_new_connection(net: Net) -> None:
    """A new connection waits for nothing, is watched, and is not stale."""
    connection, _ = net.connect()
    assert (connection.deadline, connection.is_closed, connection.is_stale()) == (math.inf, False, False)
    assert net.watcher.watched == {connection}
    assert connection.peer == PEER
    assert isinstance(connection.network_stream, NetworkStream)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [None, 5.0, math.inf])
async def test_to_and_fro(net: Net, timeout: float | None) -> None:
    """Data is sent and received unchanged, at most max_bytes at once, and the connection stays open."""
    connection, stream = net.connect()
    with anyio.fail_after(5):
        await connection.send(b"question", timeout)
        assert await connection.receive(timeout) == b"data"
        assert await connection.receive_while_sending(timeout) == b"data"
    assert (stream.sent, stream.asked) == ([b"question"], [MAX_BYTES] * 2)
    assert (connection.deadline, connection.is_closed, stream.closings) == (math.inf, False, 0)
    await connection.aclose()
    await net.watcher.stop()


# --- Timeouts


@pytest.mark.trio
@USES
@pytest.mark.parametrize("timeout", [0.25, 5.0, 60.5])
async def test_too_slow(
    autojump_clock: trio.testing.MockClock,
    net: Net,
    use: Use,
    timed_out: type[Exception],
    failed: type[Exception],
    timeout: float,
) -> None:
    """A wait that takes too long ends exactly at its timeout, with httpx's error, and the connection is closed."""
    connection, stream = net.connect()
    stream.delay = math.inf
    await trio.sleep(0.5)
    start = trio.current_time()
    with pytest.raises(timed_out) as caught:
        await use(connection, timeout)
    assert trio.current_time() == start + timeout
    assert (type(caught.value), f"{timeout:g} s" in str(caught.value), PEER in str(caught.value)) == (
        timed_out,
        True,
        True,
    )
    assert (connection.deadline, connection.is_closed, stream.closings) == (math.inf, True, 1)
    assert (connection.is_stale(), net.watcher.watched) == (True, set())


@pytest.mark.trio
@USES
@pytest.mark.parametrize("timeout", [5.25, 6.0, math.inf, None])
async def test_in_time(
    autojump_clock: trio.testing.MockClock,
    net: Net,
    use: Use,
    timed_out: type[Exception],
    failed: type[Exception],
    timeout: float | None,
) -> None:
    """A wait that ends in time is not disturbed, and each wait has all of the timeout."""
    connection, stream = net.connect()
    stream.delay = 5.0
    for number in range(1, 4):
        await use(connection, timeout)
        assert (trio.current_time(), connection.deadline) == (5.0 * number, math.inf)
    await trio.sleep(100)
    assert (connection.is_closed, stream.closings) == (False, 0)


@pytest.mark.trio
@USES
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_after_it_was_too_slow(
    autojump_clock: trio.testing.MockClock,
    net: Net,
    use: Use,
    timed_out: type[Exception],
    failed: type[Exception],
    timeout: float | None,
) -> None:
    """Using a connection after a timeout fails at once, with one of httpx's errors."""
    connection, stream = net.connect()
    stream.delay = math.inf
    with pytest.raises(httpx.ReadTimeout):
        await connection.receive(1.0)
    with pytest.raises((timed_out, failed)):
        await use(connection, timeout)
    assert trio.current_time() == 1.0
    assert connection.deadline == math.inf


@pytest.mark.trio
async def test_many_at_once(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """Each connection has its own timeout."""
    ended: dict[float, float] = {}

    async def wait(seconds: float) -> None:
        connection, stream = net.connect()
        stream.delay = math.inf
        with pytest.raises(httpx.ReadTimeout):
            await connection.receive(seconds)
        ended[seconds] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for seconds in (4.0, 1.0, 8.0, 2.0, 0.5):
            nursery.start_soon(wait, seconds)
    assert ended == {seconds: seconds for seconds in (0.5, 1.0, 2.0, 4.0, 8.0)}


@pytest.mark.anyio
@USES
async def test_too_slow_on_both_backends(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]
) -> None:
    """A wait that takes too long ends on either backend."""
    connection, stream = net.connect()
    stream.delay = math.inf
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, 0.01)
    assert (connection.is_closed, stream.closings) == (True, 1)
    await net.watcher.stop()


@pytest.mark.anyio
@USES
@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_no_time_at_all(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception], timeout: float
) -> None:
    """With a timeout of 0, anything that has to wait ends at once."""
    connection, stream = net.connect()
    stream.delay = math.inf
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, timeout)
    await net.watcher.stop()


@pytest.mark.anyio
@USES
async def test_closing_fails_when_it_is_too_slow(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]
) -> None:
    """The wait ends even if the stream cannot be closed properly."""
    connection, stream = net.connect()
    stream.delay, stream.close_error = math.inf, OSError("cannot be closed")
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, 0.01)
    await net.watcher.stop()


# --- Errors

ERRORS = [
    pytest.param(anyio.BrokenResourceError(), "BrokenResourceError", id="broken"),
    pytest.param(anyio.BusyResourceError("reading from"), "reading from", id="busy"),
    pytest.param(anyio.ClosedResourceError(), "closed", id="closed"),
    pytest.param(ConnectionResetError(errno.ECONNRESET, "reset"), "reset", id="reset"),
    pytest.param(OSError("whatever"), "whatever", id="os"),
    pytest.param(TimeoutError(errno.ETIMEDOUT, "no ACK"), "no ACK", id="timed-out-by-the-system"),
    pytest.param(ssl.SSLError(1, "bad record"), "bad record", id="tls"),
    pytest.param(UnicodeError("no such name"), "no such name", id="unicode"),
]


@pytest.mark.anyio
@USES
@pytest.mark.parametrize(("error", "words"), ERRORS)
async def test_errors(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception], error: Exception, words: str
) -> None:
    """An error of the stream becomes httpx's error, which names the peer and the reason."""
    connection, stream = net.connect()
    stream.error = error
    with anyio.fail_after(5), pytest.raises(failed) as caught:
        await use(connection, 5.0)
    assert type(caught.value) is failed
    assert caught.value.__cause__ is error
    assert PEER in str(caught.value)
    assert words in str(caught.value)
    assert connection.deadline == math.inf
    await connection.aclose()
    await net.watcher.stop()


class FakeEagerStream(FakeStream, EagerStream):
    """A stream that takes two bytes without an await."""

    def send_nowait(self, item: Data) -> Data | None:
        if self.error is not None:
            raise self.error
        self.sent.append(bytes(item[:2]))
        return item[2:] or None


@pytest.mark.anyio
async def test_sending_without_an_await(net: Net) -> None:
    """send_nowait() returns what is left, which is everything on most streams; its errors are those of send()."""
    connection, _ = net.connect()
    assert connection.send_nowait(b"four") == b"four"
    connection, stream = net.connect(kind=FakeEagerStream)
    assert connection.send_nowait(b"four") == b"ur"
    assert connection.send_nowait(b"ur") is None
    assert connection.deadline == math.inf
    stream.error = anyio.BrokenResourceError()
    stream.error.__cause__ = BrokenPipeError("why")
    with pytest.raises(httpx.WriteError, match=f"{PEER}.*why"):
        connection.send_nowait(b"four")
    with pytest.raises(httpx.WriteError, match=f"{PEER}.*why"):
        await connection.send(b"four", 5.0)


@pytest.mark.anyio
async def test_sending_at_once(net: Net) -> None:
    """send() waits for what is left only."""
    connection, stream = net.connect(kind=FakeEagerStream)
    await connection.send(b"fo", 5.0)
    assert stream.sent == [b"fo"]
    stream.sent.clear()
    await connection.send(b"four", 5.0)
    assert stream.sent == [b"fo", b"ur"]
    stream.sent.clear()
    await connection.send_rest(b"ur", 5.0)
    assert stream.sent == [b"ur"]


@pytest.mark.anyio
@pytest.mark.parametrize("error", NETWORK_ERRORS)
async def test_errors_while_sending(net: Net, error: type[Exception]) -> None:
    """So it does in receive_while_sending(), except for the end of the stream."""
    connection, stream = net.connect()
    stream.error = error("why")
    if error is anyio.EndOfStream:
        assert await connection.receive_while_sending(5.0) == b""
    else:
        with anyio.fail_after(5), pytest.raises(httpx.ReadError, match=PEER):
            await connection.receive_while_sending(5.0)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_the_end(net: Net, timeout: float | None) -> None:
    """At the end of the stream, receiving returns nothing, and is not an error."""
    connection, stream = net.connect()
    stream.error = anyio.EndOfStream()
    with anyio.fail_after(5):
        assert await connection.receive(timeout) == b""
        assert await connection.receive_while_sending(timeout) == b""
    assert connection.deadline == math.inf
    await connection.aclose()
    await net.watcher.stop()


@pytest.mark.anyio
@USES
async def test_other_exceptions(net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]) -> None:
    """Other exceptions are raised unchanged, and leave no deadline behind."""
    connection, stream = net.connect()
    stream.error = ZeroDivisionError("a mistake")
    with anyio.fail_after(5), pytest.raises(ZeroDivisionError):
        await use(connection, 5.0)
    assert connection.deadline == math.inf
    await connection.aclose()
    await net.watcher.stop()


@pytest.mark.anyio
@USES
async def test_cancelled(net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]) -> None:
    """A cancellation is raised as such, and leaves no deadline behind; the connection stays open."""
    connection, stream = net.connect()
    stream.delay = math.inf
    deadlines: list[float] = []

    async def cancel() -> None:
        await settle()
        deadlines.append(connection.deadline)
        group.cancel_scope.cancel()

    now = anyio.current_time()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            await use(connection, 5.0)
            raise AssertionError("not cancelled")
    assert now < deadlines[0] < math.inf
    assert (connection.deadline, connection.is_closed) == (math.inf, False)
    await connection.aclose()
    await net.watcher.stop()


# --- Receiving while sending


@pytest.mark.trio
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_sending_takes_too_long_while_another_task_receives(
    autojump_clock: trio.testing.MockClock, net: Net, timeout: float | None
) -> None:
    """The timeout is that of the send; the task that receives meanwhile fails with one of httpx's errors as well."""
    connection, stream = net.connect()
    stream.delay = math.inf
    log: list[tuple[float, type[Exception]]] = []

    async def receive_while_sending() -> None:
        try:
            await connection.receive_while_sending(timeout)
        except Exception as error:
            log.append((trio.current_time(), type(error)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_while_sending)
        with pytest.raises(httpx.WriteTimeout, match="accepted no data for 1 s"):
            await connection.send(b"much", 1.0)
    ((time, error_type),) = log
    assert time == 1.0
    assert issubclass(error_type, httpx.TransportError), error_type
    assert (connection.is_closed, stream.closings) == (True, 1)


@pytest.mark.trio
async def test_receiving_leaves_the_timeout_of_a_send(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """Receiving while another task sends leaves the timeout of the send alone."""
    connection, stream = net.connect()
    stream.delay = 0.25
    received: list[float] = []

    async def receive_while_sending() -> None:
        assert await connection.receive_while_sending(5.0) == b"data"
        received.append(trio.current_time())
        assert connection.deadline == 1.0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_while_sending)
        await trio.testing.wait_all_tasks_blocked()
        stream.delay = math.inf
        with pytest.raises(httpx.WriteTimeout):
            await connection.send(b"much", 1.0)
    assert (received, trio.current_time()) == ([0.25], 1.0)


@pytest.mark.trio
async def test_receiving_while_sending_has_no_timeout(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """receive_while_sending() has no timeout of its own, until another task sets one."""
    connection, stream = net.connect()
    stream.delay = math.inf
    async with trio.open_nursery() as nursery:

        async def limit() -> None:
            await trio.sleep(1000)
            connection.limit_wait(2.0)

        nursery.start_soon(limit)
        with pytest.raises(httpx.ReadTimeout, match=f"{PEER} sent no data for 2 s"):
            await connection.receive_while_sending(2.0)
    assert trio.current_time() == 1002


@pytest.mark.trio
async def test_timeout_that_is_removed(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """A timeout that is removed or set anew no longer holds."""
    connection, _ = net.connect()
    connection.limit_wait(1.0)
    await trio.sleep(0.5)
    connection.limit_wait(2.0)
    await trio.sleep(1.75)
    assert not connection.is_closed
    connection.limit_wait(None)
    await trio.sleep(10)
    assert not connection.is_closed


# --- Staleness


def half_close(server: socket.socket) -> None:
    """Send the end of the stream, and still receive."""
    server.shutdown(socket.SHUT_WR)


@pytest.mark.anyio
async def test_stale_when_the_server_writes(net: Net) -> None:
    """Unexpected data makes a connection stale, and asking does not consume it."""
    connection, _ = net.connect()
    net.server.send(b"!")
    assert [connection.is_stale() for _ in range(2)] == [True, True]


@pytest.mark.anyio
@pytest.mark.parametrize("how", [socket.socket.close, half_close])
async def test_stale_when_the_server_closes(net: Net, how: Callable[[socket.socket], object]) -> None:
    """A connection that the server has closed, even if only for writing, is stale."""
    connection, _ = net.connect()
    how(net.server)
    assert connection.is_stale()


@pytest.mark.anyio
async def test_stale_when_it_is_reset(net: Net) -> None:
    """A connection that the server has reset is stale."""
    connection, stream = net.connect()
    stream.extra(SocketAttribute.raw_socket).send(b"unread")
    net.server.close()
    assert connection.is_stale()


@pytest.mark.anyio
async def test_stale_when_it_is_closed(net: Net) -> None:
    """A connection that was closed on this side is stale, even if its file descriptor has been reused."""
    connection, stream = net.connect()
    fileno = stream.extra(SocketAttribute.raw_socket).fileno()
    await connection.aclose()
    assert connection.is_stale()
    other, other_server = socket.socketpair()
    with other, other_server:
        if other.fileno() != fileno:
            os.dup2(other.fileno(), fileno)
            with socket.socket(fileno=fileno):
                assert connection.is_stale()
        assert connection.is_stale()


@pytest.mark.anyio
async def test_stale_when_its_user_has_closed_it(net: Net) -> None:
    """A connection is stale if its NetworkStream was closed by the user."""
    connection, _ = net.connect()
    await connection.network_stream.aclose()
    assert connection.is_stale()


@pytest.mark.anyio
@pytest.mark.parametrize("is_read", [False, True])
async def test_stale_when_tls_has_data(net: Net, is_read: bool) -> None:
    """Data that TLS has taken from the socket makes a connection stale, decrypted or not."""
    client, server = tls_pair(ssl.TLSVersion.TLSv1_3)
    connection, _ = net.connect(client.tls)
    assert not connection.is_stale()
    server.tls.write(b"an answer, and more")
    deliver(server, client)
    if is_read:
        assert client.tls.read(9) == b"an answer"
    assert connection.is_stale()


@pytest.mark.anyio
async def test_stale_over_tls_when_the_socket_has_data(net: Net) -> None:
    """So does data that is still in the socket."""
    client, _ = tls_pair(ssl.TLSVersion.TLSv1_3)
    connection, _ = net.connect(client.tls)
    net.server.send(b"\x17")
    assert connection.is_stale()


# --- Closing


@pytest.mark.anyio
async def test_closing(net: Net) -> None:
    """Closing closes the stream, and ends the watch; closing again changes nothing."""
    connection, stream = net.connect()
    connection.limit_wait(100.0)
    for _ in range(3):
        await connection.aclose()
        assert (connection.is_closed, connection.deadline, net.watcher.watched) == (True, math.inf, set())
    assert stream.closings >= 1
    with anyio.fail_after(5):
        await net.watcher.stop()


@pytest.mark.anyio
async def test_closing_while_cancelled(net: Net) -> None:
    """A cancellation does not keep a connection open, and is not lost."""
    connection, stream = net.connect()
    log: list[str] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await connection.aclose()
        log.append("closed")
        await anyio.lowlevel.checkpoint()
        log.append("went on")
    assert (log, connection.is_closed, stream.closings) == (["closed"], True, 1)


@pytest.mark.anyio
async def test_closing_that_fails(net: Net) -> None:
    """A connection whose stream cannot be closed properly is no longer watched either."""
    connection, stream = net.connect()
    stream.close_error = OSError("cannot be closed")
    with contextlib.suppress(OSError):
        await connection.aclose()
    assert (connection.is_closed, connection.deadline, net.watcher.watched) == (True, math.inf, set())


@pytest.mark.anyio
@USES
async def test_closing_while_in_use(net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]) -> None:
    """If another task closes a connection, its user fails at once, with httpx's error that is not a timeout."""
    connection, stream = net.connect()
    stream.delay = math.inf

    async def close() -> None:
        await settle()
        await connection.aclose()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(close)
            with pytest.raises(failed) as caught:
                await use(connection, 5.0)
            assert type(caught.value) is failed
    assert connection.deadline == math.inf
    await net.watcher.stop()


@pytest.mark.trio
async def test_a_wait_on_a_closed_connection(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """A closed connection is not watched, so that its waits, which fail by themselves, keep no task alive."""
    connection, _ = net.connect()
    await connection.aclose()
    with pytest.raises(httpx.ReadError):
        await connection.receive(5.0)
    assert (trio.current_time(), net.watcher.watched) == (0.0, set())
