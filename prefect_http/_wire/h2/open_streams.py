"""OpenStreams: the streams of a connection, from their opening to their end. Pure. RFC 9113 section 5.1.

A stream is open until its request and its response are complete, or until it is reset. Then it is forgotten: what
comes late for its number is told from what comes for a stream that never was.
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_http._wire.h2.errors import ConnectionFault
from prefect_http._wire.h2.response import check_end
from prefect_http._wire.h2.stream import Stream

MAX_STREAM_ID = 2**31 - 1


class OpenStreams:
    """The streams that are open, and which of them have changed.

    Attributes:
        by_id: the streams.
        last_id: the number of the last one that was opened; -1: none was.
    """

    __slots__ = ("_changed", "by_id", "last_id")

    def __init__(self) -> None:
        self.by_id: dict[int, Stream] = {}
        self.last_id = -1  # so that the first is 1
        self._changed: list[Stream] = []

    @property
    def are_used_up(self) -> bool:
        """Whether there is no number left for another stream."""
        return self.last_id + 2 > MAX_STREAM_ID

    def open(self, method: bytes, send_window: int, receive_window: int, wake: Callable[[], object]) -> Stream:
        """Open the next stream."""
        self.last_id += 2
        stream = self.by_id[self.last_id] = Stream(self.last_id, method, send_window, receive_window, wake)
        return stream

    def above(self, last_id: int) -> list[Stream]:
        """Return the streams with higher numbers."""
        return [stream for stream in self.by_id.values() if stream.id > last_id]

    def check_late(self, stream_id: int) -> None:
        """Check that there was such a stream.

        Raises:
            ConnectionFault: there was not.
        """
        if stream_id & 1 == 0 or stream_id > self.last_id:
            raise ConnectionFault("the server sent a frame for a stream that does not exist")

    # --- Changes

    def mark_changed(self, stream: Stream) -> None:
        """Add a stream to those that have changed."""
        if not stream.is_changed:
            stream.is_changed = True
            self._changed.append(stream)

    def take_changed(self) -> list[Stream]:
        """Return the streams that have changed since the last time, each once; those cancelled are left out."""
        if not self._changed:
            return []
        changed = [stream for stream in self._changed if stream.is_changed]
        self._changed = []
        for stream in changed:
            stream.is_changed = False
        return changed

    # --- Ends

    def end_request(self, stream: Stream) -> None:
        """Note that all of a request has been framed."""
        stream.is_request_complete = True
        if stream.is_complete:
            del self.by_id[stream.id]

    def end_response(self, stream: Stream) -> None:
        """Note that all of a response has arrived.

        Raises:
            StreamError: it is too short.
        """
        check_end(stream)
        stream.is_complete = True
        if stream.is_request_complete:
            del self.by_id[stream.id]

    def forget(self, stream: Stream) -> None:
        """Remove a stream that was reset, or whose connection has ended."""
        del self.by_id[stream.id]
        stream.is_request_complete = True
