"""TLS in memory: a client and a server that talk through buffers, so that a test says when what arrives."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Protocol, cast

import pytest
import trustme


class _Configures(Protocol):
    """What is used of trustme's classes, which take contexts of pyOpenSSL as well."""

    def configure_cert(self, context: ssl.SSLContext, /) -> None: ...
    def configure_trust(self, context: ssl.SSLContext, /) -> None: ...


class End:
    """One end of a TLS connection.

    Attributes:
        incoming: what has come from the other end.
        outgoing: what goes there.
        tls: between them.
    """

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "example.org"
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server_side, server_hostname=name)

    def shake_hands(self) -> bool:
        """Go on with the handshake; say whether it is through."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def say_goodbye(self) -> None:
        """Send close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()


def carry(sender: End, receiver: End) -> bytes:
    """Carry over what one end has for the other; give it."""
    data = sender.outgoing.read()
    receiver.incoming.write(data)
    return data


def tls_pair(version: ssl.TLSVersion) -> tuple[End, End]:
    """Make a client and a server that have shaken hands; session tickets of TLS 1.3 have not been carried over yet."""
    client_context, server_context = _contexts()
    client_context.minimum_version = client_context.maximum_version = version
    client, server = End(client_context, server_side=False), End(server_context, server_side=True)
    while not client.shake_hands():
        carry(client, server)
        server.shake_hands()
        carry(server, client)
    carry(client, server)
    assert server.shake_hands()
    return client, server


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    certificate = ca.issue_cert("example.org", key_type=trustme.KeyType.ECDSA)
    client, server = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cast(_Configures, ca).configure_trust(client)
    cast(_Configures, certificate).configure_cert(server)
    return client, server
