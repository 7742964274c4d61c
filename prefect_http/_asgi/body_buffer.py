"""BodyBuffer: what an app has sent, and nobody has read yet."""

from __future__ import annotations

from collections import deque

from prefect_http._concurrency.repeated_event import RepeatedEvent


class BodyBuffer:
    """A queue of parts of a body, bounded by their bytes.

    Attributes:
        limit: how many bytes it holds before it is full; one chunk may go beyond.
        size: how many bytes it holds.
    """

    __slots__ = ("_chunks", "_room", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunks: deque[bytes] = deque()
        self.size = 0
        self._room = RepeatedEvent()

    def __bool__(self) -> bool:
        return bool(self._chunks)

    @property
    def is_full(self) -> bool:
        """Whether more should wait."""
        return self.size > self.limit

    def put(self, chunk: bytes) -> None:
        """Add a chunk at the end."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def take(self) -> bytes:
        """Take the first chunk."""
        chunk = self._chunks.popleft()
        was_full = self.is_full
        self.size -= len(chunk)
        if was_full and not self.is_full:
            self._room.notify()
        return chunk

    def take_all(self) -> bytes:
        """Take all chunks, as one."""
        chunk = b"".join(self._chunks)
        self.clear()
        return chunk

    def clear(self) -> None:
        """Throw all chunks away."""
        self._chunks.clear()
        self.size = 0
        self._room.notify()

    async def wait_for_room(self) -> None:
        """Wait until it is not full any more."""
        while self.is_full:
            await self._room.wait()
