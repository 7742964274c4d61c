"""The head of a request as HTTP/2 has it. Pure. RFC 9113 sections 8.2, 8.3 and 8.5.

- Pseudo-header fields come first, and ``:authority`` is what ``Host`` says; if that is empty, there is none.
- Names are in lower case.
- What concerns an HTTP/1.1 connection is left out: Connection and the headers that it names, Keep-Alive,
  Proxy-Connection, Transfer-Encoding, Upgrade, HTTP2-Settings, and a TE other than ``trailers``. That one stays, though
  HTTP/1.1 demands that Connection names it (RFC 9110 section 10.1.4).
- CONNECT has neither ``:scheme`` nor ``:path``.
"""

from __future__ import annotations

from prefect_http._fields.request_rules import Headers

_LEFT_OUT = frozenset(
    {
        b"connection",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)


def request_fields(method: bytes, scheme: bytes, target: bytes, headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request.

    Args:
        method: the method.
        scheme: ``b"https"`` or ``b"http"``.
        target: the path and query; for CONNECT the host and port.
        headers: checked, with exactly one ``Host``.
    """
    authority, has_te = b"", False
    left_out = _LEFT_OUT
    regular: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        key = name.lower()
        if key == b"host":
            authority = value
        elif key == b"connection":
            left_out = left_out.union(option.strip(b" \t") for option in value.lower().split(b","))
        elif key == b"te":
            has_te = has_te or value.lower() == b"trailers"
        elif key not in _LEFT_OUT:
            regular.append((key, value))
    if left_out is not _LEFT_OUT:
        regular = [field for field in regular if field[0] not in left_out]
    if has_te:
        regular.append((b"te", b"trailers"))
    if method == b"CONNECT":
        return [(b":method", method), (b":authority", target), *regular]
    start = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", target)]
    return [field for field in start if field[1]] + regular
