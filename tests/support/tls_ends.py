"""TLS in memory: a client and a server that talk through buffers, so that a test decides what arrives when."""

from __future__ import annotations

import ssl
from functools import cache

import pytest

from support.tls_servers import client_context, server_context


class End:
    """One end of a TLS connection.

    Attributes:
        incoming: what has arrived from the other end.
        outgoing: what is to be sent to it.
        tls: TLS between the two.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def shake_hands(self) -> bool:
        """Continue the handshake, and return whether it is complete."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def send_close_notify(self) -> None:
        """Send close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()


def deliver(sender: End, receiver: End) -> bytes:
    """Deliver what one end has sent to the other, and return it."""
    data = sender.outgoing.read()
    receiver.incoming.write(data)
    return data


def tls_pair(version: ssl.TLSVersion) -> tuple[End, End]:
    """Make a client and a server that have shaken hands; the session tickets of TLS 1.3 have not been delivered yet."""
    client_end, server_end = _contexts(version)
    client, server = End(client_end, server_side=False), End(server_end, server_side=True)
    while not client.shake_hands():
        deliver(client, server)
        server.shake_hands()
        deliver(server, client)
    deliver(client, server)
    assert server.shake_hands()
    return client, server


@cache
def _contexts(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return client_context(), server_context(version=version)
