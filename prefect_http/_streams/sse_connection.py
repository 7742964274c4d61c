"""One connection of an event stream: the body of a response, in slices of bounded size."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anyio
import httpx

from prefect_http._concurrency.backend import checkpoint
from prefect_http._error_limits import STREAMED_ERROR_BYTES, seconds_for_error
from prefect_http._errors import InvalidResponse
from prefect_http._foreign_errors import is_foreign
from prefect_http._httpx_details import keep_content
from prefect_http._redact import one_line, safe_exception, without_credentials
from prefect_http._response import PrefectResponse, is_success, status_error

_EVENT_STREAM = "text/event-stream"
_MAX_QUOTED = 200
_SLICE = 64 * 1024
_CLOSE_SECONDS = 5.0

_logger = logging.getLogger("prefect_http")


class EventConnection:
    """The body of a response that is an event stream.

    Args:
        response: the response; an event hook may have read it.
    """

    def __init__(self, response: PrefectResponse) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._slices: Iterator[bytes] = iter(())  # of the last chunk

    async def check(self) -> None:
        """Check that the response is an event stream.

        Raises:
            PrefectHTTPStatusError: it has a bad status, which the client lets pass.
            InvalidResponse: it is of another type. The response is closed.

        Cancellation:
            The response is closed, shielded for at most 5 s.
        """
        response = self._response
        if not is_success(response):
            keep_content(response, await self._read_beginning(STREAMED_ERROR_BYTES), response.num_bytes_downloaded)
            raise status_error(response, response.attempts)
        types = response.headers.get_list("Content-Type")
        if not types or types[-1].partition(";")[0].strip().lower() != _EVENT_STREAM:
            beginning = await self._read_beginning(4 * _MAX_QUOTED)
            raise InvalidResponse(_wrong_type(response, types, beginning), request=response.request)

    async def receive(self) -> bytes | None:
        """Return the next piece of the body, decoded; it may be empty. None at the end.

        Raises:
            httpx.RequestError: the connection broke, or the body cannot be decoded. The response is closed.
            Exception: what an app in this process raised. The response is closed.

        Cancellation:
            The response is closed, shielded for at most 5 s: what is read from may not survive it.
        """
        piece = next(self._slices, None)
        if piece is not None:
            return piece
        try:
            chunk = await anext(self._chunks, None)
        except BaseException:
            await self.aclose()
            raise
        if chunk is None:
            return None
        # A mock, or an event hook that has read the response, makes one chunk of it all.
        self._slices = (chunk[start : start + _SLICE] for start in range(0, len(chunk), _SLICE))
        return next(self._slices, b"")

    async def _read_beginning(self, max_bytes: int) -> bytes:
        """Read the body up to a limit in bytes and in seconds, or until it breaks off, and close the response."""
        content = bytearray()
        try:
            with anyio.move_on_after(seconds_for_error()):
                while len(content) < max_bytes and (piece := await self.receive()) is not None:
                    content += piece
                    await checkpoint()
        except httpx.RequestError as error:
            if is_foreign(error, self._response.request):
                raise
        finally:
            await self.aclose()
        return bytes(content[:max_bytes])

    async def aclose(self) -> None:
        """Close the response, which ends the request.

        Cancellation:
            Shielded for at most 5 s.
        """
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            try:
                await self._response.aclose()
            except Exception as error:
                # The connection is of no use any more, and there may be a better error to raise.
                _logger.debug("closing an event stream failed: %s", safe_exception(error))


def _wrong_type(response: httpx.Response, types: list[str], beginning: bytes) -> str:
    """Return the message for a response that is no event stream."""
    texts = types[-1] if types else "", beginning.decode("utf-8", "replace")
    found, text = [one_line(without_credentials(each, response.request), limit=_MAX_QUOTED) for each in texts]
    if found:
        problem = f"its Content-Type is {found}, not {_EVENT_STREAM}"
    else:
        problem = f"it has no Content-Type; {_EVENT_STREAM} is expected"
    begins = f"; it begins with: {text}" if text else ""
    return f"the response is not an event stream: {problem}{begins}"
