"""StreamedResponse: a response that is read while the app sends it.

The response outlives the call of the transport that began it, and may be read in another task than the one that asked
for it. So the app runs in a root task, which is not a child of any of the caller's tasks.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NoReturn, Self

import anyio
import httpx

from prefect_http._asgi.app_call import GRACE, AppCall
from prefect_http._asgi.body_buffer import BodyBuffer
from prefect_http._asgi.http_protocol import Head
from prefect_http._asgi.patience import Patience
from prefect_http._asgi.request_body import StreamedBody
from prefect_http._concurrency.backend import (
    CancelScope,
    checkpoint_if_cancelled,
    new_cancel_scope,
    open_nursery,
    spawn_root_task,
)
from prefect_http._concurrency.repeated_event import RepeatedEvent

# How many bytes an app may be ahead of its reader; the high-water mark of asyncio's transports and of uvicorn.
_BUFFER_BYTES = 64 * 1024
# Seconds that an app has to unwind once it has been cancelled.
UNWINDING = 5.0


class StreamedResponse(httpx.AsyncByteStream):
    """The caller's side of an app's call: the response, read as it comes.

    It is an iterator itself, and not a generator, because there would be nothing to clean up at a generator's end.

    Args:
        patience: how long to wait for the app.

    Attributes:
        ends_with_body: whether the iteration ends with the body, as over a network, or only when the app's call has
            returned.
    """

    ends_with_body = False
    _call: AppCall
    _root_task: object = None  # to keep it referenced
    _wait_for_head: CancelScope | None = None  # around that wait, while it lasts

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._buffer = BodyBuffer(_BUFFER_BYTES)
        self._response_changed = RepeatedEvent()

    async def start(self, call: AppCall) -> Head:
        """Run an app's call in a root task, and wait for the status and headers of its response.

        Args:
            call: the call, whose sink this is.

        Raises:
            httpx.ReadTimeout: they did not arrive within the read timeout after the app had taken the request.
            httpx.WriteTimeout: the app did not take the request body, or a part of it, within the write timeout.
            httpx.RemoteProtocolError: the app ended without sending them, or sent an invalid message.
            httpx.ReadError: the transport was closed meanwhile.
            Exception: what the app raised, or the stream of the request body.

        Cancellation:
            Disconnects the app, without waiting for it.
        """
        self._call = call
        self._root_task = spawn_root_task(self._main, "prefect_http request", call.end)
        try:
            self._wait_for_head = new_cancel_scope()
            self.request_changed()
            with self._wait_for_head:
                while call.protocol.head is None and call.failure is None:
                    await self._response_changed.wait()
            self._wait_for_head = None
            if call.protocol.head is None:
                await self._fail()
            return call.protocol.head
        except BaseException:
            self._disconnect()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part of the body. The iteration ends when the app's call has returned; see `ends_with_body`.

        Raises:
            httpx.ReadTimeout: it did not arrive within the read timeout.
            httpx.RemoteProtocolError: the app ended, or failed, in the middle of the body.
            httpx.ReadError: the response or the transport was closed meanwhile.
            Exception: what the app raised, or the stream of the request body.

        Cancellation:
            Disconnects the app, without waiting for it.
        """
        try:
            while not self._buffer:
                if self._call.failure is not None or self._call.is_disconnected:
                    self._call.raise_failure()
                if self._call.is_over or (self.ends_with_body and self._call.protocol.is_complete):
                    raise StopAsyncIteration
                await self._wait()
            return self._buffer.take()
        except StopAsyncIteration:
            raise
        except BaseException:
            self._disconnect()
            raise

    async def aclose(self) -> None:
        """Disconnect the app, and wait for its call to end unless it has sent its whole response.

        Cancellation:
            Ends the wait. The app is disconnected, and cancelled after its grace period, all the same.
        """
        call = self._call
        must_wait = not (call.is_disconnected or call.is_over or call.protocol.is_complete)
        self._disconnect()
        if must_wait:
            with anyio.move_on_after(GRACE + UNWINDING):
                while not call.is_over:
                    await self._response_changed.wait()

    async def _wait(self) -> None:
        scope = new_cancel_scope()
        scope.deadline = self._deadline()
        with scope:
            await self._response_changed.wait()
            return
        if not (self._buffer or self._call.is_disconnected or self._call.is_over):
            await self._fail()

    async def _fail(self) -> NoReturn:
        if self._call.failure is not None:
            self._call.raise_failure()
        await checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        raise self._patience.error(self._call.progress, anyio.current_time())

    def _deadline(self) -> float:
        return self._patience.deadline(self._call.progress, anyio.current_time())

    def _disconnect(self) -> None:
        self._call.disconnect()
        self._buffer.clear()
        self._response_changed.notify()

    # The sink of the call.

    def request_changed(self) -> None:
        """Start the wait for the head anew, with the timeout that holds now."""
        if self._wait_for_head is not None:
            self._wait_for_head.deadline = self._deadline()

    def head_received(self) -> None:
        """Wake the caller."""
        self._response_changed.notify()

    def body_received(self, chunk: bytes) -> bool:
        """Keep a part of the body until it is read, and wake the caller. An empty one is not worth waking up for."""
        if chunk:
            self._buffer.put(chunk)
        if chunk or self._call.protocol.is_complete:
            self._response_changed.notify()
        return self._buffer.is_full

    def response_ended(self) -> None:
        """Wake the caller, who gets nothing more of an aborted response."""
        if self._call.is_disconnected:
            self._buffer.clear()
        self._response_changed.notify()

    async def wait_for_room(self) -> None:
        """Keep the app from sending more until the caller has read some of it."""
        await self._buffer.wait_for_room()

    async def wait_for_request(self, request_changed: RepeatedEvent) -> None:
        """Wait for the caller's stream, or for the end."""
        await request_changed.wait()

    # The app's task.

    async def _main(self) -> None:
        call, body = self._call, self._call.request_body
        if isinstance(body, StreamedBody):
            async with open_nursery() as nursery:
                nursery.start_soon(partial(body.produce, call.on_request_body, call.on_request_body_error))
                error = await self._run_app()
                body.stop()
        else:
            error = await self._run_app()
        call.end(error)
        del error  # its traceback refers to this frame, by f_back, from Python 3.12 on

    async def _run_app(self) -> BaseException | None:
        try:
            with self._call.cancel_scope:
                await self._call.run_app()
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the event loop's run ends
            self._call.note_stray_cancellation()
        except BaseException as error:
            return error
        return None
