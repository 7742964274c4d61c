"""Session: an open HTTP/2 connection, and the tasks that read and write for all of its streams.

`H2Connection` decides, and this does the I/O. There are two root tasks, which belong to no request, so that cancelling
one never leaves half a frame on the connection:

- One receives, and wakes the requests whose streams have changed.
- One sends what there is. It asks for DATA only when it can write, so that other frames never wait behind much of it.

Both end with the connection. A request changes the state, which takes no time, and waits for its stream.

A connection on which nothing arrives while a request waits may be dead:

- When a read or write times out, and nothing has arrived meanwhile, the connection takes no more requests. Those on it
  go on.
- While streams are open and nothing arrives for `_PROBE_AFTER` seconds, a PING is sent. If nothing arrives for another
  `_PROBE_TIMEOUT`, the connection is closed, and its requests fail.
"""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import (
    Event,
    checkpoint_if_cancelled,
    new_cancel_scope,
    new_event,
    spawn_root_task,
    wait_shielded,
)
from prefect_http._wire.close_reasons import (
    BROKEN_OFF,
    GOAWAY,
    LOOP_ENDED,
    NO_LIFE,
    RULE_BROKEN,
    STREAM_FAILED,
    TRANSPORT_CLOSED,
    USED_UP,
)
from prefect_http._wire.h2.connection import H2Connection
from prefect_http._wire.h2.errors import FailureKind
from prefect_http._wire.h2.stream import Stream
from prefect_http._wire.network_errors import NETWORK_ERRORS, close_forcefully, forget_frames, reason_for
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.observed_connection import ObservedConnection
from prefect_http._wire.raw_socket import abandon
from prefect_http._wire.timeouts import Timed, TimeoutWatcher

_PROBE_AFTER = 30.0
_PROBE_TIMEOUT = 15.0
# For the GOAWAY at the end, which is a courtesy, and which almost always needs no wait.
_FAREWELL_TIMEOUT = 0.5

_logger = logging.getLogger("prefect_http")


class SessionOwner(Protocol):
    """What a session tells its owner. Neither method waits."""

    def room_changed(self, session: Session, max_requests: int) -> None:
        """Take note of how many requests the session can serve at once."""

    def going_away(self, session: Session) -> None:
        """Take note that the session takes no more requests; its ``reason`` says why."""

    def ended(self, session: Session) -> None:
        """Take note that the tasks of the session have ended."""

    async def close_discarded(self) -> None:
        """Close the connections that the pool has discarded."""


class Session:
    """An open HTTP/2 connection.

    Args:
        stream: the bytes, TLS included.
        peer: host and port, for messages.
        watcher: ends the waits that take too long.
        now: the event loop's clock.
        max_bytes: how many bytes to receive at once.
        owner: is told of changes.
        discarded: the connections that the owner has to close.

    Attributes:
        peer: as given.
        network_stream: the same stream, for users of httpx.
        deadline: when to see whether the connection is alive; see TimeoutWatcher.
        has_served: whether the connection has carried a response, or a part of one.
        is_closed: whether it was closed on this side.
        reason: why it takes no more requests.
        observed: tells of the connection; None: nothing is to be told.
    """

    observed: ObservedConnection | None = None

    def __init__(
        self,
        stream: ByteStream,
        peer: str,
        watcher: TimeoutWatcher,
        now: Callable[[], float],
        max_bytes: int,
        owner: SessionOwner,
        discarded: Collection[object],
    ) -> None:
        self._stream = stream
        self.peer = peer
        self.network_stream = NetworkStream(stream)
        self.deadline = math.inf
        self.has_served = False
        self.is_closed = False
        self.reason = ""
        self._connection = H2Connection()
        self._watcher = watcher
        self._now = now
        self._max_bytes = max_bytes
        self._owner = owner
        self._discarded = discarded
        self._failure: type[httpx.TransportError] = httpx.RemoteProtocolError
        self._unexpected: Exception | None = None  # what a stream that the user has opened has raised
        self._room = self._connection.free_streams
        self._is_going_away = False
        self._has_broken_off = False
        self._received_at = now()
        self._probed_at = math.inf
        self._sending_since = math.inf
        self._to_send: Event | None = None  # what the writer waits for
        self._settings: Event | None = None  # what requests wait for whose bodies can be sent only once
        self._tasks: list[object] = []
        self._running = 0
        self._all_ended = new_event()

    def start(self) -> None:
        """Start the tasks."""
        self._watcher.watched.add(self)
        for main, name in ((self._read, "prefect_http HTTP/2 reader"), (self._write, "prefect_http HTTP/2 writer")):
            # In an empty context: that of the request that happens to be first would be kept alive.
            self._tasks.append(spawn_root_task(main, name, self._task_ended, contextvars.Context()))
            self._running += 1

    @property
    def room(self) -> int:
        """How many requests it can serve at once."""
        return self._room

    async def wait_for_settings(self, timeout: float | None) -> None:
        """Wait until the server has said how many streams it accepts, or the connection has ended.

        Raises:
            httpx.ConnectTimeout: it takes longer than ``timeout`` seconds.
        """
        if self._connection.has_settings or self.has_ended:
            return
        if self._settings is None:
            self._settings = new_event()
        scope = new_cancel_scope()
        scope.deadline = math.inf if timeout is None else self._now() + timeout
        with scope:
            await self._settings.wait()
            return
        await checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        raise httpx.ConnectTimeout(f"{self.peer} sent no HTTP/2 SETTINGS for {timeout:g} s")

    def is_stale(self) -> bool:
        """Return whether no stream can be opened, which may be so after one has been promised."""
        return not self._connection.free_streams

    def open_stream(
        self, fields: Sequence[tuple[bytes, bytes]], body: bytes | None, wake: Callable[[], object]
    ) -> Stream:
        """Send a request, unless ``is_stale()``.

        Args:
            fields: the head.
            body: the body; None: it follows.
            wake: called when something has changed.

        Raises:
            RequestTooLarge: the server accepts only smaller heads.
        """
        connection = self._connection
        stream = connection.send_request(fields, end_stream=body == b"", wake=wake)
        if body:
            connection.send_body(stream, body, end_stream=True)
        if self.deadline == math.inf:
            self._watch(self._now() + _PROBE_AFTER)
        if self._to_send is not None:
            self._wake_writer(self._to_send)
        return stream

    def send_body(self, stream: Stream, data: bytes, *, end_stream: bool) -> None:
        """Queue a part of a request body."""
        self._connection.send_body(stream, data, end_stream=end_stream)
        self._react()

    def take_body(self, stream: Stream) -> bytes:
        """Take what has arrived of a response body."""
        data = self._connection.take_body(stream)
        if data and not stream.is_complete:  # then the server may send more
            self._react()
        return data

    def cancel(self, stream: Stream) -> None:
        """Reset a stream, unless it has ended."""
        self._connection.cancel(stream)
        self._react()

    def limit_wait(self, each: Timed, seconds: float) -> None:
        """Let the wait of a request that begins now time out after so many seconds."""
        each.deadline = self._now() + seconds
        if each.deadline < self._watcher.next_wakeup:
            self._watcher.wake_by(each.deadline)

    def begin_waiting(self, each: Timed) -> None:
        """Let the waits of a request time out when they are limited."""
        self._watcher.watched.add(each)

    def end_waiting(self, each: Timed) -> None:
        """Forget about the waits of a request."""
        self._watcher.watched.discard(each)

    def timed_out(self, seconds: float) -> None:
        """Take no more requests if nothing has moved on the connection while one of them waited in vain."""
        began = self._now() - seconds
        if self._received_at <= began or self._sending_since <= began:
            self._connection.ping()
            self._go_away(NO_LIFE)
            self._react()

    @property
    def unexpected(self) -> Exception | None:
        """What has ended the connection and is no failure of a network; the stream of a user may raise anything."""
        return self._unexpected

    def error_for(self, stream: Stream) -> httpx.TransportError:
        """Return what to raise for a stream that has failed, but for never having been processed."""
        assert stream.failure is not None
        kind, message, code = stream.failure
        if kind is FailureKind.MAY_HAVE_BEEN_PROCESSED and code is None:
            return self._failure(message)
        return httpx.RemoteProtocolError(f"{self.peer}: {message}")

    def broke_off(self, stream: Stream) -> bool:
        """Return whether the server has ended the connection before anything of a response arrived on a stream."""
        return self._has_broken_off and not stream.has_begun and self._unexpected is None

    @property
    def has_ended(self) -> bool:
        """Whether the connection has ended, in whatever way."""
        return self._connection.error is not None

    @property
    def is_going_away(self) -> bool:
        """Whether the connection takes no more requests."""
        return self._connection.is_going_away

    async def expire(self) -> None:
        """Look whether the connection is alive: see the top of the file."""
        connection, now = self._connection, self._now()
        if self._probed_at != math.inf and self._received_at < self._probed_at:
            self._end(f"{self.peer} has not answered a PING within {_PROBE_TIMEOUT:g} s", httpx.ReadError, NO_LIFE)
            self.deadline = math.inf
            await self._close_discarded()
            return
        self._probed_at = math.inf
        if not connection.open_streams:
            self.deadline = math.inf
        elif now - self._received_at < _PROBE_AFTER:
            self.deadline = self._received_at + _PROBE_AFTER
        else:
            connection.ping()
            self._probed_at, self.deadline = now, now + _PROBE_TIMEOUT
            self._react()

    def abandon(self) -> None:
        """Close the connection without its event loop, which has ended."""
        self.is_closed = True
        abandon(self._stream)

    async def aclose(self) -> None:
        """Close the connection; requests that still use it fail. Neither waits for the network, but for a moment.

        Cancellation:
            Is shielded off.
        """
        if not self.is_closed:
            self.is_closed = True
            self.deadline = math.inf
            self._watcher.watched.discard(self)
            try:
                await self._say_goodbye()
            finally:
                self._end(f"the connection to {self.peer} was closed locally", httpx.ReadError, TRANSPORT_CLOSED)
                await close_forcefully(self._stream)

    async def wait_ended(self) -> None:
        """Wait until the tasks have ended, which takes no time once the connection is closed."""
        if self._running:
            await wait_shielded(self._all_ended, self._now() + _FAREWELL_TIMEOUT)

    # --- The tasks

    async def _read(self) -> None:
        connection, receive = self._connection, self._stream.receive
        message = f"the connection to {self.peer} was given up"
        failure: type[httpx.TransportError] = httpx.RemoteProtocolError
        reason = LOOP_ENDED  # unless it ends by itself, the task is cancelled only then
        try:
            while connection.error is None:
                data = await receive(self._max_bytes)
                self._received_at = self._now()
                connection.receive(data)
                # Memory that is free before the next piece is used for it. Without this, a large download under asyncio
                # makes malloc give memory back and get it again: it took a fifth more time.
                del data
                self._react()
                if self._discarded:
                    await self._close_discarded()
        except anyio.EndOfStream as error:
            message, reason = f"{self.peer} closed the connection before the response was complete", BROKEN_OFF
            forget_frames(error)
        except NETWORK_ERRORS as error:
            message, failure = f"receiving from {self.peer} failed: {reason_for(error)}", httpx.ReadError
            reason = BROKEN_OFF
            forget_frames(error)
        except Exception as error:
            self._unexpected, reason = error, STREAM_FAILED
            if not connection.open_streams:  # nobody else will tell
                _logger.warning("reading from an HTTP/2 connection failed unexpectedly", exc_info=True)
        finally:
            self._end(message, failure, reason)
        if self._discarded:
            await self._close_discarded()

    async def _write(self) -> None:
        connection, send = self._connection, self._stream.send
        try:
            while True:
                if connection.has_data_to_send:
                    data = connection.data_to_send()
                    self._react()
                    self._sending_since = self._now()
                    await send(data)
                    self._sending_since = math.inf
                elif self.has_ended:
                    break
                else:
                    self._to_send = new_event()
                    await self._to_send.wait()
        except NETWORK_ERRORS as error:
            # The server may have said why; so the reader ends the connection. It notices as well that it is broken.
            self._go_away(BROKEN_OFF)
            forget_frames(error)
        except Exception as error:
            self._unexpected = error
            if not connection.open_streams:
                _logger.warning("writing to an HTTP/2 connection failed unexpectedly", exc_info=True)
            self._end(f"the connection to {self.peer} was given up", httpx.WriteError, STREAM_FAILED)
        except BaseException:
            self._end(f"the connection to {self.peer} was given up", httpx.WriteError, LOOP_ENDED)
            raise
        if self._discarded:
            await self._close_discarded()

    def _task_ended(self) -> None:
        self._running -= 1
        if not self._running:
            self._all_ended.set()
            self._tasks.clear()
            self._owner.ended(self)

    async def _close_discarded(self) -> None:
        try:
            await self._owner.close_discarded()
        except Exception:
            _logger.debug("closing a connection failed", exc_info=True)

    async def _say_goodbye(self) -> None:
        """Send a GOAWAY, if nothing else is under way and that needs no wait."""
        connection = self._connection
        if not connection.open_streams:
            connection.go_away()  # or there is one already, if the server has broken a rule
        if connection.open_streams or self._sending_since != math.inf or not connection.has_data_to_send:
            return
        scope = new_cancel_scope()
        scope.shield, scope.deadline = True, self._now() + _FAREWELL_TIMEOUT
        try:
            with scope:
                await self._stream.send(self._connection.data_to_send(0))
        except NETWORK_ERRORS as error:
            forget_frames(error)

    # --- Changes

    def _react(self) -> None:
        """Do what is to be done after any call of the connection."""
        connection = self._connection
        for stream in connection.take_changed():
            stream.wake()
        if self._to_send is not None and (connection.has_data_to_send or connection.error is not None):
            self._wake_writer(self._to_send)
        if self._settings is not None and (connection.has_settings or connection.error is not None):
            self._settings.set()
            self._settings = None
        if connection.is_going_away:
            self._go_away(self.reason or _reason_of(connection))
            return
        room = connection.max_open_streams
        if room != self._room:
            self._room = room
            self._owner.room_changed(self, room)

    def _wake_writer(self, waiting: Event) -> None:
        self._to_send = None
        waiting.set()

    def _go_away(self, reason: str) -> None:
        if not self._is_going_away:
            self._is_going_away = True
            self.reason = reason
            self._owner.going_away(self)

    def _end(self, message: str, failure: type[httpx.TransportError], reason: str) -> None:
        """End the connection, unless it has ended."""
        if not self.has_ended:
            self.reason = self.reason or reason
            self._has_broken_off = not self.is_closed
            self._failure = failure
            self._connection.close(message)
        self._react()

    def _watch(self, deadline: float) -> None:
        self.deadline = deadline
        if deadline < self._watcher.next_wakeup:
            self._watcher.wake_by(deadline)


def _reason_of(connection: H2Connection) -> str:
    """Return why a connection takes no more streams, which has not been ended on this side."""
    if connection.has_goaway:
        return GOAWAY
    return USED_UP if connection.error is None else RULE_BROKEN
