"""Wire: a request's way from the pool over a connection, and the connection's way back into the pool."""

from __future__ import annotations

import functools

import anyio
import httpx

from prefect_http._httpx_details import ReadyResponse
from prefect_http._telemetry import Telemetry
from prefect_http._wire.close_reasons import CANCELLED, CLOSED_BY_SERVER, FAILED
from prefect_http._wire.connection import Connection
from prefect_http._wire.connections import AnyConnection, Connections
from prefect_http._wire.connector import Connector
from prefect_http._wire.freed_memory import keep_freed_memory
from prefect_http._wire.h1.exchange import Exchange, OutgoingRequest
from prefect_http._wire.h1.remembered_heads import RememberedHeads
from prefect_http._wire.h1.request_head import encode_headers, request_line
from prefect_http._wire.h2.exchange import StreamExchange
from prefect_http._wire.h2.repeats import SendAgain
from prefect_http._wire.h2.session import Session
from prefect_http._wire.http1 import response_of
from prefect_http._wire.http2 import HTTP2
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool_request import GRANTED, PoolRequest
from prefect_http._wire.proxy.forwarder import Forwarder
from prefect_http._wire.statistics import Limits, TransportStatistics

_MAX_CACHED_HEADERS = 16
_MAX_CACHED_LINES = 64


class Wire(httpx.AsyncBaseTransport):
    """Sends requests over HTTP/1.1 and HTTP/2, on connections of its own.

    Args:
        connector: opens the connections.
        limits: how many there may be.

    Attributes:
        response_class: of responses that have arrived whole.
    """

    response_class: type[ReadyResponse] = ReadyResponse

    def __init__(self, connector: Connector, limits: Limits) -> None:
        keep_freed_memory()
        self._connections = Connections(connector, limits)
        self._pool = self._connections.pool
        self._http2 = HTTP2(self._connections)
        self._protocols = connector.protocols
        proxy = connector.proxy if self._protocols.http1 else None  # HTTP/2 without TLS needs a tunnel
        self._forwarder = None if proxy is None or proxy.is_socks else Forwarder(proxy)
        # Many requests have the same headers as an earlier one, and the same URL.
        self._encode_headers = functools.lru_cache(_MAX_CACHED_HEADERS)(encode_headers)
        self._encode_line = functools.lru_cache(_MAX_CACHED_LINES)(request_line)
        self._heads = RememberedHeads()

    def statistics(self) -> TransportStatistics:
        """Return a snapshot."""
        pool = self._pool
        return TransportStatistics(
            connections=pool.in_use + pool.idle, idle=pool.idle, waiting=pool.waiting, streams=pool.sharing
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response, with the body still to be read."""
        connections, pool = self._connections, self._pool
        origin, outgoing = self._prepare(request)
        connections.bind_to_loop()
        pool_request = pool.acquire(origin, connections.now(), outgoing.is_repeatable)
        exchange: Exchange | StreamExchange | None = None
        repeats = 0
        while exchange is None:
            delay = None
            try:
                # Requests wait here for the pool and for the server, where few frames wait along with them.
                if pool_request.state is not GRANTED:
                    await connections.wait(pool_request, outgoing)
                connection, is_reused = await self._connection_for(pool_request, outgoing)
                if isinstance(connection, Session):
                    exchange = await self._http2.exchange(pool_request, connection, outgoing, repeats)
                else:
                    begun = self._begin(connection, pool_request, outgoing)
                    try:
                        await begun.send()
                        await begun.receive_head()
                        exchange = begun
                    except (httpx.NetworkError, httpx.RemoteProtocolError):
                        if not (is_reused and begun.can_be_repeated):
                            raise
                    if exchange is None:  # once more, on another connection; without the error, which holds this frame
                        await self._drop_closed(connection, pool_request)
            except SendAgain as again:
                delay = again.delay
            except BaseException as error:
                await self._give_up(pool_request, outgoing, error)
                raise
            if delay is not None:
                repeats += 1
                await connections.release(pool_request, keep=True)
                await anyio.sleep(delay)
                pool_request = pool.acquire(origin, connections.now(), outgoing.is_repeatable)
        if isinstance(exchange, Exchange):
            response = response_of(exchange, outgoing, pool_request, connections, self.response_class)
        else:
            response = self._http2.response_of(exchange, self.response_class)
        if pool.discarded:
            await connections.close_discarded()
        return response

    def _prepare(self, request: httpx.Request) -> tuple[Origin, OutgoingRequest]:
        """Check a request and encode it, and return where to send it."""
        origin = Origin.of(request)
        if self._forwarder is not None and self._forwarder.proxy.forwards(origin):
            return self._forwarder.proxy.origin, self._forwarder.encode(request)
        outgoing = OutgoingRequest.of(request, self._encode_headers, self._encode_line)
        if self._protocols.http2 and (outgoing.headers.allow_upgrade or outgoing.method == "CONNECT"):
            origin = self._protocols.for_upgrade(origin)
        return origin, outgoing

    def _begin(
        self, connection: Connection, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest
    ) -> Exchange:
        """Return an exchange on a connection, of which a telemetry is told."""
        if connection.observed is not None:
            connection.observed.begin(pool_request)
        return Exchange(connection, request, self._heads.parse)

    async def _drop_closed(self, connection: Connection, pool_request: PoolRequest[AnyConnection]) -> None:
        """Close a connection that the server has closed just as it was reused (RFC 9112 section 9.3.1)."""
        pool_request.forget_connection()
        await self._connections.close(connection, CLOSED_BY_SERVER)

    async def _give_up(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest, error: BaseException
    ) -> None:
        """End a request that has failed, or was cancelled."""
        reason = FAILED if isinstance(error, Exception) else CANCELLED
        if request.trace is None or pool_request.connection is None or pool_request.shared is not None:
            # A connection that others use is still good; or its session has said that it is not.
            await self._connections.release(pool_request, keep=pool_request.shared is not None, reason=reason)
        else:
            release = functools.partial(self._connections.release, pool_request, keep=False, reason=reason)
            await request.trace.close(release)

    async def _connection_for(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest
    ) -> tuple[AnyConnection, bool]:
        """Return the connection of a request that is granted one, perhaps a new one, and whether it has been reused."""
        pool, connections = self._pool, self._connections
        if pool.discarded:
            await connections.close_discarded()
        while True:
            if pool_request.connection is not None and connections.is_due():
                await connections.let_be_cancelled(pool_request)
            connection = pool_request.connection  # now, since the transport may have been closed meanwhile
            if connection is None:
                break
            if not connection.is_stale():
                return connection, True
            pool.replace_stale(pool_request, connections.now())
            await connections.close_discarded()
            if pool_request.state is not GRANTED:
                await connections.wait(pool_request, request)
        connection = await connections.open(pool_request, request)
        if connections.is_due():
            await connections.let_be_cancelled(pool_request)
            connections.check_held(pool_request)
            if isinstance(connection, Session) and connection.is_stale():
                raise SendAgain(0.0)
        return connection, False

    def tell(self, telemetry: Telemetry) -> None:
        """Report the connections that are opened from now on to a telemetry, as long as something else refers to it."""
        self._connections.telemetries[id(telemetry)] = telemetry

    async def aclose(self) -> None:
        """Close all connections, those in use included; see ``HTTPTransport.aclose()``."""
        self._encode_headers.cache_clear()  # there may be credentials among them
        self._encode_line.cache_clear()
        self._heads.clear()
        self._http2.clear()
        if self._forwarder is not None:
            self._forwarder.clear()
        await self._connections.aclose()
