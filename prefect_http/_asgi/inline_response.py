"""An exchange for a caller who reads the whole response before looking at it: the app runs in the caller's own task.

That saves a small request a third of its cost. The response is kept without a bound, as it would be read without one,
unless its status is bad: then only the beginning is wanted, for the error.
"""

from __future__ import annotations

import contextvars
import math

import anyio
import anyio.lowlevel
import httpx

from prefect_http._asgi.app_call import BUFFER_BYTES, Exchange
from prefect_http._concurrency.backend import checkpoint, is_cancelled, new_cancel_scope
from prefect_http._concurrency.context import in_context
from prefect_http._error_limits import seconds_for_error
from prefect_http._httpx_details import ReadyResponse


class WholeExchange(Exchange):
    """A request, and a response that is there before anybody reads it."""

    _max_error_bytes: int | None = None
    _error_deadline = math.inf

    async def run(self, max_error_bytes: int | None) -> httpx.Response:
        """Call the app, and give its response.

        Args:
            max_error_bytes: how much to keep of an error's body, which then may take no longer than one that is
                streamed; None: all of it, in its own time.

        Returns:
            The response. What goes wrong after its headers is raised where its body is read.

        Raises:
            httpx.ReadTimeout, httpx.WriteTimeout: as for any exchange; once the app has ended.
            httpx.RemoteProtocolError, httpx.ReadError, Exception: likewise.

        Cancellation:
            Is the app's as well, at once; but an app that waits in ``receive()`` has the disconnect, and its grace,
            unless asyncio's own cancellation strikes. So it is with the timeouts.
        """
        self._max_error_bytes = max_error_bytes
        error: BaseException | None = None
        try:
            with self._app_scope:
                # What the app sets in its context is none of the caller's.
                await in_context(contextvars.copy_context(), self._call_app(), self._on_first_wait)
        except anyio.get_cancelled_exc_class():
            if is_cancelled():
                raise
            self._on_stray_cancellation()
        except Exception as raised:
            error = raised
        finally:
            if not (self._protocol.is_complete or self._is_left or self._failure) and self._app_scope.cancel_called:
                self._failure = self._timeout_error()
            self._end(error)
            error = None  # it would refer to this frame, and this frame to it
        if self._app_scope.shield:
            await anyio.lowlevel.checkpoint_if_cancelled()
        if self._protocol.head is None:
            await self._fail()
        status, headers = self._protocol.head
        if self._failure is not None:
            return httpx.Response(status, headers=headers, stream=self)
        return ReadyResponse(status, headers, self._chunks.take_all())

    def _on_head(self) -> None:
        if self._max_error_bytes is not None and self._is_error():
            self._app_scope.deadline = math.inf  # to see the caller's own
            self._error_deadline = anyio.current_time() + seconds_for_error()
            self._renew_patience()

    async def _apply_backpressure(self) -> None:
        self._chunks.limit = self._chunks.size + BUFFER_BYTES
        if self._max_error_bytes is not None and self._is_error() and self._chunks.size > self._max_error_bytes:
            self._give_up(httpx.ReadError("the response is longer than anybody wants it"))
        await checkpoint()

    def _on_first_wait(self) -> None:
        # Most apps answer a small request without waiting for anything, and then no timer needs to be set.
        if self._patience is None:
            self._patience = self._app_scope
            self._renew_patience()

    def _is_error(self) -> bool:
        """Say whether the response is one whose body nobody wants but for the error that comes of it.

        Redirects are httpx's to read, and a 401 is for whoever authenticates.
        """
        head = self._protocol.head
        return head is not None and head.status >= 400 and head.status != 401

    def _renew_patience(self) -> None:
        super()._renew_patience()
        if self._patience is not None and not (self._protocol.is_complete or self._is_left):
            self._patience.deadline = min(self._patience.deadline, self._error_deadline)

    def _timeout_error(self) -> httpx.TimeoutException:
        if self._error_deadline <= anyio.current_time():
            return httpx.ReadTimeout("the rest of the response did not come in time")
        return super()._timeout_error()

    async def _wait_for_request(self) -> None:
        # An app that listens is told of the end, and has its grace. One that does not can only be cancelled.
        try:
            self._on_first_wait()
            if self._patience is self._app_scope:
                await self._listen_for_the_timeout()
            else:  # it listens in another of its tasks, too
                await self._request_changed.wait()
        except anyio.get_cancelled_exc_class():
            if self._is_left or not self._shield_off_the_caller():
                raise
            self.leave()

    async def _listen_for_the_timeout(self) -> None:
        self._patience = patience = new_cancel_scope()
        patience.deadline, self._app_scope.deadline = self._app_scope.deadline, math.inf
        try:
            with patience:
                await self._request_changed.wait()
        finally:
            self._patience = self._app_scope
            if not patience.cancelled_caught:
                self._app_scope.deadline = min(self._app_scope.deadline, patience.deadline)
        if patience.cancelled_caught and not self._is_left:
            self._give_up(self._timeout_error())

    def _give_up(self, failure: Exception) -> None:
        """Have the app told that there will be no more of the response than there is."""
        self._failure = failure
        self._is_left = True
        self._cancel_soon()
        self._request_changed.notify()

    def _shield_off_the_caller(self) -> bool:
        """Shield the app's call if it is the caller who is cancelled, and not a part of the app by the app.

        Only scopes can be shielded off; asyncio's own cancellation of a task goes its way.
        """
        if anyio.current_effective_deadline() > -math.inf:
            return False
        self._app_scope.shield = True
        if anyio.current_effective_deadline() > -math.inf:
            return True
        self._app_scope.shield = False
        return False
