"""Connections: those of a transport, from opening them for requests to closing them.

The pool decides, and this does the I/O.
"""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
import weakref
from collections.abc import Callable
from functools import partial

import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.backend import (
    await_cancellation,
    checkpoint,
    checkpoint_if_cancelled,
    effective_deadline_getter,
    has_ended,
    max_receive_bytes,
    spawn_root_task_soon,
)
from prefect_http._concurrency.loop_binding import LoopBinding
from prefect_http._errors import InvalidResponse
from prefect_http._telemetry import Telemetry
from prefect_http._wire.close_reasons import UNCLOSED
from prefect_http._wire.connection import Connection
from prefect_http._wire.connector import Connector
from prefect_http._wire.h1.exchange import OutgoingRequest
from prefect_http._wire.h2.session import Session
from prefect_http._wire.observed_connection import ObservedConnection
from prefect_http._wire.opening_times import OpeningTimes
from prefect_http._wire.origin import Origin
from prefect_http._wire.pool import Pool
from prefect_http._wire.pool_request import REFUSED, WAITING, PoolRequest
from prefect_http._wire.statistics import Limits
from prefect_http._wire.timeouts import TimedWait, TimeoutWatcher

_OTHER_LOOP = (
    "this HTTPTransport has open connections that belong to another event loop, which has not ended; "
    "use one transport for each event loop"
)

AnyConnection = Connection | Session

_logger = logging.getLogger("prefect_http")


class Connections:
    """The connections of a transport.

    Args:
        connector: opens them.
        limits: how many there may be.

    Attributes:
        connector: as given.
        pool: which request gets which connection.
        telemetries: are told of the connections that are opened from now on, by identity, for they need not hash. As
            long as something else refers to them, or such a connection is open.
        now: the clock of the event loop, after ``bind_to_loop()``.
    """

    now: Callable[[], float]
    _deadline_of_task: Callable[[], float]

    def __init__(self, connector: Connector, limits: Limits) -> None:
        self.connector = connector
        self.pool = Pool[AnyConnection](
            max_connections=limits.max_connections,
            max_idle=limits.max_keepalive_connections,
            expiry=limits.keepalive_expiry,
            protocols=connector.protocols,
        )
        self.telemetries = weakref.WeakValueDictionary[int, Telemetry]()
        self._sessions: set[Session] = set()  # whose tasks have not ended
        self._watcher = TimeoutWatcher()
        self._binding: LoopBinding | None = None

    # --- The event loop

    def bind_to_loop(self) -> None:
        """Use the running event loop from now on.

        Raises:
            RuntimeError: there are connections that belong to another one, which has not ended.
        """
        if self._binding is not None and self._binding.is_current():
            return
        self._drop_if_loop_has_ended()
        if self.pool.in_use or self.pool.idle:
            raise RuntimeError(_OTHER_LOOP)
        self._binding = LoopBinding()
        self.now, self._watcher = self._binding.now, TimeoutWatcher()
        self._deadline_of_task = effective_deadline_getter()

    def _drop_if_loop_has_ended(self) -> None:
        """Drop all connections if the event loop that they belong to has ended."""
        if self._binding is None or not has_ended(self._binding.loop):
            return
        self.pool.close(silently=True)
        for connection in self.pool.discarded:
            connection.abandon()
        self._sessions.clear()
        self._forget_discarded()

    def _forget_discarded(self) -> None:
        """Forget what the pool has discarded, which is not to be closed."""
        dropped = list(self.pool.discarded.items())
        self.pool.discarded.clear()
        for connection, reason in dropped:
            if connection.observed is not None:
                connection.observed.close(reason)

    # --- Getting one

    async def wait(self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest) -> None:
        """Wait until a request is granted a connection.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout: none is in time.
            httpx.ConnectError: the transport was closed meanwhile.
        """
        origin = pool_request.origin
        timeout = request.timeouts.get("connect" if self.pool.is_opening(origin) else "pool")
        resolved = TimedWait(self._watcher, math.inf if timeout is None else self.now() + timeout)
        pool_request.on_resolved = resolved.waiter.set
        try:
            await resolved.waiter.wait()
        except BaseException:
            # It may have been granted in the same moment, with a connection that is still good.
            await self.release(pool_request, keep=True, is_unused=True)
            raise
        finally:
            resolved.forget()
        if pool_request.state is REFUSED:
            raise httpx.ConnectError("the transport was closed while the request waited for a connection")
        if pool_request.state is WAITING:
            await checkpoint_if_cancelled()  # it may have been cancelled in the same moment
            if self.pool.is_opening(origin):
                peer = self.connector.peer_of(origin)
                raise httpx.ConnectTimeout(
                    f"could not connect to {peer} within {timeout:g} s: another request is still opening a connection "
                    "that both may share"
                )
            raise httpx.PoolTimeout(f"no connection became free within {timeout:g} s: {self._why_none_is_free()}")

    def _why_none_is_free(self) -> str:
        most = self.pool.max_connections
        if most > 1:
            return f"all {most} are in use"
        return f"max_connections={most} allows {'no more than one, which is in use' if most == 1 else 'none'}"

    def is_due(self) -> bool:
        """Return whether the calling task has been cancelled, or its deadline has passed: it is to send nothing."""
        return self._deadline_of_task() <= self.now()

    async def let_be_cancelled(self, pool_request: PoolRequest[AnyConnection]) -> None:
        """Let a task that is due be cancelled, and its connection go back to the pool.

        The task goes on if it is not cancelled after all, as when its deadline has been extended. Its connection may
        have ended by then, and the transport may have been closed.
        """
        try:
            await await_cancellation()
        except BaseException:
            await self.release(pool_request, keep=True, is_unused=True)
            raise

    async def open(self, pool_request: PoolRequest[AnyConnection], request: OutgoingRequest) -> AnyConnection:
        """Open a connection for a request.

        Raises:
            InvalidResponse: the server sends something before it is asked.
            httpx.TransportError: that fails.
        """
        origin, protocols = pool_request.origin, self.connector.protocols
        times = OpeningTimes(self.now) if self.telemetries else None
        try:
            stream = await self.connector.connect(origin, request.timeouts.get("connect"), request.trace, times)
        except httpx.TransportError:
            self.pool.opening_failed(pool_request)
            raise
        peer = self.connector.peer_of(origin)
        if protocols.http2 and protocols.is_http2(stream.extra(TLSAttribute.alpn_protocol, None)):
            return await self._open_session(pool_request, request, stream, peer, times)
        connection = Connection(stream, peer, self._watcher, self.now, max_receive_bytes())
        pool_request.connection = connection
        self.check_held(pool_request)
        self.pool.keep_apart(pool_request)
        if connection.has_early_data():
            # It cannot be the response. Perhaps the server greets its clients, as those for mail or SSH do.
            raise InvalidResponse(f"{connection.peer} sent data before the request was sent")
        if times is not None:
            connection.observed = self._observed(origin, stream, "HTTP/1.1", times)
            connection.observed.open()
        return connection

    async def _open_session(
        self,
        pool_request: PoolRequest[AnyConnection],
        request: OutgoingRequest,
        stream: ByteStream,
        peer: str,
        times: OpeningTimes | None,
    ) -> Session:
        session = Session(stream, peer, self._watcher, self.now, max_receive_bytes(), self, self.pool.discarded)
        pool_request.connection = session
        if request.trace is not None:
            await request.trace.step("http2.send_connection_init", checkpoint)
        self.check_held(pool_request)
        self._sessions.add(session)
        session.start()
        self.pool.share(pool_request, session.room)
        if times is not None:
            session.observed = self._observed(pool_request.origin, stream, "HTTP/2", times)
            session.observed.open()
        return session

    def _observed(self, origin: Origin, stream: ByteStream, protocol: str, times: OpeningTimes) -> ObservedConnection:
        return ObservedConnection(tuple(self.telemetries.values()), origin, stream, protocol, times)

    def check_held(self, pool_request: PoolRequest[AnyConnection]) -> None:
        """Raise an httpx.ConnectError if the transport has been closed while a request opened its connection."""
        if not self.pool.holds(pool_request):
            raise httpx.ConnectError("the transport was closed while the request opened a connection")

    # --- What a session tells

    def room_changed(self, session: Session, max_requests: int) -> None:
        """Let more or fewer requests use a session."""
        self.pool.set_max_requests(session, max_requests)

    def going_away(self, session: Session) -> None:
        """Let no further request use a session."""
        self.pool.retire(session, session.reason)

    def ended(self, session: Session) -> None:
        """Forget about a session whose tasks have ended."""
        self._sessions.discard(session)

    # --- Giving one back

    async def release(
        self, pool_request: PoolRequest[AnyConnection], *, keep: bool, reason: str = "", is_unused: bool = False
    ) -> None:
        """Let the next request have a connection if it can be kept; else close it, for a reason."""
        self.release_nowait(pool_request, keep=keep, reason=reason, is_unused=is_unused)
        if self.pool.discarded:
            await self.close_discarded()

    def release_nowait(
        self, pool_request: PoolRequest[AnyConnection], *, keep: bool, reason: str = "", is_unused: bool = False
    ) -> None:
        """Do the same, but for closing what the pool has discarded."""
        self.pool.release(pool_request, self.now(), keep=keep, reason=reason, is_unused=is_unused)
        if pool_request.on_released is not None:
            pool_request.on_released()

    def drop(self, pool_request: PoolRequest[AnyConnection]) -> None:
        """Release a request whose response was never closed, from a finalizer, which may run anywhere."""
        if self.pool.holds(pool_request):  # not closed with the transport, nor dropped with its event loop
            release = partial(self.release_nowait, pool_request, keep=False, reason=UNCLOSED)
            self.end_unclosed(release, f"{pool_request.origin.peer}; its connection is closed now")

    def end_unclosed(self, end: Callable[[], object], what: str) -> None:
        """End what belongs to a response that was never closed, in the event loop, and warn of it."""

        async def end_and_close() -> None:
            end()
            try:
                await self.close_discarded()
            except Exception:
                _logger.debug("closing a connection failed", exc_info=True)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            assert self._binding is not None
            spawn_root_task_soon(self._binding.loop, end_and_close, "prefect_http release")
        warnings.warn(f"unclosed response from {what}", ResourceWarning, stacklevel=3)

    async def close(self, connection: AnyConnection, reason: str) -> None:
        """Close a connection that is not in the pool."""
        try:
            if connection.observed is not None:
                connection.observed.close(reason)
        finally:
            await connection.aclose()

    async def close_discarded(self) -> None:
        """Close what the pool has discarded. If that fails for one connection, the others are closed all the same."""
        failures: list[BaseException] = []
        while self.pool.discarded:
            try:
                await self.close(*self.pool.discarded.popitem())
            except BaseException as error:
                failures = [error]
        if failures:
            raise failures.pop()  # not by a name: the error would refer to this frame, and this frame to the error

    async def aclose(self) -> None:
        """Close all connections, those in use included.

        Raises:
            RuntimeError: they belong to another event loop, which has not ended. They are dropped.
        """
        if self._binding is None or not self._binding.is_current():
            self._drop_if_loop_has_ended()
            self.pool.close()
            if self.pool.discarded:
                self._forget_discarded()  # only their own loop can close them
                raise RuntimeError(_OTHER_LOOP)
            return
        self.pool.close()
        try:
            if self.pool.discarded:
                await self.close_discarded()
            for session in list(self._sessions):
                await session.wait_ended()
        finally:
            await self._watcher.stop()
