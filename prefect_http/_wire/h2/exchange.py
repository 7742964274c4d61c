"""StreamExchange: one request and its response on a stream of an HTTP/2 connection."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import NamedTuple

import anyio
import httpx

from prefect_http._concurrency.backend import CancelScope, Event, checkpoint, new_cancel_scope, new_event
from prefect_http._concurrency.iteration import cancel_iteration, end_iteration
from prefect_http._errors import InvalidResponse
from prefect_http._fields.request_rules import (
    BodyLength,
    Headers,
    check_headers,
    check_host,
    check_method,
    check_target,
)
from prefect_http._internal_errors import RequestNotProcessed
from prefect_http._wire.h1.exchange import OutgoingRequest
from prefect_http._wire.h2.errors import FailureKind, RequestTooLarge
from prefect_http._wire.h2.request_fields import request_fields
from prefect_http._wire.h2.session import Session
from prefect_http._wire.h2.stream import Stream


class RequestHead(NamedTuple):
    """The head of a request for HTTP/2.

    Attributes:
        fields: the head.
        content_length: the length of the body in bytes; None: the headers do not say.
    """

    fields: list[tuple[bytes, bytes]]
    content_length: int | None


def request_head(method: str, scheme: bytes, target: bytes | str, headers: Headers) -> RequestHead:
    """Check the head of a request, and return it as HTTP/2 has it.

    Raises:
        httpx.LocalProtocolError: it cannot be sent.
    """
    checked = check_headers(headers)
    check_host(checked)
    fields = request_fields(check_method(method), scheme, check_target(target), checked.headers)
    return RequestHead(fields, None if checked.is_chunked else checked.content_length)


class HTTP1Required(RequestNotProcessed):
    """The server has not processed a request, and asks for HTTP/1.1 instead."""


class StreamExchange:
    """One request and its response on a stream.

    Args:
        session: the connection.
        request: the request.
        head: its head.
        release: called once, when the stream has ended, so that another request may take its place.

    Attributes:
        session: as given.
        request: as given.
        stream: the stream; there is none before ``run()``.
        deadline: when the current wait times out; see TimeoutWatcher.
    """

    __slots__ = (
        "_event",
        "_has_expired",
        "_head",
        "_release",
        "_uploading",
        "deadline",
        "request",
        "session",
        "stream",
    )

    stream: Stream

    def __init__(
        self, session: Session, request: OutgoingRequest, head: RequestHead, release: Callable[[], None]
    ) -> None:
        self.session = session
        self.request = request
        self.deadline = math.inf
        self._event: Event | None = None
        self._has_expired = False
        self._head = head
        self._release: Callable[[], None] | None = release
        self._uploading: CancelScope | None = None

    async def run(self) -> None:
        """Send the request and receive the head of its response.

        Raises:
            RequestNotProcessed: the server says that it has not processed the request.
            httpx.TransportError: that fails.
            Exception: what the stream of the request body raises.
        """
        self.session.begin_waiting(self)
        try:
            if self.request.trace is None:
                self._send()
                if not isinstance(self.request.body, bytes):
                    await self._upload(self.request.body)
                await self._wait_for_head()
            else:
                await self._run_traced()
        except BaseException:
            self.close()
            raise
        self.session.has_served = True

    async def _run_traced(self) -> None:
        trace, body = self.request.trace, self.request.body
        assert trace is not None

        async def upload() -> None:
            if not isinstance(body, bytes):
                await self._upload(body)

        self._send()  # before the first event, which says which stream it is
        info = trace.info(stream_id=self.stream.id)
        try:
            await trace.step("http2.send_request_headers", checkpoint, info)
            await trace.step("http2.send_request_body", upload, info)
            await trace.step(
                "http2.receive_response_headers", self._wait_for_head, info, lambda _: self._head_for_trace()
            )
        except BaseException:
            await trace.close(self.aclose, "http2", {"stream_id": self.stream.id})
            raise

    def _head_for_trace(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        return self.stream.status, self.stream.headers

    def _send(self) -> None:
        head, body = self._head, self.request.body
        if self.request.timeouts.get("write") == 0:
            raise self._timeout("write")
        if isinstance(body, bytes):
            length = BodyLength(head.content_length)
            length.count(body)
            length.check_end()
        try:
            self.stream = self.session.open_stream(head.fields, body if isinstance(body, bytes) else None, self.wake)
        except RequestTooLarge as error:
            raise httpx.LocalProtocolError(f"the request cannot be sent: {error}") from None

    async def _wait_for_head(self) -> None:
        stream, timeouts = self.stream, self.request.timeouts
        if timeouts.get("read") == 0:
            await checkpoint()  # the request goes out all the same
            raise self._timeout("read")
        unsent = stream.unsent
        while not stream.status:
            if stream.failure is not None:
                raise self._error()
            if await self._wait(timeouts.get("write" if unsent else "read")) or stream.status or stream.failure:
                unsent = stream.unsent
            elif unsent and stream.unsent < unsent:
                unsent = stream.unsent  # the server does accept data
            else:
                raise self._timeout("write" if unsent else "read")

    # --- The request body

    async def _upload(self, chunks: AsyncIterable[bytes]) -> None:
        """Send a body while it is made. A 3xx, 4xx or 5xx response ends that, and so does the server's reset."""
        stream, length = self.stream, BodyLength(self._head.content_length)
        self._uploading = new_cancel_scope()
        with self._uploading:
            iterator = aiter(chunks)
            try:
                await self._send_chunks(iterator, length)
            except anyio.get_cancelled_exc_class():
                self._uploading.cancel()  # a cancellation of asyncio's own comes only once, and the stream needs one
                await cancel_iteration(iterator)
                raise
            except BaseException:
                await end_iteration(iterator)
                raise
        self._uploading = None
        if not stream.is_request_complete and not self._has_early_end():
            length.check_end()
            self.session.send_body(stream, b"", end_stream=True)

    async def _send_chunks(self, iterator: AsyncIterator[bytes], length: BodyLength) -> None:
        stream, timeout = self.stream, self.request.timeouts.get("write")
        while (chunk := await anext(iterator, None)) is not None:
            if not chunk:
                continue
            length.count(chunk)
            self.session.send_body(stream, chunk, end_stream=False)
            unsent = stream.unsent
            while unsent:
                if not await self._wait(timeout) and stream.unsent == unsent:
                    raise self._timeout("write")
                unsent = stream.unsent

    def _has_early_end(self) -> bool:
        """Return whether the server wants no more of the body, or has refused the request."""
        stream = self.stream
        return stream.is_request_complete or stream.failure is not None or stream.status >= 300

    # --- The response body

    async def read(self) -> bytes:
        """Return what has arrived of the response body, or what arrives next; ``b""`` at its end.

        Raises:
            httpx.ReadTimeout: nothing arrives in time.
            httpx.TransportError: the stream ends too early.
        """
        stream = self.stream
        while not (data := self.session.take_body(stream)):
            if stream.is_complete:
                return b""
            if stream.failure is not None:
                raise self._error()
            has_changed = await self._wait(self.request.timeouts.get("read"))
            if not has_changed and not stream.has_body and not stream.is_finished:
                raise self._timeout("read")
        return data

    @property
    def is_complete(self) -> bool:
        """Whether all of the request and of the response has passed, so that only the body is left to be read."""
        return self.stream.is_complete and self.stream.is_request_complete

    @property
    def has_ended(self) -> bool:
        """Whether another request may use the stream's place."""
        return self._release is None

    async def aclose(self) -> None:
        """End the exchange, as ``close()`` does."""
        self.close()

    def close(self) -> None:
        """End the exchange, wherever it is."""
        if hasattr(self, "stream"):
            self.session.cancel(self.stream)
        self._let_go()

    # --- Waiting

    def wake(self) -> None:
        """Take note that something has changed on the stream."""
        stream = self.stream
        if self._event is not None:
            self._event.set()
        if self._uploading is not None and self._has_early_end():
            self._uploading.cancel()
        if stream.is_finished and stream.is_request_complete:
            self._let_go()

    async def expire(self) -> None:
        """End a wait that takes too long."""
        assert self._event is not None
        self._has_expired = True
        self.deadline = math.inf
        self._event.set()

    async def _wait(self, timeout: float | None) -> bool:
        """Wait until something changes on the stream; False: nothing has, for so many seconds."""
        event = self._event = new_event()
        self._has_expired = False
        if timeout is not None:
            self.session.limit_wait(self, timeout)
        try:
            await event.wait()
        finally:
            self.deadline = math.inf
            self._event = None
        return not self._has_expired

    def _let_go(self) -> None:
        if self._release is not None:
            release, self._release = self._release, None
            self.session.end_waiting(self)
            if hasattr(self, "stream"):
                self.stream.wake = _ignore  # this object and the stream would be a garbage cycle
            release()

    # --- Errors

    def _timeout(self, name: str) -> httpx.TimeoutException:
        seconds = self.request.timeouts[name]
        assert seconds is not None
        if seconds:  # of 0, nothing can be concluded about the connection
            self.session.timed_out(seconds)
        if name == "read":
            return httpx.ReadTimeout(f"{self.session.peer} sent no data for {seconds:g} s")
        return httpx.WriteTimeout(f"{self.session.peer} accepted no data for {seconds:g} s")

    def _error(self) -> Exception:
        failure = self.stream.failure
        assert failure is not None
        if self.session.unexpected is not None:
            return self.session.unexpected
        message = f"{self.session.peer}: {failure.message}"
        match failure.kind:
            case FailureKind.NEVER_PROCESSED:
                return RequestNotProcessed(message)
            case FailureKind.HTTP_1_1_REQUIRED:
                return HTTP1Required(message)
            case FailureKind.INVALID_RESPONSE:
                return InvalidResponse(message)
            case _:
                return self.session.error_for(self.stream)


def _ignore() -> None:
    """Do nothing: the exchange has ended."""
