"""The head of a request, checked and encoded; and the framing of its body. Pure.

Nothing is sent that could end a line early or that is not a legal token: a header with a line break in it would be a
second header to the server, or a second request (request splitting, RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx

# RFC 9110 section 5.6.2: token = 1*tchar
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9112 section 3.2: a request target has no whitespace and no control characters; nor a byte beyond ASCII.
_TARGET = re.compile(rb"[\x21-\x7e]+")
# RFC 9110 section 5.5: field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

Headers = Sequence[tuple[bytes, bytes]]


class EncodedHeaders(NamedTuple):
    """The headers of a request in bytes, and what they say about the body and the connection.

    Attributes:
        lines: the headers, with the empty line that follows them.
        content_length: the length of the body in bytes; None: the body is sent in chunks.
        close_after: whether the request asks the server to close the connection after it.
        allow_upgrade: whether it asks for another protocol, so that the response may be a 101.
    """

    lines: bytes
    content_length: int | None
    close_after: bool
    allow_upgrade: bool


def request_line(method: str, target: bytes | str) -> bytes:
    """Check a method and a target, and return the first line of the request (RFC 9112 section 3).

    Raises:
        httpx.LocalProtocolError: one of them cannot be sent.
        TypeError: the target is neither bytes nor a string.
    """
    verb = method.encode("ascii", errors="replace")
    if not _TOKEN.fullmatch(verb):
        raise _cannot_be_sent(f"invalid method {method!r}")
    if isinstance(target, str):
        target = target.encode(errors="surrogatepass")
    elif type(target) is not bytes:
        raise TypeError(f'extensions["target"] must be bytes or a string, not {target!r}')
    if not _TARGET.fullmatch(target):
        raise _cannot_be_sent(f"invalid character in the target {target!r}")
    return b"%b %b HTTP/1.1\r\n" % (verb, target)


def encode_headers(headers: Headers) -> EncodedHeaders:
    """Check a request's headers and encode them (RFC 9112 sections 5 and 6).

    ``Host`` goes first. If there is a Transfer-Encoding, a Content-Length is left out: httpx adds one to a body of
    bytes.

    Raises:
        httpx.LocalProtocolError: a header cannot be sent; the message names it, but does not quote its value.
    """
    hosts, content_length, is_chunked, close_after, allow_upgrade = 0, None, False, False, False
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise _cannot_be_sent(f"invalid header name {name!r}")
        if not _VALUE.fullmatch(value):
            raise _cannot_be_sent(
                f"the value of the header {name.decode()} has a control character in it, or whitespace at an end"
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
    if hosts != 1:
        raise _cannot_be_sent(f"it must have one Host header, and has {hosts or 'none'}")
    if is_chunked and content_length is not None:
        headers = [header for header in headers if header[0].lower() != b"content-length"]
    if headers[0][0].lower() != b"host":  # RFC 9110 section 7.2: it should be the first
        headers = sorted(headers, key=lambda header: header[0].lower() != b"host")
    lines = b"".join([*[b"%b: %b\r\n" % header for header in headers], b"\r\n"])
    return EncodedHeaders(lines, None if is_chunked else content_length or 0, close_after, allow_upgrade)


def _cannot_be_sent(reason: str) -> httpx.LocalProtocolError:
    return httpx.LocalProtocolError(f"the request cannot be sent: {reason}")


class BodyFramer:
    """Frames the body of a request, and checks that it is as long as the headers say.

    Args:
        content_length: the length of the body in bytes; None: the body is sent in chunks.
    """

    __slots__ = ("_content_length", "_left")

    def __init__(self, content_length: int | None) -> None:
        self._content_length = content_length
        self._left = content_length or 0

    def frame(self, data: bytes) -> bytes:
        """Return the bytes to send for a part of the body.

        Raises:
            httpx.LocalProtocolError: the body is longer than its Content-Length.
        """
        if self._content_length is None:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would be the last
        self._left -= len(data)
        if self._left < 0:
            raise httpx.LocalProtocolError(
                f"the request body is longer than its Content-Length of {self._content_length} bytes"
            )
        return data

    def end(self) -> bytes:
        """Return the bytes to send after the body.

        Raises:
            httpx.LocalProtocolError: the body is shorter than its Content-Length.
        """
        if self._content_length is None:
            return b"0\r\n\r\n"
        if self._left:
            raise httpx.LocalProtocolError(
                f"the request body is shorter than its Content-Length of {self._content_length} bytes: "
                f"{self._left} are missing"
            )
        return b""
