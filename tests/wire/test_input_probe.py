"""Whether something has come on an idle connection: of a socket, with poll() or with select(), and of TLS in memory."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from support.tls_ends import End, carry, tls_pair

from prefect_http._wire.input_probe import has_plain_input, input_probe


class OnlySelect(ModuleType):
    """A select module as Windows has it: without poll().

    Attributes:
        calls: what select() was asked.
        readable: what it says; None: what is true.
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
    """Make a client's and a server's socket that are connected."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


# --- Sockets


@MODULES
def test_nothing_has_come(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A connection on which nothing has come since is fine, however often it is asked, and whatever was sent."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    assert [probe() for _ in range(3)] == [False] * 3
    client.send(b"request")
    server.recv(100)
    assert probe() is False


@MODULES
def test_something_has_come(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A byte is noticed until it has been read; asking leaves it there."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    server.send(b"!")
    assert [probe(), probe()] == [True, True]
    assert client.recv(100) == b"!"
    assert probe() is False


def half_close(server: socket.socket) -> None:
    """Send the end, and still receive."""
    server.shutdown(socket.SHUT_WR)


@MODULES
@pytest.mark.parametrize("how", [socket.socket.close, half_close])
def test_the_end_has_come(
    pair: tuple[socket.socket, socket.socket], module: ModuleType, how: Callable[[socket.socket], object]
) -> None:
    """The end is noticed as well, also behind data."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    server.send(b"!")
    how(server)
    assert probe() is True
    client.recv(100)
    assert probe() is True


@MODULES
def test_it_was_reset(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A connection that was reset has nothing more to read but that."""
    client, server = pair
    probe = input_probe(client.fileno(), module)
    client.send(b"never read")
    server.close()
    assert probe() is True


@MODULES
def test_it_is_closed(pair: tuple[socket.socket, socket.socket], module: ModuleType) -> None:
    """A socket that has been closed on this side is one to be dropped like those, and no error."""
    client, _ = pair
    probe = input_probe(client.fileno(), module)
    client.close()
    assert probe() is True


@pytest.mark.parametrize("readable", [[], [3]])
def test_how_select_is_asked(readable: list[int]) -> None:
    """Where there is no poll(), select() is asked for the one socket, without waiting."""
    module = OnlySelect(readable)
    probe = input_probe(3, module)
    assert module.calls == []
    assert probe() is bool(readable)
    assert module.calls == [([3], [], [], 0)]


def test_each_socket_has_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    """A probe looks at one socket, and at no other."""
    first, second = (input_probe(each.fileno()) for each in pair)
    pair[0].send(b"!")
    assert (first(), second()) == (False, True)


# --- TLS


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
def ends(request: pytest.FixtureRequest) -> tuple[End, End]:
    """Make a client and a server that have shaken hands."""
    return tls_pair(request.param)


def test_tls_without_input(ends: tuple[End, End]) -> None:
    """Nothing has come, however often that is asked; session tickets and what was read are nothing."""
    client, server = ends
    assert [has_plain_input(client.tls) for _ in range(3)] == [False] * 3
    carry(server, client)
    assert has_plain_input(client.tls) is False
    server.tls.write(b"an answer")
    carry(server, client)
    assert client.tls.read(100) == b"an answer"
    assert has_plain_input(client.tls) is False


def test_tls_that_goes_on(ends: tuple[End, End]) -> None:
    """Asking disturbs nothing: both sides go on as before."""
    client, server = ends
    for _ in range(3):
        assert has_plain_input(client.tls) is False
        client.tls.write(b"question")
        carry(client, server)
        assert server.tls.read(100) == b"question"
        server.tls.write(b"answer")
        carry(server, client)
        assert client.tls.read(100) == b"answer"


def test_tls_with_a_record_that_nobody_has_read(ends: tuple[End, End]) -> None:
    """A record that has come counts, though it has not been decrypted."""
    client, server = ends
    server.tls.write(b"!")
    carry(server, client)
    assert has_plain_input(client.tls) is True


def test_tls_with_the_rest_of_a_record(ends: tuple[End, End]) -> None:
    """What is left of a record that was decrypted and read in part counts."""
    client, server = ends
    server.tls.write(b"an answer!")
    carry(server, client)
    assert client.tls.read(9) == b"an answer"
    assert has_plain_input(client.tls) is True


@pytest.mark.parametrize("has_data", [False, True])
def test_tls_whose_server_says_goodbye(ends: tuple[End, End], has_data: bool) -> None:
    """The proper end of TLS counts, with or without something before it."""
    client, server = ends
    if has_data:
        server.tls.write(b"an answer")
    server.say_goodbye()
    carry(server, client)
    if has_data:
        assert client.tls.read(100) == b"an answer"
    assert [has_plain_input(client.tls) for _ in range(2)] == [True, True]


def test_tls_that_breaks_off(ends: tuple[End, End]) -> None:
    """The end without a goodbye counts."""
    client, _ = ends
    client.incoming.write_eof()
    assert [has_plain_input(client.tls) for _ in range(2)] == [True, True]


def test_tls_with_nonsense(ends: tuple[End, End]) -> None:
    """What is no TLS counts."""
    client, _ = ends
    client.incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert [has_plain_input(client.tls) for _ in range(2)] == [True, True]


def test_tls_with_a_record_that_was_tampered_with(ends: tuple[End, End]) -> None:
    """A record that does not decrypt counts."""
    client, server = ends
    carry(server, client)
    assert has_plain_input(client.tls) is False
    server.tls.write(b"an answer")
    record = bytearray(server.outgoing.read())
    record[-1] ^= 1
    client.incoming.write(record)
    assert has_plain_input(client.tls) is True


def test_tls_with_an_alert(ends: tuple[End, End]) -> None:
    """An alert of the server counts: it has met with an error, and closes the connection."""
    client, server = ends
    server.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        server.tls.read(1)
    assert carry(server, client)
    assert has_plain_input(client.tls) is True


def test_tls_that_was_closed(ends: tuple[End, End]) -> None:
    """TLS that was ended from this side is one to be dropped."""
    client, _ = ends
    client.say_goodbye()
    client.incoming.write_eof()
    assert has_plain_input(client.tls) is True
