"""FakeStream: the client's end of a connection in memory."""

from __future__ import annotations

import errno
import math
import os
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from prefect_http._concurrency.backend import (
    Waiter,
    checkpoint,
    checkpoint_if_cancelled,
    new_cancel_scope,
    new_waiter,
)
from prefect_http._concurrency.socket_attributes import InputAttribute
from prefect_http._wire.tls import TLSInMemory
from prefect_http.testing._connection import Script, ServerConnection
from prefect_http.testing._received import FakeConnection


class FakeStream(ByteStream):
    """A stream that leads to a server in memory.

    Args:
        record: the connection's entry in ``FakeNetwork.connections``.
        scheme: what the server speaks: http or https.
        script: what the server does.
        now: the event loop's clock.
        accepts_http2: whether the server chooses HTTP/2 if it is offered in the TLS handshake.

    Cancellation:
        Nothing is lost if receiving or sending is cancelled.
    """

    def __init__(
        self,
        record: FakeConnection,
        scheme: str,
        script: Script,
        now: Callable[[], float],
        *,
        accepts_http2: bool,
    ) -> None:
        self._server = ServerConnection(record, scheme, script, now, self._wake)
        self._accepts_http2 = accepts_http2
        self._is_closed = False
        self._is_receiving = False
        self._changed: Waiter | None = None  # what the task that receives waits for

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what the server has sent, or sends next.

        Raises:
            anyio.EndOfStream: the server has closed the connection.
            anyio.BrokenResourceError: the server has reset it.
            anyio.ClosedResourceError: it was closed on this side.
            anyio.BusyResourceError: another task is receiving.
            Exception: a mistake in the test.
        """
        if self._is_receiving:
            raise anyio.BusyResourceError("receiving from")
        self._is_receiving = True
        try:
            server = self._server
            if server.has_news or self._is_closed:
                await checkpoint()
            else:
                await self._wait_until(server.next_due)
            while not self._is_closed:
                data = server.take(max_bytes)
                if server.failure is not None:
                    raise server.failure
                if data:
                    return data
                if server.end == "reset":
                    raise anyio.BrokenResourceError from _os_error(ConnectionResetError, errno.ECONNRESET)
                if server.end == "closed":
                    raise anyio.EndOfStream
                await self._wait_until(server.next_due)
            raise anyio.ClosedResourceError
        finally:
            self._is_receiving = False

    async def send(self, item: bytes) -> None:
        """Send bytes to the server.

        Raises:
            anyio.BrokenResourceError: the server has closed the connection.
            anyio.ClosedResourceError: it was closed on this side.

        Cancellation:
            Sends nothing. It is no checkpoint otherwise: the streams over TCP are none either, and it would be a tenth
            of the time of a small request.
        """
        await checkpoint_if_cancelled()
        if self._is_closed:
            raise anyio.ClosedResourceError
        if self._server.end is not None:
            raise anyio.BrokenResourceError from _os_error(BrokenPipeError, errno.EPIPE)
        self._server.receive(item)
        if self._changed is not None:
            self._changed.set()

    async def send_eof(self) -> None:
        """Not possible. Nothing in HTTP needs it; it is there because each ByteStream has it."""
        raise NotImplementedError("a connection of a FakeNetwork cannot be closed in one direction only")

    async def aclose(self) -> None:
        """Close the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._server.close_by_client()
            self._wake()
        await checkpoint()

    def start_tls(self, alpn: list[str]) -> ByteStream:
        """Return the stream that stands for an encrypted one.

        Raises:
            ssl.SSLError: the server does not speak TLS.
        """
        if self._server.scheme != "https":
            record = self._server.record
            raise ssl.SSLError(f"the FakeServer at {record.host}:{record.port} speaks http, not https")
        accepted = ("h2", "http/1.1") if self._accepts_http2 else ("http/1.1",)
        self._server.alpn = next((protocol for protocol in alpn if protocol in accepted), None)
        self._server.is_secure = True
        return self

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        record = self._server.record
        attributes: dict[Any, Callable[[], Any]] = {
            InputAttribute.peek: lambda: self._server.peek,
            SocketAttribute.remote_address: lambda: (record.host, record.port),
            SocketAttribute.remote_port: lambda: record.port,
            SocketAttribute.local_address: lambda: ("127.0.0.1", 49152 + record.number % 16384),
            TLSInMemory.start: lambda: self.start_tls,
        }
        if self._server.is_secure:
            attributes[TLSAttribute.alpn_protocol] = lambda: self._server.alpn
        return attributes

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _wait_until(self, due: float) -> None:
        """Wait until something may have changed, or until then."""
        self._changed = new_waiter()
        try:
            if due == math.inf:
                await self._changed.wait()
                return
            scope = new_cancel_scope()
            scope.deadline = due
            with scope:
                await self._changed.wait()
        finally:
            self._changed = None
        await checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well


def _os_error(kind: type[OSError], code: int) -> OSError:
    """Return an error, as the operating system says it."""
    return kind(code, os.strerror(code))
