"""A stream that leaves nothing out of sight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from anyio.abc import ByteStream


class ReadAheadStream(ByteStream):
    """Under TLS: receives all that there is, however little TLS asks for.

    What anyio has taken from the socket and not handed out can be seen by nobody: a connection would pass for a good
    one with the next request's answer on it already. See ``max_receive_bytes()``.
    """

    def __init__(self, stream: ByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(self._max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
