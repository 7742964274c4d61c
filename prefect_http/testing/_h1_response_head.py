"""The head of an HTTP/1.1 response, and how its body is framed. Pure. RFC 9112 section 6."""

from __future__ import annotations

import enum
import functools
from http import HTTPStatus
from typing import NamedTuple

from prefect_http.testing._operations import Fields

# How many heads are remembered: a script sends the same ones again and again.
_MAX_HEADS = 256

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii")) for status in HTTPStatus
}


class Framing(enum.Enum):
    """How the body of a response is sent."""

    NO_BODY = enum.auto()
    AS_IS = enum.auto()
    CHUNKED = enum.auto()


class ResponseHead(NamedTuple):
    """The head of a response.

    Attributes:
        data: as it is sent.
        framing: how the body is sent.
        closes: whether the connection is closed after the response.
        is_tunnel: whether another protocol follows.
    """

    data: bytes
    framing: Framing
    closes: bool
    is_tunnel: bool


def informational_head(status: int, fields: Fields) -> bytes:
    """Return the head of a response that another one follows."""
    return _encoded(status, fields, b"")


@functools.lru_cache(_MAX_HEADS)
def response_head(
    method: bytes, is_old: bool, closes: bool, status: int, reason: bytes, fields: Fields, has_body: bool
) -> ResponseHead:
    """Return the head of a response, with the headers that frame its body, if they are missing.

    Args:
        method: that of the request.
        is_old: whether the request is of HTTP/1.0.
        closes: whether the request asks to close the connection.
        status: 200 or above, or 101.
        reason: the reason phrase; empty: the usual one.
        fields: the headers.
        has_body: whether there is a body.
    """
    has_length = is_chunked = has_encoding = has_connection = False
    for name, value in fields:
        match name.lower():
            case b"content-length":
                has_length = True
            case b"transfer-encoding":
                has_encoding = True
                is_chunked = value.lower().rpartition(b",")[2].strip(b" \t") == b"chunked"
            case b"connection":
                has_connection = True
                closes |= b"close" in [option.strip(b" \t") for option in value.lower().split(b",")]
            case _:
                pass
    if status == 101 or (method == b"CONNECT" and status < 300):
        return ResponseHead(_encoded(status, fields, reason), Framing.AS_IS, True, True)
    added: list[tuple[bytes, bytes]] = []
    framing = Framing.NO_BODY
    if method == b"HEAD" or status in {204, 304}:
        pass
    elif is_chunked:
        framing = Framing.CHUNKED
    elif has_length:
        framing = Framing.AS_IS
    elif not has_body and not has_encoding:
        added.append((b"Content-Length", b"0"))
    elif has_encoding or is_old:
        framing = Framing.AS_IS
        closes = True
    else:
        framing = Framing.CHUNKED
        added.append((b"Transfer-Encoding", b"chunked"))
    if not has_connection:
        if closes:
            added.append((b"Connection", b"close"))
        elif is_old:
            added.append((b"Connection", b"keep-alive"))
    return ResponseHead(_encoded(status, (*fields, *added), reason), framing, closes, False)


def _encoded(status: int, fields: Fields, reason: bytes) -> bytes:
    line = b"HTTP/1.1 %d %b\r\n" % (status, reason) if reason else _STATUS_LINES.get(status)
    lines = [b"%b: %b\r\n" % field for field in fields]
    return b"".join((line or b"HTTP/1.1 %d \r\n" % status, *lines, b"\r\n"))
