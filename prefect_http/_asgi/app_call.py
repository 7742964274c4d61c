"""One request to an ASGI app and its response, between the app's call and the caller.

    caller, in any tasks                      app, in any tasks
    the request's body ─────────────────────> receive(): http.request
    head() <───────────────────────────────── send(): http.response.start
    anext() <───────── a bounded buffer ───── send(): http.response.body; waits while the buffer is full
    its end <──────────────────────────────── the end of the call
    aclose(), or a failure to wait ─────────> receive(): http.disconnect; after a grace, cancellation

What happens, happens between two awaits, and the awaits only wait for a change; so neither side minds in which of its
tasks the other one acts, or in which order.

The response outlives the call that began it, and may be read in another task than the one that asked for it. So the
app runs in a root task, which none of the caller's tasks can end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import NoReturn, Self

import anyio
import anyio.lowlevel
import httpx

from prefect_http._app import app_name
from prefect_http._asgi.body_buffer import BodyBuffer
from prefect_http._asgi.http_protocol import Head, HTTPProtocol
from prefect_http._asgi.request_body import RequestBody, StreamedBody, WholeBody
from prefect_http._concurrency.backend import CancelScope, checkpoint, new_cancel_scope, open_nursery, spawn_root_task
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._foreign_errors import is_foreign, mark_foreign
from prefect_http._types import ASGIApp, Message, Scope

# How many bytes an app may be ahead of its reader; the high-water mark of asyncio's transports and of uvicorn.
BUFFER_BYTES = 64 * 1024
# Seconds that an app has to end by itself, once it has been told that nobody listens any more.
GRACE = 1.0
# How often it can send or receive after the end. In steps as well as in seconds, lest it keeps the processor busy.
_LINGERING_CALLS = 100
# Seconds that it has to unwind, once it has been cancelled.
UNWINDING = 5.0

logger = logging.getLogger("prefect_http")


class Exchange(httpx.AsyncByteStream):
    """One request and its response; iterated over, the response's body.

    An iterator of its own rather than a generator: there is nothing that the end of one would have to clean up.

    Args:
        app: the app.
        scope: the scope to call it with.
        request: the request.
        raise_app_exceptions: whether the caller gets what the app raises.
        on_end: called when the app's call has ended.
    """

    _is_left = False  # nobody takes the rest of the response
    _is_over = False  # the app's call has ended
    _failure: BaseException | None = None  # what the caller gets after the last chunk
    _patience: CancelScope | None = None  # around the wait for an app that must not take too long
    _lingering = 0  # the app's calls after the end
    _root_task: object = None  # kept here, for nobody else holds on to it

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        request: httpx.Request,
        raise_app_exceptions: bool,
        on_end: Callable[[Exchange], None],
    ) -> None:
        self._app = app
        self._scope = scope
        self._raise_app_exceptions = raise_app_exceptions
        self._on_end = on_end
        self._timeouts: Mapping[str, float | None] = request.extensions.get("timeout") or {}
        self._request_body = self._body_of(request)
        self._protocol = HTTPProtocol(request.method)
        self._chunks = BodyBuffer(BUFFER_BYTES)
        self._app_scope = new_cancel_scope()
        self._response_changed = RepeatedEvent()  # for the caller
        self._request_changed = RepeatedEvent()  # for the app's receive()

    def _body_of(self, request: httpx.Request) -> RequestBody:
        if isinstance(request.stream, httpx.ByteStream):
            return WholeBody(request.read())
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise RuntimeError("the request has a sync body, which an async transport cannot send")
        return StreamedBody(request.stream, self._on_request_body, self._on_request_body_error)

    # The caller's side.

    def start(self) -> None:
        """Call the app in a root task."""
        self._root_task = spawn_root_task(self._main, "prefect_http request", self._end)

    async def head(self) -> Head:
        """Wait for the response's status and headers.

        Raises:
            httpx.ReadTimeout: they did not come within the read timeout, once the app had taken the request.
            httpx.WriteTimeout: the app did not take the request's body, or a part of it, within the write timeout.
            httpx.RemoteProtocolError: the app ended without, or sent something else.
            httpx.ReadError: the transport has been closed meanwhile.
            Exception: what the app raised, or the stream of the request's body.

        Cancellation:
            Leaves the exchange.
        """
        try:
            self._patience = new_cancel_scope()
            self._renew_patience()
            with self._patience:
                while self._protocol.head is None and self._failure is None:
                    await self._response_changed.wait()
            self._patience = None
            if self._protocol.head is None:
                await self._fail()
            return self._protocol.head
        except BaseException:
            self.leave()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Give the next part of the response's body; it ends once the app's call has returned.

        Raises:
            httpx.ReadTimeout: it did not come within the read timeout.
            httpx.RemoteProtocolError: the app ended, or failed, in the middle of the body.
            httpx.ReadError: the response or the transport has been closed meanwhile.
            Exception: what the app raised, or the stream of the request's body.

        Cancellation:
            Leaves the exchange.
        """
        try:
            while not self._chunks:
                if self._failure is not None or self._is_left:
                    self._failure = self._failure or httpx.ReadError("the response has been closed")
                    await self._fail()
                if self._is_over:
                    raise StopAsyncIteration
                await self._wait_for_news()
            return self._chunks.take()
        except StopAsyncIteration:
            raise
        except BaseException:
            self.leave()
            raise

    async def _wait_for_news(self) -> None:
        # Once all of the body is there, the app may take its time to end: it does its background work.
        timeout = math.inf if self._protocol.is_complete else self._timeout("read")
        patience = new_cancel_scope()
        patience.deadline = anyio.current_time() + timeout
        with patience:
            await self._response_changed.wait()
            return
        if not (self._chunks or self._is_left or self._is_over):
            await self._fail()

    async def _fail(self) -> NoReturn:
        failure, self._failure = self._failure, None
        if failure is None:
            await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
            failure = self._timeout_error()
        try:
            raise failure
        finally:
            del failure  # it refers to this frame

    async def aclose(self) -> None:
        """Leave the exchange; wait for the app's call to end, unless it has sent the whole response.

        Cancellation:
            Ends the waiting. The app is told, and cancelled, all the same.
        """
        waits = not (self._is_left or self._is_over or self._protocol.is_complete)
        self.leave()
        if waits:
            with anyio.move_on_after(GRACE + UNWINDING):
                while not self._is_over:
                    await self._response_changed.wait()

    def leave(self) -> None:
        """Have the app told that nobody takes the rest of the response, and cancelled after a grace.

        An app that has sent all of it is left to its background work, as it would be by a server.
        """
        if self._is_left:
            return
        self._is_left = True
        self._chunks.clear()
        if self._failure is not None and is_foreign(self._failure):
            self._log(self._failure)
        if not self._is_over:
            if not self._protocol.is_complete:
                self._cancel_soon()
            self._request_body.stop()
            self._request_changed.notify()
            self._response_changed.notify()

    def abort(self, failure: BaseException) -> None:
        """Have the app told and cancelled, whatever it has sent, and ``failure`` raised in the caller."""
        if not self._is_left:
            self.leave()
            self._failure = failure
        self._cancel_soon()

    def _cancel_soon(self) -> None:
        self._app_scope.deadline = min(self._app_scope.deadline, anyio.current_time() + GRACE)

    # Patience.

    def _renew_patience(self) -> None:
        """Start the time anew that the app has for what the caller waits for."""
        if self._patience is None or self._is_left:
            return
        before_head = self._protocol.head is None
        if before_head and self._request_body.waits_for_app:
            timeout = self._timeout("write")
        elif self._protocol.is_complete or (before_head and self._request_body.waits_for_caller):
            timeout = math.inf
        else:
            timeout = self._timeout("read")
        self._patience.deadline = anyio.current_time() + timeout

    def _timeout_error(self) -> httpx.TimeoutException:
        if self._protocol.head is not None:
            return httpx.ReadTimeout(f"the app sent nothing more of its response for {self._timeout('read'):g} s")
        if self._request_body.waits_for_app:
            return httpx.WriteTimeout(f"the app did not take the request body for {self._timeout('write'):g} s")
        return httpx.ReadTimeout(f"the app did not begin its response for {self._timeout('read'):g} s")

    # The app's side.

    async def _main(self) -> None:
        """Call the app; the root task's whole life."""
        if isinstance(self._request_body, StreamedBody):
            async with open_nursery() as nursery:
                nursery.start_soon(self._request_body.produce)
                error = await self._outcome_of_app()
                self._request_body.stop()
        else:
            error = await self._outcome_of_app()
        self._end(error)

    async def _outcome_of_app(self) -> BaseException | None:
        try:
            with self._app_scope:
                await self._call_app()
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the event loop's run ends
            self._on_stray_cancellation()
        except BaseException as error:
            return error
        return None

    def _on_stray_cancellation(self) -> None:
        if not self._protocol.is_complete:
            self._failure = self._failure or httpx.RemoteProtocolError("the app's call was cancelled")

    async def _call_app(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    def _end(self, error: BaseException | None = None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._request_body.stop()
        failure = self._protocol.end(error, raise_app_exceptions=self._raise_app_exceptions)
        reaches_caller = not self._is_left and self._failure is None
        if reaches_caller:
            self._failure = failure
        if error is not None:
            if failure is error:
                mark_foreign(error)
            if not (reaches_caller and self._raise_app_exceptions):
                self._log(error)
        self._response_changed.notify()
        self._request_changed.notify()
        self._on_end(self)

    async def _receive(self) -> Message:
        while True:
            if self._is_left or self._protocol.is_complete or self._is_over:
                await self._linger()
                return {"type": "http.disconnect"}
            taken = self._request_body.take()
            if taken is not None:
                self._renew_patience()
                return {"type": "http.request", "body": taken[0], "more_body": taken[1]}
            await self._wait_for_request()

    async def _wait_for_request(self) -> None:
        """Wait for something to receive."""
        await self._request_changed.wait()

    async def _send(self, message: Message) -> None:
        if self._is_left or self._is_over:
            await self._linger()
            return
        is_start = self._protocol.head is None
        chunk = self._protocol.send(message)
        if chunk:
            self._chunks.put(chunk)
        if self._patience is not None:
            self._renew_patience()
        if self._protocol.is_complete:
            self._request_body.stop()
            self._request_changed.notify()
            self._response_changed.notify()
        elif is_start:
            self._on_head()
        elif chunk:
            self._response_changed.notify()
            if self._chunks.is_full:
                await self._apply_backpressure()
        else:
            await checkpoint()  # else an app that sends nothing, forever, could not be cancelled

    def _on_head(self) -> None:
        self._response_changed.notify()

    async def _apply_backpressure(self) -> None:
        """Keep the app from sending more for now."""
        await self._chunks.wait_for_room()

    async def _linger(self) -> None:
        """Let an app go on after the end for a while. One that does nothing else waits for its cancellation."""
        self._lingering += 1
        if self._lingering > _LINGERING_CALLS and self._app_scope.deadline < math.inf:
            await anyio.sleep_forever()
        await checkpoint()

    def _log(self, error: BaseException) -> None:
        """Log what nobody else learns of."""
        method, path = self._scope["method"], self._scope["path"]
        logger.error("%s: %s %s raised", app_name(self._app), method, path, exc_info=error)

    # The request's body.

    def _on_request_body(self) -> None:
        self._request_changed.notify()
        self._renew_patience()

    def _on_request_body_error(self, error: BaseException) -> None:
        mark_foreign(error)
        if self._is_left or self._is_over or self._protocol.is_complete:
            self._log(error)  # it failed to clean up
        else:
            self.leave()
            self._failure = error

    def _timeout(self, kind: str) -> float:
        timeout = self._timeouts.get(kind)
        return math.inf if timeout is None else timeout
