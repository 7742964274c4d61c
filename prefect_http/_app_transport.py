"""The transport of ``PrefectHttpxClient(app=...)``: it runs its app's lifespan as well."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from prefect_http._asgi import ASGITransport
from prefect_http._asgi_types import ASGIApp
from prefect_http._errors import LifespanCrashed
from prefect_http._lifespan import LifespanContext
from prefect_http._plain_errors import mark_plain


class AppTransport(ASGITransport):
    """An ASGITransport that holds its app's lifespan from when it is entered until it is closed."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app)
        self._lifespan: LifespanContext | None = None

    async def __aenter__(self) -> Self:
        lifespan = LifespanContext(self.app)
        self.state = (await lifespan.enter(self._on_crash)).state
        self._lifespan = lifespan
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        # No new request from here on, also none that is a redirect of one that has ended just now.
        lifespan, self._lifespan = self._lifespan, None
        try:
            await super().aclose()
        except BaseException as error:  # a cancellation that was held back
            if lifespan is not None:
                await lifespan.leave(type(error), error, error.__traceback__)
            raise
        if lifespan is not None:
            await lifespan.leave(exc_type, exc, tb)

    async def aclose(self) -> None:
        await self.__aexit__()

    def _check(self) -> None:
        if self._lifespan is None:
            raise RuntimeError(
                "the client is not entered, so its app is not started; use `async with PrefectHttpxClient(app=...)`"
            )
        if (crash := self._lifespan.crash_error()) is not None:
            raise mark_plain(crash)

    def _on_crash(self) -> None:
        lifespan = self._lifespan
        if lifespan is not None:
            self._abort_all(lambda: mark_plain(lifespan.crash_error() or LifespanCrashed()))
