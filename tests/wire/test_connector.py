"""Connector: retries and timeouts in virtual time, and sockets over loopback."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
import trio
from support.fake_stream import FakeStream
from support.rows import each_row
from support.servers import answer, raw_server, refusing_port
from support.systems import needs_local_addresses
from support.tls_servers import client_context, listening
from trio.testing import MockClock

from prefect_http import HTTPTransport
from prefect_http._types import SocketOption
from prefect_http._wire.connector import Connector
from prefect_http._wire.openers import TcpOpener, UserOpener
from prefect_http._wire.origin import Origin
from prefect_http._wire.trace import Trace

HTTP = Origin(b"http", b"x.test", 80, "x.test")
HTTPS = Origin(b"https", b"x.test", 443, "x.test")


def local(port: int) -> Origin:
    """Make the origin of a server on this machine."""
    return Origin(b"http", b"127.0.0.1", port, "127.0.0.1")


REFUSED = ConnectionRefusedError(111, "Connection refused")


class Network:
    """A network whose connections take some time, and succeed or fail as scripted.

    Attributes:
        outcomes: what each connection comes to, in turn; the last one is repeated.
        delay: the number of seconds that each takes.
        calls: when each was started, and where it leads.
    """

    def __init__(self, *outcomes: anyio.abc.ByteStream | BaseException, delay: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.delay = delay
        self.calls: list[tuple[float, str, int]] = []

    async def connect(self, host: str, port: int) -> anyio.abc.ByteStream:
        """Connect."""
        outcome = self.outcomes[min(len(self.calls), len(self.outcomes) - 1)]
        self.calls.append((trio.current_time(), host, port))
        await anyio.sleep(self.delay)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def times(self) -> list[float]:
        """When each connection was started."""
        return [time for time, _, _ in self.calls]


def new_connector(
    network: Network | None = None, *, retries: int = 0, options: tuple[SocketOption, ...] = ()
) -> Connector:
    """Make a connector, on a fake network if one is given."""
    opener = TcpOpener(socket_options=options) if network is None else UserOpener(network.connect)
    return Connector(ssl_context=client_context(), opener=opener, retries=retries)


def tracing(events: list[tuple[float, str, Mapping[str, Any]]]) -> Trace:
    """Make a trace that keeps the events and their times."""

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        await anyio.lowlevel.checkpoint()
        events.append((trio.current_time(), name, info))

    made = Trace.of(httpx.Request("GET", "http://x.test/", extensions={"trace": trace}))
    assert made is not None
    return made


# --- Retries


@pytest.mark.trio
@pytest.mark.parametrize(
    ("retries", "times"),
    [(0, [0]), (1, [0, 0]), (2, [0, 0, 0.5]), (4, [0, 0, 0.5, 1.5, 3.5]), (5, [0, 0, 0.5, 1.5, 3.5, 7.5])],
)
async def test_waits_between_retries(retries: int, times: list[float], autojump_clock: MockClock) -> None:
    """Attempts follow each other after 0, 0.5, 1, 2, ... seconds, and the last error is raised."""
    network = Network(REFUSED)
    with pytest.raises(httpx.ConnectError, match=r"could not connect to x\.test:80: .*refused"):
        await new_connector(network, retries=retries).connect(HTTP, 5, None)
    assert network.times == times
    assert trio.current_time() == times[-1]
    assert {call[1:] for call in network.calls} == {("x.test", 80)}


@pytest.mark.trio
async def test_retry_that_succeeds(autojump_clock: MockClock) -> None:
    """The first connection that can be opened is returned, and no other is opened."""
    stream = FakeStream()
    network = Network(REFUSED, TimeoutError(), stream, REFUSED)
    assert await new_connector(network, retries=5).connect(HTTP, 5, None) is stream
    assert network.times == [0, 0, 0.5]
    assert stream.closings == 0


@pytest.mark.trio
async def test_timeouts_are_retried(autojump_clock: MockClock) -> None:
    """An attempt that times out is retried, and each attempt has all of the timeout."""
    network = Network(FakeStream(), delay=math.inf)
    with pytest.raises(httpx.ConnectTimeout, match="within 2 s"):
        await new_connector(network, retries=2).connect(HTTP, 2, None)
    assert network.times == [0, 2, 4.5]
    assert trio.current_time() == 6.5


@pytest.mark.trio
async def test_handshakes_are_retried(autojump_clock: MockClock) -> None:
    """A failed handshake is retried on a new connection, and the old ones are closed."""
    streams = [FakeStream(anyio.EndOfStream()) for _ in range(3)]
    network = Network(*streams)
    with pytest.raises(httpx.ConnectError):
        await new_connector(network, retries=2).connect(HTTPS, 2, None)
    assert network.times == [0, 0, 0.5]
    assert [stream.closings for stream in streams] == [1, 1, 1]


@pytest.mark.trio
@pytest.mark.parametrize("error", [KeyError("a bug"), httpx.ReadError("no"), KeyboardInterrupt()], ids=repr)
async def test_other_errors_are_not_retried(error: BaseException, autojump_clock: MockClock) -> None:
    """Other exceptions are raised unchanged, at once."""
    network = Network(error)
    with pytest.raises(type(error)) as caught:
        await new_connector(network, retries=5).connect(HTTP, 5, None)
    assert caught.value is error
    assert network.times == [0]


@pytest.mark.trio
async def test_a_cancelled_wait(autojump_clock: MockClock) -> None:
    """A cancellation ends the wait for the next attempt."""
    network = Network(REFUSED)
    with trio.move_on_after(3) as scope:
        await new_connector(network, retries=50).connect(HTTP, 5, None)
    assert scope.cancelled_caught
    assert network.times == [0, 0, 0.5, 1.5]
    assert trio.current_time() == 3


@pytest.mark.trio
async def test_the_events_of_a_retry(autojump_clock: MockClock) -> None:
    """Each attempt and each wait has events for its start and its end."""
    events: list[tuple[float, str, Mapping[str, Any]]] = []
    network = Network(REFUSED, REFUSED, FakeStream(), delay=1)
    await new_connector(network, retries=2).connect(HTTP, 5, tracing(events))
    assert [(time, name.removeprefix("connection.")) for time, name, _ in events] == [
        (0, "connect_tcp.started"),
        (1, "connect_tcp.failed"),
        (1, "retry.started"),
        (1, "retry.complete"),
        (1, "connect_tcp.started"),
        (2, "connect_tcp.failed"),
        (2, "retry.started"),
        (2.5, "retry.complete"),
        (2.5, "connect_tcp.started"),
        (3.5, "connect_tcp.complete"),
    ]
    assert [info["return_value"] for _, name, info in events if name == "connection.retry.complete"] == [None, None]


# --- Timeouts


@pytest.mark.trio
async def test_tcp_takes_too_long(autojump_clock: MockClock) -> None:
    """A connection that takes longer than the timeout is a ConnectTimeout, exactly then."""
    with pytest.raises(httpx.ConnectTimeout, match=r"could not connect to x\.test:80 within 2\.5 s"):
        await new_connector(Network(FakeStream(), delay=3)).connect(HTTP, 2.5, None)
    assert trio.current_time() == 2.5


@pytest.mark.trio
@pytest.mark.parametrize("is_traced", [False, True])
async def test_tls_has_a_limit_of_its_own(is_traced: bool, autojump_clock: MockClock) -> None:
    """TCP and TLS have the whole timeout each; if the handshake takes longer, the connection is closed."""
    stream = FakeStream()
    events: list[tuple[float, str, Mapping[str, Any]]] = []
    with pytest.raises(httpx.ConnectTimeout, match=r"could not complete the TLS handshake with x\.test:\d+ within 5 s"):
        await new_connector(Network(stream, delay=4)).connect(HTTPS, 5, tracing(events) if is_traced else None)
    assert trio.current_time() == 9
    assert stream.closings == 1
    assert [(time, name) for time, name, _ in events][-1:] == (
        [(9, "connection.start_tls.failed")] if is_traced else []
    )


@pytest.mark.trio
async def test_no_limit(autojump_clock: MockClock) -> None:
    """With a timeout of None there is no limit."""
    stream = FakeStream()
    assert await new_connector(Network(stream, delay=1e6)).connect(HTTP, None, None) is stream


@pytest.mark.trio
async def test_a_cancelled_handshake(autojump_clock: MockClock) -> None:
    """A cancellation during the handshake closes the connection."""
    stream = FakeStream()
    with trio.move_on_after(1) as scope:
        await new_connector(Network(stream), retries=5).connect(HTTPS, 5, None)
    assert scope.cancelled_caught
    assert stream.closings == 1


# --- Sockets


def _ended(stream: anyio.abc.ByteStream) -> Any:
    return stream.extra(anyio.abc.SocketAttribute.raw_socket)


@pytest.mark.anyio
async def test_socket_options() -> None:
    """The options are set, in each form, in addition to TCP_NODELAY."""
    options: tuple[SocketOption, ...] = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, (7).to_bytes(4, "little")),
    )
    async with listening(_wait) as port:
        origin = local(port)
        async with await new_connector(options=options).connect(origin, 5, None) as stream:
            raw_socket = _ended(stream)
            assert raw_socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 7
            assert raw_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def _wait(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        while True:
            await stream.receive()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("option", "error"),
    [((socket.SOL_SOCKET, 9999, 1), httpx.ConnectError), ((socket.SOL_SOCKET, "nonsense", 1), TypeError)],
    ids=["unknown", "wrong"],
)
async def test_an_option_that_cannot_be_set(option: Any, error: type[Exception]) -> None:
    """If an option cannot be set, the connection is closed."""
    is_closed = anyio.Event()

    async def serve(stream: anyio.abc.ByteStream) -> None:
        try:
            await _wait(stream)
        finally:
            is_closed.set()

    async with listening(serve) as port:
        with pytest.raises(error):
            await new_connector(options=(option,)).connect(local(port), 5, None)
        with anyio.fail_after(5):
            await is_closed.wait()


@pytest.mark.anyio
@needs_local_addresses
async def test_the_local_address() -> None:
    """Connections come from local_address."""
    async with raw_server(answer()) as server:
        async with httpx.AsyncClient(transport=HTTPTransport(verify=False, local_address="127.0.0.2")) as client:
            response = await client.get(server.url)
        assert response.extensions["network_stream"] is not None
    async with listening(_wait) as port:
        connector = Connector(ssl_context=client_context(), opener=TcpOpener("127.0.0.3"))
        async with await connector.connect(local(port), 5, None) as stream:
            assert stream.extra(anyio.abc.SocketAttribute.local_address)[0] == "127.0.0.3"


@pytest.mark.anyio
@each_row("host", [b"127.0.0.1", b"name.invalid", b"x" * 64 + b".invalid", b"a..invalid", b"256.256.256.256"])
async def test_hosts_that_do_not_exist(host: bytes) -> None:
    """A host that cannot be reached, or does not exist, is a ConnectError."""
    with anyio.fail_after(5), pytest.raises(httpx.ConnectError):
        await new_connector().connect(Origin(b"http", host, refusing_port(), host.decode()), 5, None)
