"""The fields of a response, and what they say about its body. Pure. RFC 9113 sections 8.1, 8.2 and 8.3.

- ``:status`` comes first, once, and is the only pseudo-header field. Trailers have none.
- Names are tokens in lower case. Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding and Upgrade do not exist.
- Values have no CR, LF or NUL. Other control characters are let through, as on HTTP/1.1, and whitespace around a value
  is removed: the RFC calls that an error, but servers pass on what they were given.
- Anything else is an error of the stream, and not of the connection.
"""

from __future__ import annotations

import re

from prefect_http._wire.h1.response_head import with_one_length
from prefect_http._wire.h2.errors import StreamError
from prefect_http._wire.h2.stream import Headers

# Without these, nothing must be left of the names, and everything of the values.
_NAME_CHARACTERS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_FORBIDDEN_CHARACTERS = b"\0\r\n"
# Section 8.2.2: they belong to HTTP/1.1.
CONNECTION_FIELDS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_MAX_DIGITS = 18  # of a length
_LENGTH = re.compile(rb"[0-9]{1,%d}" % _MAX_DIGITS)
NO_LENGTH = -1


def response_head(fields: Headers) -> tuple[int, Headers, int]:
    """Return the status code, the headers, and the Content-Length, or `NO_LENGTH`.

    Raises:
        StreamError: the fields are not those of a response.
    """
    if not fields or fields[0][0] != b":status":
        raise StreamError("the response does not begin with its status")
    status = fields[0][1]
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise StreamError("invalid status code in the response")
    headers, names = _checked(fields[1:])
    if b"content-length" not in names:
        return int(status), headers, NO_LENGTH
    length = headers[names.index(b"content-length")][1]
    if names.count(b"content-length") == 1 and length.isdigit() and len(length) <= _MAX_DIGITS:  # almost always
        return int(status), headers, int(length)
    total = _length([value for name, value in headers if name == b"content-length"])
    return int(status), with_one_length(headers), total


def trailers(fields: Headers) -> Headers:
    """Return the fields after a body.

    Raises:
        StreamError: they cannot be trailers.
    """
    return _checked(fields)[0]


def _checked(headers: Headers) -> tuple[Headers, list[bytes]]:
    """Check headers, and return them without whitespace around their values, and their names."""
    # All at once: regular expressions, one header at a time, took five times as long.
    names, values = [name for name, _ in headers], [value for _, value in headers]
    if b"".join(names).translate(None, _NAME_CHARACTERS) or b"" in names:
        raise StreamError("invalid header name in the response")
    if not CONNECTION_FIELDS.isdisjoint(names):
        raise StreamError("the response has a header that belongs to an HTTP/1.1 connection")
    text = b"".join(values)
    if len(text.translate(None, _FORBIDDEN_CHARACTERS)) != len(text):
        raise StreamError("a header of the response has a line break or a NUL in its value")
    if list(map(bytes.strip, values)) != values:
        headers = [(name, value.strip(b" \t")) for name, value in headers]
    return headers, names


def _length(values: list[bytes]) -> int:
    """Return what Content-Length says. It may be repeated if it is the same (RFC 9110 section 8.6)."""
    items = {item.strip(b" \t") for value in values for item in value.split(b",")}
    if not all(map(_LENGTH.fullmatch, items)):
        raise StreamError("invalid Content-Length in the response")
    lengths = set(map(int, items))
    if len(lengths) > 1:
        raise StreamError("the response has two different Content-Lengths")
    return lengths.pop()
