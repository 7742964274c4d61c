"""TLS: whether it holds data, asked of a connection in memory; and the stream above it."""

from __future__ import annotations

import ssl

import pytest
from support.tls_ends import End, deliver, tls_pair

from prefect_http._wire.tls import has_early_tls_data, has_tls_input

# --- Input


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLSv1.2", "TLSv1.3"])
def ends(request: pytest.FixtureRequest) -> tuple[End, End]:
    """Make a client and a server that have shaken hands."""
    return tls_pair(request.param)


def test_no_input(ends: tuple[End, End]) -> None:
    """There is no input, however often that is asked; session tickets, and data that was read, are none."""
    client, server = ends
    assert [has_tls_input(client.tls) for _ in range(3)] == [False] * 3
    deliver(server, client)
    assert has_tls_input(client.tls) is False
    server.tls.write(b"an answer")
    deliver(server, client)
    assert client.tls.read(100) == b"an answer"
    assert has_tls_input(client.tls) is False


def test_asking_disturbs_nothing(ends: tuple[End, End]) -> None:
    """Asking disturbs nothing: both sides go on as before."""
    client, server = ends
    for _ in range(3):
        assert has_tls_input(client.tls) is False
        client.tls.write(b"question")
        deliver(client, server)
        assert server.tls.read(100) == b"question"
        server.tls.write(b"answer")
        deliver(server, client)
        assert client.tls.read(100) == b"answer"


def test_record(ends: tuple[End, End]) -> None:
    """A record that has arrived is input, though it has not been decrypted."""
    client, server = ends
    server.tls.write(b"!")
    deliver(server, client)
    assert has_tls_input(client.tls) is True


def test_rest_of_a_record(ends: tuple[End, End]) -> None:
    """The rest of a record that was read in part is input."""
    client, server = ends
    server.tls.write(b"an answer!")
    deliver(server, client)
    assert client.tls.read(9) == b"an answer"
    assert has_tls_input(client.tls) is True


@pytest.mark.parametrize("has_data", [False, True])
def test_close_notify(ends: tuple[End, End], has_data: bool) -> None:
    """A close_notify is input, with or without data before it."""
    client, server = ends
    if has_data:
        server.tls.write(b"an answer")
    server.send_close_notify()
    deliver(server, client)
    if has_data:
        assert client.tls.read(100) == b"an answer"
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_end_without_close_notify(ends: tuple[End, End]) -> None:
    """The end of the stream without a close_notify is input."""
    client, _ = ends
    client.incoming.write_eof()
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_nonsense(ends: tuple[End, End]) -> None:
    """Data that is not TLS is input."""
    client, _ = ends
    client.incoming.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert [has_tls_input(client.tls) for _ in range(2)] == [True, True]


def test_record_that_was_tampered_with(ends: tuple[End, End]) -> None:
    """A record that cannot be decrypted is input."""
    client, server = ends
    deliver(server, client)
    assert has_tls_input(client.tls) is False
    server.tls.write(b"an answer")
    record = bytearray(server.outgoing.read())
    record[-1] ^= 1
    client.incoming.write(record)
    assert has_tls_input(client.tls) is True


def test_alert(ends: tuple[End, End]) -> None:
    """An alert is input: the server has failed, and closes the connection."""
    client, server = ends
    server.incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError):
        server.tls.read(1)
    assert deliver(server, client)
    assert has_tls_input(client.tls) is True


def test_closed_on_this_side(ends: tuple[End, End]) -> None:
    """TLS that was ended on this side counts as having input."""
    client, _ = ends
    client.send_close_notify()
    client.incoming.write_eof()
    assert has_tls_input(client.tls) is True


def test_early_data(ends: tuple[End, End]) -> None:
    """Only data is early data: session tickets and the end of the stream are not."""
    client, server = ends
    assert has_early_tls_data(client.tls) is False
    deliver(server, client)
    assert has_early_tls_data(client.tls) is False
    server.tls.write(b"220")
    deliver(server, client)
    assert has_early_tls_data(client.tls) is True
    assert client.tls.read(9) == b"20"
    server.send_close_notify()
    deliver(server, client)
    assert has_early_tls_data(client.tls) is False
    client.incoming.write(b"220 smtp.example.org ESMTP")
    assert has_early_tls_data(client.tls) is False
