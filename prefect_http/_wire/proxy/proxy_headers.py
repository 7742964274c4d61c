"""The headers that an HTTP proxy gets, with CONNECT or with each request that it forwards. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from prefect_http._wire.h1.request_head import EncodedHeaders, encode_headers

Headers = Sequence[tuple[bytes, bytes]]


def basic_authorization(user: bytes, password: bytes) -> tuple[bytes, bytes]:
    """Return the header with the credentials (RFC 9110 section 11.7.2, RFC 7617)."""
    return b"Proxy-Authorization", b"Basic " + base64.b64encode(user + b":" + password)


def merged(headers: Headers, stronger: Headers) -> Headers:
    """Return all headers, but those that are among the stronger ones as well."""
    names = {name.lower() for name, _ in stronger}
    return [*(header for header in headers if header[0].lower() not in names), *stronger]


def encode_forwarded(proxy_headers: Headers, headers: Headers) -> EncodedHeaders:
    """Check and encode the headers of a request that a proxy forwards. What the request has itself is stronger.

    Raises:
        httpx.LocalProtocolError: one of them cannot be sent.
    """
    return encode_headers(merged(proxy_headers, headers))
