"""ResponseParser: bytes in, a response out. llhttp (httptools) parses heads. Pure.

llhttp is strict. A head that it refuses is read once more, from its beginning, by a `LenientHead`, which accepts what
other clients do. Good heads pay nothing for that.

Where a response ends is decided here, and not by llhttp: that would go on to the next message by itself, skip blank
lines between two messages, and not report where one ended. It would then go unnoticed that a server sent more than its
response, and the next request on the connection would take the rest for its own response. So llhttp is fed nothing but
heads; bodies of a known length are counted here, and chunks are left to the `ChunkDecoder`.
"""

from __future__ import annotations

import httptools
import httpx

from prefect_http._errors import InvalidResponse
from prefect_http._wire.h1.chunk_decoder import ChunkDecoder
from prefect_http._wire.h1.lenient_head import LenientHead
from prefect_http._wire.h1.response_head import (
    HEAD_TOO_LARGE,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    TOO_MANY_FIELDS,
    Framing,
    Headers,
    ResponseHead,
    response_head,
)

# 100 Continue, 103 Early Hints and the like, before the response itself.
MAX_INFORMATIONAL = 100

_END_OF_HEAD = b"\r\n\r\n"
# Every response is compared with some of them, and Python 3.11 takes 0.2 us to look up a member of an enum.
_CONTENT_LENGTH, _CHUNKED = Framing.CONTENT_LENGTH, Framing.CHUNKED
_UNTIL_CLOSE, _TUNNEL = Framing.UNTIL_CLOSE, Framing.TUNNEL


class ResponseParser:
    """Parses the bytes of one response as they arrive.

    Args:
        method: the request's method.
        allow_upgrade: whether the request asked for another protocol, so that the response may be a 101.

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
    _lenient: LenientHead | None = None  # reads the head if llhttp refuses it
    _fed = 0  # the number of bytes of the head that llhttp has accepted
    _tail = b""  # the last of them, up to three

    def __init__(self, method: str, *, allow_upgrade: bool = True) -> None:
        self._method = method
        self._allow_upgrade = allow_upgrade
        self._message = _Message()
        self._llhttp = httptools.HttpResponseParser(self._message)
        self._pieces: list[bytes] = []  # of an incomplete head, which llhttp has accepted so far

    @property
    def can_reuse_connection(self) -> bool:
        """Whether the connection can serve another request after this response."""
        return self.is_complete and not self.has_trailing_data and self.head is not None and self.head.keep_alive

    def head_for_trace(self) -> tuple[bytes, int, bytes, Headers]:
        """Return the head in the form that httpcore's trace events have it."""
        assert self.head is not None
        return self.head[:4]

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

    def feed_eof(self) -> None:
        """Note that the server has closed the connection.

        Raises:
            httpx.RemoteProtocolError: the response is incomplete.
        """
        if self.head is None:
            raise httpx.RemoteProtocolError(
                "the server closed the connection in the middle of the response's head"
                if self.has_started
                else "Server disconnected without sending a response."  # as httpx says it, so that it can be searched
            )
        if self.head.framing is _CONTENT_LENGTH:
            raise httpx.RemoteProtocolError(
                "the server closed the connection in the middle of the response body: "
                f"{self._left} of {self.head.content_length} bytes are missing"
            )
        if self.head.framing is _CHUNKED:
            raise httpx.RemoteProtocolError("the server closed the connection before the last chunk of the response")
        self.is_complete = True

    def _feed_head(self, data: bytes) -> bytes:
        """Parse the head, and return the data that follows it."""
        while data:
            rest = self._feed_llhttp(data) if self._lenient is None else self._lenient.feed(data)
            if rest is None:
                return b""
            data = rest
            head = self._take_head()
            if head.status >= 200 or head.status == 101:
                self._begin_body(head)
                return data
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise InvalidResponse(f"the server sent more than {MAX_INFORMATIONAL} informational responses (1xx)")
            self._begin_message()
        return b""

    def _feed_llhttp(self, data: bytes) -> bytes | None:
        """Parse the head, and return the data that follows it; None: the head is incomplete."""
        if not self._fed and not data.startswith(b"H"):  # llhttp would skip blank lines
            raise InvalidResponse("the response is not HTTP/1.1: it does not start with 'HTTP/'")
        end, message = self._end_of_head(data), self._message
        piece = data[:end]
        try:
            self._llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # a 101, and the data ends where its head does
        except httptools.HttpParserCallbackError as error:
            # Nothing in the callbacks fails: it is a KeyboardInterrupt, or the like.
            raise error.__context__ or error from None
        except httptools.HttpParserError:
            # If it is complete, llhttp means what the head says about the body, which is not llhttp's business.
            if not message.has_head:
                self._lenient = LenientHead()
                return self._lenient.feed(b"".join([*self._pieces, data]))
        self._fed += len(piece)
        if self._fed > MAX_HEAD_BYTES:
            raise InvalidResponse(HEAD_TOO_LARGE)
        if len(message.headers) > MAX_FIELDS:
            raise InvalidResponse(TOO_MANY_FIELDS)
        if message.has_head:
            return data[end:]
        self._pieces.append(piece)
        self._tail = (self._tail + piece)[-3:]
        return None

    def _take_head(self) -> ResponseHead:
        message, llhttp, lenient = self._message, self._llhttp, self._lenient
        if lenient is None:
            head = response_head(
                self._method, llhttp.get_http_version(), llhttp.get_status_code(), message.reason, message.headers
            )
        else:
            head = response_head(
                self._method,
                lenient.version,
                lenient.status,
                lenient.reason,
                lenient.headers,
                is_ambiguous=lenient.is_ambiguous,
            )
        if head.status == 101 and not self._allow_upgrade:
            raise InvalidResponse("the server sent a 101, but the request did not ask for an upgrade")
        return head

    def _begin_body(self, head: ResponseHead) -> None:
        self.head = head
        self._left = head.content_length
        if head.framing is _CHUNKED:
            self._chunks = ChunkDecoder()

    def _begin_message(self) -> None:
        self._message = _Message()
        self._llhttp = httptools.HttpResponseParser(self._message)
        self._lenient = None
        self._pieces.clear()
        self._fed, self._tail = 0, b""

    def _end_of_head(self, data: bytes) -> int:
        """Return where the head ends in the data, or else where the data ends."""
        if self._tail:  # the CRLF CRLF may have begun in earlier data
            end = (self._tail + data[:3]).find(_END_OF_HEAD)
            if end >= 0:
                return end + 4 - len(self._tail)
        end = data.find(_END_OF_HEAD)
        return len(data) if end < 0 else end + 4

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


class _Message:
    """What llhttp reports. Not in the parser itself, since the two would refer to each other: a garbage cycle."""

    reason = b""
    has_head = False

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_status(self, piece: bytes) -> None:
        self.reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))  # llhttp leaves out the whitespace before it, but not after

    def on_headers_complete(self) -> None:
        self.has_head = True
