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
        self._parse_head = self._heads.parse

    def statistics(self) -> TransportStatistics:
        """Return a snapshot."""
        pool = self._pool
        return TransportStatistics(
            connections=pool.in_use + pool.idle, idle=pool.idle, waiting=pool.waiting, streams=pool.sharing
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response, with the body still to be read."""
        origin, connections = Origin.of(request), self._connections
        if self._forwarder is None or not self._forwarder.proxy.forwards(origin):
            outgoing = OutgoingRequest.of(request, self._encode_headers, self._encode_line)
            if self._protocols.http2 and (outgoing.headers.allow_upgrade or outgoing.method == "CONNECT"):
                origin = self._protocols.for_upgrade(origin)
        else:
            origin, outgoing = self._forwarder.proxy.origin, self._forwarder.encode(request)
        connections.bind_to_loop()
        pool_request = self._pool.acquire(origin, connections.now(), outgoing.is_repeatable)
        exchange, repeats = None, 0
        while exchange is None:
            delay = None
            try:
                if pool_request.state is not GRANTED:
                    await connections.wait(pool_request, outgoing)  # here, where no further frame waits along with it
                exchange = await self._exchange(pool_request, outgoing, repeats)
            except SendAgain as again:
                delay = again.delay
            except BaseException as error:
                reason = FAILED if isinstance(error, Exception) else CANCELLED
                if outgoing.trace is None or pool_request.connection is None or pool_request.shared is not None:
                    # A connection that others use is still good; or its session has said that it is not.
                    await connections.release(pool_request, keep=pool_request.shared is not None, reason=reason)
                else:
                    release = functools.partial(connections.release, pool_request, keep=False, reason=reason)
                    await outgoing.trace.close(release)
                raise
            if delay is not None:
                repeats += 1
                await connections.release(pool_request, keep=True)
                await anyio.sleep(delay)
                pool_request = self._pool.acquire(origin, connections.now(), outgoing.is_repeatable)
        if isinstance(exchange, Exchange):
            response = response_of(exchange, outgoing, pool_request, connections, self.response_class)
        else:
            response = self._http2.response_of(exchange, self.response_class)
        if self._pool.discarded:
            await connections.close_discarded()
        return response

    async def _exchange(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest, repeats: int
    ) -> Exchange | StreamExchange:
        """Send a request on its connection, or on a new one, and receive the head of the response."""
        pool, connections = self._pool, self._connections
        if pool.discarded:
            await connections.close_discarded()
        while True:
            if pool_request.connection is not None and connections.is_due():
                await connections.let_be_cancelled(pool_request)
            connection = pool_request.connection  # now, since the transport may have been closed meanwhile
            if connection is None or not connection.is_stale():
                break
            pool.replace_stale(pool_request, connections.now())
            await connections.close_discarded()
            if pool_request.state is not GRANTED:
                await connections.wait(pool_request, request)
        if isinstance(connection, Connection):
            if connection.observed is not None:
                connection.observed.begin(pool_request)
            exchange = Exchange(connection, request, self._parse_head)
            try:
                await exchange.run()
                return exchange
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # The server may have closed the connection just as it was reused (RFC 9112 section 9.3.1).
                if exchange.parser.has_started or not request.is_repeatable or exchange.connection.is_closed:
                    raise
            pool_request.connection, pool_request.is_doubtful = None, False
            await connections.close(exchange.connection, CLOSED_BY_SERVER)
        if not isinstance(connection, Session):
            connection = await connections.open(pool_request, request)
            if connections.is_due():
                await connections.let_be_cancelled(pool_request)
                if isinstance(connection, Session) and connection.is_stale():
                    raise SendAgain(0.0)
        if isinstance(connection, Session):
            return await self._http2.exchange(pool_request, connection, request, repeats)
        if connection.observed is not None:
            connection.observed.begin(pool_request)
        exchange = Exchange(connection, request, self._parse_head)
        await exchange.run()
        return exchange

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
