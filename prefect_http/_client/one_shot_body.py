"""Request bodies that can be sent once only, told from those that can be sent again.

The rule is cautious: what is not known to give the same bytes again counts as one-shot. An async iterable that
looks re-iterable may be a file with a position (anyio's and trio's are), which would send less the second time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import httpx


class OneShotBody(httpx.AsyncByteStream):
    """A request body that must not be read twice, and that knows whether reading has begun."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream
        self.is_spent = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.is_spent:
            raise httpx.LocalProtocolError(
                "the request body is a one-shot stream that has been read; bytes or a seekable file can be sent again"
            )
        self.is_spent = True
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def mark_one_shot_body(request: httpx.Request) -> OneShotBody | None:
    """Put the request's body behind a OneShotBody if it cannot be sent again; None if it can be."""
    stream = request.stream
    if isinstance(stream, httpx.ByteStream) or not isinstance(stream, httpx.AsyncByteStream):
        # The second kind is not sent at all: httpx refuses a sync stream in an async client.
        return None
    if isinstance(stream, OneShotBody):
        return stream
    if _is_replayable_multipart(stream):
        return None
    request.stream = body = OneShotBody(stream)
    return body


def _is_replayable_multipart(stream: httpx.AsyncByteStream) -> bool:
    # httpx rewinds the files of a multipart body each time it is sent, and where it cannot, it sends what is
    # left. Its multipart stream has no public name; anything that does not look like one is one-shot.
    fields = getattr(stream, "fields", None)
    return isinstance(fields, list) and all(map(_can_be_sent_again, cast("list[object]", fields)))


def _can_be_sent_again(field: object) -> bool:
    file = getattr(field, "file", None)
    if file is None:
        return hasattr(field, "value")
    seekable = getattr(file, "seekable", None)
    return isinstance(file, str | bytes) or (callable(seekable) and bool(seekable()))
