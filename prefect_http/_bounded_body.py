"""Reading a body up to a limit, and decoding it in steps between which other tasks run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Self

import anyio
import httpx

from prefect_http._concurrency.backend import checkpoint
from prefect_http._concurrency.iteration import end_iteration
from prefect_http._content_encoding import ContentDecoder
from prefect_http._errors import ResponseTooLarge
from prefect_http._httpx_details import ReadyResponse, keep_content
from prefect_http._wording import counted

TOO_LONG = "it is too long to be read whole"
TOO_SLOW = "it took too long to be read whole"

_CLOSE_SECONDS = 5.0


async def read_decoded(
    response: httpx.Response,
    chunks: AsyncIterator[bytes],
    into: bytearray,
    *,
    max_bytes: int,
    deadline: float = math.inf,
) -> str | None:
    """Read and decode the beginning of a response's body.

    Args:
        response: the response.
        chunks: its body, encoded.
        into: what it is appended to, also if reading fails.
        max_bytes: how much to keep.
        deadline: when to stop decoding, on the event loop's clock.

    Returns:
        Why the rest was not read, as text for a note; None if there is no rest.

    Raises:
        httpx.DecodingError: it does not match its Content-Encoding.
    """
    decoder = ContentDecoder(response.headers.get("Content-Encoding", ""))
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        for piece in decoder.decode(chunk):
            into += piece
            # Data that decodes to nothing may be endless as well.
            if len(into) > max_bytes or max(received, decoder.intermediate) > 16 * max_bytes + 1024 * 1024:
                del into[max_bytes:]
                return TOO_LONG
            if not decoder.is_identity:
                await checkpoint()
                if anyio.current_time() > deadline:
                    return TOO_SLOW
    decoder.end()
    return None


async def read_whole_within(response: ReadyResponse, max_bytes: int) -> bytes:
    """Read a response whole, if its body has at most ``max_bytes`` once it is decoded, and close it.

    Returns:
        The body, decoded.

    Raises:
        ResponseTooLarge: it is longer.
        httpx.RequestError: reading or decoding it fails.

    Cancellation:
        The response is closed, shielded for at most 5 s.
    """
    if response.is_closed or response.is_stream_consumed:
        return await response.aread()
    with _naming_request(response):
        async with body_of(response) as chunks:
            content = bytearray()
            is_longer = _announces_more_than(max_bytes, response)
            if is_longer or await read_decoded(response, chunks, content, max_bytes=max_bytes) is not None:
                raise too_large(max_bytes)
            keep_content(response, bytes(content), chunks.size)
    return response.content


def too_large(max_bytes: int) -> ResponseTooLarge:
    """Return the error for a body that is longer than a client allows."""
    return ResponseTooLarge(f"the response body is larger than max_response_bytes of {counted(max_bytes, 'byte')}")


async def read_up_to(response: ReadyResponse, max_bytes: int) -> None:
    """Read a response, or of a longer body only the first ``max_bytes``, decoded, and close it.

    Of a body that cannot be decoded, perhaps because the installed brotli cannot do it in steps, what comes before is
    kept. A response that has been read already remains as it is.

    Raises:
        httpx.RequestError: reading it fails.

    Cancellation:
        The response is closed, shielded for at most 5 s.
    """
    if response.is_closed or response.is_stream_consumed:
        return
    with _naming_request(response):
        async with body_of(response) as chunks:
            content = bytearray()
            with contextlib.suppress(httpx.DecodingError):
                await read_decoded(response, chunks, content, max_bytes=max_bytes)
            keep_content(response, bytes(content), chunks.size)


class Chunks:
    """The chunks of a body.

    Attributes:
        size: how many bytes have been read.
    """

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._chunks = aiter(stream)
        self.size = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self.size += len(chunk)
        return chunk

    async def end(self) -> None:
        """Close the iterator, which may not have been read to its end."""
        await end_iteration(self._chunks)


@contextlib.asynccontextmanager
async def body_of(response: httpx.Response) -> AsyncGenerator[Chunks]:
    """Open a response's body, and close the response at the end."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    chunks = Chunks(response.stream)
    try:
        yield chunks
    finally:
        # Shielded, since the response counts as closed once closing it has begun, whether or not that succeeds.
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            try:
                await chunks.end()
            finally:
                await response.aclose()


@contextlib.contextmanager
def _naming_request(response: httpx.Response) -> Generator[None]:
    """Set the request of an httpx.RequestError."""
    try:
        yield
    except httpx.RequestError as error:
        error.request = response.request
        raise


def _announces_more_than(max_bytes: int, response: httpx.Response) -> bool:
    """Whether a body that is not encoded has a larger Content-Length."""
    length = response.headers.get("Content-Length", "")
    return (
        "Content-Encoding" not in response.headers
        and length.isascii()
        and length.isdigit()
        and len(length) < 20
        and int(length) > max_bytes
        and response.request.method != "HEAD"
        and response.status_code not in (204, 304)
    )
