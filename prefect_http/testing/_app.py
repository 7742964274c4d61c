"""AppStep: an ASGI app as a server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import cast

import httpx

from prefect_http._app import check_app
from prefect_http._asgi.streamed_response import StreamedResponse
from prefect_http._asgi.transport import ASGITransport
from prefect_http._lifespan.context import app_lifespan_context
from prefect_http._types import ASGIApp
from prefect_http.testing._operations import AsyncAnswer, Body, End, Head, Reset
from prefect_http.testing._received import ReceivedRequest
from prefect_http.testing._steps import Step

_logger = logging.getLogger("prefect_http")


class AppStep(Step):
    """Lets an ASGI app answer, while its lifespan runs, as in ``async with``.

    An exception of the app is logged. The client gets a 500, or finds that the response breaks off. The response ends
    with its body: what the app does behind that, such as background tasks, goes on without the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        check_app(app)
        self._app = app
        self._transport: ASGITransport | None = None

    async def answer(self, request: ReceivedRequest) -> AsyncAnswer:
        if self._transport is None:
            raise RuntimeError("an app serves requests inside `async with network`, so that its startup has run")
        url = request.url
        sent = httpx.Request(request.method, url, headers=request.headers, content=request.body)
        response = None
        try:
            response = await self._transport.handle_async_request(sent)
            yield Head(response.status_code, tuple(response.headers.raw), False)
            body = cast(StreamedResponse, response.stream)
            body.ends_with_body = True
            async for part in body:
                yield Body(part)
            yield End()
        except Exception:
            _logger.exception("the app of the FakeServer at %s has failed", url.host)
            yield Head(500, (), True) if response is None else Reset()
        finally:
            if response is not None:
                await response.aclose()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the app's lifespan, and end its requests before the shutdown."""
        async with app_lifespan_context(self._app) as lifespan:
            self._transport = transport = ASGITransport(self._app, state=lifespan.state)
            try:
                yield
            finally:
                self._transport = None
                await transport.aclose()
