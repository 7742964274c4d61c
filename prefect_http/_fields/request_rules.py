"""What a request must be like to be sent, over a network or to an app in this process. Pure.

Nothing is sent that could end a line early or that is not a legal token: a header with a line break in it would be a
second header to the server, or a second request (request splitting, RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from prefect_http._wording import are, counted

# RFC 9110 section 5.6.2: token = 1*tchar
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9112 section 3.2: a request target has no whitespace and no control characters; nor a byte beyond ASCII.
_TARGET = re.compile(rb"[\x21-\x7e]+")
# RFC 9110 section 5.5: field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

Headers = Sequence[tuple[bytes, bytes]]


class CheckedHeaders(NamedTuple):
    """The headers of a request, and what they say about the body and the connection.

    Attributes:
        headers: the headers, without a Content-Length if there is a Transfer-Encoding: httpx adds one to a body of
            bytes.
        content_length: the length of the body in bytes; None: they do not say.
        is_chunked: whether the body is sent in chunks.
        has_host: whether there is a Host.
        close_after: whether the request asks the server to close the connection after it.
        allow_upgrade: whether it asks for another protocol, so that the response may be a 101.
    """

    headers: Headers
    content_length: int | None
    is_chunked: bool
    has_host: bool
    close_after: bool
    allow_upgrade: bool


def check_method(method: str) -> bytes:
    """Return a method in bytes.

    Raises:
        httpx.LocalProtocolError: it cannot be sent.
    """
    verb = method.encode("ascii", errors="replace")
    if not _TOKEN.fullmatch(verb):
        raise _cannot_be_sent(f"invalid method {method!r}")
    return verb


def check_target(target: bytes | str) -> bytes:
    """Return a request target in bytes.

    Raises:
        httpx.LocalProtocolError: it cannot be sent.
        TypeError: it is neither bytes nor a string.
    """
    if isinstance(target, str):
        target = target.encode(errors="surrogatepass")
    elif type(target) is not bytes:
        raise TypeError(f'extensions["target"] must be bytes or a string, not {target!r}')
    if not _TARGET.fullmatch(target):
        raise _cannot_be_sent(f"invalid character in the target {target!r}")
    return target


def is_field_value(value: bytes) -> bool:
    """Whether a header can have a value."""
    return _VALUE.fullmatch(value) is not None


def check_headers(headers: Headers) -> CheckedHeaders:
    """Check a request's headers, and read what they say (RFC 9112 sections 5 and 6).

    Raises:
        httpx.LocalProtocolError: a header cannot be sent; the message names it, but does not quote its value.
    """
    hosts, content_length, is_chunked, close_after, allow_upgrade = 0, None, False, False, False
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise _cannot_be_sent(f"invalid header name {name!r}")
        if not _VALUE.fullmatch(value):
            raise _cannot_be_sent(
                f"the value of the header {name.decode()} has a control character, or whitespace at its start or end"
            )
        match name.lower():
            case b"host":
                hosts += 1
            case b"content-length":
                if not _LENGTH.fullmatch(value) or content_length is not None:
                    raise _cannot_be_sent("Content-Length must be a single number")
                content_length = int(value)
            case b"transfer-encoding":
                if value.lower() != b"chunked" or is_chunked:
                    raise _cannot_be_sent("the only supported Transfer-Encoding is chunked, once")
                is_chunked = True
            case b"upgrade":
                allow_upgrade = True
            case b"connection":
                close_after = close_after or b"close" in [option.strip() for option in value.lower().split(b",")]
            case _:
                pass
    if hosts > 1:
        raise _cannot_be_sent(f"it must have one Host header, and has {hosts}")
    if is_chunked and content_length is not None:
        headers = [header for header in headers if header[0].lower() != b"content-length"]
        content_length = None
    return CheckedHeaders(headers, content_length, is_chunked, hosts == 1, close_after, allow_upgrade)


def check_host(headers: CheckedHeaders) -> None:
    """Check that there is a Host, which a server on a network needs (RFC 9112 section 3.2).

    Raises:
        httpx.LocalProtocolError: there is none.
    """
    if not headers.has_host:
        raise _cannot_be_sent("it must have one Host header, and has none")


def _cannot_be_sent(reason: str) -> httpx.LocalProtocolError:
    return httpx.LocalProtocolError(f"the request cannot be sent: {reason}")


class BodyLength:
    """Checks that the body of a request is as long as the headers say.

    Args:
        content_length: the length of the body in bytes; None: the headers do not say.
    """

    __slots__ = ("_left", "content_length")

    def __init__(self, content_length: int | None) -> None:
        self.content_length = content_length
        self._left = content_length or 0

    def count(self, data: bytes) -> None:
        """Take note of a part of the body.

        Raises:
            httpx.LocalProtocolError: the body is longer than its Content-Length.
        """
        self._left -= len(data)
        if self._left < 0 and self.content_length is not None:
            raise httpx.LocalProtocolError(
                f"the request body is longer than its Content-Length of {counted(self.content_length, 'byte')}"
            )

    def check_end(self) -> None:
        """Take note of the end of the body.

        Raises:
            httpx.LocalProtocolError: the body is shorter than its Content-Length.
        """
        if self._left and self.content_length is not None:
            raise httpx.LocalProtocolError(
                f"the request body is shorter than its Content-Length of {counted(self.content_length, 'byte')}: "
                f"{self._left} {are(self._left)} missing"
            )
