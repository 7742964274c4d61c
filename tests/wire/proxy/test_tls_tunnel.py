"""TLSTunnel: what has arrived at a tunnel within TLS is seen without waiting, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from anyio.abc import ByteStream
from support.fake_stream import FakeStream
from support.tls_ends import deliver, tls_pair
from support.tls_servers import TLS_1_2, TLS_1_3

from prefect_http._concurrency.socket_attributes import InputAttribute
from prefect_http._wire.connection import Connection
from prefect_http._wire.input_probe import input_probe_of
from prefect_http._wire.proxy.tls_tunnel import TLSTunnel
from prefect_http._wire.timeouts import TimeoutWatcher
from prefect_http._wire.tls import TLSStream

pytestmark = pytest.mark.anyio


class Buffered(FakeStream):
    """A stream that shows what it has buffered."""

    buffered: bytes | None = None

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {InputAttribute.peek: lambda: lambda: self.buffered}


def has_input(stream: ByteStream) -> bool:
    """Return whether a stream has input."""
    return input_probe_of(stream, without_socket=False)()


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
async def test_input(version: Any) -> None:
    """Data that TLS has received makes the connection useless while it is idle, and so does the end of TLS."""
    for end in (False, True):
        client, server = tls_pair(version)
        deliver(server, client)  # the session tickets
        stream = TLSTunnel(TLSStream(FakeStream(), client.tls, client.incoming, client.outgoing))
        assert not has_input(stream)
        if end:
            server.send_close_notify()
        else:
            server.tls.write(b"data")
        deliver(server, client)
        assert has_input(stream)


async def test_input_below() -> None:
    """So does what the stream below holds."""
    client, server = tls_pair(TLS_1_3)
    deliver(server, client)
    below = Buffered()
    stream = TLSTunnel(TLSStream(below, client.tls, client.incoming, client.outgoing))
    connection = Connection(stream, "x:443", TimeoutWatcher(), lambda: 0.0, 1000)
    assert not connection.is_stale()
    below.buffered = b""
    assert has_input(stream)
    assert connection.is_stale()


async def test_looking_takes_nothing_away() -> None:
    """What has been looked at is received afterwards: `is_readable` may be asked while another protocol is spoken."""
    client, server = tls_pair(TLS_1_3)
    server.tls.write(b"hello")
    stream = TLSTunnel(TLSStream(FakeStream(server.outgoing.read()), client.tls, client.incoming, client.outgoing))
    assert await stream.receive(2) == b"he"
    assert [has_input(stream) for _ in range(3)] == [True] * 3
    assert await stream.receive() + await stream.receive() == b"llo"
    assert not has_input(stream)


async def test_bytes() -> None:
    """What is sent and received passes through, and closing closes the stream below."""
    client, server = tls_pair(TLS_1_3)
    server.tls.write(b"hello")
    below = FakeStream(server.outgoing.read())
    stream = TLSTunnel(TLSStream(below, client.tls, client.incoming, client.outgoing))
    assert await stream.receive() == b"hello"
    await stream.send(b"world")
    server.incoming.write(b"".join(below.sent))
    assert server.tls.read() == b"world"
    with pytest.raises(NotImplementedError):
        await stream.send_eof()
    await stream.aclose()
    assert below.closings == 1
