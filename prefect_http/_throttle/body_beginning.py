"""The beginning of a response's body, which ``is_throttled`` may read; whoever reads the response later gets it again.

the transport's stream ── ReplayedBody ─┬─ Beginning: decoded, at most 64 KiB ─> is_throttled
                                        └─ what was read, as it came, and then the rest ─> the caller
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator, Iterator
from typing import NamedTuple, cast

import httpx

from prefect_http._concurrency.backend import checkpoint
from prefect_http._concurrency.iteration import end_iteration
from prefect_http._content_encoding import ContentDecoder
from prefect_http._httpx_details import lent

# Enough for any error message; the limit is for the body as it came, and once it is decoded.
MAX_BEGINNING = 64 * 1024
# What is unpacked only to be unpacked once more.
_MAX_INTERMEDIATE = 1024 * 1024


class Library(NamedTuple):
    """The classes of the library whose responses a transport returns: httpx, or httpx2.

    Attributes:
        failure: the base of what a transport raises if a request fails on its way.
        stream: the base of streams; its responses can only be read from these.
        read_timeout: raised where a body did not arrive in time.
    """

    failure: type[Exception]
    stream: type[httpx.AsyncByteStream]
    read_timeout: type[Exception]


HTTPX = Library(httpx.TransportError, httpx.AsyncByteStream, httpx.ReadTimeout)


@contextlib.contextmanager
def readable_beginning(response: httpx.Response, library: Library) -> Generator[None]:
    """Let the beginning of a response be read, within the context; afterwards it is as if nothing had been read.

    Nothing is read from its stream unless somebody reads the response. A response that has been read already remains
    as it is. Within the context, an encoded response has no ``Content-Encoding``: it has been decoded.
    """
    if response.is_closed or response.is_stream_consumed:
        yield
        return
    body = ReplayedBody(cast(httpx.AsyncByteStream, response.stream), library)
    headers = response.headers
    beginning = Beginning(body, headers.get("Content-Encoding", ""))
    if "Content-Encoding" in headers:
        headers = headers.copy()
        del headers["Content-Encoding"]
    try:
        with lent(response, _as_stream(beginning, library), headers):
            yield
    finally:
        if body.has_begun:
            body.drop_traceback()
            response.stream = _as_stream(body, library)


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


class Beginning:
    """The beginning of a body, decoded. It ends after 64 KiB, encoded or decoded.

    Args:
        body: the body.
        encodings: the value of ``Content-Encoding``.
    """

    def __init__(self, body: ReplayedBody, encodings: str) -> None:
        self._body = body
        self._encodings = encodings
        self._decoder: ContentDecoder | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._room = self._raw_room = MAX_BEGINNING

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._decoder is None:
            self._decoder = ContentDecoder(self._encodings)
        while self._room > 0 and self._decoder.intermediate <= _MAX_INTERMEDIATE:
            piece = next(self._pieces, None)
            if piece:
                piece = piece[: self._room]
                self._room -= len(piece)
                return piece
            if piece is None:
                chunk = await self._body.read_ahead() if self._raw_room > 0 else None
                if chunk is None:
                    break
                self._raw_room -= len(chunk)
                self._pieces = self._decoder.decode(chunk)
            await checkpoint()  # some encodings take many steps to decode to nothing
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Do nothing: the response is still to be read."""


class _Stream:
    """The stream of a response: reads from a body, or from its beginning."""

    def __init__(self, source: ReplayedBody | Beginning) -> None:
        self._source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._source)

    async def aclose(self) -> None:
        await self._source.aclose()


def _as_stream(source: ReplayedBody | Beginning, library: Library) -> httpx.AsyncByteStream:
    """Return a stream that a response of the library can be read from."""
    return cast(httpx.AsyncByteStream, type("Stream", (_Stream, library.stream), {})(source))
