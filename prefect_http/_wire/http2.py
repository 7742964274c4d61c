"""HTTP2: requests on the streams of HTTP/2 connections, and their responses."""

from __future__ import annotations

import functools

import httpx

from prefect_http._httpx_details import NO_HEADERS, ReadyResponse, hold_whole
from prefect_http._internal_errors import RequestNotProcessed
from prefect_http._wire.close_reasons import MISDIRECTED
from prefect_http._wire.connections import AnyConnection, Connections
from prefect_http._wire.h1.exchange import OutgoingRequest
from prefect_http._wire.h1.response_body import WholeBody
from prefect_http._wire.h2.exchange import HTTP1Required, StreamExchange, request_head
from prefect_http._wire.h2.repeats import MAX_REPEATS, SendAgain, delay_before
from prefect_http._wire.h2.response_body import StreamBody
from prefect_http._wire.h2.session import Session
from prefect_http._wire.pool_request import PoolRequest

_MAX_CACHED_HEADS = 64
_MISDIRECTED = 421


class HTTP2:
    """Sends requests on streams.

    Args:
        connections: those that the streams are on.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._protocols = connections.connector.protocols
        self._pool = connections.pool
        # Many requests have the same head as an earlier one.
        self._encode_head = functools.lru_cache(_MAX_CACHED_HEADS)(request_head)

    def clear(self) -> None:
        """Forget the heads of earlier requests: there may be credentials among them."""
        self._encode_head.cache_clear()

    async def exchange(
        self, pool_request: PoolRequest[AnyConnection], session: Session, request: OutgoingRequest, repeats: int
    ) -> StreamExchange:
        """Send a request on a stream, and receive the head of the response.

        Raises:
            SendAgain: it can be sent again, and should be.
        """
        release = functools.partial(self._connections.release_nowait, pool_request, keep=True)
        is_sent_once = not isinstance(request.body, bytes)
        if is_sent_once:
            # The server may accept fewer streams than are assumed until it has said so, and would refuse the others.
            await session.wait_for_settings(request.timeouts.get("connect"))
            if self._connections.is_due():
                await self._connections.let_be_cancelled(pool_request)
            if session.has_ended:
                raise RequestNotProcessed(f"{session.peer} ended the connection before the request was sent")
            if session.is_stale():
                if not session.is_going_away:
                    raise SendAgain(0.0)  # which waits until there is room
                if repeats >= MAX_REPEATS:
                    raise RequestNotProcessed(f"{session.peer} takes no more requests on any connection")
                raise SendAgain(delay_before(repeats))
        source, origin, has_served = request.source, pool_request.origin, session.has_served
        target = source.extensions.get("target", source.url.raw_path)
        scheme = b"https" if origin.is_secure else b"http"
        head = self._encode_head(source.method, scheme, target, tuple(source.headers.raw))
        if session.observed is not None:
            session.observed.begin(pool_request)
        exchange = StreamExchange(session, request, head, release)
        try:
            await exchange.run()
        except HTTP1Required as error:
            if not self._protocols.require_http1(origin):
                raise httpx.LocalProtocolError(f"{error}, and HTTP/1.1 is switched off (http1=False)") from None
            if is_sent_once:
                hint = "its body, a stream, cannot be sent again here; further requests use HTTP/1.1"
                raise RequestNotProcessed(f"{error}; {hint}") from None
            raise SendAgain(0.0) from None
        except RequestNotProcessed:
            if repeats >= MAX_REPEATS or is_sent_once:
                raise
            raise SendAgain(delay_before(repeats)) from None
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            # The server may have closed the connection just as it was reused, as with HTTP/1.1.
            if repeats or not has_served or not request.is_repeatable or not session.broke_off(exchange.stream):
                raise
            raise SendAgain(0.0) from None
        if exchange.stream.status == _MISDIRECTED and not repeats and not is_sent_once:
            # The server does not want this request on this connection, and has not processed it (RFC 9110 15.5.20).
            exchange.close()
            self._pool.retire(session, MISDIRECTED)
            raise SendAgain(0.0)
        return exchange

    def response_of(self, exchange: StreamExchange, response_class: type[ReadyResponse]) -> httpx.Response:
        """Make the response of an exchange on a stream."""
        stream, request = exchange.stream, exchange.request
        trailers: list[tuple[bytes, bytes]] = []
        extensions: dict[str, object] = {
            "http_version": b"HTTP/2",
            "network_stream": exchange.session.network_stream,
            "stream_id": stream.id,
            "trailing_headers": trailers,
        }
        if request.trace is None and exchange.is_complete:
            content = exchange.session.take_body(stream)
            trailers += stream.trailers or ()
            body = WholeBody(content)
            response = response_class(stream.status, headers=NO_HEADERS, stream=body, extensions=extensions)
            hold_whole(response, stream.headers, [name for name, _ in stream.headers], content)
            return response

        async def tidy_up() -> None:
            if self._pool.discarded:
                await self._connections.close_discarded()

        stream_body = StreamBody(exchange, trailers, tidy_up, lambda: self._drop(exchange), request.trace)
        return httpx.Response(stream.status, headers=stream.headers, stream=stream_body, extensions=extensions)

    def _drop(self, exchange: StreamExchange) -> None:
        """End the exchange of a response that was never closed, from a finalizer, which may run anywhere."""
        if not exchange.has_ended:
            self._connections.end_unclosed(exchange.close, f"{exchange.session.peer}; its stream is given up now")
