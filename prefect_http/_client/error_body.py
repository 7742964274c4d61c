"""Reading responses, whole or their beginning, and closing them, whatever the server does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import httpx

from prefect_http._concurrency.iteration import end_iteration
from prefect_http._foreign_errors import is_foreign
from prefect_http._httpx_details import DecodingResponse, set_content
from prefect_http._redact import safe_exception

_DISCARD_BYTES = 64 * 1024
_CLOSE_SECONDS = 5.0

_TOO_LONG = "it is too long to be read whole"
_SWITCHING_PROTOCOLS = 101

_logger = logging.getLogger("prefect_http")


class _Beginning(httpx.AsyncByteStream):
    """A stream that ends early: after ``max_bytes``, at the deadline, or where the server breaks off.

    Attributes:
        cut: why it ended early, for people; None if it did not.
    """

    def __init__(self, response: httpx.Response, *, max_bytes: int, deadline: float) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._response = response
        self._stream = response.stream
        self._room = max_bytes
        self._deadline = deadline
        self._chunks: AsyncIterator[bytes] | None = None
        self.cut: str | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._chunks = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        assert self._chunks is not None
        if self.cut is not None or not (chunk := await self._next(self._chunks)):
            raise StopAsyncIteration
        self._room -= len(chunk)
        if self._room < 0:
            self.cut = _TOO_LONG
        return chunk

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the next chunk that is not empty; an empty one at the end."""
        # A scope for each chunk, which is left before the reader continues.
        with anyio.CancelScope(deadline=self._deadline):
            try:
                while not (chunk := await anext(chunks, None)):
                    if chunk is None:
                        return b""
                return chunk
            except Exception as error:
                if is_foreign(error, self._response.request):
                    raise
                # Whatever the network raised: the status that came before it is more useful to the caller.
                self.cut = f"it broke off with {safe_exception(error)}"
                _logger.debug("reading a response broke off", exc_info=True)
                return b""
        self.cut = "it took too long to be read whole"
        return b""

    async def end(self) -> None:
        """Close the iterator, which may not have been read to its end."""
        if self._chunks is not None:
            await end_iteration(self._chunks)


async def read_beginning(
    response: httpx.Response, *, max_bytes: int, max_seconds: float, close_seconds: float = _CLOSE_SECONDS
) -> str | None:
    """Read a response up to a limit in bytes and seconds, and close it.

    Afterwards ``response.content`` holds what was read, even if the server broke off.

    Returns:
        Why the body is incomplete; None if it is complete.

    Cancellation:
        The response is closed, shielded for at most ``close_seconds``.
    """
    beginning = _Beginning(response, max_bytes=max_bytes, deadline=anyio.current_time() + max_seconds)
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
        if not response.is_closed and not response.is_stream_consumed:
            set_content(response, await _read_decoded(response, beginning, max_bytes))
    finally:
        with anyio.CancelScope(shield=True):
            await beginning.end()
        await close(response, close_seconds)
    return beginning.cut


async def _read_decoded(response: httpx.Response, beginning: _Beginning, max_bytes: int) -> bytes:
    """Read and decode the beginning. The limit is for the decoded bytes, too: a little gzip unpacks to a lot."""
    kept = bytearray()
    decoding = DecodingResponse(response.status_code, headers=response.headers, stream=beginning)
    try:
        async for chunk in decoding.aiter_bytes():
            # Until `cut` ends the stream: a `break` would leave httpx's generators to the garbage collector.
            room = max_bytes - len(kept)
            kept += chunk[:room]
            if len(chunk) > room:
                beginning.cut = _TOO_LONG
    except httpx.DecodingError:
        beginning.cut = "it cannot be decoded"
    return bytes(kept)


async def discard(response: httpx.Response, *, delay: float) -> None:
    """Close a response that is not wanted, before a wait of ``delay`` seconds.

    If the body is short and has arrived already, it is read first, so that the connection can be used again.
    """
    close_seconds = min(_CLOSE_SECONDS, max(delay, 1.0))
    await read_beginning(response, max_bytes=_DISCARD_BYTES, max_seconds=0.0, close_seconds=close_seconds)


async def read_whole(response: httpx.Response) -> None:
    """Read a response, and close it if that fails. Not for a 101: reading would close the stream that it hands over."""
    if response.status_code == _SWITCHING_PROTOCOLS:
        return
    try:
        await response.aread()
    except BaseException:
        await close(response)
        raise


async def close(response: httpx.Response, seconds: float = _CLOSE_SECONDS) -> None:
    """Close a response, even under cancellation, shielded for at most ``seconds``."""
    with anyio.move_on_after(seconds, shield=True):
        try:
            await response.aclose()
        except Exception:
            # There is a better error to raise, or a retry to make, and this affects neither.
            _logger.debug("closing a response failed", exc_info=True)
