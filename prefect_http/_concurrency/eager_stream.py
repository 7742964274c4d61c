"""EagerStream: a stream that can send without an ``await`` as long as the network takes the data at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import cast

from anyio.abc import ByteStream

Data = bytes | memoryview


class EagerStream(ByteStream):
    """A stream of bytes.

    The network takes almost every request, and almost every part of an upload, at once. Two coroutines and a deadline
    for each part were more than a third of the instructions that asyncio needed for an upload.
    """

    @abstractmethod
    async def send(self, item: Data) -> None:
        """Send all of the data."""

    @abstractmethod
    def send_nowait(self, item: Data) -> Data | None:
        """Send as much of the data as can be sent without waiting. It is no checkpoint: a cancelled task sends as well.

        Returns:
            What is to be passed to ``send()``, even if it is empty; None: the network has taken all of the data.

        Raises:
            anyio.ClosedResourceError, anyio.BrokenResourceError: as ``send()`` does.
        """


def sender_of(stream: ByteStream) -> Callable[[Data], Awaitable[None]]:
    """Return the ``send()`` of a stream. Memoryviews come from ``send_nowait()``, so only an EagerStream gets any."""
    return cast("Callable[[Data], Awaitable[None]]", stream.send)
