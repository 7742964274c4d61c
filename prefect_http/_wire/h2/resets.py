"""Resets: the streams that this side has reset, and when they stop counting as open. Pure.

To a server, a client that opens streams and resets them at once is an attack (CVE-2023-44487): a reset stream is free
to the client, but the server may still be at work on it. So a reset stream counts as open until the server has
answered a PING that was sent after the reset. Only one PING is in flight; streams that are reset meanwhile wait for
the next one. Servers count resets as well, and end the connection: so it takes no new streams before they do.
"""

from __future__ import annotations

from prefect_http._wire.h2.frames import ACK, PING, frame_head

MAX_RESETS = 1_000

_PING = frame_head(8, PING, 0, 0)
_PING_ACK = frame_head(8, PING, ACK, 0)


class Resets:
    """Counts resets, and asks the server with a PING whether it has seen them.

    Attributes:
        unconfirmed: how many reset streams count as open.
        is_ping_pending: whether a PING has not been answered.
    """

    __slots__ = ("_asked", "_number", "_total", "is_ping_pending", "unconfirmed")

    def __init__(self) -> None:
        self.unconfirmed = 0
        self.is_ping_pending = False
        self._asked = 0  # how many of the unconfirmed the pending PING is about
        self._number = 0  # of the last PING
        self._total = 0

    @property
    def are_too_many(self) -> bool:
        """Whether the connection should take no new streams."""
        return self._total >= MAX_RESETS

    def add(self) -> bytes:
        """Count a stream that was reset, and return what is to be sent after the reset."""
        self._total += 1
        self.unconfirmed += 1
        return self.ping()

    def ping(self) -> bytes:
        """Return a PING; nothing if one is pending."""
        if self.is_ping_pending:
            return b""
        self.is_ping_pending = True
        self._asked = self.unconfirmed
        self._number += 1
        return _PING + self._number.to_bytes(8)

    def acknowledged(self, payload: bytes) -> bytes:
        """Note that a PING was answered, and return what is to be sent; an answer to no PING means nothing."""
        if not self.is_ping_pending or payload != self._number.to_bytes(8):
            return b""
        self.is_ping_pending = False
        self.unconfirmed -= self._asked
        return self.ping() if self.unconfirmed else b""


def ping_answer(payload: bytes) -> bytes:
    """Return the answer to a PING of the server."""
    return _PING_ACK + payload
