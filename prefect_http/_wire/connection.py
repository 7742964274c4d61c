"""Connection: an open connection to a server, its timeouts, and whether it is still usable."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import anyio
import httpx
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.eager_stream import Data, EagerStream, sender_of
from prefect_http._wire.input_probe import input_probe_of
from prefect_http._wire.network_errors import NETWORK_ERRORS, close_forcefully, forget_frames, reason_for
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.observed_connection import ObservedConnection
from prefect_http._wire.raw_socket import abandon, has_early_data, peek_of, raw_socket_of
from prefect_http._wire.timeouts import TimeoutWatcher
from prefect_http._wire.tls import has_early_tls_data, tls_input_probe_of


class Connection:
    """An open connection, used by one request at a time. It raises httpx's errors.

    Args:
        stream: the bytes, TLS included.
        peer: host and port, for messages.
        watcher: ends the waits that take too long.
        now: the event loop's clock.
        max_bytes: how many bytes to receive at once.

    Attributes:
        stream: as given.
        peer: as given.
        network_stream: the same stream, for users of httpx.
        deadline: when the wait for the network times out; see TimeoutWatcher.
        is_closed: whether it was closed on this side.
        observed: tells of the connection; None: nothing is to be told.
    """

    __slots__ = (
        "_has_expired",
        "_has_input",
        "_has_tls_input",
        "_max_bytes",
        "_now",
        "_receive",
        "_send",
        "_send_nowait",
        "_ssl_object",
        "_watcher",
        "deadline",
        "is_closed",
        "network_stream",
        "observed",
        "peer",
        "stream",
    )

    def __init__(
        self, stream: ByteStream, peer: str, watcher: TimeoutWatcher, now: Callable[[], float], max_bytes: int
    ) -> None:
        self.stream = stream
        self._receive = stream.receive
        self._send = sender_of(stream)
        self._send_nowait = stream.send_nowait if isinstance(stream, EagerStream) else None
        self.network_stream = NetworkStream(stream)
        self.peer = peer
        self.deadline = math.inf
        self.is_closed = False
        self.observed: ObservedConnection | None = None
        self._has_expired = False
        self._has_input: Callable[[], bool] | None = None  # made when the connection is reused: it takes 0.5 KiB
        self._max_bytes = max_bytes
        self._now = now
        self._ssl_object: ssl.SSLObject | None = stream.extra(TLSAttribute.ssl_object, None)
        self._has_tls_input = None if self._ssl_object is None else tls_input_probe_of(stream, self._ssl_object)
        self._watcher = watcher
        watcher.watched.add(self)

    def limit_wait(self, seconds: float | None) -> None:
        """Let the wait that begins now time out after so many seconds; None: never."""
        if seconds is None:
            self.deadline = math.inf
        else:
            self.deadline = self._now() + seconds
            if self.deadline < self._watcher.next_wakeup:
                self._watcher.wake_by(self.deadline)

    async def send(self, data: bytes, timeout: float | None) -> None:
        """Send all of the data.

        It is no checkpoint if the network takes the data at once, as it almost always does.

        Raises:
            httpx.WriteTimeout: it takes longer than ``timeout`` seconds; 0 always expires, as with httpx. The
                connection is closed.
            httpx.WriteError: the connection is broken.
        """
        if timeout == 0:
            await self.expire()
            raise self._write_timeout(timeout)
        rest = self.send_nowait(data)
        if rest is not None:
            await self.send_rest(rest, timeout)

    async def send_rest(self, rest: Data, timeout: float | None) -> None:
        """Send what ``send_nowait()`` has left; it raises what ``send()`` does."""
        if timeout is not None:
            self.limit_wait(timeout)
        try:
            await self._send(rest)
        except NETWORK_ERRORS as error:
            if not self._has_expired:
                raise self._write_error(error) from error
        except BaseException as error:
            forget_frames(error)
            raise
        finally:
            self.deadline = math.inf
        if self._has_expired:
            raise self._write_timeout(timeout)

    def send_nowait(self, data: bytes) -> Data | None:
        """Send as much of the data as can be sent without waiting, and return what ``send_rest()`` is to send.

        Returns:
            None: all has been sent.

        Raises:
            httpx.WriteError: the connection is broken.
        """
        if self._send_nowait is None:
            return data
        try:
            return self._send_nowait(data)
        except NETWORK_ERRORS as error:
            raise self._write_error(error) from error

    def _write_timeout(self, timeout: float | None) -> httpx.WriteTimeout:
        return httpx.WriteTimeout(f"{self.peer} accepted no data {_for(timeout)}")

    def _write_error(self, error: Exception) -> httpx.WriteError:
        return httpx.WriteError(f"sending to {self.peer} failed: {reason_for(error)}")

    async def receive(self, timeout: float | None) -> bytes:
        """Receive what arrives next; ``b""`` at the end of the stream.

        Raises:
            httpx.ReadTimeout: nothing arrives for ``timeout`` seconds; 0 always expires, as with httpx. The
                connection is closed.
            httpx.ReadError: the connection is broken.
        """
        if timeout:
            self.limit_wait(timeout)
        elif timeout is not None:
            await self.expire()
            raise self.read_timeout(timeout)
        try:
            return await self._receive(self._max_bytes)
        except NETWORK_ERRORS as error:
            return self._end(error, timeout)
        except BaseException as error:
            forget_frames(error)
            raise
        finally:
            self.deadline = math.inf

    async def receive_while_sending(self, timeout: float | None) -> bytes:
        """Receive, and leave the time limit to another task, which sends; ``timeout`` is only for the message."""
        try:
            return await self._receive(self._max_bytes)
        except NETWORK_ERRORS as error:
            return self._end(error, timeout)
        except BaseException as error:
            forget_frames(error)
            raise

    def _end(self, error: Exception, timeout: float | None) -> bytes:
        if self._has_expired:
            raise self.read_timeout(timeout)
        if isinstance(error, anyio.EndOfStream):
            return b""
        raise httpx.ReadError(f"receiving from {self.peer} failed: {reason_for(error)}") from error

    def read_timeout(self, timeout: float | None) -> httpx.ReadTimeout:
        """Return the error for receiving nothing in time."""
        return httpx.ReadTimeout(f"{self.peer} sent no data {_for(timeout)}")

    def is_stale(self) -> bool:
        """Return whether the connection, being idle, cannot be used: the server has closed it or written to it."""
        if self._has_tls_input is not None and self._has_tls_input():
            return True
        if self.is_closed:
            return True
        if self._has_input is None:
            self._has_input = self._input_probe()
        return self._has_input()

    def _input_probe(self) -> Callable[[], bool]:
        # A stream without a socket cannot be asked. That it is still open shows when it is used.
        return input_probe_of(self.stream, without_socket=False)

    def has_early_data(self) -> bool:
        """Return whether data has arrived on a connection on which nothing has been sent yet; it is useless then."""
        if self._ssl_object is not None:
            return has_early_tls_data(self._ssl_object)
        if not self._input_probe()():
            return False
        peek = peek_of(self.stream)
        if peek is not None and (data := peek()) is not None:
            return bool(data)
        raw_socket = raw_socket_of(self.stream)
        return raw_socket is not None and has_early_data(raw_socket)

    async def expire(self) -> None:
        """End a wait that takes too long."""
        self._has_expired = True
        await self.aclose()

    def abandon(self) -> None:
        """Close the connection without its event loop, which has ended."""
        self.is_closed = True
        abandon(self.stream)

    async def aclose(self) -> None:
        """Close the connection without waiting for the network; a request that still uses it fails.

        Cancellation:
            Is shielded off.
        """
        self.is_closed = True
        self.deadline = math.inf
        self._watcher.watched.discard(self)
        await close_forcefully(self.stream)


def _for(timeout: float | None) -> str:
    return "in time" if timeout is None else f"for {timeout:g} s"
