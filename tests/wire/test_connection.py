"""One connection over a fake stream: exact timeouts on trio, errors and staleness, closing."""

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
from support.lifespan_apps import steps
from support.tls_ends import carry, tls_pair

from prefect_http._wire.connection import Connection
from prefect_http._wire.network_errors import BROKEN
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.timeouts import TimeoutWatcher

PEER = "example.org:443"
MAX_BYTES = 1000


class FakeStream(ByteStream):
    """A stream over nothing; its socket is there to be asked only.

    Attributes:
        delay: how long it takes to send or receive; closing it ends that.
        error: raised by that then.
        data: received then.
        sent: what has been sent.
        asked: how many bytes have been asked for, each time.
        closings: how many times it has been closed.
        close_error: raised after that.
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

    async def send(self, item: bytes) -> None:
        await self._network()
        self.sent.append(item)

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
    """Makes connections, all with the same TimeoutWatcher, over pairs of sockets.

    Attributes:
        deadlines: of all connections.
        server: the other end of the last connection.
    """

    def __init__(self) -> None:
        self.deadlines = TimeoutWatcher()
        self.server: socket.socket
        self._sockets: list[socket.socket] = []

    def connect(self, ssl_object: ssl.SSLObject | None = None) -> tuple[Connection, FakeStream]:
        """Make a connection, and the stream under it."""
        ours, self.server = socket.socketpair()
        self._sockets += [ours, self.server]
        stream = FakeStream(ours, ssl_object)
        return Connection(stream, PEER, self.deadlines, anyio.current_time, MAX_BYTES), stream

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


# --- What goes well


@pytest.mark.anyio
async def test_a_new_connection(net: Net) -> None:
    """It waits for nothing, is watched, and is good; users of httpx get its stream."""
    connection, _ = net.connect()
    assert (connection.deadline, connection.is_closed, connection.is_stale()) == (math.inf, False, False)
    assert net.deadlines.watched == {connection}
    assert connection.peer == PEER
    assert isinstance(connection.network_stream, NetworkStream)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [None, 5.0, math.inf])
async def test_to_and_fro(net: Net, timeout: float | None) -> None:
    """Data go out and come in as they are, so many at a time as was said, and the connection stays good."""
    connection, stream = net.connect()
    with anyio.fail_after(5):
        await connection.send(b"question", timeout)
        assert await connection.receive(timeout) == b"data"
        assert await connection.receive_meanwhile(timeout) == b"data"
    assert (stream.sent, stream.asked) == ([b"question"], [MAX_BYTES] * 2)
    assert (connection.deadline, connection.is_closed, stream.closings) == (math.inf, False, 0)
    await connection.aclose()
    await net.deadlines.stop()


# --- Timeouts


@pytest.mark.trio
@USES
@pytest.mark.parametrize("timeout", [0.25, 5.0, 3600.0])
async def test_too_slow(
    autojump_clock: trio.testing.MockClock,
    net: Net,
    use: Use,
    timed_out: type[Exception],
    failed: type[Exception],
    timeout: float,
) -> None:
    """What takes longer than it may ends exactly then, with httpx's error, and the connection is closed."""
    connection, stream = net.connect()
    stream.delay = math.inf
    await trio.sleep(0.5)
    began = trio.current_time()
    with pytest.raises(timed_out) as caught:
        await use(connection, timeout)
    assert trio.current_time() == began + timeout
    assert (type(caught.value), f"{timeout:g} s" in str(caught.value), PEER in str(caught.value)) == (
        timed_out,
        True,
        True,
    )
    assert (connection.deadline, connection.is_closed, stream.closings) == (math.inf, True, 1)
    assert (connection.is_stale(), net.deadlines.watched) == (True, set())


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
    """What takes less than it may is not disturbed, time after time: each has all of the time."""
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
    """Whoever goes on with a connection that took too long fails at once, with one of httpx's errors."""
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
    """Each connection has its own time."""
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
    """What takes longer than it may ends on either backend."""
    connection, stream = net.connect()
    stream.delay = math.inf
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, 0.01)
    assert (connection.is_closed, stream.closings) == (True, 1)
    await net.deadlines.stop()


@pytest.mark.anyio
@USES
@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_no_time_at_all(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception], timeout: float
) -> None:
    """Without any time to wait, what takes some ends at once."""
    connection, stream = net.connect()
    stream.delay = math.inf
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, timeout)
    await net.deadlines.stop()


@pytest.mark.anyio
@USES
async def test_closing_fails_when_it_is_too_slow(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]
) -> None:
    """A stream that cannot be closed properly ends its wait all the same."""
    connection, stream = net.connect()
    stream.delay, stream.close_error = math.inf, OSError("cannot be closed")
    with anyio.fail_after(5), pytest.raises(timed_out):
        await use(connection, 0.01)
    await net.deadlines.stop()


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
async def test_what_breaks(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception], error: Exception, words: str
) -> None:
    """Whatever breaks the connection is httpx's error, which says whose connection it was, and why."""
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
    await net.deadlines.stop()


@pytest.mark.anyio
@pytest.mark.parametrize("error", BROKEN)
async def test_what_breaks_beside_a_send(net: Net, error: type[Exception]) -> None:
    """What is received beside a send breaks likewise, but for the end."""
    connection, stream = net.connect()
    stream.error = error("why")
    if error is anyio.EndOfStream:
        assert await connection.receive_meanwhile(5.0) == b""
    else:
        with anyio.fail_after(5), pytest.raises(httpx.ReadError, match=PEER):
            await connection.receive_meanwhile(5.0)


@pytest.mark.anyio
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_the_end(net: Net, timeout: float | None) -> None:
    """Where the server has closed the connection there is nothing to receive, and that is no error."""
    connection, stream = net.connect()
    stream.error = anyio.EndOfStream()
    with anyio.fail_after(5):
        assert await connection.receive(timeout) == b""
        assert await connection.receive_meanwhile(timeout) == b""
    assert connection.deadline == math.inf
    await connection.aclose()
    await net.deadlines.stop()


@pytest.mark.anyio
@USES
async def test_mistakes_are_no_network_errors(
    net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]
) -> None:
    """What is no failure of the network comes out as it is, and leaves no deadline."""
    connection, stream = net.connect()
    stream.error = ZeroDivisionError("a mistake")
    with anyio.fail_after(5), pytest.raises(ZeroDivisionError):
        await use(connection, 5.0)
    assert connection.deadline == math.inf
    await connection.aclose()
    await net.deadlines.stop()


@pytest.mark.anyio
@USES
async def test_cancelled(net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]) -> None:
    """A cancellation is one, and leaves no deadline; the connection is its user's to close."""
    connection, stream = net.connect()
    stream.delay = math.inf
    deadlines: list[float] = []

    async def cancel() -> None:
        await steps()
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
    await net.deadlines.stop()


# --- Receiving beside a send


@pytest.mark.trio
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_sending_takes_too_long_while_another_task_receives(
    autojump_clock: trio.testing.MockClock, net: Net, timeout: float | None
) -> None:
    """The limit is the send's; who receives meanwhile fails with it, with one of httpx's errors."""
    connection, stream = net.connect()
    stream.delay = math.inf
    log: list[tuple[float, type[Exception]]] = []

    async def receive_meanwhile() -> None:
        try:
            await connection.receive_meanwhile(timeout)
        except Exception as error:
            log.append((trio.current_time(), type(error)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_meanwhile)
        with pytest.raises(httpx.WriteTimeout, match="took no data for 1 s"):
            await connection.send(b"much", 1.0)
    ((time, error_type),) = log
    assert time == 1.0
    assert issubclass(error_type, httpx.TransportError), error_type
    assert (connection.is_closed, stream.closings) == (True, 1)


@pytest.mark.trio
async def test_receiving_does_not_end_the_limit_of_a_send(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """What is received beside a send leaves the send's limit as it is."""
    connection, stream = net.connect()
    stream.delay = 0.25
    received: list[float] = []

    async def receive_meanwhile() -> None:
        assert await connection.receive_meanwhile(5.0) == b"data"
        received.append(trio.current_time())
        assert connection.deadline == 1.0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive_meanwhile)
        await trio.testing.wait_all_tasks_blocked()
        stream.delay = math.inf
        with pytest.raises(httpx.WriteTimeout):
            await connection.send(b"much", 1.0)
    assert (received, trio.current_time()) == ([0.25], 1.0)


@pytest.mark.trio
async def test_receiving_beside_nothing_has_no_limit(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """By itself it waits for any time, until another task sets a limit."""
    connection, stream = net.connect()
    stream.delay = math.inf
    async with trio.open_nursery() as nursery:

        async def limit() -> None:
            await trio.sleep(1000)
            connection.limit_wait(2.0)

        nursery.start_soon(limit)
        with pytest.raises(httpx.ReadTimeout, match=f"{PEER} sent nothing for 2 s"):
            await connection.receive_meanwhile(2.0)
    assert trio.current_time() == 1002


@pytest.mark.trio
async def test_a_limit_that_is_lifted(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """A limit that is lifted, or set anew, holds no more."""
    connection, _ = net.connect()
    connection.limit_wait(1.0)
    await trio.sleep(0.5)
    connection.limit_wait(2.0)
    await trio.sleep(1.75)
    assert not connection.is_closed
    connection.limit_wait(None)
    await trio.sleep(10)
    assert not connection.is_closed


# --- Whether it is still good


def half_close(server: socket.socket) -> None:
    """Send the end, and still receive."""
    server.shutdown(socket.SHUT_WR)


@pytest.mark.anyio
async def test_stale_when_the_server_writes(net: Net) -> None:
    """A byte that nobody asked for makes a connection stale, and asking does not take it away."""
    connection, _ = net.connect()
    net.server.send(b"!")
    assert [connection.is_stale() for _ in range(2)] == [True, True]


@pytest.mark.anyio
@pytest.mark.parametrize("how", [socket.socket.close, half_close])
async def test_stale_when_the_server_closes(net: Net, how: Callable[[socket.socket], object]) -> None:
    """A connection that the server has closed, be it only for writing, is stale."""
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
    """A connection that was closed from this side is stale, also where another one has its descriptor by now."""
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
    """A connection whose user has closed the stream that httpx gives out is stale."""
    connection, _ = net.connect()
    await connection.network_stream.aclose()
    assert connection.is_stale()


@pytest.mark.anyio
@pytest.mark.parametrize("is_read", [False, True])
async def test_stale_when_tls_has_data(net: Net, is_read: bool) -> None:
    """What TLS has taken from the socket counts, decrypted or not, though the socket has nothing more."""
    client, server = tls_pair(ssl.TLSVersion.TLSv1_3)
    connection, _ = net.connect(client.tls)
    assert not connection.is_stale()
    server.tls.write(b"an answer, and more")
    carry(server, client)
    if is_read:
        assert client.tls.read(9) == b"an answer"
    assert connection.is_stale()


@pytest.mark.anyio
async def test_stale_over_tls_when_the_socket_has_data(net: Net) -> None:
    """What TLS has not seen yet counts as well."""
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
        assert (connection.is_closed, connection.deadline, net.deadlines.watched) == (True, math.inf, set())
    assert stream.closings >= 1
    with anyio.fail_after(5):
        await net.deadlines.stop()


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
    """A stream that cannot be closed properly leaves nothing behind here."""
    connection, stream = net.connect()
    stream.close_error = OSError("cannot be closed")
    with contextlib.suppress(OSError):
        await connection.aclose()
    assert (connection.is_closed, connection.deadline, net.deadlines.watched) == (True, math.inf, set())


@pytest.mark.anyio
@USES
async def test_closing_while_in_use(net: Net, use: Use, timed_out: type[Exception], failed: type[Exception]) -> None:
    """Whoever uses a connection that another task closes fails at once, with httpx's error, and not with a timeout."""
    connection, stream = net.connect()
    stream.delay = math.inf

    async def close() -> None:
        await steps()
        await connection.aclose()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(close)
            with pytest.raises(failed) as caught:
                await use(connection, 5.0)
            assert type(caught.value) is failed
    assert connection.deadline == math.inf
    await net.deadlines.stop()


@pytest.mark.trio
async def test_a_wait_on_a_closed_connection(autojump_clock: trio.testing.MockClock, net: Net) -> None:
    """A closed connection is not watched, so that its waits, which fail by themselves, keep no task."""
    connection, _ = net.connect()
    await connection.aclose()
    with pytest.raises(httpx.ReadError):
        await connection.receive(5.0)
    assert (trio.current_time(), net.deadlines.watched) == (0.0, set())
