"""Sending a request's body that is long, or still being made, with an eye on the answer.

A server may answer before it has all of the body: it is too long, the credentials are no good. It may then take no more
of it. Who sends on without looking learns nothing until the time to write runs out or the connection is reset, and the
answer with it (RFC 9112 section 9.5). So two tasks are at it: the caller's, whose stream it is, sends; another one
reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

import anyio
import anyio.lowlevel
import httpx

from prefect_http._concurrency.backend import new_cancel_scope, new_event, open_nursery
from prefect_http._concurrency.iteration import cancel_iteration, end_iteration
from prefect_http._foreign_errors import is_foreign, mark_foreign
from prefect_http._wire.connection import Connection
from prefect_http._wire.h1.request_head import BodyFraming
from prefect_http._wire.h1.response_parser import ResponseParser
from prefect_http._wire.trace import Trace, step


class Upload:
    """Sends the body of one request, and receives the head of its response.

    An answer of 3xx, 4xx or 5xx ends the sending. Another one waits until all is sent, for the server may still want
    the body, to make its answer of.

    Attributes:
        first: what of the response's body came along with its head.
        is_sent: all of the request's body has been sent.
    """

    def __init__(
        self,
        connection: Connection,
        parser: ResponseParser,
        framing: BodyFraming,
        read_timeout: float | None,
        write_timeout: float | None,
    ) -> None:
        self._connection = connection
        self._parser = parser
        self._framing = framing
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._sending = new_cancel_scope()
        self._watching = new_cancel_scope()
        self._is_over = new_event()
        self._read_failure: Exception | None = None
        self._has_stopped_sending = False
        self.first = b""
        self.is_sent = False

    async def run(self, chunks: AsyncIterable[bytes], trace: Trace | None) -> None:
        """Send the body, and receive the head of the response.

        Raises:
            httpx.TransportError: that fails.
            BaseException: the stream fails; what it raises is marked as plain.
        """
        failure: BaseException | None = None
        try:
            async with open_nursery() as nursery:
                nursery.start_soon(self._watch)
                # Nothing is raised in here, for it would come out in a group.
                try:
                    # A server that breaks the connection may have said why. httpx, too, raises what reading comes to.
                    try:
                        await step(trace, "http11.send_request_body", lambda: self._send(chunks))
                    except httpx.WriteError as error:
                        if is_foreign(error):
                            raise
                    self._has_stopped_sending = True
                    self._connection.limit_wait(self._read_timeout)
                    await step(
                        trace, "http11.receive_response_headers", self._answer, lambda _: self._parser.head_for_trace()
                    )
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:
                    failure = error
                    self._watching.cancel()
        except BaseExceptionGroup:
            await anyio.lowlevel.checkpoint_if_cancelled()  # older trios put a cancellation into a group as well
            raise
        if failure is not None:
            raise failure

    async def _send(self, chunks: AsyncIterable[bytes]) -> None:
        with self._sending:
            iterator = aiter(chunks)
            try:
                while (chunk := await _next(iterator)) is not None:
                    if framed := self._framing.frame(chunk):
                        await self._connection.send(framed, self._write_timeout)
                if end := self._framing.end():
                    await self._connection.send(end, self._write_timeout)
            except anyio.get_cancelled_exc_class():
                self._sending.cancel()  # asyncio's own cancellation comes once, and the stream must meet it as well
                await cancel_iteration(iterator)
                raise
            except BaseException:
                await end_iteration(iterator)
                raise
            self.is_sent = True

    async def _watch(self) -> None:
        try:
            with self._watching:
                await self._receive_head()
        except Exception as error:
            # Where the time to write has run out, it is not the reading that has failed.
            if self._has_stopped_sending or not isinstance(error, httpx.ReadTimeout):
                self._read_failure = error
        self._is_over.set()  # and not when it is cancelled: there is nothing to go on with then
        if self._read_failure is not None or (self._parser.head is not None and self._parser.head.status >= 300):
            self._sending.cancel()

    async def _receive_head(self) -> None:
        while self._parser.head is None:
            data = await self._connection.receive_meanwhile(self._read_timeout)
            if self._has_stopped_sending:
                self._connection.limit_wait(self._read_timeout)
            if data:
                self.first = self._parser.feed(data)
            else:
                self._parser.feed_eof()

    async def _answer(self) -> None:
        await self._is_over.wait()
        self._connection.limit_wait(None)
        if self._read_failure is not None:
            raise self._read_failure


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(iterator, None)
    except Exception as error:  # the caller's own, which says nothing of the connection
        mark_foreign(error)
        raise
