"""Wire: a request's way from the pool over a connection, and the connection's way back into the pool."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio.lowlevel
import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.backend import (
    checkpoint,
    clock,
    has_ended,
    loop_getter,
    max_receive_bytes,
    new_cancel_scope,
    new_event,
    spawn_root_task_soon,
)
from prefect_http._errors import InvalidResponse, RequestNotProcessed
from prefect_http._httpx_details import ReadyResponse, hold_body
from prefect_http._wire.connection import Connection
from prefect_http._wire.connector import Connector
from prefect_http._wire.h1.exchange import Exchange, OutgoingRequest
from prefect_http._wire.h1.request_head import encode_headers, request_line
from prefect_http._wire.h1.response_body import ResponseBody, WholeBody
from prefect_http._wire.h1.response_head import Framing
from prefect_http._wire.h2.exchange import HTTP1Required, StreamExchange, request_head
from prefect_http._wire.h2.repeats import MAX_REPEATS, SendAgain, delay_before
from prefect_http._wire.h2.response_body import StreamBody
from prefect_http._wire.h2.session import Session
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool import Pool
from prefect_http._wire.pool_request import GRANTED, REFUSED, WAITING, PoolRequest
from prefect_http._wire.proxy.forwarder import Forwarder
from prefect_http._wire.timeouts import TimeoutWatcher

_MAX_CACHED_HEADERS = 16
_MAX_CACHED_LINES = 64
_OTHER_LOOP = (
    "this HTTPTransport has open connections that belong to another event loop, which has not ended; "
    "use one transport for each event loop"
)
# Every request is compared with these, and Python 3.11 takes 0.2 us to look up a member of an enum.
_TUNNEL = Framing.TUNNEL
_MISDIRECTED = 421

AnyConnection = Connection | Session


_logger = logging.getLogger("prefect_http")


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportStatistics:
    """A snapshot of an HTTPTransport.

    Attributes:
        connections: the number of connections that are open or being opened.
        idle: the number of open connections that no request uses.
        waiting: the number of requests that wait for a connection.
        streams: the number of requests on HTTP/2 connections, which several share.
    """

    connections: int
    idle: int
    waiting: int
    streams: int = 0


class Limits(Protocol):
    """What httpx.Limits and httpx2.Limits have."""

    max_connections: int | None
    max_keepalive_connections: int | None
    keepalive_expiry: float | None


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
        self._connector = connector
        self._protocols = connector.protocols
        proxy = connector.proxy if self._protocols.http1 else None  # HTTP/2 without TLS needs a tunnel
        self._forwarder = None if proxy is None or proxy.is_socks else Forwarder(proxy)
        self._pool = Pool[AnyConnection](
            max_connections=limits.max_connections,
            max_idle=limits.max_keepalive_connections,
            expiry=limits.keepalive_expiry,
            protocols=connector.protocols,
        )
        self._sessions: set[Session] = set()  # whose tasks have not ended
        # Many requests have the same headers as an earlier one, and the same URL.
        self._encode_headers = functools.lru_cache(_MAX_CACHED_HEADERS)(encode_headers)
        self._encode_line = functools.lru_cache(_MAX_CACHED_LINES)(request_line)
        self._encode_head = functools.lru_cache(_MAX_CACHED_LINES)(request_head)
        self._watcher = TimeoutWatcher()
        self._loop: object = None
        self._current_loop: Callable[[], object] = object
        self._now: Callable[[], float]

    def statistics(self) -> TransportStatistics:
        """Return a snapshot."""
        pool = self._pool
        return TransportStatistics(
            connections=pool.in_use + pool.idle, idle=pool.idle, waiting=pool.waiting, streams=pool.sharing
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its response, with the body still to be read."""
        origin = Origin.of(request)
        if self._forwarder is None or not self._forwarder.proxy.forwards(origin):
            outgoing = OutgoingRequest.of(request, self._encode_headers, self._encode_line)
            if self._protocols.http2 and (outgoing.headers.allow_upgrade or outgoing.method == "CONNECT"):
                origin = self._protocols.for_upgrade(origin)
        else:
            origin, outgoing = self._forwarder.proxy.origin, self._forwarder.encode(request)
        self._bind_to_loop()
        pool_request = self._pool.acquire(origin, self._now(), outgoing.is_repeatable)
        exchange, repeats = None, 0
        while exchange is None:
            delay = None
            try:
                exchange = await self._exchange(pool_request, outgoing, repeats)
            except SendAgain as again:
                delay = again.delay
            except BaseException:
                if outgoing.trace is None or pool_request.connection is None or pool_request.shared is not None:
                    # A connection that others use is still good; or its session has said that it is not.
                    await self._release(pool_request, keep=pool_request.shared is not None)
                else:
                    await outgoing.trace.close(functools.partial(self._release, pool_request, keep=False))
                raise
            if delay is not None:
                repeats += 1
                await self._release(pool_request, keep=True)
                await anyio.sleep(delay)
                pool_request = self._pool.acquire(origin, self._now(), outgoing.is_repeatable)
        if isinstance(exchange, Exchange):
            response = self._response(pool_request, outgoing, exchange)
        else:
            response = self._stream_response(exchange)
        if self._pool.discarded:
            await self.close_discarded()
        return response

    async def _exchange(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest, repeats: int
    ) -> Exchange | StreamExchange:
        """Wait for a connection, send the request on it, and receive the head of the response."""
        if pool_request.state is not GRANTED:
            await self._wait(pool_request, request)
        if self._pool.discarded:
            await self.close_discarded()
        while pool_request.connection is not None and pool_request.connection.is_stale():
            self._pool.replace_stale(pool_request, self._now())
            await self.close_discarded()
            if pool_request.state is not GRANTED:
                await self._wait(pool_request, request)
        connection = pool_request.connection
        if isinstance(connection, Connection):
            exchange = Exchange(connection, request)
            try:
                await exchange.run()
                return exchange
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                # The server may have closed the connection just as it was reused (RFC 9112 section 9.3.1).
                if exchange.parser.has_started or not request.is_repeatable or exchange.connection.is_closed:
                    raise
            pool_request.connection, pool_request.is_doubtful = None, False
            await exchange.connection.aclose()
        if not isinstance(connection, Session):
            connection = await self._connect(pool_request, request)
        if isinstance(connection, Session):
            return await self._exchange_on_stream(pool_request, connection, request, repeats)
        exchange = Exchange(connection, request)
        await exchange.run()
        return exchange

    async def _exchange_on_stream(
        self, pool_request: PoolRequest[AnyConnection], session: Session, request: OutgoingRequest, repeats: int
    ) -> StreamExchange:
        """Send a request on a stream, and receive the head of the response.

        Raises:
            SendAgain: it can be sent again, and should be.
        """

        def release() -> None:
            self._pool.release(pool_request, self._now(), keep=True)

        is_sent_once = not isinstance(request.body, bytes)
        if is_sent_once:
            # The server may accept fewer streams than are assumed until it has said so, and would refuse the others.
            await session.wait_for_settings(request.timeouts.get("connect"))
            if session.has_ended:
                raise RequestNotProcessed(f"{session.peer} ended the connection before the request was sent")
            if session.is_stale():
                raise SendAgain(0.0)  # which waits until there is room
        source, origin, has_served = request.source, pool_request.origin, session.has_served
        target = source.extensions.get("target", source.url.raw_path)
        scheme = b"https" if origin.is_secure else b"http"
        head = self._encode_head(source.method, scheme, target, tuple(source.headers.raw))
        exchange = StreamExchange(session, request, head, release)
        try:
            await exchange.run()
        except RequestNotProcessed as error:
            if isinstance(error, HTTP1Required) and not self._protocols.require_http1(origin):
                raise httpx.LocalProtocolError(f"{error}, and HTTP/1.1 is switched off (http1=False)") from None
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
            self._pool.retire(session)
            raise SendAgain(0.0)
        return exchange

    async def _wait(self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest) -> None:
        """Wait until a request is granted a connection."""
        origin = pool_request.origin
        timeout = request.timeouts.get("connect" if self._pool.is_opening(origin) else "pool")
        resolved = new_event()
        pool_request.on_resolved = resolved.set
        scope = new_cancel_scope()
        scope.deadline = math.inf if timeout is None else self._now() + timeout
        try:
            with scope:
                await resolved.wait()
        except BaseException:
            # It may have been granted in the same moment, with a connection that is still good.
            await self._release(pool_request, keep=True)
            raise
        if pool_request.state is REFUSED:
            raise httpx.ConnectError("the transport was closed while the request waited for a connection")
        if pool_request.state is WAITING:
            await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
            if self._pool.is_opening(origin):
                raise httpx.ConnectTimeout(
                    f"could not connect to {origin.peer} within {timeout:g} s: another request is still opening a "
                    "connection that both may share"
                )
            raise httpx.PoolTimeout(
                f"no connection became free within {timeout:g} s: all {self._pool.max_connections} are in use"
            )

    async def _connect(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest
    ) -> Connection | Session:
        origin = pool_request.origin
        try:
            stream = await self._connector.connect(origin, request.timeouts.get("connect"), request.trace)
        except httpx.TransportError:
            self._pool.opening_failed(pool_request)
            raise
        peer = self._connector.peer_of(origin)
        if self._protocols.http2 and self._protocols.is_http2(stream.extra(TLSAttribute.alpn_protocol, None)):
            return await self._open_session(pool_request, request, stream, peer)
        connection = Connection(stream, peer, self._watcher, self._now, max_receive_bytes())
        pool_request.connection = connection
        self._check_held(pool_request)
        self._pool.keep_apart(pool_request)
        if connection.has_early_data():
            # It cannot be the response. Perhaps the server greets its clients, as those for mail or SSH do.
            raise InvalidResponse(f"{connection.peer} sent data before the request was sent")
        return connection

    async def _open_session(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest, stream: ByteStream, peer: str
    ) -> Session:
        session = Session(
            stream,
            peer,
            self._watcher,
            self._now,
            max_receive_bytes(),
            self,
            self._pool.discarded,
        )
        pool_request.connection = session
        if request.trace is not None:
            await request.trace.step("http2.send_connection_init", checkpoint)
        self._check_held(pool_request)
        self._sessions.add(session)
        session.start()
        self._pool.share(pool_request, session.room)
        return session

    def _check_held(self, pool_request: PoolRequest[AnyConnection]) -> None:
        if not self._pool.holds(pool_request):
            raise httpx.ConnectError("the transport was closed while the request opened a connection")

    def _response(
        self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest, exchange: Exchange
    ) -> httpx.Response:
        """Make the response. If all of it has arrived, its connection is released now."""
        connection, parser, initial_body = exchange.connection, exchange.parser, exchange.initial_body
        head, may_keep = parser.head, exchange.is_sent and not request.headers.close_after
        assert head is not None

        # Some servers close the connection now without having said so.
        pool_request.is_doubtful = head.status >= 500

        extensions: dict[str, object] = {
            "http_version": head.version,
            "reason_phrase": head.reason,
            "network_stream": connection.network_stream,
        }
        if parser.is_complete and request.trace is None and head.framing is not _TUNNEL:
            self._pool.release(pool_request, self._now(), keep=may_keep and parser.can_reuse_connection)
            stream = WholeBody(initial_body)
            response = self.response_class(head.status, headers=head.headers, stream=stream, extensions=extensions)
            hold_body(response, initial_body)
            return response

        async def release(can_reuse: bool) -> None:
            await self._release(pool_request, keep=can_reuse and may_keep)

        def drop() -> None:
            self._drop(pool_request)

        read_timeout = request.timeouts.get("read")
        body = ResponseBody(connection, parser, initial_body, read_timeout, release, drop, request.trace)
        if head.framing is _TUNNEL:
            extensions["network_stream"] = NetworkStream(connection.stream, parser.trailing_data, body)
        return httpx.Response(head.status, headers=head.headers, stream=body, extensions=extensions)

    def _stream_response(self, exchange: StreamExchange) -> httpx.Response:
        """Make the response of an exchange on a stream."""
        stream, request, trailers = exchange.stream, exchange.request, list[tuple[bytes, bytes]]()
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
            response = self.response_class(stream.status, headers=stream.headers, stream=body, extensions=extensions)
            hold_body(response, content)
            return response

        async def tidy_up() -> None:
            if self._pool.discarded:
                await self.close_discarded()

        stream_body = StreamBody(exchange, trailers, tidy_up, lambda: self._drop_stream(exchange), request.trace)
        return httpx.Response(stream.status, headers=stream.headers, stream=stream_body, extensions=extensions)

    def _drop_stream(self, exchange: StreamExchange) -> None:
        """End the exchange of a response that was never closed, from a finalizer, which may run anywhere."""
        if not exchange.has_ended:
            self._end_unclosed(exchange.close, f"{exchange.session.peer}; its stream is given up now")

    # What a session tells.

    def room_changed(self, session: Session, max_requests: int) -> None:
        """Let more or fewer requests use a session."""
        self._pool.set_max_requests(session, max_requests)

    def going_away(self, session: Session) -> None:
        """Let no further request use a session."""
        self._pool.retire(session)

    def ended(self, session: Session) -> None:
        """Forget about a session whose tasks have ended."""
        self._sessions.discard(session)

    async def _release(self, pool_request: PoolRequest[AnyConnection], *, keep: bool) -> None:
        self._pool.release(pool_request, self._now(), keep=keep)
        if self._pool.discarded:
            await self.close_discarded()

    def _drop(self, pool_request: PoolRequest[AnyConnection]) -> None:
        """Release a request whose response was never closed, from a finalizer, which may run anywhere."""
        if self._pool.holds(pool_request):  # not closed with the transport, nor dropped with its event loop

            def release() -> None:
                self._pool.release(pool_request, self._now(), keep=False)

            self._end_unclosed(release, f"{pool_request.origin.peer}; its connection is closed now")

    def _end_unclosed(self, end: Callable[[], object], what: str) -> None:
        """End what belongs to a response that was never closed, in the event loop, and warn of it."""

        async def end_and_close() -> None:
            end()
            try:
                await self.close_discarded()
            except Exception:
                _logger.debug("closing a connection failed", exc_info=True)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            spawn_root_task_soon(self._loop, end_and_close, "prefect_http release")
        warnings.warn(f"unclosed response from {what}", ResourceWarning, stacklevel=3)

    async def close_discarded(self) -> None:
        """Close what the pool has discarded. If that fails for one connection, the others are closed all the same."""
        failures: list[BaseException] = []
        while self._pool.discarded:
            try:
                await self._pool.discarded.pop().aclose()
            except BaseException as error:
                failures = [error]
        if failures:
            raise failures.pop()  # not by a name: the error would refer to this frame, and this frame to the error

    async def aclose(self) -> None:
        """Close all connections, those in use included; see ``HTTPTransport.aclose()``."""
        self._encode_headers.cache_clear()  # there may be credentials among them
        self._encode_line.cache_clear()
        self._encode_head.cache_clear()
        if self._forwarder is not None:
            self._forwarder.clear()
        if not self._is_own_loop():
            self._drop_if_loop_has_ended()
            self._pool.close()
            if self._pool.discarded:
                self._pool.discarded.clear()  # only their own loop can close them
                raise RuntimeError(_OTHER_LOOP)
            return
        self._pool.close()
        try:
            if self._pool.discarded:
                await self.close_discarded()
            for session in list(self._sessions):
                await session.wait_ended()
        finally:
            await self._watcher.stop()

    def _bind_to_loop(self) -> None:
        """Use the running event loop from now on.

        Raises:
            RuntimeError: there are connections that belong to another one, which has not ended.
        """
        if self._is_own_loop():
            return
        self._drop_if_loop_has_ended()
        if self._pool.in_use or self._pool.idle:
            raise RuntimeError(_OTHER_LOOP)
        self._current_loop = loop_getter()
        self._loop, self._now, self._watcher = self._current_loop(), clock(), TimeoutWatcher()

    def _drop_if_loop_has_ended(self) -> None:
        """Drop all connections if the event loop that they belong to has ended."""
        if self._loop is None or not has_ended(self._loop):
            return
        self._pool.close(silently=True)
        while self._pool.discarded:
            self._pool.discarded.pop().abandon()
        self._sessions.clear()

    def _is_own_loop(self) -> bool:
        try:
            return self._current_loop() is self._loop
        except RuntimeError:  # another backend
            return False
