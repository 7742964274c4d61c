"""The socket below a stream, asked directly."""

from __future__ import annotations

import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute
from support.fake_stream import FakeStream

from prefect_http._concurrency.socket_attributes import InputAttribute
from prefect_http._wire import openers
from prefect_http._wire.connection import Connection
from prefect_http._wire.connector import Connector
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.origin import Origin
from prefect_http._wire.raw_socket import close_without_loop, has_early_data, is_unconnected, raw_socket_of
from prefect_http._wire.timeouts import TimeoutWatcher


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make two sockets that are connected."""
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_early_data(pair: tuple[socket.socket, socket.socket]) -> None:
    """Data that has arrived is seen, and stays to be read; the end of the stream and an error are not data."""
    one, other = pair
    one.settimeout(5)
    assert not has_early_data(one)
    other.send(b"220")
    assert has_early_data(one)
    assert one.recv(9) == b"220"
    other.close()
    assert not has_early_data(one)
    one.close()
    assert not has_early_data(one)


def test_closing_without_a_loop(pair: tuple[socket.socket, socket.socket]) -> None:
    """The socket is closed; asyncio's, which has no such method, is shut down; a closed one stays so."""
    one, other = pair
    other.settimeout(5)
    close_without_loop(cast(socket.socket, TransportSocket(one)))
    assert other.recv(1) == b""
    assert one.fileno() >= 0
    for _ in range(2):
        close_without_loop(one)
        assert one.fileno() < 0


def test_abandoned_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    """A connection can be given up without an event loop, whether it still has a socket or not."""
    sockets: list[socket.socket | None] = [pair[0]]

    class Losing(FakeStream):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            return {SocketAttribute.raw_socket: lambda: sockets[0]}

    for _ in range(2):
        connection = Connection(Losing(), "x:80", TimeoutWatcher(), lambda: 0.0, 100)
        connection.abandon()
        assert connection.is_closed
        sockets[0] = None
    assert pair[0].fileno() < 0


class Reset(FakeStream):
    """What anyio makes of a connection that uvloop has lost already: it asks None for its address."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")


class Lost(FakeStream):
    """A stream whose socket is gone."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: None}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Reset, Lost, FakeStream])
async def test_socket_that_is_gone(kind: type[FakeStream], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is reset before it can be used is a ConnectError, and is closed."""
    stream = kind()
    assert raw_socket_of(stream) is None
    assert NetworkStream(stream).get_extra_info("is_readable") is True
    assert NetworkStream(stream).get_extra_info("socket") is None

    async def connect(*_: object, **__: object) -> ByteStream:
        return stream

    monkeypatch.setattr(openers, "connect_tcp", connect)
    with pytest.raises(httpx.ConnectError, match=r"could not connect to x:80: .*reset by peer"):
        await Connector().connect(Origin(b"http", b"x", 80, "x"), 5, None)
    assert stream.closings == 1


def test_connection_that_is_gone_later() -> None:
    """A connection whose socket is gone once it is open cannot be used, and has no data."""
    for kind in Lost, FakeStream:
        connection = Connection(kind(), "x:80", TimeoutWatcher(), lambda: 0.0, 100)
        assert connection.has_early_data() is False


def test_connection_that_is_gone_just_now(pair: tuple[socket.socket, socket.socket]) -> None:
    """So does one whose socket is lost just when it is asked."""
    sockets: list[socket.socket | None] = [pair[0]]

    class Losing(FakeStream):
        @property
        def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
            return {SocketAttribute.raw_socket: lambda: sockets[0]}

    connection = Connection(Losing(), "x:80", TimeoutWatcher(), lambda: 0.0, 100)
    pair[1].send(b"220")
    assert connection.has_early_data() is True
    sockets[0] = cast(Any, None)
    assert connection.has_early_data() is False


class Reading(FakeStream):
    """A stream of which the event loop has read something."""

    def __init__(self, raw_socket: socket.socket, data: bytes) -> None:
        super().__init__()
        self.raw_socket, self.read_ahead = raw_socket, data

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self.raw_socket, InputAttribute.peek: lambda: self.peek}

    def peek(self) -> bytes:
        """Return what the event loop has read."""
        return self.read_ahead


def test_early_data_that_the_loop_has_read(pair: tuple[socket.socket, socket.socket]) -> None:
    """Data that the event loop has read already is early data; the end of the stream is not."""
    for data in b"220", b"":
        connection = Connection(Reading(pair[0], data), "x:80", TimeoutWatcher(), lambda: 0.0, 100)
        assert connection.is_stale()
        assert connection.has_early_data() is bool(data)


def test_a_stream_without_a_socket_is_not_unconnected() -> None:
    """A stream that has been closed by the time it is asked has been connected."""
    assert not is_unconnected(FakeStream())
