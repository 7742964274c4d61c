"""The head of an HTTP/1.1 request, as a strict server reads it. Pure. RFC 9112.

What a client must not send is an error, also where the RFC allows servers to be lenient: a bare LF, a folded line,
a second Host or Content-Length, both framings of a body.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from prefect_http.testing._events import ProtocolError
from prefect_http.testing._request_fields import RequestFields

# Section 3: request-line = method SP request-target SP HTTP-version CRLF
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
# The beginning of any request, so that something else is found before an empty line arrives.
_BEGINNING = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: [\x21-\x7e]*| [\x21-\x7e]+ .*)?", re.DOTALL)
_BARE_LF = re.compile(rb"(?<!\r)\n")
# Section 5: field-line = field-name ":" OWS field-value OWS
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")

# Blocks of headers that are remembered: this many, up to this size in bytes.
_MAX_BLOCKS = 256
_MAX_BLOCK_BYTES = 2048

CHUNKED = -1


class RequestHeaders(NamedTuple):
    """The headers of a request, and what they say.

    Attributes:
        fields: names and values, as they arrived.
        host: the Host; None: there is none.
        body_length: in bytes; 0: there is no body, or an empty one; `CHUNKED`: it comes in chunks.
        closes: whether ``Connection`` has ``close``.
        keeps_alive: whether it has ``keep-alive``.
        upgrades: whether the request asks for another protocol.
        expects_continue: whether the client waits for a 100.
    """

    fields: tuple[tuple[bytes, bytes], ...]
    host: bytes | None
    body_length: int
    closes: bool
    keeps_alive: bool
    upgrades: bool
    expects_continue: bool


def read_headers(block: bytes) -> RequestHeaders:
    """Return the headers in their lines, of which each but the last one ends with CRLF.

    A client sends much the same headers again and again, so they are remembered.

    Raises:
        ProtocolError: they are invalid.
    """
    return _read_known(block) if len(block) <= _MAX_BLOCK_BYTES else _read(block)


def check_beginning(data: bytes) -> None:
    """Check a head that has not arrived to its end: whether it can become one.

    Raises:
        ProtocolError: it cannot.
    """
    if not _BEGINNING.fullmatch(data):
        raise ProtocolError("the client sent something that is not an HTTP/1.1 request")
    if _BARE_LF.search(data):
        raise ProtocolError("the client sent a line that does not end with CRLF")


def _read(block: bytes) -> RequestHeaders:
    fields: list[tuple[bytes, bytes]] = []
    found = RequestFields()
    encoding = None
    options: set[bytes] = set()
    has_upgrade = False
    for line in block.split(b"\r\n") if block else ():
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise ProtocolError("the client sent an invalid line among the headers")
        name, value = match[1], match[2].rstrip(b" \t")
        fields.append((name, value))
        match name.lower():
            case b"transfer-encoding":
                if encoding is not None or value.lower().rpartition(b",")[2].strip(b" \t") != b"chunked":
                    raise ProtocolError("the client sent a Transfer-Encoding that does not end with chunked")
                encoding = value
            case b"connection":
                options.update(option.strip(b" \t") for option in value.lower().split(b","))
            case b"upgrade":
                has_upgrade = True
            case lower:
                fault = found.take(lower, value)
                if fault is not None:
                    raise ProtocolError(fault)
    if encoding is not None and found.content_length is not None:
        raise ProtocolError("the client sent both a Content-Length and a Transfer-Encoding")
    return RequestHeaders(
        tuple(fields),
        found.host,
        CHUNKED if encoding is not None else found.content_length or 0,
        closes=b"close" in options,
        keeps_alive=b"keep-alive" in options,
        upgrades=has_upgrade and b"upgrade" in options,
        expects_continue=found.expects_continue,
    )


_read_known = functools.lru_cache(_MAX_BLOCKS)(_read)
