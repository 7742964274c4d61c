"""The iterators over a response's body: plain objects, not async generators.

A loop over a body may be left at any time. The garbage collector would close an async generator that is left
unfinished, and trio and asyncio warn about that. There is nothing to close in these iterators. What they
read from, which may be somebody else's generator, belongs to the response, and is ended when that is closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Generic, Self, TypeVar

import httpx

from prefect_http._body_splitters import Splitter
from prefect_http._concurrency.backend import checkpoint
from prefect_http._concurrency.iteration import end_iteration
from prefect_http._content_encoding import ContentDecoder

Piece = TypeVar("Piece", bound=bytes | str)


class OneChunk:
    """An iterator over a body that is at hand.

    Args:
        body: the body.
    """

    def __init__(self, body: bytes) -> None:
        self._rest: bytes | None = body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._rest is None:
            raise StopAsyncIteration
        chunk, self._rest = self._rest, None
        return chunk


class BodyReading:
    """The state of reading a body, which can be done only once. The response shares it with the iterator.

    Args:
        chunks: what is read.
        encodings: the value of ``Content-Encoding``; empty: the body is not decoded.

    Attributes:
        size: how many bytes have been read.
    """

    __slots__ = ("chunks", "encodings", "size")

    def __init__(self, chunks: AsyncIterator[bytes], encodings: str) -> None:
        self.chunks = chunks
        self.encodings = encodings
        self.size = 0

    async def end(self) -> None:
        """End it early. Only a generator needs that; if a task is reading, closing the stream ends it."""
        if not getattr(self.chunks, "ag_running", True):  # otherwise it is no generator, or a task is reading
            await end_iteration(self.chunks)


class ChunkIterator:
    """Reads the chunks of a body as they arrive, but for empty ones. Like a generator, it ends with the first error.

    Args:
        response: what has the body. It is closed at the end of the body.
        begin: begins to read the body, or raises an exception; called at the first step.
    """

    __slots__ = ("_begin", "_has_ended", "_is_in_use", "_reading", "_response")

    def __init__(self, response: httpx.Response, begin: Callable[[], BodyReading]) -> None:
        self._response = response
        self._begin = begin
        self._reading: BodyReading | None = None
        self._is_in_use = False
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        _check_free(self._is_in_use)
        if self._has_ended:
            raise StopAsyncIteration
        self._is_in_use = True
        try:
            reading = self._reading or self.begin()
            while True:
                chunk = await reading.chunks.__anext__()
                if chunk:
                    reading.size += len(chunk)
                    return chunk
        except StopAsyncIteration:
            self._has_ended = True
            await self._response.aclose()
            raise
        except BaseException as error:
            self._has_ended = True
            self.note_request(error)
            raise
        finally:
            self._is_in_use = False

    def begin(self) -> BodyReading:
        """Begin to read the body."""
        self._reading = self._begin()
        return self._reading

    def note_request(self, error: BaseException) -> None:
        """Set the request of an error, as httpx does, if there is one."""
        if isinstance(error, httpx.RequestError):
            with contextlib.suppress(RuntimeError):
                error.request = self._response.request

    async def aclose(self) -> None:
        """End the iteration, and close the response."""
        self._has_ended = True
        await self._response.aclose()


class PieceIterator(Generic[Piece]):
    """Decodes the chunks of a body, and cuts it into pieces.

    Args:
        chunks: the chunks.
        make_splitter: makes what cuts the body; called at the first step.
    """

    def __init__(self, chunks: ChunkIterator, make_splitter: Callable[[], Splitter[Piece]]) -> None:
        self._chunks = chunks
        self._make_splitter = make_splitter
        self._tools: tuple[ContentDecoder | None, Splitter[Piece]] | None = None
        self._parts: Iterator[bytes] = iter(())  # what the last chunk decodes to
        self._pieces: Iterator[Piece] = iter(())  # what the last part was cut into
        self._is_in_use = False
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        for piece in self._pieces:
            return piece
        _check_free(self._is_in_use)
        self._is_in_use = True
        try:
            while not self._has_ended:
                self._pieces = iter(await self._read())
                for piece in self._pieces:
                    return piece
            raise StopAsyncIteration
        finally:
            self._is_in_use = False

    async def _read(self) -> Sequence[Piece]:
        """Return the next pieces, perhaps none."""
        try:
            decoder, splitter = self._tools or self._begin()
            part = next(self._parts, None)
            if part is not None:
                await checkpoint()  # a chunk may decode to a thousand parts
                return splitter.feed(part)
            async for chunk in self._chunks:
                if decoder is not None:
                    self._parts = decoder.decode(chunk)
                return splitter.feed(chunk if decoder is None else next(self._parts, b""))
            self._has_ended = True
            if decoder is not None:
                decoder.end()
            return splitter.end()
        except BaseException as error:
            self._has_ended = True
            self._chunks.note_request(error)
            raise

    def _begin(self) -> tuple[ContentDecoder | None, Splitter[Piece]]:
        encodings = self._chunks.begin().encodings
        decoder = ContentDecoder(encodings, needs_limit=False) if encodings else None
        self._tools = decoder, self._make_splitter()
        return self._tools

    async def aclose(self) -> None:
        """End the iteration, and close the response."""
        self._has_ended, self._pieces = True, iter(())
        await self._chunks.aclose()


def _check_free(is_in_use: bool) -> None:
    """Raise a RuntimeError if another task is reading."""
    if is_in_use:
        raise RuntimeError("another task is reading the response body")
