"""The head of an HTTP/1.1 response, and what it says about the body. Pure. RFC 9112 section 6.3."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple

from prefect_http._errors import InvalidResponse

# Of each head, and of the trailers.
MAX_HEAD_BYTES = 100 * 1024
MAX_FIELDS = 256
HEAD_TOO_LARGE = f"the headers, trailers or chunk extensions of the response are larger than {MAX_HEAD_BYTES} bytes"
TOO_MANY_FIELDS = f"the response has more than {MAX_FIELDS} headers"

FRAMING_HEADERS = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})
_CODINGS = frozenset({b"br", b"chunked", b"compress", b"deflate", b"gzip", b"identity", b"x-compress", b"x-gzip"})
_MAX_DIGITS = 18  # of a length
_LENGTH = re.compile(rb"[0-9]{1,%d}" % _MAX_DIGITS)

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
        version: as it arrived, such as ``b"HTTP/1.1"``.
        status: 100 to 999.
        reason: the reason phrase; may be empty.
        headers: names and values, as they arrived; but Content-Length only once, as with httpx.
        names: those of the headers, in lower case.
        framing: where the body ends.
        content_length: the length of the body in bytes, with ``Framing.CONTENT_LENGTH``; else 0.
        keep_alive: whether the connection can serve another request, once the body has been read.
    """

    version: bytes
    status: int
    reason: bytes
    headers: Headers
    names: Sequence[bytes]
    framing: Framing
    content_length: int
    keep_alive: bool


# Every response is compared with some of them, and Python 3.11 takes 0.2 us to look up a member of an enum.
_NO_BODY, _CONTENT_LENGTH, _CHUNKED = Framing.NO_BODY, Framing.CONTENT_LENGTH, Framing.CHUNKED
_UNTIL_CLOSE, _TUNNEL = Framing.UNTIL_CLOSE, Framing.TUNNEL


def response_head(
    method: str, version: bytes, status: int, reason: bytes, headers: Headers, *, is_ambiguous: bool = False
) -> ResponseHead:
    """Find out where the body of a response ends. The caller has checked the syntax.

    Args:
        method: the request's method.
        version: ``b"HTTP/1.0"``, ``b"HTTP/1.1"``, or a higher minor version, which is to be read as the highest known
            one (RFC 9110 section 2.5).
        status: the status code, 100 to 999.
        reason: the reason phrase.
        headers: names and values.
        is_ambiguous: whether another reader may read the head differently, so that the connection is not to be kept.

    Raises:
        InvalidResponse: there are different lengths, the body has a transfer coding other than chunked, or a 101 lacks
            what belongs to it.
    """
    content_length: int | None = None
    codings: list[bytes] = []
    options: list[bytes] = []
    has_upgrade = False
    names = [name.lower() for name, _ in headers]
    for key, (_, value) in zip(names, headers, strict=True):
        if key not in FRAMING_HEADERS:
            continue
        if key == b"content-length":
            if content_length is None and value.isdigit() and len(value) <= _MAX_DIGITS:  # almost always
                content_length = int(value)
            else:
                content_length = _length(value, content_length)
                headers = with_one_length(headers)  # the loop goes on with what there was
                names = [name.lower() for name, _ in headers]
        elif key == b"transfer-encoding":
            codings.append(value.strip(b" \t").lower())
        elif key == b"connection":
            options += _items(value)
        else:
            has_upgrade = True
    # RFC 9112 section 9.3; and section 6.1: with chunks in an HTTP/1.0 response, or a length beside them, something on
    # the way is confused, or an attacker wants it to be.
    keep_alive = b"close" not in options and (version != b"HTTP/1.0" or (b"keep-alive" in options and not codings))
    if is_ambiguous or (codings and content_length is not None):
        keep_alive = False
    framing = _NO_BODY
    if status == 101 or (method == "CONNECT" and 200 <= status < 300):
        if status == 101 and not (has_upgrade and b"upgrade" in options):
            raise InvalidResponse("the server sent a 101 without an Upgrade header, or without Connection: upgrade")
        framing, keep_alive = _TUNNEL, False
    elif method == "HEAD" or status < 200 or status in {204, 304}:
        pass
    elif codings:
        if codings != [b"chunked"]:
            raise InvalidResponse(f"unsupported Transfer-Encoding{_shown(codings)} in the response")
        framing = _CHUNKED
    elif content_length is None:
        framing, keep_alive = _UNTIL_CLOSE, False
    elif content_length:
        framing = _CONTENT_LENGTH
    length = content_length if framing is _CONTENT_LENGTH and content_length is not None else 0
    return ResponseHead(version, status, reason, headers, names, framing, length, keep_alive)


def _items(value: bytes) -> list[bytes]:
    """Return the items of a list (RFC 9110 section 5.6.1)."""
    return [item.strip(b" \t") for item in value.lower().split(b",")]


def with_one_length(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return headers in which the first Content-Length stands for all: they are the same, and it may be a list."""
    at = [name.lower() for name, _ in headers].index(b"content-length")
    others = [header for header in headers if header[0].lower() != b"content-length"]
    name, value = headers[at]
    return [*others[:at], (name, value.partition(b",")[0].strip(b" \t")), *others[at:]]


def _shown(codings: list[bytes]) -> str:
    """Return transfer codings for a message. Others than the known ones may be an echo of credentials."""
    text = b", ".join(codings)
    return f" {text.decode()!r}" if _CODINGS.issuperset(_items(text)) else ""


def _length(value: bytes, before: int | None) -> int:
    """Return the length that a Content-Length says. It may be repeated if it is the same (RFC 9110 section 8.6).

    Args:
        value: the header's value.
        before: what an earlier Content-Length said; None: there was none.
    """
    for item in _items(value):
        if not _LENGTH.fullmatch(item):
            raise InvalidResponse("invalid Content-Length in the response")
        if before is not None and int(item) != before:
            raise InvalidResponse("the response has two different Content-Lengths")
        before = int(item)
    assert before is not None
    return before
