"""The head of an HTTP/1.1 response, and what it says about the body. Pure. RFC 9112 section 6.3."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

from prefect_http._errors import InvalidResponse

_FRAMING_HEADERS = frozenset({b"connection", b"content-length", b"transfer-encoding"})
# RFC 9112 section 4: reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ); llhttp lets anything pass.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Headers = Sequence[tuple[bytes, bytes]]


class Framing(enum.Enum):
    """Where the body of a response ends."""

    NO_BODY = enum.auto()
    CONTENT_LENGTH = enum.auto()
    """After so many bytes."""
    CHUNKED = enum.auto()
    """With the last chunk."""
    UNTIL_CLOSE = enum.auto()
    """Where the server closes the connection."""
    TUNNEL = enum.auto()
    """There is no body: the rest of the stream belongs to another protocol."""


class ResponseHead(NamedTuple):
    """The head of a response.

    Attributes:
        version: ``b"HTTP/1.0"`` or ``b"HTTP/1.1"``.
        status: 100 to 999.
        reason: the reason phrase; may be empty.
        headers: names and values, as they arrived.
        framing: where the body ends.
        content_length: the length of the body in bytes, with ``Framing.CONTENT_LENGTH``; else 0.
        keep_alive: whether the connection can serve another request, once the body has been read.
    """

    version: bytes
    status: int
    reason: bytes
    headers: Headers
    framing: Framing
    content_length: int
    keep_alive: bool


# Every response is compared with some of them, and Python 3.11 takes 0.2 us to look up a member of an enum.
_NO_BODY, _CONTENT_LENGTH, _CHUNKED = Framing.NO_BODY, Framing.CONTENT_LENGTH, Framing.CHUNKED
_UNTIL_CLOSE, _TUNNEL = Framing.UNTIL_CLOSE, Framing.TUNNEL


def response_head(method: str, version: str, status: int, reason: bytes, headers: Headers) -> ResponseHead:
    """Find out where the body of a response ends.

    Args:
        method: the request's method.
        version: ``"1.0"`` or ``"1.1"``.
        status: the status code.
        reason: the reason phrase.
        headers: syntactically correct, with at most one Content-Length, and none beside a Transfer-Encoding: llhttp
            accepts no others.

    Raises:
        InvalidResponse: the version, the status code or the reason phrase is invalid, or the body has a
            transfer coding other than chunked.
    """
    if version not in {"1.0", "1.1"}:
        raise InvalidResponse(f"unsupported HTTP version {version} in the response")
    if not _REASON.fullmatch(reason):
        raise InvalidResponse("control character in the response's reason phrase")
    if status < 100:
        raise InvalidResponse(f"invalid status code {status:03} in the response")
    content_length: int | None = None
    codings: list[bytes] = []
    options: list[bytes] = []
    for name, value in headers:
        if (key := name.lower()) not in _FRAMING_HEADERS:
            continue
        if key == b"content-length":
            content_length = int(value)
        elif key == b"transfer-encoding":
            codings.append(value.strip().lower())
        else:
            options += _items(value)
    # RFC 9112 section 9.3; and section 6.1: with chunks in an HTTP/1.0 response, something on the way is confused.
    keep_alive = b"close" not in options and (version == "1.1" or (b"keep-alive" in options and not codings))
    framing = _NO_BODY
    if status == 101 or (method == "CONNECT" and 200 <= status < 300):
        framing, keep_alive = _TUNNEL, False
    elif method == "HEAD" or status < 200 or status in {204, 304}:
        pass
    elif codings:
        if codings != [b"chunked"]:
            coded = b", ".join(codings).decode("latin-1")
            raise InvalidResponse(f"unsupported Transfer-Encoding {coded!r} in the response")
        framing = _CHUNKED
    elif content_length is None:
        framing, keep_alive = _UNTIL_CLOSE, False
    elif content_length:
        framing = _CONTENT_LENGTH
    length = content_length if framing is _CONTENT_LENGTH and content_length is not None else 0
    return ResponseHead(b"HTTP/" + version.encode(), status, reason, headers, framing, length, keep_alive)


def _items(value: bytes) -> list[bytes]:
    """Return the items of a list (RFC 9110 section 5.6.1)."""
    return [item.strip() for item in value.lower().split(b",") if item.strip()]
