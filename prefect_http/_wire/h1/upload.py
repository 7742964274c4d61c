"""Upload: sends a request body that is large, or made while it is sent, and watches for an early response.

A server may respond before it has received the whole body: it is too large, or the credentials are wrong. It may then
stop reading. A client that only sends does not notice until the write times out or the connection is reset, and loses
the response (RFC 9112 section 9.5). So there are two tasks: the caller's, which owns the stream, sends; the other one
reads.

The first need not wait as long as the server keeps up. To let the other tasks run after each part took a third of the
time for an upload of 1 GiB, in parts of 64 KiB; so that happens after several parts.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable

import anyio
import httpx

from prefect_http._concurrency.backend import (
    checkpoint,
    checkpoint_if_cancelled,
    new_cancel_scope,
    new_event,
    open_nursery,
)
from prefect_http._concurrency.iteration import cancel_iteration, end_iteration
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.request_head import BodyFramer
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.trace import Trace, step

# For how long, and how many parts, to send without letting other tasks run. A part may take long to make, or no time at
# all; and virtual time does not pass meanwhile, so it is real time.
_TURN_SECONDS = 0.001
_TURN_PARTS = 16


class Upload:
    """Sends the body of one request, and receives the head of its response.

    A 3xx, 4xx or 5xx response ends the sending. Any other is returned when the whole body has been sent, since the
    server may need the body for the rest of its response.

    Args:
        connection: the connection; the head of the request has been sent on it.
        parser: parses the response.
        framer: frames the body.
        read_timeout: in seconds; None: no limit.
        write_timeout: in seconds, for each part of the body; None: no limit.

    Attributes:
        initial_body: the part of the response body that arrived along with the head.
        is_sent: whether all of the request body has been sent.
    """

    def __init__(
        self,
        connection: Connection,
        parser: ResponseParser,
        framer: BodyFramer,
        read_timeout: float | None,
        write_timeout: float | None,
    ) -> None:
        self._connection = connection
        self._parser = parser
        self._framer = framer
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._sending = new_cancel_scope()
        self._reading = new_cancel_scope()
        self._has_read = new_event()  # the head, or the failure to read it
        self._read_failures: list[Exception] = []  # one at most; a list, so that it can be taken out and raised
        self._has_stopped_sending = False
        self._has_stream_failed = False
        self.initial_body = b""
        self.is_sent = False

    async def run(self, chunks: AsyncIterable[bytes], trace: Trace | None) -> None:
        """Send the body, and receive the head of the response.

        Args:
            chunks: the body.
            trace: what listens.

        Raises:
            httpx.TransportError: that fails.
            BaseException: what the stream raises.
        """
        failures: list[BaseException] = []
        try:
            async with open_nursery() as nursery:
                nursery.start_soon(self._read)
                # Nothing is raised in here but a cancellation, for it would come out in a group.
                try:
                    await self._exchange(chunks, trace)
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    failures.append(error)
                    self._reading.cancel()
        except BaseExceptionGroup:
            await checkpoint_if_cancelled()  # older versions of trio put a cancellation into a group
            raise
        if failures:
            raise failures.pop()  # not by a name: the error would refer to this frame, and this frame to the error

    async def _exchange(self, chunks: AsyncIterable[bytes], trace: Trace | None) -> None:
        # If the connection breaks, the server may have sent a response that says why. Like httpx, read it, or raise the
        # error of reading.
        try:
            await step(trace, "http11.send_request_body", lambda: self._send(chunks))
        except httpx.WriteError:
            if self._has_stream_failed:
                raise
        self._has_stopped_sending = True
        self._connection.limit_wait(self._read_timeout or None)
        await step(
            trace,
            "http11.receive_response_headers",
            self._wait_for_head,
            result=lambda _: self._parser.head_for_trace(),
        )

    async def _send(self, chunks: AsyncIterable[bytes]) -> None:
        with self._sending:
            iterator = aiter(chunks)
            try:
                parts, turn_ends_at = 0, time.monotonic() + _TURN_SECONDS
                while True:
                    try:
                        chunk = await anext(iterator)
                    except StopAsyncIteration:
                        break
                    except Exception:  # the stream's own, not the connection's
                        self._has_stream_failed = True
                        raise
                    if framed := self._framer.frame(chunk):
                        rest = self._connection.send_nowait(framed)
                        if rest is not None:
                            await self._connection.send_rest(rest, self._write_timeout)
                    parts += 1
                    if parts == _TURN_PARTS or time.monotonic() >= turn_ends_at:
                        await checkpoint()  # sending need not be one, and the other task has to see the response
                        parts, turn_ends_at = 0, time.monotonic() + _TURN_SECONDS
                if end := self._framer.end():
                    await self._connection.send(end, self._write_timeout)
            except anyio.get_cancelled_exc_class():
                self._sending.cancel()  # a cancellation of asyncio's own comes only once, and the stream needs one too
                await cancel_iteration(iterator)
                raise
            except BaseException:
                await end_iteration(iterator)
                raise
            self.is_sent = True

    async def _read(self) -> None:
        """Receive the head of the response. A 3xx, 4xx or 5xx, or a failure, ends the sending."""
        try:
            with self._reading:
                await self._receive_head()
        except anyio.get_cancelled_exc_class():
            # The task that sends is cancelled as well. What a task raises becomes a garbage cycle in anyio's groups.
            return
        except Exception as error:
            # A write timeout closes the connection. Then it is not the reading that has failed.
            if self._has_stopped_sending or not isinstance(error, httpx.ReadTimeout):
                self._read_failures.append(error)
        self._has_read.set()
        if self._read_failures or (self._parser.head is not None and self._parser.head.status >= 300):
            self._sending.cancel()

    async def _receive_head(self) -> None:
        while self._parser.head is None:
            data = await self._connection.receive_while_sending(self._read_timeout)
            if self._has_stopped_sending:
                self._connection.limit_wait(self._read_timeout)
            if data:
                self.initial_body = self._parser.feed(data)
            else:
                self._parser.feed_eof(self._connection.peer)

    async def _wait_for_head(self) -> None:
        if self._read_timeout == 0:  # it always expires, even if the response has arrived meanwhile
            self._read_failures.clear()
            raise self._connection.read_timeout(0)
        await self._has_read.wait()
        self._connection.limit_wait(None)
        if self._read_failures:
            raise self._read_failures.pop()
