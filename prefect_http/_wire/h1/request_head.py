"""What a request says before its body: checked, and in the bytes that go out. Pure.

Nothing that could end a line early, or that is no legal token, is ever sent: a header with a line break in it would be
a second header to the server, or a second request (request splitting, RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx

# RFC 9110 section 5.6.2: token = 1*tchar
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9112 section 3.2: a request target has no whitespace and no control character in it; nor a byte beyond ASCII.
_TARGET = re.compile(rb"[\x21-\x7e]+")
# RFC 9110 section 5.5: field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")

CHUNKED = -1


Headers = Sequence[tuple[bytes, bytes]]


class EncodedHeaders(NamedTuple):
    """The headers of a request in bytes, and what they promise.

    Attributes:
        lines: the headers, with the empty line behind them.
        length: how many bytes of a body follow; ``CHUNKED``: in chunks, as many as there are.
        close_after: the request asks the server to close the connection afterwards.
        allow_upgrade: it asks for another protocol, behind a 101.
    """

    lines: bytes
    length: int
    close_after: bool
    allow_upgrade: bool


def request_line(method: str, target: bytes | str) -> bytes:
    """Check a method and a target and write them down, as RFC 9112 section 3 says.

    Raises:
        httpx.LocalProtocolError: one of them cannot be sent.
    """
    verb = method.encode("ascii", errors="replace")
    if not _TOKEN.fullmatch(verb):
        raise httpx.LocalProtocolError(f"the method {method!r} is no token, so it cannot be sent")
    if isinstance(target, str):
        target = target.encode()
    if not _TARGET.fullmatch(target):
        raise httpx.LocalProtocolError(f"the request target {target!r} has a character that cannot be sent")
    return b"%b %b HTTP/1.1\r\n" % (verb, target)


def encode_headers(headers: Headers) -> EncodedHeaders:
    """Check a request's headers and write them down, as RFC 9112 sections 5 and 6 say.

    ``Host`` goes first. Beside a Transfer-Encoding, a Content-Length is left out: httpx adds one to a body of bytes.

    Raises:
        httpx.LocalProtocolError: something in them cannot be sent; the message names it, but quotes no value.
    """
    hosts, length, is_chunked, close_after, allow_upgrade = 0, None, False, False, False
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            raise httpx.LocalProtocolError(f"the header name {name!r} is no token, so it cannot be sent")
        if not _VALUE.fullmatch(value):
            raise httpx.LocalProtocolError(
                f"the value of the header {name.decode()} cannot be sent: it has a control character in it, "
                "or whitespace at an end"
            )
        match name.lower():
            case b"host":
                hosts += 1
            case b"content-length":
                if not _LENGTH.fullmatch(value) or length is not None:
                    raise httpx.LocalProtocolError("the request's Content-Length must be one number of bytes")
                length = int(value)
            case b"transfer-encoding":
                if value.lower() != b"chunked" or is_chunked:
                    raise httpx.LocalProtocolError("the only Transfer-Encoding that can be sent is chunked, once")
                is_chunked = True
            case b"upgrade":
                allow_upgrade = True
            case b"connection":
                close_after = close_after or b"close" in [option.strip() for option in value.lower().split(b",")]
            case _:
                pass
    if hosts != 1:
        raise httpx.LocalProtocolError(f"a request has one Host header, and this one has {hosts or 'none'}")
    if is_chunked and length is not None:
        headers = [header for header in headers if header[0].lower() != b"content-length"]
    if headers[0][0].lower() != b"host":  # RFC 9110 section 7.2: it should be the first
        headers = sorted(headers, key=lambda header: header[0].lower() != b"host")
    lines = b"".join([*[b"%b: %b\r\n" % header for header in headers], b"\r\n"])
    return EncodedHeaders(lines, CHUNKED if is_chunked else length or 0, close_after, allow_upgrade)


class BodyFraming:
    """Frames the body of a request, and holds it to the length that the head has promised."""

    __slots__ = ("_left", "_length")

    def __init__(self, length: int) -> None:
        self._length = self._left = length

    def frame(self, chunk: bytes) -> bytes:
        """Give what is sent for a part of the body.

        Raises:
            httpx.LocalProtocolError: the body is longer than promised.
        """
        if self._length == CHUNKED:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""  # an empty chunk would be the last
        self._left -= len(chunk)
        if self._left < 0:
            raise httpx.LocalProtocolError(f"the request's body is longer than its Content-Length, {self._length}")
        return chunk

    def end(self) -> bytes:
        """Give what is sent behind the body.

        Raises:
            httpx.LocalProtocolError: the body is shorter than promised.
        """
        if self._length == CHUNKED:
            return b"0\r\n\r\n"
        if self._left:
            raise httpx.LocalProtocolError(
                f"the request's body is shorter than its Content-Length, {self._length}: {self._left} bytes are missing"
            )
        return b""
