"""BodyQueue: which request body is sent next, and how much of it. Pure. RFC 9113 sections 5.2 and 6.9.

- Never more than the stream's window, the connection's window, and the largest frame that the server takes.
- Streams take turns, a frame at a time. So a large upload does not hold up a small one.
- A window may be negative: the server has lowered it, and what was sent before counts. Nothing is sent then.
- A stream whose window is used up leaves the queue, and holds up no other.
- Bodies are framed only when they can be written. Whatever else is to be sent meanwhile goes ahead of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from prefect_http._wire.h2.frames import DATA, END_STREAM, MAX_FRAME_BYTES, frame_head
from prefect_http._wire.h2.settings import DEFAULT_WINDOW
from prefect_http._wire.h2.stream import Stream

# A server may take frames of up to 16 MiB, but turns as long as that would not be fair.
MAX_TURN_BYTES = 64 * 1024

_NOTHING = memoryview(b"")


class BodyQueue:
    """The request bodies that wait to be sent.

    Attributes:
        window: how many bytes the server accepts on the connection.
        max_frame: the largest payload of DATA to send.
    """

    __slots__ = ("_ready", "max_frame", "window")

    def __init__(self) -> None:
        self._ready: deque[Stream] = deque()  # each can send, if the connection's window allows it
        self.window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME_BYTES

    def __bool__(self) -> bool:
        """Whether anything can be sent now."""
        return bool(self._ready) and self.window > 0

    def add(self, stream: Stream, data: bytes) -> None:
        """Queue a part of a body after the parts that are queued already."""
        if stream.unsent:
            data = bytes(stream.outgoing) + data
        stream.outgoing = memoryview(data)
        stream.unsent = len(data)
        self.update(stream)

    def update(self, stream: Stream) -> None:
        """Note that the window of a stream has changed, or its body."""
        if stream.unsent and stream.send_window > 0:
            if not stream.is_queued:
                stream.is_queued = True
                self._ready.append(stream)
        elif stream.is_queued:
            stream.is_queued = False
            self._ready.remove(stream)

    def update_all(self, streams: Iterable[Stream]) -> None:
        """Note that the windows of all streams have changed; those that can still send keep their turns."""
        queued = [stream for stream in self._ready if stream.send_window > 0]
        for stream in self._ready:
            stream.is_queued = stream.send_window > 0
        self._ready = deque(queued)
        for stream in streams:
            self.update(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what is queued of a body."""
        stream.outgoing, stream.unsent = _NOTHING, 0
        self.update(stream)

    def frame_into(self, out: bytearray, max_body: int) -> list[Stream]:
        """Add frames to what is to be sent.

        Args:
            out: what is to be sent.
            max_body: after how many bytes to stop; the last frame may go beyond.

        Returns:
            The streams whose queued data has all been framed.
        """
        ready = self._ready
        emptied: list[Stream] = []  # list[Stream]() would take 1.4 us
        while ready and self.window > 0 and max_body > 0:
            stream = ready.popleft()
            size = min(stream.unsent, stream.send_window, self.window, self.max_frame)
            stream.unsent -= size
            stream.send_window -= size
            self.window -= size
            max_body -= size
            flags = END_STREAM if stream.ends_request and not stream.unsent else 0
            out += frame_head(size, DATA, flags, stream.id)
            out += stream.outgoing[:size]
            stream.outgoing = stream.outgoing[size:]
            if not stream.unsent:
                stream.outgoing = _NOTHING
                emptied.append(stream)
            if stream.unsent and stream.send_window > 0:
                ready.append(stream)
            else:
                stream.is_queued = False
        return emptied
