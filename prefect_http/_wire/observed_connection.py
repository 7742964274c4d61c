"""ObservedConnection: tells telemetries of one connection, from its opening to its end, and of the requests on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

from anyio.abc import ByteStream

from prefect_http._telemetry import ConnectionInfo, Telemetry, call_safely
from prefect_http._wire.opening_times import OpeningTimes
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool_request import C, PoolRequest
from prefect_http._wire.raw_socket import peer_address_of

_numbers = itertools.count(1)


class ObservedConnection:
    """Tells of a connection that has just been opened.

    What is told is paired, whatever happens: each request that is begun is ended, at the latest when the connection is
    closed. A method first changes the state, and then calls the telemetries, which may raise a KeyboardInterrupt.

    Args:
        telemetries: are told. Those that come later are not, since they do not know of the connection.
        origin: where it leads.
        stream: the bytes.
        protocol: "HTTP/1.1" or "HTTP/2".
        times: how long it took to open it.
    """

    __slots__ = ("_active", "_info", "_is_closed", "_requests", "_since", "_telemetries", "_times")

    def __init__(
        self, telemetries: Sequence[Telemetry], origin: Origin, stream: ByteStream, protocol: str, times: OpeningTimes
    ) -> None:
        address, port = peer_address_of(stream) or (None, None)
        seconds = times.seconds
        self._info = partial(
            ConnectionInfo,
            number=next(_numbers),
            scheme="https" if origin.is_secure else "http",
            host=origin.host.decode("ascii"),
            port=origin.port,
            peer_address=address,
            peer_port=port,
            protocol=protocol,
            lookup_seconds=seconds.get("lookup"),
            connect_seconds=seconds["connect"],
            tunnel_seconds=seconds.get("tunnel"),
            tls_seconds=seconds.get("tls"),
        )
        self._telemetries = telemetries
        self._times = times
        self._since = times.now()
        self._requests = 0
        self._active: dict[int, ConnectionInfo] = {}  # what was told of the requests that use it, by their number
        self._is_closed = False

    def open(self) -> None:
        """Report that the connection has been opened."""
        info = self._info(requests=0)
        for telemetry in self._telemetries:
            call_safely(telemetry.connection_opened, info)

    def begin(self, request: PoolRequest[C]) -> None:
        """Report that a request has acquired the connection, and arrange for its release to be reported."""
        if self._is_closed:
            return
        number, self._requests = self._requests, self._requests + 1
        info = self._active[number] = self._info(requests=number)
        request.on_released = partial(self._end, number)
        for telemetry in self._telemetries:
            call_safely(telemetry.connection_acquired, info)

    def _end(self, number: int) -> None:
        info = self._active.pop(number, None)
        if info is not None:
            for telemetry in self._telemetries:
                call_safely(telemetry.connection_released, info)

    def close(self, reason: str) -> None:
        """Report that the connection has been closed, unless that has been reported already."""
        if self._is_closed:
            return
        self._is_closed = True
        for number in list(self._active):
            self._end(number)
        info = self._info(requests=self._requests, open_seconds=self._times.now() - self._since, reason=reason)
        telemetries, self._telemetries = self._telemetries, ()  # something may still refer to the connection
        for telemetry in telemetries:
            call_safely(telemetry.connection_closed, info)
