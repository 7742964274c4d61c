"""AppCall: the app's side of one request, from its call to the outcome.

    the caller's side, a ResponseSink                    the app, in any of its tasks
    the request body ──────────────────────────────────> receive(): http.request
    head_received() <─────────────────────────────────── send(): http.response.start
    body_received() <─────────────────────────────────── send(): http.response.body; waits while there is no room
    response_ended() <────────────────────────────────── the end of the call
    disconnect() ──────────────────────────────────────> receive(): http.disconnect; after a grace period, cancellation

StreamedResponse and InlineResponse are the two callers' sides; the call does not know which of them it has. All state
changes happen between two awaits, and awaits only wait for a change. So it does not matter which task of either side
acts, or in which order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NoReturn, Protocol

import anyio
import httpx

from prefect_http._app import app_name
from prefect_http._asgi.http_protocol import HTTPProtocol
from prefect_http._asgi.patience import Progress
from prefect_http._asgi.request_body import RequestBody
from prefect_http._concurrency.backend import checkpoint, new_cancel_scope
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._foreign_errors import is_foreign, mark_foreign
from prefect_http._types import ASGIApp, Message, Scope

# Seconds that an app has to end by itself after a disconnect, before it is cancelled.
GRACE = 1.0
# How often an app may send or receive after the end without waiting. Without this limit, an app that does nothing else
# would keep the processor busy throughout its grace period.
_LINGERING_CALLS = 100

logger = logging.getLogger("prefect_http")


class ResponseSink(Protocol):
    """The caller's side of an app's call: what takes the response, and decides how the app waits."""

    def request_changed(self) -> None:
        """Called when the app has taken a part of the request body, or the caller has produced one."""

    def head_received(self) -> None:
        """Called when the app has sent its status and headers."""

    def body_received(self, chunk: bytes) -> bool:
        """Called when the app has sent a part of its body, which may be empty.

        Returns:
            Whether the app has to wait for room before it sends more.
        """
        ...

    def response_ended(self) -> None:
        """Called when the app's call has ended, or has been aborted: no more of the response will come."""

    async def wait_for_room(self) -> None:
        """Wait until there is room for more of the body; called in the app's task."""

    async def wait_for_request(self, request_changed: RepeatedEvent) -> None:
        """Wait until there may be something for the app to receive; called in the app's task."""


class AppCall:
    """One call of an app for one request.

    Args:
        app: the app.
        scope: the ASGI scope of the request.
        request: the request.
        request_body: the body of the request.
        sink: the caller's side. The call refers to it until it has ended, and no longer.
        raise_app_exceptions: whether the caller gets what the app raises.
        on_end: called when the call has ended.

    Attributes:
        protocol: what the app has sent.
        request_body: the body of the request.
        cancel_scope: the cancel scope that the app is called in.
        failure: what the caller gets after the last part of the response; None: nothing yet, or a regular end.
        is_disconnected: whether the app is told that the rest of its response is not wanted.
        is_over: whether the call has ended.
    """

    failure: BaseException | None = None
    is_disconnected = False
    is_over = False
    _lingering_calls = 0

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        request: httpx.Request,
        request_body: RequestBody,
        sink: ResponseSink,
        raise_app_exceptions: bool,
        on_end: Callable[[AppCall], None],
    ) -> None:
        self.protocol = HTTPProtocol(request.method)
        self.request_body = request_body
        self.cancel_scope = new_cancel_scope()
        self._app = app
        self._scope = scope
        self._request = request
        self._sink = sink
        self._raise_app_exceptions = raise_app_exceptions
        self._on_end = on_end
        self._request_changed = RepeatedEvent()

    @property
    def progress(self) -> Progress:
        """How far the request and the response have come."""
        protocol, body = self.protocol, self.request_body
        return Progress(protocol.head is not None, protocol.is_complete, body.waits_for_app, body.waits_for_caller)

    # For the task that runs the call.

    async def run_app(self) -> None:
        """Call the app; to be awaited within ``cancel_scope``."""
        await self._app(self._scope, self.receive, self.send)

    def note_stray_cancellation(self) -> None:
        """Note that the app's call was cancelled, but not by the caller."""
        if not self.protocol.is_complete and self.failure is None:
            self.failure = httpx.RemoteProtocolError("the app's call was cancelled")
            if self._raise_app_exceptions:  # it stands for the app's own exception, so it is not retried either
                mark_foreign(self.failure, self._request)

    def end(self, error: BaseException | None = None) -> None:
        """Conclude the call, with what the app has raised. Does nothing if that has been done already."""
        if self.is_over:
            return
        self.is_over = True
        self.request_body.stop()
        failure = self.protocol.end(error, raise_app_exceptions=self._raise_app_exceptions)
        reaches_caller = not self.is_disconnected and self.failure is None
        if reaches_caller:
            self.failure = failure
        if error is not None:
            if failure is error:
                mark_foreign(error, self._request)
            if not (reaches_caller and self._raise_app_exceptions):
                self._log(error)
        self._sink.response_ended()
        del self._sink  # it refers to this call
        self._request_changed.notify()
        self._on_end(self)

    # For the caller's side.

    def raise_failure(self) -> NoReturn:
        """Raise the failure, once; after that, and if there is none, an error that says that the response is closed.

        Raises:
            httpx.ReadError: the response was closed.
            RuntimeError: the failure is a StopAsyncIteration, which would pass for the end of the body where it is read
                (PEP 479); it is the cause.
            BaseException: the failure, unless it is one of those.
        """
        failure, self.failure = self.failure, None
        if failure is None:
            failure = httpx.ReadError("the response has been closed")
        elif isinstance(failure, StopAsyncIteration) and self.protocol.head is not None:
            cause, failure = failure, RuntimeError("the app raised StopAsyncIteration")
            failure.__cause__ = cause
            mark_foreign(failure, self._request)
        try:
            raise failure
        finally:
            del failure  # it refers to this frame

    def disconnect(self, failure: BaseException | None = None) -> None:
        """Send the app a disconnect, because the rest of its response is not wanted; cancel it after a grace period.

        An app that has sent its whole response is not cancelled, but left to its background work, as by a server.

        Args:
            failure: what the caller gets for the rest of the response.
        """
        if self.is_disconnected:
            return
        self.is_disconnected = True
        unread, self.failure = self.failure, failure
        if unread is not None and is_foreign(unread, self._request):
            self._log(unread)
        if not self.is_over:
            if not self.protocol.is_complete:
                self._cancel_soon()
            self.request_body.stop()
            self._request_changed.notify()

    def abort(self, failure: BaseException, *, is_foreign: bool) -> None:
        """Disconnect and cancel the app, whatever it has sent, and fail its caller.

        Args:
            failure: what the caller gets.
            is_foreign: whether that is the app's; see _foreign_errors.py.
        """
        if not self.is_disconnected:
            if is_foreign:
                mark_foreign(failure, self._request)
            self.disconnect(failure)
            self._sink.response_ended()
        self._cancel_soon()

    def _cancel_soon(self) -> None:
        self.cancel_scope.deadline = min(self.cancel_scope.deadline, anyio.current_time() + GRACE)

    # For the task that produces the request body.

    def on_request_body(self) -> None:
        """Note that the caller has produced a part of the request body."""
        self._request_changed.notify()
        self._sink.request_changed()

    def on_request_body_error(self, error: BaseException) -> None:
        """Note that the caller's stream has failed; its exception is the caller's."""
        mark_foreign(error, self._request)
        if self.is_disconnected or self.protocol.is_complete:
            self._log(error)  # it failed while it was closed
        else:
            self.disconnect(error)
            self._sink.response_ended()

    # For the app.

    async def receive(self) -> Message:
        """Return the app's next message."""
        while not (self.is_disconnected or self.protocol.is_complete or self.is_over):
            taken = self.request_body.take()
            if taken is not None:
                self._sink.request_changed()
                return {"type": "http.request", "body": taken[0], "more_body": taken[1]}
            await self._sink.wait_for_request(self._request_changed)
        # Without a checkpoint, as from a server: Starlette's request.is_disconnected() calls this in a scope that is
        # cancelled already, so that it does not wait.
        self._lingering_calls += 1
        if self._lingering_calls > _LINGERING_CALLS:
            await self._linger()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message from the app.

        Raises:
            MessageError: the app must not send it, or not now.
        """
        if self.is_disconnected or self.is_over:
            self._lingering_calls += 1
            await self._linger()
            return
        protocol = self.protocol
        is_start = protocol.head is None
        chunk = protocol.send(message)
        if is_start:
            self._sink.head_received()
            return
        must_wait = self._sink.body_received(chunk)
        if protocol.is_complete:
            self.request_body.stop()
            self._request_changed.notify()
        elif must_wait:
            await self._sink.wait_for_room()
        elif not chunk:
            await checkpoint()  # else an app that sends nothing, forever, could not be cancelled

    async def _linger(self) -> None:
        """Let other tasks run. An app that does nothing but send or receive after the end is put to sleep."""
        if self._lingering_calls > _LINGERING_CALLS and self.cancel_scope.deadline < math.inf:
            await anyio.sleep_forever()
        await checkpoint()

    def _log(self, error: BaseException) -> None:
        """Log an exception that no caller gets."""
        method, path = self._scope["method"], self._scope["path"]
        logger.error("%s: %s %s raised", app_name(self._app), method, path, exc_info=error)
