"""Parsing the head of a response that is plain. Pure.

Almost all heads are: lines that end with CRLF, without folding, trailing whitespace or control characters. A few
regular expressions read such a head in one pass, 4 headers in 2 us; llhttp (httptools) took 5, most of it in its
callbacks. Any other head is left to a `LenientHead`.
"""

from __future__ import annotations

import re

from prefect_http._wire.h1.response_head import MAX_FIELDS, MAX_HEAD_BYTES, ResponseHead, response_head

END_OF_HEAD = b"\r\n\r\n"
# RFC 9112 sections 4 and 5, without what is said above. A field begins with the LF of the line before it.
_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)\r(?=\n)")
_FIELD = re.compile(rb"\n([!#$%&'*+\-.^_`|~0-9A-Za-z]++): ?+([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*+|)\r(?=\n)")


def plain_head(method: str, data: bytes) -> ResponseHead | None:
    """Return a head; None: it is not plain.

    Args:
        method: the request's method.
        data: the head, up to `END_OF_HEAD`.

    Raises:
        InvalidResponse: it is plain, and invalid.
    """
    status_line = _STATUS_LINE.match(data)
    if status_line is None or len(data) > MAX_HEAD_BYTES:
        return None
    start, end = status_line.end(), len(data) - len(END_OF_HEAD)
    headers: list[tuple[bytes, bytes]] = _FIELD.findall(data, start, end + 2)
    # Each match has one LF and one CR in it, with an LF behind. If these are all that there are, each line is a match.
    count = len(headers)
    if data.count(b"\n", start, end) != count or data.count(b"\r", start, end + 1) != count or count > MAX_FIELDS:
        return None
    if data.find(b" \r", start, end + 1) >= 0 or data.find(b"\t\r", start, end + 1) >= 0:
        return None  # whitespace after a value
    version, status, reason = status_line.groups()
    return response_head(method, version, int(status), reason, headers)
