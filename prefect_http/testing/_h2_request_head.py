"""The head of an HTTP/2 request, as a strict server reads it. Pure. RFC 9113 sections 8.2 and 8.3."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from prefect_http._wire.h2.errors import ConnectionFault
from prefect_http._wire.h2.response_fields import CONNECTION_FIELDS
from prefect_http.testing._operations import Fields
from prefect_http.testing._request_fields import RequestFields

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")

_PSEUDO = frozenset({b":authority", b":method", b":scheme"})

# How many lists of headers are remembered.
_MAX_LISTS = 64


class RequestHead(NamedTuple):
    """The head of a request.

    Attributes:
        method: the method.
        target: the ``:path``; for CONNECT the ``:authority``.
        authority: the ``:authority``, or the Host; empty if there is neither.
        headers: the other fields. Cookie fields, of which there may be several, are one (section 8.2.3).
        content_length: what Content-Length says; None: there is none.
        expects_continue: whether the client waits for a 100.
    """

    method: bytes
    target: bytes
    authority: bytes
    headers: Fields
    content_length: int | None
    expects_continue: bool


def read_head(fields: list[tuple[bytes, bytes]]) -> RequestHead:
    """Return what the fields of a request say.

    A client sends the same fields again and again, but for the path. So the others are remembered.

    Raises:
        ConnectionFault: they are malformed.
    """
    path, at = None, 0
    for name, value in fields:
        if name == b":path":
            path = value
            fields = fields[:at] + fields[at + 1 :]
            break
        at += 1
    method, authority, headers, content_length, expects_continue, pseudo_fields = _read_other_fields(tuple(fields))
    if method == b"CONNECT":
        if path is not None:
            raise ConnectionFault("the client sent a CONNECT with a :path")
        path = authority
    elif path is None:
        raise ConnectionFault("the client sent a request without a :path")
    elif at > pseudo_fields:
        raise ConnectionFault("the client sent a pseudo-header field after the headers")
    if not _TARGET.fullmatch(path):
        raise ConnectionFault("the client sent an invalid :path")
    return RequestHead(method, path, authority, headers, content_length, expects_continue)


def check_trailers(fields: list[tuple[bytes, bytes]]) -> None:
    """Check the trailers of a request.

    Raises:
        ConnectionFault: they are malformed.
    """
    _read_headers(tuple(fields))


@functools.lru_cache(_MAX_LISTS)
def _read_other_fields(fields: Fields) -> tuple[bytes, bytes, Fields, int | None, bool, int]:
    """Read all fields but ``:path``.

    Returns:
        The method, the authority, the headers, the Content-Length, whether a 100 is expected, and the number of pseudo-
        header fields.
    """
    pseudo: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] != b":":
            break
        if name in pseudo or name not in _PSEUDO:
            raise ConnectionFault("the client sent a pseudo-header field that is unknown or repeated")
        pseudo[name] = value
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise ConnectionFault("the client sent no :method, or an invalid one")
    if method == b"CONNECT":
        if pseudo.keys() != {b":method", b":authority"}:
            raise ConnectionFault("the client sent a CONNECT without an :authority, or with a :scheme")
    elif b":scheme" not in pseudo:
        raise ConnectionFault("the client sent a request without a :scheme")
    headers, found = _read_headers(fields[len(pseudo) :])
    host = found.host
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = host or b""
    elif host is not None and host != authority:
        raise ConnectionFault("the client sent a Host that differs from :authority")
    return method, authority, headers, found.content_length, found.expects_continue, len(pseudo)


def _read_headers(fields: Fields) -> tuple[Fields, RequestFields]:
    """Return the headers, and what they say."""
    found = RequestFields()
    cookies: list[bytes] = []
    for name, value in fields:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ConnectionFault("the client sent an invalid header, or one in upper case")
        if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            raise ConnectionFault("the client sent a header that HTTP/2 does not have")
        fault = found.take(name, value)
        if fault is not None:
            raise ConnectionFault(fault)
        if name == b"cookie":
            cookies.append(value)
    if len(cookies) > 1:
        fields = (*(field for field in fields if field[0] != b"cookie"), (b"cookie", b"; ".join(cookies)))
    return fields, found
