"""AppTransport: the transport of ``PrefectHttpxClient(app=...)``, which runs its app's lifespan as well."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import Literal, Self

import anyio
import httpx

from prefect_http._asgi.inline_response import InlineResponse
from prefect_http._asgi.patience import Patience
from prefect_http._asgi.read_whole import READ_WHOLE
from prefect_http._asgi.transport import ASGITransport
from prefect_http._concurrency.backend import Event, checkpoint_if_cancelled, new_event, wait_shielded
from prefect_http._lifespan.context import LifespanContext
from prefect_http._lifespan.lifespan import Lifespan
from prefect_http._request_timeouts import checked_timeouts
from prefect_http._telemetry import LifespanEvent, Telemetry, call_safely
from prefect_http._types import ASGIApp


class AppTransport(ASGITransport):
    """An ASGITransport that holds its app's lifespan from when it is entered until it is closed.

    Args:
        app: the ASGI app.
        telemetry: is told when the lifespan has been entered and left; None: nothing is.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry | None = None) -> None:
        super().__init__(app)
        self._telemetry = telemetry
        self._context: LifespanContext | None = None
        self._lifespan: Lifespan | None = None
        self._closed: Event | None = None  # created when closing begins, set when it has ended

    @property
    def lifespan(self) -> Lifespan | None:
        """The app's lifespan, from when the transport has been entered until it is closed."""
        return self._lifespan

    async def __aenter__(self) -> Self:
        context = LifespanContext(self.app)
        with self._told("entered"):
            lifespan = await context.enter(self._on_crash)
        if self._closed is not None:
            with self._told("left"):
                await context.leave(None, None, None)
            raise RuntimeError("the client was closed while it was being entered")
        self.state = lifespan.state
        self._context, self._lifespan = context, lifespan
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        if self._closed is not None:
            await wait_shielded(self._closed)  # another task is closing it, which takes a bounded time
            if exc is None:
                await checkpoint_if_cancelled()
            return
        self._closed = new_event()
        # From here on there are no new requests, not even as a redirect of one that has just ended.
        context, self._context, self._lifespan = self._context, None, None
        try:
            if context is not None:
                with self._told("left"):
                    await self._stop(context, exc_type, exc, tb)
        finally:
            self._closed.set()

    async def _stop(
        self,
        context: LifespanContext,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            had_requests = await self._end_all()
        except BaseException as error:  # a native cancellation that had been held back
            await context.leave(type(error), error, error.__traceback__)
            raise
        await context.leave(exc_type, exc, tb)
        if had_requests and exc is None:
            await checkpoint_if_cancelled()

    @contextlib.contextmanager
    def _told(self, kind: Literal["entered", "left"]) -> Generator[None]:
        """Report to the telemetry how long entering or leaving the lifespan takes, and whether it fails."""
        if self._telemetry is None:
            yield
            return
        started, error = anyio.current_time(), None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            seconds = anyio.current_time() - started
            event = LifespanEvent(kind=kind, app=self.app, seconds=seconds, error=error)
            error = None  # its traceback holds this frame
            call_safely(self._telemetry.lifespan_event, event)

    async def aclose(self) -> None:
        await self.__aexit__()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._context is None:
            raise RuntimeError(
                "the client is not entered, so its app is not started; use `async with PrefectHttpxClient(app=...)`"
            )
        if (crash := self._context.crash_error()) is not None:
            raise crash
        if READ_WHOLE in request.extensions and isinstance(request.stream, httpx.ByteStream):
            patience = Patience(checked_timeouts(request.extensions.get("timeout")))
            response = InlineResponse(patience, request.extensions[READ_WHOLE])
            return await response.run(self._new_call(request, response))
        return await super().handle_async_request(request)

    def _on_crash(self) -> None:
        if self._context is not None:
            self._abort_all(self._crash, is_foreign=True)

    def _crash(self) -> BaseException:
        error = None if self._context is None else self._context.crash_error()
        assert error is not None
        return error
