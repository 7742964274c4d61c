"""Bytes in, a response out: heads and chunks are llhttp's work (httptools, strict), where it all ends is decided here.

llhttp goes on to the next message by itself, skips blank lines between the two, and does not say where one ended. But
then it would go unnoticed that a server sent more than its answer, and the next request on that connection would get
the rest for an answer. So llhttp is given heads alone, and chunks; bodies of a known length are counted here. How what
comes behind the last chunk is found out, ``_is_followed`` tells.
"""

from __future__ import annotations

import httptools
import httpx

from prefect_http._wire.h1.response_head import Body, Headers, ResponseHead, response_head

# Of each head, of the trailers, and of what is around the chunks.
MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 256
# 100 Continue, 103 Early Hints and the like, before the answer.
MAX_INFORMATIONAL = 100

_TOO_LONG = f"the response has more than {MAX_HEAD_BYTES} bytes of head, or of trailers and the like"
_END = b"\r\n\r\n"
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class ResponseParser:
    """Takes the bytes of one response as they come, and gives its head and its body.

    Args:
        method: of the request.
        allow_upgrade: a 101 may come, since the request has asked for another protocol.

    Attributes:
        head: the head, once it is there; that of an interim response (1xx, but for 101) is skipped.
        has_begun: something has come.
        is_complete: all of the response has come.
        is_followed: something has come behind the response, which is not part of it.
        leading: the first bytes behind a head that opens a tunnel.
        error: what is wrong with the body, behind all that ``feed()`` has given of it.
    """

    # Defaults of the class, for a parser is made for each response, and most of these never change.
    head: ResponseHead | None = None
    has_begun = False
    is_complete = False
    is_followed = False
    leading = b""
    error: httpx.RemoteProtocolError | None = None
    _informational = 0  # how many interim responses there were
    _left = 0  # how many bytes of a body with a length are still to come
    _fed = 0  # how many bytes of the head, or of what is around the chunks, llhttp has got
    _tail = b""  # the last of all bytes that it has got, up to four

    def __init__(self, method: str, *, allow_upgrade: bool = True) -> None:
        self._method = method
        self._may_switch = allow_upgrade
        self._message = _Message()
        self._llhttp = httptools.HttpResponseParser(self._message)

    @property
    def leaves_reusable(self) -> bool:
        """Whether the connection can serve another request after this response."""
        return self.is_complete and not self.is_followed and self.head is not None and self.head.keeps_alive

    def head_for_trace(self) -> tuple[bytes, int, bytes, Headers]:
        """Give the head as httpcore tells of it."""
        assert self.head is not None
        return self.head[:4]

    def feed(self, data: bytes) -> bytes:
        """Take what has been received, and give what of the body is in it, without the chunks' framing.

        Raises:
            httpx.RemoteProtocolError: the head is none of HTTP/1.1, or breaks a limit. What is wrong with the body
                stands in ``error`` afterwards: it must not hide the head and the data that came along with it.
        """
        self.has_begun = True
        if self.head is None:
            data = self._take_head(data)
            if self.head is None:
                return b""
        match self.head.body:
            case Body.LENGTH:
                return self._take_counted(data)
            case Body.CHUNKED:
                return self._take_chunks(data)
            case Body.UNTIL_CLOSE:
                return data
            case Body.TUNNEL:
                self.leading = data
            case _:
                self.is_followed = bool(data)
        self.is_complete = True
        return b""

    def feed_eof(self) -> None:
        """Take it that no more will come.

        Raises:
            httpx.RemoteProtocolError: the response is not whole.
        """
        if self.head is None:
            raise httpx.RemoteProtocolError(
                "the server closed the connection in the middle of the response's head"
                if self.has_begun
                else "Server disconnected without sending a response."  # known to all who have met httpx
            )
        if self.head.body is Body.LENGTH:
            raise httpx.RemoteProtocolError(
                "the server closed the connection in the middle of the response's body: "
                f"{self._left} of {self.head.length} bytes are missing"
            )
        if self.head.body is Body.CHUNKED:
            raise httpx.RemoteProtocolError("the server closed the connection before the last chunk of the response")
        self.is_complete = True

    def _take_head(self, data: bytes) -> bytes:
        """Take the head, and give what comes behind it."""
        while data:
            if not self._fed and not data.startswith(b"H"):  # llhttp would skip blank lines
                raise httpx.RemoteProtocolError("the server does not answer in HTTP/1.1")
            end = self._head_end(data)
            self._parse(data[:end])
            message, llhttp = self._message, self._llhttp
            if not message.has_head:
                return b""
            head = response_head(
                self._method, llhttp.get_http_version(), llhttp.get_status_code(), message.reason, message.headers
            )
            data = data[end:]
            if head.status == 101 and not self._may_switch:
                raise httpx.RemoteProtocolError("the server switches to a protocol that the request has not asked for")
            if head.status >= 200 or head.status == 101:
                self.head = head
                self._left = head.length
                if head.body is Body.CHUNKED:
                    # llhttp must not have an opinion of its own on whether there are chunks.
                    self._begin_message()
                    self._llhttp.feed_data(_CHUNKED_HEAD)
                    self._message.headers.clear()  # from here on, they are trailers
                return data
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise httpx.RemoteProtocolError(f"the server sent more than {MAX_INFORMATIONAL} interim responses")
            self._begin_message()
        return b""

    def _begin_message(self) -> None:
        self._message = _Message()
        self._llhttp = httptools.HttpResponseParser(self._message)
        self._fed, self._tail = 0, b""

    def _head_end(self, data: bytes) -> int:
        """Say where the head ends, and if it does not, where the data do."""
        if self._tail:  # its CRLF CRLF may have begun in what came before
            end = (self._tail[-3:] + data[:3]).find(_END)
            if end >= 0:
                return end + 4 - len(self._tail[-3:])
        end = data.find(_END)
        return len(data) if end < 0 else end + 4

    def _take_counted(self, data: bytes) -> bytes:
        if len(data) < self._left:
            self._left -= len(data)
            return data
        self.is_complete = True
        if len(data) > self._left:
            self.is_followed = True
            data = data[: self._left]
        return data

    def _take_chunks(self, data: bytes) -> bytes:
        tail, message = self._tail, self._message
        try:
            self._parse(data)
        except httpx.RemoteProtocolError as error:
            self.error = error
        if message.is_complete and self.error is None:
            self.is_followed = message.is_followed or _is_followed(tail + data)
            if self._fed > MAX_HEAD_BYTES and not self.is_followed:
                self.error = httpx.RemoteProtocolError(_TOO_LONG)
            else:
                self.is_complete = True
        body = b"".join(message.body)
        message.body.clear()
        return body

    def _parse(self, data: bytes) -> None:
        message = self._message
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # a 101, and the data end where its head does
        except httptools.HttpParserError as error:
            if self.head is not None and message.is_complete:
                message.is_followed = True
            elif message.has_head and self._llhttp.get_status_code() == 101:
                raise httpx.RemoteProtocolError("the 101 has no Upgrade, or no Connection: upgrade") from error
            else:
                raise httpx.RemoteProtocolError(f"the response is not valid HTTP/1.1: {error}") from error
        self._tail = (self._tail + data)[-4:] if len(data) < 4 else data[-4:]
        # What brings some of the body along counts for nothing.
        self._fed = 0 if message.body else self._fed + len(data)
        if self._fed > MAX_HEAD_BYTES and (self.head is None or not message.is_complete):
            raise httpx.RemoteProtocolError(_TOO_LONG)
        if len(message.headers) > MAX_FIELDS:
            raise httpx.RemoteProtocolError(f"the response has more than {MAX_FIELDS} header fields")


def _is_followed(data: bytes) -> bool:
    """Say whether blank lines come behind the last chunk; anything else, llhttp takes for another message.

    The last chunk and its trailers end with one CRLF CRLF, and no CR and no LF can stand before that.
    """
    return len(data) - len(data.rstrip(b"\r\n")) > len(_END)


class _Message:
    """What llhttp reports. Apart from the parser, for the two must not refer to each other: that is a garbage cycle."""

    reason = b""
    has_head = False
    is_complete = False
    is_followed = False

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []

    def on_message_begin(self) -> None:
        self.is_followed = self.is_complete

    def on_status(self, piece: bytes) -> None:
        self.reason += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_complete:
            return
        self.headers.append((name, value.rstrip(b" \t")))  # the whitespace before it, llhttp leaves out itself

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, piece: bytes) -> None:
        if not self.is_complete:
            self.body.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True
