"""ASGITransport: calls an ASGI app in this process as if over a network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import httpx

from prefect_http._app import app_name, check_app
from prefect_http._asgi.app_call import GRACE, AppCall, ResponseSink, logger
from prefect_http._asgi.patience import Patience
from prefect_http._asgi.request_body import request_body
from prefect_http._asgi.scope import http_scope, read_head
from prefect_http._asgi.streamed_response import UNWINDING, StreamedResponse
from prefect_http._concurrency.backend import Event, checkpoint_if_cancelled, new_event, wait_shielded
from prefect_http._httpx_requests import check_request
from prefect_http._request_timeouts import checked_timeouts
from prefect_http._telemetry import ON_APP_CALL, call_safely
from prefect_http._types import ASGIApp

_MAX_CACHED_HEADS = 16


class ASGITransport(httpx.AsyncBaseTransport):
    """Calls an ASGI app in this process as if over a network; a drop-in replacement for httpx.ASGITransport.

    The response is returned when the app has sent its headers, and chunks arrive as they are sent. The app's ``send()``
    waits while more than 64 KiB are unread. A request body that is a stream is read as the app receives it; request and
    response may be streamed at the same time. Reading to the end waits for the app's call to return, so its background
    work is done by then. The app sees the caller's context variables; those that it sets are not set for the caller.

    If a response is closed early, the app receives ``http.disconnect``, and is cancelled if it has not ended 1 s later;
    ``response.aclose()`` waits for that. An app that has sent its whole response may finish its background work.
    ``aclose()``, which the client calls when it is closed, ends everything that is still running in the same way.

    httpx's timeouts apply: ``read`` limits the wait for the headers, once the app has received the request, and then
    for each chunk; ``write`` limits how long each part of the request body waits for the app to receive it. There are
    no connections and no pool.

    Args:
        app: the ASGI app. Its lifespan is not run; see ``app_lifespan_context`` and ``PrefectHttpxClient(app=...)``.
        raise_app_exceptions: whether an exception of the app is raised in the caller, unchanged: before the headers by
            the request, later by the read. If False, it is logged, and the caller gets a response with status 500, or
            in the middle of a body an httpx.RemoteProtocolError.
        root_path: the scope's ``root_path``, the path that the app is mounted at.
        client: the scope's ``client``, the host and port that requests claim to come from.
        state: a mapping such as ``Lifespan.state``, of which each request gets a shallow copy as the scope's
            ``state``; None: the scope has no ``state``.

    Raises:
        TypeError: the app is not callable, or the state is not a mapping.

    Requests raise:
        httpx.LocalProtocolError: the request could not be sent over a network either: its method or its headers are
            not valid, or its body is not as long as its Content-Length.
        httpx.ReadTimeout, httpx.WriteTimeout: a timeout, as above.
        httpx.RemoteProtocolError: the app ended without a complete response, or sent an invalid message.
        httpx.ReadError: the response or the transport was closed meanwhile.
        Exception: what the app or the stream of the request body raised; if the stream did, the app is disconnected.

    Cancellation:
        Disconnects the app as if the response were closed early, but does not wait for it.

    https://asgi.readthedocs.io/en/latest/specs/www.html
    """

    def __init__(
        self,
        app: ASGIApp,
        raise_app_exceptions: bool = True,
        root_path: str = "",
        client: tuple[str, int] = ("127.0.0.1", 123),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        check_app(app)
        if state is not None and not isinstance(state, Mapping):
            raise TypeError(f"state must be a mapping, such as Lifespan.state, not {state!r}")
        self.app = app
        self.raise_app_exceptions = raise_app_exceptions
        self.root_path = root_path
        self.client = client
        self.state = state
        # Many requests have the same headers as an earlier one.
        self._read_head = functools.lru_cache(_MAX_CACHED_HEADS)(read_head)
        self._running: set[AppCall] = set()
        self._ending: set[AppCall] = set()
        self._all_ended: Event | None = None  # set once no call is ending any more

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Call the app, and return its response as soon as the headers are there.

        Raises:
            TypeError: the request is one of another library, such as httpx2.
        """
        check_request(request, "ASGITransport")
        response = StreamedResponse(Patience(checked_timeouts(request.extensions.get("timeout"))))
        head = await response.start(self._new_call(request, response))
        return httpx.Response(head.status, headers=head.headers, stream=response)

    def _new_call(self, request: httpx.Request, sink: ResponseSink) -> AppCall:
        if ON_APP_CALL in request.extensions:
            call_safely(request.extensions.pop(ON_APP_CALL))
        head = self._read_head(request.method, tuple(request.headers.raw))
        scope = http_scope(request, head.headers, root_path=self.root_path, client=self.client, state=self.state)
        body = request_body(request, head.content_length)
        call = AppCall(self.app, scope, request, body, sink, self.raise_app_exceptions, self._on_end)
        self._running.add(call)
        return call

    async def aclose(self) -> None:
        """End all requests that are still running, with a disconnect, a grace period of 1 s, and cancellation.

        The transport can be used again afterwards.

        Cancellation:
            Takes effect when they have ended, after 6 s at most.
        """
        if await self._end_all():
            await checkpoint_if_cancelled()

    async def _end_all(self) -> bool:
        """End all requests, and return whether there were any; only a native cancellation is raised in the end."""
        self._abort_all(lambda: httpx.ReadError("the transport has been closed"), is_foreign=False)
        self._read_head.cache_clear()  # there may be credentials among them
        self._ending |= self._running
        if not self._ending:
            return False
        if self._all_ended is None:
            self._all_ended = new_event()
        await wait_shielded(self._all_ended, anyio.current_time() + GRACE + UNWINDING)
        for _ in self._ending:
            logger.warning("%s is still running a request %g s after its cancellation", app_name(self.app), UNWINDING)
        return True

    def _abort_all(self, make_failure: Callable[[], BaseException], *, is_foreign: bool) -> None:
        # Each gets a failure of its own: an exception that several tasks raise collects the tracebacks of all of them.
        for call in tuple(self._running):
            call.abort(make_failure(), is_foreign=is_foreign)

    def _on_end(self, call: AppCall) -> None:
        self._running.discard(call)
        self._ending.discard(call)
        if self._all_ended is not None and not self._ending:
            self._all_ended.set()
            self._all_ended = None
