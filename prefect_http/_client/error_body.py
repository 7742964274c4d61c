"""Reading responses, whole or their beginning, and closing them, whatever the server does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import httpx

from prefect_http._bounded_body import TOO_LONG, TOO_SLOW, read_decoded, too_large
from prefect_http._concurrency.backend import checkpoint_if_cancelled
from prefect_http._concurrency.iteration import end_iteration
from prefect_http._foreign_errors import is_foreign
from prefect_http._httpx_details import ReadyResponse, keep_content
from prefect_http._redact import safe_exception

_DISCARD_BYTES = 64 * 1024
_CLOSE_SECONDS = 5.0

_SWITCHING_PROTOCOLS = 101

_logger = logging.getLogger("prefect_http")


class _Beginning(httpx.AsyncByteStream):
    """A stream that ends early: after ``max_bytes``, at the deadline, or where the server breaks off.

    Attributes:
        cut: why it ended early, as text for a note; None if it did not.
        size: how many bytes have been read.
    """

    def __init__(self, response: httpx.Response, *, max_bytes: int, deadline: float) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._response = response
        self._stream = response.stream
        self._max_bytes = max_bytes
        self.size = 0
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
        self.size += len(chunk)
        if self.size > self._max_bytes:
            self.cut = TOO_LONG
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
                reason = safe_exception(error, self._response.request)
                self.cut = f"reading it failed with {reason}"
                _logger.debug("reading a response body failed: %s", reason)
                return b""
        self.cut = TOO_SLOW
        return b""

    async def end(self) -> None:
        """Close the iterator, which may not have been read to its end."""
        if self._chunks is not None:
            await end_iteration(self._chunks)


async def read_beginning(response: ReadyResponse, *, max_bytes: int, max_seconds: float) -> str | None:
    """Read a response up to a limit in bytes, encoded and decoded, and in seconds, and close it.

    Afterwards ``response.content`` holds what was read, even if the server broke off.

    Returns:
        Why the body is incomplete; None if it is complete.

    Cancellation:
        The response is closed, shielded for at most 5 s.
    """
    deadline = anyio.current_time() + max_seconds
    beginning = _Beginning(response, max_bytes=max_bytes, deadline=deadline)
    cut: str | None = None
    try:
        await checkpoint_if_cancelled()
        if not response.is_closed and not response.is_stream_consumed:
            content = bytearray()
            try:
                cut = await read_decoded(response, beginning, content, max_bytes=max_bytes, deadline=deadline)
            except httpx.DecodingError:
                cut = "it cannot be decoded"
            keep_content(response, bytes(content), beginning.size)
    finally:
        await _close_with(beginning, response, _CLOSE_SECONDS)
    return beginning.cut or cut


async def discard(response: httpx.Response, *, delay: float) -> None:
    """Close a response that is not wanted, before a wait of ``delay`` seconds.

    If the body is short and has arrived already, it is read first, so that the connection can be used again. It is
    not decoded.
    """
    beginning = _Beginning(response, max_bytes=_DISCARD_BYTES, deadline=anyio.current_time())
    try:
        await checkpoint_if_cancelled()
        if not response.is_closed and not response.is_stream_consumed:
            async for _ in beginning:
                pass
    finally:
        await _close_with(beginning, response, min(_CLOSE_SECONDS, max(delay, 1.0)))


async def _close_with(beginning: _Beginning, response: httpx.Response, seconds: float) -> None:
    with anyio.CancelScope(shield=True):
        await beginning.end()
    await close(response, seconds)


async def read_whole(response: httpx.Response, max_bytes: int | None = None) -> None:
    """Read a response, and close it if that fails. Not for a 101: reading would close the stream that it hands over.

    Args:
        response: the response.
        max_bytes: the largest size of the body. Reading keeps to it; here, it is checked for a body that the transport
            has read already, as mocks do. None: no limit.
    """
    if response.status_code != _SWITCHING_PROTOCOLS:
        try:
            content = await response.aread()
            if max_bytes is not None and len(content) > max_bytes:
                raise too_large(max_bytes)
        except BaseException:
            await close(response)
            raise


async def close(response: httpx.Response, seconds: float = _CLOSE_SECONDS) -> None:
    """Close a response, even under cancellation, shielded for at most ``seconds``."""
    with anyio.move_on_after(seconds, shield=True):
        try:
            await response.aclose()
        except Exception as error:
            # There is a better error to raise, or a retry to make, and this affects neither.
            _logger.debug("closing a response failed: %s", safe_exception(error))
