"""ReplayedBody: a body whose beginning is read ahead, and read again by whoever wants the whole."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import httpx

from prefect_http._concurrency.iteration import end_iteration


class Library(NamedTuple):
    """The library whose responses a transport returns: httpx, or httpx2.

    Attributes:
        failure: the base of what a transport raises if a request fails on its way.
        stream: the base of streams; its responses can only be read from these.
        read_timeout: raised where a body did not arrive in time.
        errors: turns httpx's exceptions into its own ones; may be entered any number of times.
    """

    failure: type[Exception]
    stream: type[httpx.AsyncByteStream]
    read_timeout: type[Exception]
    errors: AbstractContextManager[None]


HTTPX = Library(httpx.TransportError, httpx.AsyncByteStream, httpx.ReadTimeout, contextlib.nullcontext())


class ReplayedBody:
    """A body whose beginning is read ahead. Iterating over it gives what has been read ahead, and then the rest.

    An error that was raised while reading ahead is raised again, in its place: a body that broke off never seems whole.
    """

    def __init__(self, stream: httpx.AsyncByteStream, library: Library) -> None:
        self._stream = stream
        self._library = library
        self._chunks: AsyncIterator[bytes] | None = None
        self._read_ahead = bytearray()
        self._is_reading = False
        self._error: Exception | None = None

    @property
    def has_begun(self) -> bool:
        """Whether anything has been read from the stream."""
        return self._chunks is not None

    async def read_ahead(self) -> bytes | None:
        """Return the next chunk; None at the end."""
        try:
            chunk = await self._next()
        except Exception as error:
            self._error = error
            raise
        self._read_ahead += chunk or b""
        return chunk

    def drop_traceback(self) -> None:
        """Let the error that is to be raised again hold no frame of whoever has read ahead."""
        if self._error is not None:
            self._error.__traceback__ = None

    async def _next(self) -> bytes | None:
        if self._chunks is None:
            self._chunks = aiter(self._stream)
        self._is_reading = True
        chunk = await anext(self._chunks, None)
        self._is_reading = False
        return chunk

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._read_ahead:
            beginning, self._read_ahead = bytes(self._read_ahead), bytearray()
            return beginning
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._is_reading:  # and has been cancelled
            raise self._library.read_timeout("the response body did not arrive within the time that is_throttled has")
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Close the stream."""
        assert self._chunks is not None, "only a body that has been read ahead is replayed"
        await end_iteration(self._chunks)
        await self._stream.aclose()
