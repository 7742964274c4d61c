"""Forwarder: requests in the form that an HTTP proxy forwards (RFC 9112 section 3.2.2)."""

from __future__ import annotations

import functools

import httpx

from prefect_http._redact import note_proxy_headers
from prefect_http._wire.h1.exchange import OutgoingRequest
from prefect_http._wire.h1.request_head import request_line
from prefect_http._wire.proxy.proxy_headers import encode_forwarded
from prefect_http._wire.proxy.proxy_server import ProxyServer

_MAX_CACHED_HEADERS = 16
_MAX_CACHED_LINES = 64


class Forwarder:
    """Checks and encodes requests that a proxy forwards.

    Args:
        proxy: the proxy. Its headers go out with each request, so they are there on every connection.

    Attributes:
        proxy: as given.
    """

    def __init__(self, proxy: ProxyServer) -> None:
        self.proxy = proxy
        # Many requests have the same headers as an earlier one, and the same URL.
        self._encode_headers = functools.lru_cache(_MAX_CACHED_HEADERS)(
            functools.partial(encode_forwarded, proxy.headers)
        )
        self._encode_line = functools.lru_cache(_MAX_CACHED_LINES)(request_line)

    def encode(self, request: httpx.Request) -> OutgoingRequest:
        """Return an http:// request in the form that the proxy takes.

        Raises:
            httpx.LocalProtocolError: it cannot be sent.
            TypeError, ValueError: one of its extensions is invalid.
        """
        if self.proxy.headers:
            note_proxy_headers(request, tuple(self.proxy.headers))
        base = b"http://" + request.url.netloc  # without the credentials that the URL may have
        return OutgoingRequest.of(
            request, self._encode_headers, lambda method, path: self._encode_line(method, base + path)
        )

    def clear(self) -> None:
        """Forget all requests; there may be credentials among them."""
        self._encode_headers.cache_clear()
        self._encode_line.cache_clear()
