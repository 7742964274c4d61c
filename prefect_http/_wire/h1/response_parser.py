"""ResponseParser: bytes in, a response out. Pure.

Almost all heads arrive whole and are plain; `plain_head()` reads them in one pass. Any other head is read line by line
by a `LenientHead`, which accepts what other clients do.

Where a response ends is decided here as well, so that nothing goes unnoticed that a server sends beyond its response:
the next request on the connection would take it for its own response. Bodies of a known length are counted here, and
chunks are left to the `ChunkDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx

from prefect_http._errors import InvalidResponse
from prefect_http._wire.h1.chunk_decoder import ChunkDecoder
from prefect_http._wire.h1.lenient_head import LenientHead
from prefect_http._wire.h1.plain_head import END_OF_HEAD, plain_head
from prefect_http._wire.h1.response_head import (
    Framing,
    Headers,
    ResponseHead,
    response_head,
)
from prefect_http._wording import are, counted

# 100 Continue, 103 Early Hints and the like, before the response itself.
MAX_INFORMATIONAL = 100

PlainHead = Callable[[str, bytes], ResponseHead | None]

# Every response is compared with some of them, and Python 3.11 takes 0.2 us to look up a member of an enum.
_CONTENT_LENGTH, _CHUNKED = Framing.CONTENT_LENGTH, Framing.CHUNKED
_UNTIL_CLOSE, _TUNNEL = Framing.UNTIL_CLOSE, Framing.TUNNEL


class ResponseParser:
    """Parses the bytes of one response as they arrive.

    Args:
        method: the request's method.
        allow_upgrade: whether the request asked for another protocol, so that the response may be a 101.
        parse: parses a head as ``plain_head()`` does.

    Attributes:
        head: the head, once it has arrived; those of informational responses (1xx, except 101) are skipped.
        has_started: whether anything has arrived.
        is_complete: whether all of the response has arrived.
        has_trailing_data: whether data has arrived that follows the response and is not part of it.
        trailing_data: the first bytes after a head that opens a tunnel.
        body_error: what is wrong with the body, after all that ``feed()`` has returned of it; None: nothing.
    """

    # Defaults on the class, since a parser is made for each response, and most of these never change.
    head: ResponseHead | None = None
    has_started = False
    is_complete = False
    has_trailing_data = False
    trailing_data = b""
    body_error: str | None = None
    _informational = 0  # the number of informational responses
    _left = 0  # the number of bytes still to come, of a body with a length
    _chunks: ChunkDecoder | None = None
    _lenient: LenientHead | None = None  # reads the head if it is not plain

    def __init__(self, method: str, *, allow_upgrade: bool = True, parse: PlainHead = plain_head) -> None:
        self._method = method
        self._allow_upgrade = allow_upgrade
        self._parse = parse

    @property
    def can_reuse_connection(self) -> bool:
        """Whether the connection can serve another request after this response."""
        return self.is_complete and not self.has_trailing_data and self.head is not None and self.head.keep_alive

    def head_for_trace(self) -> tuple[bytes, int, bytes, Headers]:
        """Return the head in the form that httpcore's trace events have it."""
        assert self.head is not None
        version, status, reason, headers = self.head[:4]
        return version, status, reason, list(headers)

    def feed(self, data: bytes) -> bytes:
        """Parse what has been received.

        Returns:
            The part of the body in it, without the framing of chunks.

        Raises:
            InvalidResponse: the head is not valid HTTP/1.1, or exceeds a limit. An error in the body is left
                in ``body_error`` instead: it must not hide the head and the data that arrived along with it.
        """
        self.has_started = True
        if self.head is None:
            data = self._feed_head(data)
            if self.head is None:
                return b""
        framing = self.head.framing
        if framing is _CONTENT_LENGTH:
            return self._feed_counted(data)
        if framing is _CHUNKED:
            return self._feed_chunks(data)
        if framing is _UNTIL_CLOSE:
            return data
        if framing is _TUNNEL:
            self.trailing_data = data
        else:
            self.has_trailing_data = bool(data)
        self.is_complete = True
        return b""

    def feed_eof(self, peer: str = "") -> None:
        """Note that the server has closed the connection.

        Args:
            peer: the server, for the message.

        Raises:
            httpx.RemoteProtocolError: the response is incomplete.
        """
        missing = self._missing()
        if missing:
            raise httpx.RemoteProtocolError(f"{missing} ({peer})" if peer else missing)
        self.is_complete = True

    def _missing(self) -> str:
        """Return what to say if the connection is closed now; empty: nothing is missing."""
        if self.head is None and not self.has_started:
            return "Server disconnected without sending a response."  # as httpx says it, so that it can be searched
        if self.head is None:
            return "the server closed the connection in the middle of the response's head"
        if self.head.framing is _CONTENT_LENGTH:
            missing = f"{self._left} of {counted(self.head.content_length, 'byte')} {are(self._left)} missing"
            return f"the server closed the connection in the middle of the response body: {missing}"
        if self.head.framing is _CHUNKED:
            return "the server closed the connection before the last chunk of the response"
        return ""

    def _feed_head(self, data: bytes) -> bytes:
        """Parse the head, and return the data that follows it."""
        while data:
            at = data.find(END_OF_HEAD) if self._lenient is None else -1
            end = at + len(END_OF_HEAD)
            head = None if at < 0 else self._parse(self._method, bytes(data[:end]))  # some streams return bytearrays
            if head is not None:
                data = data[end:]
            else:
                parsed = self._lenient_head(data)
                if parsed is None:
                    return b""
                head, data = parsed
            if head.status == 101 and not self._allow_upgrade:
                raise InvalidResponse("the server sent a 101, but the request did not ask for an upgrade")
            if head.status >= 200 or head.status == 101:
                self.head = head
                self._left = head.content_length
                if head.framing is _CHUNKED:
                    self._chunks = ChunkDecoder()
                return data
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise InvalidResponse(f"the server sent more than {MAX_INFORMATIONAL} informational responses (1xx)")
        return b""

    def _lenient_head(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """Parse a head that is not plain, and return it with the data that follows it; None: it is incomplete."""
        lenient = self._lenient = self._lenient or LenientHead()
        rest = lenient.feed(data)
        if rest is None:
            return None
        self._lenient = None
        head = response_head(
            self._method,
            lenient.version,
            lenient.status,
            lenient.reason,
            lenient.headers,
            is_ambiguous=lenient.is_ambiguous,
        )
        return head, rest

    def _feed_counted(self, data: bytes) -> bytes:
        if len(data) < self._left:
            self._left -= len(data)
            return data
        self.is_complete = True
        if len(data) > self._left:
            self.has_trailing_data = True
            data = data[: self._left]
        return data

    def _feed_chunks(self, data: bytes) -> bytes:
        chunks = self._chunks
        assert chunks is not None
        body = chunks.feed(data)
        self.is_complete, self.has_trailing_data = chunks.is_complete, chunks.has_trailing_data
        self.body_error = chunks.error
        return body
