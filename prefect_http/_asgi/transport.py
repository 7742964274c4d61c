"""ASGITransport: calls an ASGI app in this process as if over a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import httpx

from prefect_http._app import app_name, check_app
from prefect_http._asgi.app_call import GRACE, UNWINDING, Exchange, logger
from prefect_http._asgi.scope import http_scope
from prefect_http._concurrency.backend import Event, new_event, wait_shielded
from prefect_http._types import ASGIApp

E = TypeVar("E", bound=Exchange)


class ASGITransport(httpx.AsyncBaseTransport):
    """Calls an ASGI app in this process as if over a network; takes the place of httpx.ASGITransport.

    The response is there when the app has sent its headers, and chunks arrive as they are sent. The app waits while
    nobody reads, with at most 64 KiB ahead. A request body that is a stream goes into the app as the app takes it, and
    both directions may flow at once. Reading to the end waits for the app's call to return, so its background work is
    done by then. The app sees the caller's context variables, and what it sets stays its own.

    Who leaves a response early gives the app ``http.disconnect``, and, if it has not ended 1 s later, cancellation;
    ``response.aclose()`` waits for it. An app that has sent its whole response is left to its background work.
    ``aclose()``, which closing the client calls, ends all that is still running in the same way.

    httpx's timeouts hold: ``read`` for the headers, once the app has taken the request, and then for each chunk;
    ``write`` for each part of the request body that the app does not take. There is nothing to connect to, and no pool.

    Args:
        app: the ASGI app. Its lifespan is not run; see ``app_lifespan_context`` and ``PrefectHttpxClient(app=...)``.
        raise_app_exceptions: whether an exception of the app is raised in the caller, plain: before the headers from
            the request, later from the read. False logs it and answers 500; in the middle of a body it is a
            httpx.RemoteProtocolError.
        root_path: the scope's ``root_path``, where the app is mounted.
        client: the scope's ``client``, the address that requests are said to come from.
        state: what each request gets a shallow copy of as the scope's ``state``, such as ``Lifespan.state``; None
            gives it none.

    Raises:
        TypeError: the app is not callable, or the state is no mapping.

    Requests raise:
        httpx.ReadTimeout, httpx.WriteTimeout: as above.
        httpx.RemoteProtocolError: the app ended without a full response, or sent what is none.
        httpx.ReadError: the response or the transport was closed meanwhile.
        Exception: what the app raised, or the stream of the request body; the app then sees a disconnect.

    Cancellation:
        Counts as leaving early. It does not wait for the app.

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
        self._running: set[Exchange] = set()
        self._ending: set[Exchange] = set()
        self._all_ended: Event | None = None  # set when nothing is ending any more

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Call the app; the response is there when its headers are."""
        exchange = self._exchange(Exchange, request)
        exchange.start()
        head = await exchange.head()
        return httpx.Response(head.status, headers=head.headers, stream=exchange)

    def _exchange(self, kind: type[E], request: httpx.Request) -> E:
        scope = http_scope(request, root_path=self.root_path, client=self.client, state=self.state)
        exchange = kind(self.app, scope, request, self.raise_app_exceptions, self._on_end)
        self._running.add(exchange)
        return exchange

    async def aclose(self) -> None:
        """End all requests that are still running: a disconnect, a second of grace, cancellation.

        The transport can be used again afterwards.

        Cancellation:
            Is held back until they have ended, for 6 s at most.
        """
        self._abort_all(lambda: httpx.ReadError("the transport has been closed"))
        self._ending |= self._running
        if not self._ending:
            return
        if self._all_ended is None:
            self._all_ended = new_event()
        await wait_shielded(self._all_ended, anyio.current_time() + GRACE + UNWINDING)
        for _ in self._ending:
            logger.warning("%s has not ended a request at its cancellation", app_name(self.app))

    def _abort_all(self, make_failure: Callable[[], BaseException]) -> None:
        # Each has a failure of its own: an exception that several tasks raise collects all of their tracebacks.
        for exchange in tuple(self._running):
            exchange.abort(make_failure())

    def _on_end(self, exchange: Exchange) -> None:
        self._running.discard(exchange)
        self._ending.discard(exchange)
        if self._all_ended is not None and not self._ending:
            self._all_ended.set()
            self._all_ended = None
