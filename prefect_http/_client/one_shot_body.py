"""Request bodies that can be sent only once.

The rule is cautious: a body is one-shot unless it is known to yield the same bytes again. An async iterable that
looks re-iterable may have a position, as a file has, and would yield less the second time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx

from prefect_http._client.file_body import FileBody


class OneShotBody(httpx.AsyncByteStream):
    """A request body that must not be read twice.

    Attributes:
        is_spent: whether reading has begun.
    """

    _failure = 0  # the id of what the stream has raised; a reference would keep its frames alive

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self.is_spent = False

    def has_raised(self, error: BaseException) -> bool:
        """Whether it was the stream that raised an error: then that says nothing about the connection or the server."""
        return id(error) == self._failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.is_spent:
            raise httpx.LocalProtocolError(
                "the request body is a one-shot stream that has already been read; use bytes or a seekable file instead"
            )
        self.is_spent = True
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:
            self._failure = id(error)
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


def mark_one_shot_body(request: httpx.Request) -> OneShotBody | None:
    """Wrap the request's body in a OneShotBody and return that; None if the body can be sent again."""
    stream = request.stream
    if isinstance(stream, httpx.ByteStream) or not isinstance(stream, httpx.AsyncByteStream):
        # httpx refuses to send the second kind, a sync stream in an async client.
        return None
    if isinstance(stream, OneShotBody):
        return stream
    if stream.can_be_sent_again if isinstance(stream, FileBody) else _is_replayable_multipart(stream):
        return None
    request.stream = body = OneShotBody(stream)
    return body


def _is_replayable_multipart(stream: httpx.AsyncByteStream) -> bool:
    # httpx rewinds the files of a multipart body each time it is sent, and if it cannot, it sends what is left.
    # Its multipart stream has no public name; whatever does not look like one is one-shot.
    fields = getattr(stream, "fields", None)
    return isinstance(fields, list) and all(map(_can_be_sent_again, cast("list[object]", fields)))


def _can_be_sent_again(field: object) -> bool:
    file = getattr(field, "file", None)
    if file is None:
        return hasattr(field, "value")
    seekable = getattr(file, "seekable", None)
    return isinstance(file, str | bytes) or (callable(seekable) and bool(seekable()))
