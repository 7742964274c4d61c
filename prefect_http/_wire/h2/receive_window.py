"""ReceiveWindow: how much the server may send. Pure. RFC 9113 sections 5.2 and 6.9.

The connection's window is given back when bytes arrive, a stream's when they are taken, both in halves of the window.
So a stream that is not read holds up no other, and what it can fill the memory with is limited.
"""

from __future__ import annotations

from prefect_http._wire.h2.frames import window_update
from prefect_http._wire.h2.settings import CONNECTION_WINDOW, STREAM_WINDOW
from prefect_http._wire.h2.stream import Stream

_STREAM_HALF = STREAM_WINDOW // 2
_CONNECTION_HALF = CONNECTION_WINDOW // 2


class ReceiveWindow:
    """What has arrived, and what the server has been told of it."""

    __slots__ = ("_arrived",)

    def __init__(self) -> None:
        self._arrived = 0  # bytes on the connection that the server has not been told of

    def arrived(self, size: int) -> bytes:
        """Count a payload of DATA, padding included, and return what is to be sent."""
        self._arrived += size
        if self._arrived < _CONNECTION_HALF:
            return b""
        size, self._arrived = self._arrived, 0
        return window_update(0, size)

    def taken(self, stream: Stream, size: int) -> bytes:
        """Note that so much has been taken of what a stream has received, and return what is to be sent."""
        stream.receive_credit += size
        if stream.receive_credit < _STREAM_HALF:
            return b""
        size, stream.receive_credit = stream.receive_credit, 0
        stream.receive_window += size
        return window_update(stream.id, size)
