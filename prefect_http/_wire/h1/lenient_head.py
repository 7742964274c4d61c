"""LenientHead: reads a head line by line, one that is not plain or has not arrived whole. Pure.

Beyond RFC 9112 section 5, a line may end with a bare LF, a value may be continued on the next line (obs-fold), and may
have any control character in it but NUL, CR and LF. What a header means for the framing is checked elsewhere, for all
heads alike.
"""

from __future__ import annotations

import re

from prefect_http._errors import InvalidResponse
from prefect_http._wire.h1.response_head import (
    FRAMING_HEADERS,
    HEAD_TOO_LARGE,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    TOO_MANY_FIELDS,
)

_START = b"HTTP/1."
# RFC 9112 section 4: status-line = HTTP-version SP status-code SP [ reason-phrase ]; many leave out the last SP.
_STATUS_LINE = re.compile(rb"(HTTP/1\.[0-9]) ([0-9]{3})(?: ([^\x00\r\n]*))?")
# RFC 9112 section 4: reason-phrase = 1*( HTAB / SP / VCHAR / obs-text ).
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
# RFC 9112 section 5: field-line = field-name ":" OWS field-value OWS
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)")
# RFC 9112 section 5.2: obs-fold = OWS CRLF RWS, to be replaced by spaces.
_FOLDED_LINE = re.compile(rb"[ \t]([^\x00\r\n]*)")


class LenientHead:
    """Reads a head, line by line.

    Attributes:
        version: such as ``b"HTTP/1.1"``.
        status: 100 to 999.
        reason: the reason phrase.
        headers: names and values.
        is_ambiguous: whether a line ends with a bare LF, or a header that concerns the framing is continued on the next
            line. Another reader may find the end of the head, or of the body, elsewhere.
    """

    def __init__(self) -> None:
        self.version = b""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_ambiguous = False
        self._partial: bytes = b""  # a line whose end has not arrived
        self._size = 0  # the number of bytes of the lines before it

    def feed(self, data: bytes) -> bytes | None:
        """Read what has arrived, and return what follows the head; None: the head is incomplete.

        Raises:
            InvalidResponse: the head is invalid or too large.
        """
        data = self._partial + data
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            line = data[start:end]
            self._size += end + 1 - start
            start = end + 1
            if self._size > MAX_HEAD_BYTES:
                raise InvalidResponse(HEAD_TOO_LARGE)
            if line.endswith(b"\r"):
                line = line[:-1]
            else:
                self.is_ambiguous = True
            if not line and self.version:
                return data[start:]
            self._take(line)
        self._partial = data[start:]
        if self._size + len(self._partial) > MAX_HEAD_BYTES:
            raise InvalidResponse(HEAD_TOO_LARGE)
        if not self.version and self._partial[: len(_START)] != _START[: len(self._partial)]:
            raise InvalidResponse("the response is not HTTP/1.1: it does not start with 'HTTP/1.'")
        return None

    def _take(self, line: bytes) -> None:
        if not self.version:
            self._take_status_line(line)
        elif (folded := _FOLDED_LINE.fullmatch(line)) and self.headers:
            name, value = self.headers[-1]
            self.is_ambiguous |= name.lower() in FRAMING_HEADERS
            self.headers[-1] = name, (value + b" " + folded[1].strip(b" \t")).strip(b" \t")
        elif field := _FIELD_LINE.fullmatch(line):
            self.headers.append((field[1], field[2].strip(b" \t")))
            if len(self.headers) > MAX_FIELDS:
                raise InvalidResponse(TOO_MANY_FIELDS)
        else:
            raise InvalidResponse("the response has an invalid line among its headers")

    def _take_status_line(self, line: bytes) -> None:
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise InvalidResponse("the response is not HTTP/1.1: its first line is not a valid status line")
        self.version, self.status, self.reason = match[1], int(match[2]), match[3] or b""
        if self.status < 100:
            raise InvalidResponse(f"invalid status code {self.status:03} in the response")
        if not _REASON.fullmatch(self.reason):
            raise InvalidResponse("control character in the response's reason phrase")


def is_trailer(line: bytes, *, is_first: bool) -> bool:
    """Return whether a line, without its CRLF, is a valid trailer, or continues the one before it."""
    return bool(_FIELD_LINE.fullmatch(line) or (not is_first and _FOLDED_LINE.fullmatch(line)))
