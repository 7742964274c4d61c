"""What the head of an HTTP/1.1 response says of the body behind it. Pure. RFC 9112 section 6.3."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx

_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
# RFC 9112 section 4: reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ); llhttp lets anything pass.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

Headers = Sequence[tuple[bytes, bytes]]


class Body(enum.Enum):
    """Where the body of a response ends."""

    NONE = enum.auto()
    LENGTH = enum.auto()
    """After as many bytes as Content-Length says."""
    CHUNKED = enum.auto()
    """With the last chunk."""
    UNTIL_CLOSE = enum.auto()
    """Where the server closes the connection."""
    TUNNEL = enum.auto()
    """There is none: what follows is another protocol's."""


class ResponseHead(NamedTuple):
    """The head of a response.

    Attributes:
        version: ``b"HTTP/1.0"`` or ``b"HTTP/1.1"``.
        status: 100 to 999.
        reason: the reason phrase; may be empty.
        headers: names and values, as they came.
        body: where the body ends.
        length: how many bytes it has, where ``body`` is ``Body.LENGTH``; else 0.
        keeps_alive: the connection can serve another request, once the body has been read.
    """

    version: bytes
    status: int
    reason: bytes
    headers: Headers
    body: Body
    length: int
    keeps_alive: bool


def response_head(method: str, version: str, status: int, reason: bytes, headers: Headers) -> ResponseHead:
    """Tell where the body of a response ends.

    Args:
        method: of the request.
        version: ``"1.0"`` or ``"1.1"``.
        status: of the response.
        reason: its reason phrase.
        headers: syntactically correct, with at most one Content-Length, and not beside a Transfer-Encoding: llhttp
            takes no others.

    Raises:
        httpx.RemoteProtocolError: the version, the status or the reason is none, or the body has a coding other than
            chunked.
    """
    if version not in {"1.0", "1.1"}:
        raise httpx.RemoteProtocolError(f"the server answers in HTTP/{version}, and not in HTTP/1.1")
    if not _REASON.fullmatch(reason):
        raise httpx.RemoteProtocolError("the response's reason phrase has a control character in it")
    if status < 100:
        raise httpx.RemoteProtocolError(f"the server answers with the status {status:03}, which there is not")
    length: int | None = None
    codings: list[bytes] = []
    options: list[bytes] = []
    for name, value in headers:
        if (key := name.lower()) not in _FRAMING:
            continue
        if key == b"content-length":
            length = int(value)
        elif key == b"transfer-encoding":
            codings.append(value.strip().lower())
        else:
            options += _items(value)
    # RFC 9112 section 9.3; and section 6.1: with chunks in an answer of HTTP/1.0, somebody on the way is confused.
    keeps_alive = b"close" not in options and (version == "1.1" or (b"keep-alive" in options and not codings))
    body = Body.NONE
    if status == 101 or (method == "CONNECT" and 200 <= status < 300):
        body, keeps_alive = Body.TUNNEL, False
    elif method == "HEAD" or status < 200 or status in {204, 304}:
        pass
    elif codings:
        if codings != [b"chunked"]:
            coded = b", ".join(codings).decode("latin-1")
            raise httpx.RemoteProtocolError(f"the response has the Transfer-Encoding {coded!r}; only chunked is known")
        body = Body.CHUNKED
    elif length is None:
        body, keeps_alive = Body.UNTIL_CLOSE, False
    elif length:
        body = Body.LENGTH
    if body is not Body.LENGTH or length is None:
        length = 0
    return ResponseHead(b"HTTP/" + version.encode(), status, reason, headers, body, length, keeps_alive)


def _items(value: bytes) -> list[bytes]:
    """Give the items of a list, RFC 9110 section 5.6.1."""
    return [item.strip() for item in value.lower().split(b",") if item.strip()]
