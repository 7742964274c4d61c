"""Connection: an open connection to a server, its timeouts, and whether it is still good."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import anyio
import httpx
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from prefect_http._wire.input_probe import has_plain_input, input_probe
from prefect_http._wire.network_errors import BROKEN, close_at_once, why
from prefect_http._wire.network_stream import NetworkStream
from prefect_http._wire.timeouts import TimeoutWatcher


class Connection:
    """An open connection, which one request uses at a time. Errors are httpx's.

    Attributes:
        stream: the bytes; TLS included.
        network_stream: the same for the users of httpx.
        peer: host and port, for messages.
        deadline: when the wait for the network has lasted too long; see TimeoutWatcher.
        is_closed: it has been closed from this side.
    """

    __slots__ = (
        "_deadlines",
        "_has_expired",
        "_has_input",
        "_max_bytes",
        "_now",
        "_ssl_object",
        "deadline",
        "is_closed",
        "network_stream",
        "peer",
        "stream",
    )

    def __init__(
        self, stream: ByteStream, peer: str, deadlines: TimeoutWatcher, now: Callable[[], float], max_bytes: int
    ) -> None:
        self.stream = stream
        self.network_stream = NetworkStream(stream)
        self.peer = peer
        self.deadline = math.inf
        self.is_closed = False
        self._deadlines = deadlines
        self._has_expired = False
        self._has_input = input_probe(stream.extra(SocketAttribute.raw_socket).fileno())
        self._max_bytes = max_bytes
        self._now = now
        self._ssl_object: ssl.SSLObject | None = stream.extra(TLSAttribute.ssl_object, None)
        deadlines.watched.add(self)

    def limit_wait(self, seconds: float | None) -> None:
        """Let the wait that begins now last so long at most; None: any time."""
        if seconds is None:
            self.deadline = math.inf
        else:
            self.deadline = self._now() + seconds
            if self.deadline < self._deadlines.next_wakeup:
                self._deadlines.wake_by(self.deadline)

    async def send(self, data: bytes, timeout: float | None) -> None:
        """Send all of the data.

        Raises:
            httpx.WriteTimeout: the server does not take them for ``timeout`` seconds. The connection is closed.
            httpx.WriteError: the connection is broken.
        """
        self.limit_wait(timeout)
        try:
            await self.stream.send(data)
        except BROKEN as error:
            if not self._has_expired:
                raise httpx.WriteError(f"the connection to {self.peer} broke while sending: {why(error)}") from error
        finally:
            self.deadline = math.inf
        if self._has_expired:
            raise httpx.WriteTimeout(f"{self.peer} took no data {_for(timeout)}")

    async def receive(self, timeout: float | None) -> bytes:
        """Receive what comes next; nothing at the end.

        Raises:
            httpx.ReadTimeout: nothing comes for ``timeout`` seconds. The connection is closed.
            httpx.ReadError: the connection is broken.
        """
        self.limit_wait(timeout)
        try:
            data = await self.stream.receive(self._max_bytes)
        except BROKEN as error:
            return self._end(error, timeout)
        finally:
            self.deadline = math.inf
        return data

    async def receive_meanwhile(self, timeout: float | None) -> bytes:
        """Receive, and leave the limit on the wait to another task, which sends; ``timeout`` is for the message."""
        try:
            return await self.stream.receive(self._max_bytes)
        except BROKEN as error:
            return self._end(error, timeout)

    def _end(self, error: Exception, timeout: float | None) -> bytes:
        if self._has_expired:
            raise httpx.ReadTimeout(f"{self.peer} sent nothing {_for(timeout)}")
        if isinstance(error, anyio.EndOfStream):
            return b""
        raise httpx.ReadError(f"the connection to {self.peer} broke while reading: {why(error)}") from error

    def is_stale(self) -> bool:
        """Say whether the connection, being idle, is no good any more: the server has closed it or written to it."""
        if self._ssl_object is not None and has_plain_input(self._ssl_object):
            return True
        return self.is_closed or self._has_input()

    async def expire(self) -> None:
        """End a wait that takes too long."""
        self._has_expired = True
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection at once, whatever is cancelled; what still uses it fails."""
        self.is_closed = True
        self.deadline = math.inf
        self._deadlines.watched.discard(self)
        await close_at_once(self.stream)


def _for(timeout: float | None) -> str:
    return "in time" if timeout is None else f"for {timeout:g} s"
