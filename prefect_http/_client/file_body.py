"""Request bodies that are files of anyio or trio: sent in large pieces, with their length, and rewound if sent again.

httpx would read them line by line, and could not tell how long they are.
"""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable
from typing import Any, Protocol, Self, cast

import httpx

_PIECE = 64 * 1024  # in bytes
_PLAIN = io.FileIO, io.BufferedReader, io.BufferedRandom, io.BytesIO


class AsyncFile(Protocol):
    """What is needed of a file; each call runs in a thread."""

    def read(self, size: int, /) -> Awaitable[bytes]: ...

    def seek(self, offset: int, /) -> Awaitable[int]: ...


class FileBody(httpx.AsyncByteStream):
    """The rest of a file, from where it is.

    Args:
        file: the file.
        start: where it is; None: it cannot be rewound.
        size: how many bytes there are from there on; None: that is not known.
    """

    def __init__(self, file: AsyncFile, start: int | None, size: int | None) -> None:
        self._file = file
        self._start = start
        self.size = size

    @property
    def can_be_sent_again(self) -> bool:
        """Whether the file can be rewound."""
        return self._start is not None

    def __aiter__(self) -> _Pieces:
        return _Pieces(self._file, self._start, math.inf if self.size is None else self.size)


class _Pieces:
    def __init__(self, file: AsyncFile, start: int | None, left: float) -> None:
        self._file = file
        self._start = start
        self._left = left

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._start is not None:
            await self._file.seek(self._start)
            self._start = None
        # Not beyond the end that it had: the length has been announced.
        piece = await self._file.read(int(min(self._left, _PIECE))) if self._left else b""
        if not piece:
            raise StopAsyncIteration
        self._left -= len(piece)
        return piece


def as_file_body(content: object) -> FileBody | None:
    """Return the body for a file of anyio or trio; None if it is something else.

    Raises:
        TypeError: the file is open in text mode.
    """
    if content is None or isinstance(content, bytes | str):  # almost always; to find that out below takes 1 us
        return None
    # Both wrap a file of Python's.
    wrapped: Any = getattr(content, "wrapped", None)
    methods = [getattr(content, name, None) for name in ("__aiter__", "read", "seek")]
    seekable = getattr(wrapped, "seekable", None)
    if not all(map(callable, [*methods, seekable])):
        return None
    if hasattr(wrapped, "encoding"):  # also behind the wrapper of a temporary file, which is no io.TextIOBase
        raise TypeError("the request body is a file that is open in text mode; open it in binary mode, 'rb'")
    file = cast(AsyncFile, content)
    if not wrapped.seekable():
        return FileBody(file, None, None)
    start: int = wrapped.tell()
    if not (isinstance(wrapped, _PLAIN) or type(wrapped).__module__ == "tempfile"):
        # To find its end, a file may have to decompress all that there is.
        return FileBody(file, start, None)
    try:
        size: int = wrapped.seek(0, io.SEEK_END) - start
    except OSError:  # as for files in /proc
        return FileBody(file, start, None)
    wrapped.seek(start)
    return FileBody(file, start, max(size, 0))
