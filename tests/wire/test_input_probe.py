"""input_probe(): whether something has arrived on a socket, with poll() and with select()."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from prefect_http._wire.input_probe import input_probe


class OnlySelect(ModuleType):
    """A select module as on Windows: without poll().

    Attributes:
        calls: the arguments of select().
        readable: what select() returns; None: what is true.
    """

    def __init__(self, readable: list[int] | None = None) -> None:
        super().__init__("select")
        self.calls: list[tuple[list[int], list[int], list[int], float]] = []
        self.readable = readable

    def select(
        self, read: list[int], write: list[int], exceptional: list[int], timeout: float
    ) -> tuple[list[int], list[int], list[int]]:
        self.calls.append((read, write, exceptional, timeout))
        return select.select(read, write, exceptional, timeout) if self.readable is None else (self.readable, [], [])


MODULES = pytest.mark.parametrize("module", [pytest.param(select, id="poll"), pytest.param(OnlySelect(), id="select")])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make the sockets of a client and of a server that are connected."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


@MODULES
def test_no_input(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A connection on which nothing has arrived is not readable, whatever was sent on it."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    assert [probe() for _ in range(3)] == [False] * 3
    client.send(b"request")
    server.recv(100)
    assert probe() is False


@MODULES
def test_input(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A byte makes it readable until it has been read; asking does not consume it."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    server.send(b"!")
    assert [probe(), probe()] == [True, True]
    assert client.recv(100) == b"!"
    assert probe() is False


def half_close(server: socket.socket) -> None:
    """Send the end of the stream, and still receive."""
    server.shutdown(socket.SHUT_WR)


@MODULES
@pytest.mark.parametrize("how", [socket.socket.close, half_close])
def test_end_of_the_stream(
    pair: tuple[socket.socket, socket.socket], module: ModuleType, how: Callable[[socket.socket], object]
) -> None:
    """The end of the stream makes it readable, also after data."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    server.send(b"!")
    how(server)
    assert probe() is True
    client.recv(100)
    assert probe() is True


@MODULES
def test_reset(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A connection that was reset is readable."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    client.send(b"never read")
    server.close()
    assert probe() is True


@MODULES
def test_closed_on_this_side(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A socket that was closed on this side counts as readable, and is not an error."""
    client, _ = pair
    probe = input_probe(client.fileno(), module)
    client.close()
    assert probe() is True


@pytest.mark.parametrize("readable", [[], [3]])
def test_how_select_is_asked(readable: list[int]) -> None:
    """Without poll(), select() is asked about the one socket, without waiting."""
    module = OnlySelect(readable)
    probe = input_probe(3, module)
    assert module.calls == []
    assert probe() is bool(readable)
    assert module.calls == [([3], [], [], 0)]


def test_each_socket_has_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    """A probe asks about its own socket only."""
    first, second = (input_probe(each.fileno()) for each in pair)
    pair[0].send(b"!")
    assert (first(), second()) == (False, True)
