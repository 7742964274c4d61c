"""The head of a request, checked and encoded; and the framing of its body. Pure."""

from __future__ import annotations

from typing import NamedTuple

from prefect_http._fields.request_rules import (
    BodyLength,
    Headers,
    check_headers,
    check_host,
    check_method,
    check_target,
)


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
    return b"%b %b HTTP/1.1\r\n" % (check_method(method), check_target(target))


def encode_headers(headers: Headers) -> EncodedHeaders:
    """Check a request's headers and encode them (RFC 9112 sections 5 and 6).

    ``Host`` goes first. If there is a Transfer-Encoding, a Content-Length is left out: httpx adds one to a body of
    bytes.

    Raises:
        httpx.LocalProtocolError: a header cannot be sent; the message names it, but does not quote its value.
    """
    checked = check_headers(headers)
    check_host(checked)
    headers = checked.headers
    if headers[0][0].lower() != b"host":  # RFC 9110 section 7.2: it should be the first
        headers = sorted(headers, key=lambda header: header[0].lower() != b"host")
    lines = b"".join([*[b"%b: %b\r\n" % header for header in headers], b"\r\n"])
    content_length = None if checked.is_chunked else checked.content_length or 0
    return EncodedHeaders(lines, content_length, checked.close_after, checked.allow_upgrade)


class BodyFramer(BodyLength):
    """Frames the body of a request, and checks that it is as long as the headers say.

    Args:
        content_length: the length of the body in bytes; None: the body is sent in chunks.
    """

    __slots__ = ()

    def frame(self, data: bytes) -> bytes:
        """Return the bytes to send for a part of the body.

        Raises:
            httpx.LocalProtocolError: the body is longer than its Content-Length.
        """
        if self.content_length is None:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would be the last
        self.count(data)
        return data

    def end(self) -> bytes:
        """Return the bytes to send after the body.

        Raises:
            httpx.LocalProtocolError: the body is shorter than its Content-Length.
        """
        self.check_end()
        return b"0\r\n\r\n" if self.content_length is None else b""
