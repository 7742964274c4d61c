"""WriteBuffer: what has been received, and is still to be written, in memory that is used again and again.

To keep the chunks themselves is dearer: memory that is returned to the system and comes back has to be cleared and
mapped again. Copied, each chunk is free, and still in the processor's cache, when the next one is received.
"""

from __future__ import annotations


class WriteBuffer:
    """What is still to be written.

    Args:
        size: how many bytes it holds.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory: memoryview | None = None  # a download that fails at once needs none
        self._used = 0

    def add(self, data: bytes) -> bool:
        """Copy the data behind what is there. Return False, and copy nothing, if there is no room for it."""
        end = self._used + len(data)
        if end > self._size:
            return False
        if self._memory is None:
            self._memory = memoryview(bytearray(self._size))
        self._memory[self._used : end] = data
        self._used = end
        return True

    def take(self) -> memoryview:
        """Return what is there, and begin anew. What is returned is valid until the next ``add()``."""
        used, self._used = self._used, 0
        return memoryview(b"") if self._memory is None else self._memory[:used]
