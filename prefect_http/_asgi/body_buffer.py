"""BodyBuffer: what an app has sent of a response body, and its reader has not read yet."""

from __future__ import annotations

from collections import deque

from prefect_http._concurrency.repeated_event import RepeatedEvent


class BodyBuffer:
    """A queue of chunks of a body, bounded by their total size.

    Args:
        limit: how many bytes it holds before it is full. The chunk that makes it full may exceed the limit.

    Attributes:
        size: how many bytes it holds.
    """

    __slots__ = ("_chunks", "_limit", "_room", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self.size = 0
        self._room = RepeatedEvent()

    def __bool__(self) -> bool:
        return bool(self._chunks)

    @property
    def is_full(self) -> bool:
        """Whether the writer should wait before it adds more."""
        return self.size > self._limit

    def put(self, chunk: bytes) -> None:
        """Add a chunk at the end."""
        self._chunks.append(chunk)
        self.size += len(chunk)

    def take(self) -> bytes:
        """Remove and return the first chunk.

        Raises:
            IndexError: the buffer is empty.
        """
        chunk = self._chunks.popleft()
        was_full = self.is_full
        self.size -= len(chunk)
        if was_full and not self.is_full:
            self._room.notify()
        return chunk

    def clear(self) -> None:
        """Throw all chunks away."""
        self._chunks.clear()
        self.size = 0
        self._room.notify()

    async def wait_for_room(self) -> None:
        """Wait until the buffer is not full. Returns at once, without a checkpoint, if it is not."""
        while self.is_full:
            await self._room.wait()
