"""Protocols: whether the connections to an origin may be HTTP/2, as far as is known before they are open. Pure."""

from __future__ import annotations

from collections import OrderedDict

from prefect_http._wire.origin import Origin

_MAX_REMEMBERED = 1000
# A WebSocket begins with an Upgrade, which HTTP/2 does not have.
_WEBSOCKET = frozenset({b"ws", b"wss"})


class Protocols:
    """Which protocols a transport may use, and what servers have chosen.

    Args:
        http1: whether HTTP/1.1 may be used.
        http2: whether HTTP/2 may be used. Without TLS, it is used if HTTP/1.1 may not be.

    Attributes:
        http1: as given, or True if HTTP/2 may not be used either, as in httpx.
        http2: as given.
    """

    def __init__(self, *, http1: bool, http2: bool) -> None:
        self.http1 = http1 or not http2
        self.http2 = http2
        # Only these: the first connection to any other origin is waited for in any case. Oldest first.
        self._http1_origins: OrderedDict[Origin, bool] = OrderedDict()

    def may_be_http2(self, origin: Origin) -> bool:
        """Return whether the next connection to an origin may turn out to be HTTP/2."""
        if not self.http2 or origin.is_proxy or origin.scheme in _WEBSOCKET:
            return False
        if not self.http1:
            return True
        return origin.is_secure and origin not in self._http1_origins

    def alpn(self, origin: Origin) -> list[str]:
        """Return the protocols to offer to a server in the TLS handshake, the preferred one first."""
        if not self.http2 or origin.scheme in _WEBSOCKET or self._http1_origins.get(origin):
            return ["http/1.1"]
        return ["h2", "http/1.1"] if self.http1 else ["h2"]

    def for_upgrade(self, origin: Origin) -> Origin:
        """Return where to send a request that only HTTP/1.1 can carry: an Upgrade, or a CONNECT."""
        return Origin(b"wss" if origin.is_secure else b"ws", *origin[1:]) if self.http1 else origin

    def is_http2(self, alpn: str | None) -> bool:
        """Return whether a connection is HTTP/2, for which the server has chosen this protocol; None: it has not."""
        return alpn == "h2" or not self.http1

    def remember(self, origin: Origin, *, is_http2: bool) -> None:
        """Take note of what a server has chosen. It may choose otherwise the next time."""
        if is_http2:
            self._http1_origins.pop(origin, None)
        else:
            self._add(origin, self._http1_origins.get(origin, False))

    def require_http1(self, origin: Origin) -> bool:
        """Offer a server HTTP/1.1 only, since it says that it requires it (RFC 9113 section 7, HTTP_1_1_REQUIRED).

        Returns:
            Whether that can be.
        """
        if self.http1:
            self._add(origin, True)
        return self.http1

    def _add(self, origin: Origin, is_required: bool) -> None:
        self._http1_origins[origin] = is_required
        self._http1_origins.move_to_end(origin)
        if len(self._http1_origins) > _MAX_REMEMBERED:
            self._http1_origins.popitem(last=False)
