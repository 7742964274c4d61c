"""The beginning of a response's body, which ``is_throttled`` may read; whoever reads the response later gets it again.

    the transport's stream ── ReplayedBody ─┬─ Beginning: decoded, at most 64 KiB ─> is_throttled
                                            └─ what was read, as it came, and then the rest ─> the caller

Nothing is read unless ``is_throttled`` reads it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Generator, Iterator
from typing import cast

import httpx

from prefect_http._concurrency.backend import checkpoint
from prefect_http._content_encoding import ContentDecoder
from prefect_http._httpx_details import lent
from prefect_http._throttle.replayed_body import Library, ReplayedBody

# Enough for any error message; the limit is for the body as it came, and once it is decoded.
MAX_BEGINNING = 64 * 1024
# What is unpacked only to be unpacked once more.
_MAX_INTERMEDIATE = 1024 * 1024


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
    return cast(httpx.AsyncByteStream, _stream_class(library)(source))


@functools.cache
def _stream_class(library: Library) -> type[_Stream]:
    return type("Stream", (_Stream, library.stream), {})  # once, since a class is garbage that must be collected
