"""HttpTunnelHandshake: asks an HTTP proxy for a tunnel with CONNECT (RFC 9110 section 9.3.6). Pure."""

from __future__ import annotations

import httpx

from prefect_http._errors import InvalidResponse
from prefect_http._internal_errors import TunnelDelayed, TunnelFailed
from prefect_http._redact import one_line, without_credentials
from prefect_http._wire.h1.request_head import encode_headers, request_line
from prefect_http._wire.h1.response_head import ResponseHead
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.proxy.proxy_headers import Headers, merged

_MAX_REASON = 300
# Headers that say more than the reason phrase: RFC 9209, RFC 9110 section 11.7.1, and Squid's own.
_REASON_HEADERS = (b"proxy-status", b"proxy-authenticate", b"x-squid-error")
# The proxy would open a tunnel, but cannot reach the server. A 500 is what tinyproxy says then.
_UNREACHABLE = {500, 502, 503, 504}
_TOO_MANY_REQUESTS = 429


class HttpTunnelHandshake:
    """One CONNECT: bytes in, bytes out.

    Args:
        proxy: the proxy, for messages.
        peer: where the tunnel leads, for messages, and for the proxy.
        proxy_url: the URL of the proxy.
        headers: what the proxy gets, credentials included.

    Attributes:
        request: the request, in httpx's form.
        head: what to send.
        parser: has the response.

    Raises:
        httpx.LocalProtocolError: one of the headers cannot be sent.
    """

    def __init__(self, proxy: str, peer: str, proxy_url: str, headers: Headers) -> None:
        self._proxy = proxy
        self._peer = peer
        target = peer.encode("ascii")
        headers = merged([(b"Host", target), (b"Accept", b"*/*")], headers)
        self._body = b""  # what has arrived of it along with the head
        self.head = request_line("CONNECT", target) + encode_headers(tuple(headers)).lines
        self.request = httpx.Request("CONNECT", proxy_url, headers=headers, extensions={"target": target})
        self.parser = ResponseParser("CONNECT", allow_upgrade=False)

    @property
    def is_complete(self) -> bool:
        """Whether there is a response."""
        return self.parser.head is not None

    @property
    def trailing_data(self) -> bytes:
        """What has arrived through the tunnel along with the response."""
        return self.parser.trailing_data

    def feed(self, data: bytes) -> None:
        """Take in what has been received.

        Raises:
            InvalidResponse: it is not HTTP.
        """
        try:
            self._body = self.parser.feed(data)
        except InvalidResponse as error:
            raise InvalidResponse(f"the response of {self._proxy} to CONNECT is not valid: {error}") from error

    def check(self) -> None:
        """Check that the tunnel is open, now that there is a response.

        Raises:
            httpx.ProxyError: it is not: the response is not a 2xx. The message says why, in the proxy's own words.
            TunnelFailed: it may be open the next time.
        """
        head = self.parser.head
        assert head is not None
        if 200 <= head.status < 300:
            return
        words, response = self._words(head), httpx.Response(head.status, headers=head.headers)
        if head.status in _UNREACHABLE:
            raise TunnelFailed(f"{self._proxy} could not connect to {self._peer}: {words}", response)
        message = f"{self._proxy} refused a tunnel to {self._peer}: {words}"
        if head.status == _TOO_MANY_REQUESTS:
            raise TunnelDelayed(message, response)
        raise httpx.ProxyError(message)

    def _words(self, head: ResponseHead) -> str:
        """Return what the proxy says, without the client's credentials, which it may echo."""
        fields = {name.lower(): (name, value) for name, value in head.headers}
        details = [b"%b: %b" % fields[name] for name in _REASON_HEADERS if name in fields]
        words = b"%d %b" % (head.status, head.reason) + (b" (%b)" % b"; ".join(details) if details else b"")
        if fields.get(b"content-type", (b"", b""))[1].lower().startswith(b"text/plain") and self._body:
            words += b": " + self._body
        return one_line(without_credentials(words.decode("utf-8", "replace"), self.request), limit=_MAX_REASON)
