"""Trace: tells the ``trace`` extension and the DEBUG log what is being done for a request.

The events, and what comes with them, are those of httpcore (https://www.encode.io/httpcore/extensions/#trace), for the
tools that listen to them. Where nobody listens, there is no Trace, and it costs nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast

import httpx

from prefect_http._redact import safe_exception, safe_url

T = TypeVar("T")

_logger = logging.getLogger("prefect_http.wire")


class Trace:
    """Those who listen to one request."""

    __slots__ = ("_extension", "_is_logged", "_request")

    def __init__(self, request: httpx.Request, extension: Callable[..., object] | None, *, is_logged: bool) -> None:
        self._request = request
        self._extension = extension
        self._is_logged = is_logged

    @classmethod
    def of(cls, request: httpx.Request) -> Trace | None:
        """Give the trace of a request; None if nobody listens."""
        extension = request.extensions.get("trace")
        is_logged = _logger.isEnabledFor(logging.DEBUG)
        return None if extension is None and not is_logged else cls(request, extension, is_logged=is_logged)

    async def step(
        self,
        name: str,
        do: Callable[[], Awaitable[T]],
        info: Mapping[str, object] | None = None,
        result: Callable[[T], object] = lambda _: None,
    ) -> T:
        """Do a step, and tell of its start and of its end.

        Args:
            name: such as ``"http11.send_request_body"``.
            do: does it.
            info: what comes with ``<name>.started``; None: the request.
            result: makes of the outcome what comes with ``<name>.complete`` as ``return_value``. With ``<name>.failed``
                comes the ``exception``.
        """
        await self.tell(f"{name}.started", info)
        try:
            outcome = await do()
        except BaseException as error:
            await self.tell(f"{name}.failed", {"exception": error})
            raise
        await self.tell(f"{name}.complete", {"return_value": result(outcome)})
        return outcome

    async def close(self, leave: Callable[[], Awaitable[None]]) -> None:
        """End a response, whatever the listener does, and tell of it."""
        try:
            await self.tell("http11.response_closed.started", {})
        finally:
            await leave()
        await self.tell("http11.response_closed.complete", {"return_value": None})

    async def tell(self, event: str, info: Mapping[str, object] | None = None) -> None:
        """Tell of an event, and what comes with it; None: the request."""
        if info is None:
            info = {"request": self._request}
        if self._is_logged:
            _logger.debug("%s %s: %s%s", self._request.method, safe_url(self._request.url), event, _brief(info))
        if self._extension is not None:
            told = self._extension(event, dict(info))
            if not inspect.isawaitable(told):
                raise TypeError(f"the trace extension must be an async function, not {self._extension!r}")
            await told


def _brief(info: Mapping[str, object]) -> str:
    """Write what may be in a log: no headers, for there are credentials among them."""
    shown = [f"{name}={info[name]!r}" for name in ("host", "port", "server_hostname") if name in info]
    if isinstance(error := info.get("exception"), BaseException):
        shown.append(safe_exception(error))
    if isinstance(told := info.get("return_value"), tuple):  # the head of a response
        shown.append(str(cast("tuple[object, ...]", told)[1]))
    return "".join(f" {each}" for each in shown)


async def step(
    trace: Trace | None, name: str, do: Callable[[], Awaitable[T]], result: Callable[[T], object] = lambda _: None
) -> T:
    """Do a step, whether somebody listens or not."""
    return await (do() if trace is None else trace.step(name, do, result=result))
