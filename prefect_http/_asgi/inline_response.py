"""InlineResponse: a response that is whole before its caller looks at it. The app runs in the caller's own task.

That saves a third of the cost of a small request. The response is kept without a bound, as it would be if it were read
without one, except for a bad status: then only the beginning of its body is kept, for the error.
"""

from __future__ import annotations

import contextvars
import math
from typing import Self

import anyio
import httpx

from prefect_http._asgi.app_call import AppCall
from prefect_http._asgi.patience import Patience
from prefect_http._concurrency.backend import CancelScope, checkpoint, new_cancel_scope
from prefect_http._concurrency.borrowed_task import BorrowedTask
from prefect_http._concurrency.context import in_context
from prefect_http._concurrency.repeated_event import RepeatedEvent
from prefect_http._error_limits import seconds_for_error
from prefect_http._httpx_details import hold_body
from prefect_http._response import PrefectResponse

# How much an app may send without letting other tasks run.
_BYTES_PER_CHECKPOINT = 64 * 1024


class InlineResponse:
    """The caller's side of an app's call: the whole response, collected while the caller's task runs the app.

    A timeout, or the caller's cancellation, becomes a disconnect if the app waits in ``receive()``. It then has its
    grace period, while the caller's cancellation is held back. An app that waits for anything else is cancelled.

    Args:
        patience: how long to wait for the app.
        max_error_bytes: how much of the body of an error to keep, within a bounded time; None: all of it, without a
            bound.
    """

    _call: AppCall
    _request_changed: RepeatedEvent  # set once the app listens
    _listeners = 0  # how many of the app's tasks wait in ``receive()``
    _caller_is_cancelled = False  # and the app is to be disconnected
    _timer: CancelScope | None = None  # what the timeouts cancel; None until the app first waits for something

    def __init__(self, patience: Patience, max_error_bytes: int | None) -> None:
        self._patience = patience
        self._max_error_bytes = max_error_bytes
        self._chunks: list[bytes] = []
        self._size = 0
        self._next_checkpoint = _BYTES_PER_CHECKPOINT

    async def run(self, call: AppCall) -> httpx.Response:
        """Run an app's call, to its end.

        Args:
            call: the call, whose sink this is.

        Returns:
            The response. What goes wrong after its headers is raised where its body is read.

        Raises:
            httpx.ReadTimeout: the app did not start its response within the read timeout after it had taken the
                request. The timeouts are raised once the app has ended.
            httpx.WriteTimeout: the app did not take the request body within the write timeout.
            httpx.RemoteProtocolError: the app ended without starting its response, or sent an invalid message.
            httpx.ReadError: the transport was closed meanwhile.
            Exception: what the app raised.

        Cancellation:
            Cancels the app; one that waits in ``receive()`` is disconnected instead, and has its grace period. On
            asyncio, that holds in whichever of its tasks it waits there; on trio, a cancellation reaches all tasks at
            once.
        """
        self._call = call
        # In a context of its own, so that the variables that the app sets are not set for the caller.
        task = BorrowedTask(contextvars.copy_context(), call.cancel_scope, self._is_listening, self._tell)
        error: BaseException | None = None
        try:
            try:
                with call.cancel_scope:
                    await in_context(task, call.run_app(), self._start_timer, task.guard)
            finally:
                if task.has_to_be_given_back():
                    await task.give_back()
        except anyio.get_cancelled_exc_class():
            if not task.is_cancelled():
                call.note_stray_cancellation()
            elif not task.has_told:
                raise
            # Otherwise the caller's own is raised below.
        except Exception as raised:
            error = raised
        finally:
            self._note_timeout()
            call.end(error)
            error = None  # it refers to this frame
        if call.cancel_scope.shield or task.is_natively_cancelled:
            await task.raise_if_cancelled()
        elif self._timer is None and call.failure is None:
            # The app has waited for nothing. A loop of such requests could neither be cancelled nor timed out.
            await checkpoint()
        return self._response()

    def _response(self) -> httpx.Response:
        head, body = self._call.protocol.head, b"".join(self._chunks)
        if head is None:
            self._call.raise_failure()
        if self._call.failure is not None:
            return httpx.Response(head.status, headers=head.headers, stream=_BrokenBody(body, self._call))
        response = PrefectResponse(head.status, headers=head.headers, stream=httpx.ByteStream(body))
        hold_body(response, body)
        return response

    # Timeouts.

    def _start_timer(self) -> None:
        # Most apps answer a small request without waiting for anything, and then no timer needs to be set.
        if self._timer is None:
            self._timer = self._call.cancel_scope
            self._renew_timer()

    def _renew_timer(self) -> None:
        if self._timer is not None and not self._call.is_disconnected:
            self._timer.deadline = self._patience.deadline(self._call.progress, anyio.current_time())

    def _note_timeout(self) -> None:
        call = self._call
        has_outcome = call.protocol.is_complete or call.is_disconnected or call.failure is not None
        if call.cancel_scope.cancel_called and not has_outcome:
            call.failure = self._timeout_error()

    def _timeout_error(self) -> httpx.TimeoutException:
        return self._patience.error(self._call.progress, anyio.current_time())

    # The sink of the call.

    def request_changed(self) -> None:
        """Renew the timer."""
        self._renew_timer()

    def head_received(self) -> None:
        """Renew the timer, and bound the time for the body of an error."""
        if self._max_bytes() is not None:
            self._call.cancel_scope.deadline = math.inf  # to see the caller's own
            self._patience.limit = anyio.current_time() + seconds_for_error()
        self._renew_timer()

    def body_received(self, chunk: bytes) -> bool:
        """Keep a part of the body, and renew the timer; an empty part is no progress, as over a network."""
        if chunk or self._call.protocol.is_complete:
            self._chunks.append(chunk)
            self._size += len(chunk)
            self._renew_timer()
        return self._size > self._next_checkpoint

    def response_ended(self) -> None:
        """Do nothing: it will be noticed when the app's call returns."""

    async def wait_for_room(self) -> None:
        """Let other tasks run, and end the response once there is enough of an error."""
        self._next_checkpoint = self._size + _BYTES_PER_CHECKPOINT
        max_bytes = self._max_bytes()
        if max_bytes is not None and self._size > max_bytes:
            self._call.disconnect(httpx.ReadError(f"the response body is larger than the limit of {max_bytes} bytes"))
        await checkpoint()

    async def wait_for_request(self, request_changed: RepeatedEvent) -> None:
        """Wait for the end of the caller's patience, or of the request, and disconnect the app then."""
        call = self._call
        self._request_changed = request_changed
        self._listeners += 1
        try:
            self._start_timer()
            if self._timer is call.cancel_scope:
                await self._wait_with_timer(request_changed)
            else:  # another task of the app's waits here already
                await request_changed.wait()
        except anyio.get_cancelled_exc_class():
            if call.is_disconnected or not (call.cancel_scope.shield or self._shield_off_the_caller()):
                raise
            self._caller_is_cancelled = True
        finally:
            self._listeners -= 1
        if self._caller_is_cancelled:
            # Cancelled after its grace period even if it has sent its whole response meanwhile.
            call.abort(httpx.ReadError("the caller has been cancelled"), is_foreign=False)

    def _is_listening(self) -> bool:
        """Whether the app waits in ``receive()``, in whichever of its tasks, and can be disconnected."""
        return self._listeners > 0 and not self._call.is_disconnected

    def _tell(self) -> bool:
        """Disconnect the app, because its caller is cancelled; return False if it does not listen any more."""
        if self._is_listening():
            self._caller_is_cancelled = True
            self._request_changed.notify()  # it is disconnected there, because this is not called in a task
        return self._caller_is_cancelled or self._call.is_disconnected

    async def _wait_with_timer(self, request_changed: RepeatedEvent) -> None:
        """Wait with the timer around this wait alone, so that it does not cancel the app."""
        call = self._call
        self._timer = timer = new_cancel_scope()
        timer.deadline, call.cancel_scope.deadline = call.cancel_scope.deadline, math.inf
        try:
            with timer:
                await request_changed.wait()
        finally:
            self._timer = call.cancel_scope
            if not timer.cancelled_caught:
                call.cancel_scope.deadline = min(call.cancel_scope.deadline, timer.deadline)
        if timer.cancelled_caught and not call.is_disconnected:
            call.disconnect(self._timeout_error())

    def _max_bytes(self) -> int | None:
        """Return how much of the body is wanted; None: all of it.

        The body of a redirect is for httpx to read, and that of a 401 for the authentication.
        """
        head = self._call.protocol.head
        is_error = head is not None and head.status >= 400 and head.status != 401
        return self._max_error_bytes if is_error else None

    def _shield_off_the_caller(self) -> bool:
        """Shield the app's call if it is the caller who is cancelled, and not a part of the app by the app.

        Returns:
            Whether the call is shielded now. A native cancellation of the asyncio task cannot be shielded off.
        """
        if anyio.current_effective_deadline() > -math.inf:
            return False
        scope = self._call.cancel_scope
        scope.shield = True
        if anyio.current_effective_deadline() > -math.inf:
            return True
        scope.shield = False
        return False


class _BrokenBody(httpx.AsyncByteStream):
    """What there is of a body, followed by the failure that ended it."""

    def __init__(self, body: bytes, call: AppCall) -> None:
        self._body = body
        self._call = call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, b""
        if not body:
            self._call.raise_failure()
        return body

    async def aclose(self) -> None:
        self._call.disconnect()  # so that a failure that was not read is logged
