"""OpenConnections: how many connections there are, and how long they stay open.

https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpclientopen_connections
"""

from __future__ import annotations

from opentelemetry.metrics import Histogram, UpDownCounter

from prefect_http._otel.conventions import Attributes, protocol_version
from prefect_http._telemetry import ConnectionInfo


class OpenConnections:
    """The connections that are active or idle.

    Args:
        counter: counts them.
        duration: how long they have been open, in seconds; None: that is not reported.
    """

    def __init__(self, counter: UpDownCounter, duration: Histogram | None) -> None:
        self._counter = counter
        self._duration = duration
        self._connections: dict[int, _Connection] = {}  # by their numbers

    def opened(self, info: ConnectionInfo) -> None:
        """Count an idle connection."""
        self._connections[info.number] = connection = _Connection(info)
        self._counter.add(1, connection.idle)

    def acquired(self, info: ConnectionInfo) -> None:
        """Count a connection as active."""
        connection = self._connections.get(info.number)
        if connection is not None:
            connection.requests += 1
            if connection.requests == 1:
                self._counter.add(-1, connection.idle)
                self._counter.add(1, connection.active)

    def released(self, info: ConnectionInfo) -> None:
        """Count a connection as idle, unless it has other requests, over HTTP/2."""
        connection = self._connections.get(info.number)
        if connection is not None:
            connection.requests -= 1
            if connection.requests == 0:
                self._counter.add(-1, connection.active)
                self._counter.add(1, connection.idle)

    def closed(self, info: ConnectionInfo) -> None:
        """Count a connection no longer."""
        connection = self._connections.pop(info.number, None)
        if connection is not None:
            self._counter.add(-1, connection.active if connection.requests else connection.idle)
            if self._duration is not None and info.open_seconds is not None:
                self._duration.record(info.open_seconds, connection.attributes)


class _Connection:
    """An open connection.

    Args:
        info: what is known of it.
    """

    def __init__(self, info: ConnectionInfo) -> None:
        self.attributes: Attributes = {
            "server.address": info.host,
            "server.port": info.port,
            "network.protocol.version": protocol_version(info.protocol),
        }
        self.idle: Attributes = {**self.attributes, "http.connection.state": "idle"}
        self.active: Attributes = {**self.attributes, "http.connection.state": "active"}
        self.requests = 0
