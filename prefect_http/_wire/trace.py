"""Trace: reports what is being done for a request, to the ``trace`` extension and to the DEBUG log.

The events and their info are those of httpcore (https://www.encode.io/httpcore/extensions/#trace), for tools that
listen to them. When nothing listens, there is no Trace, and it costs nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar, cast

import httpx

from prefect_http._redact import safe_exception, safe_url

T = TypeVar("T")

_NO_INFO: Mapping[str, object] = {}

_logger = logging.getLogger("prefect_http.wire")


class Trace:
    """What listens to the events of one request.

    Args:
        request: the request.
        extension: its ``trace`` extension, called with an event's name and info; None: there is none.
        is_logged: whether events go to the log.
    """

    __slots__ = ("_extension", "_is_logged", "_request")

    def __init__(self, request: httpx.Request, extension: Callable[..., object] | None, *, is_logged: bool) -> None:
        self._request = request
        self._extension = extension
        self._is_logged = is_logged

    @classmethod
    def of(cls, request: httpx.Request) -> Trace | None:
        """Return the trace of a request; None if nothing listens.

        Raises:
            TypeError: the extension cannot be called.
        """
        extension = request.extensions.get("trace")
        if extension is not None and not callable(extension):
            raise TypeError(f'extensions["trace"] must be an async function, not {extension!r}')
        is_logged = _logger.isEnabledFor(logging.DEBUG)
        return None if extension is None and not is_logged else cls(request, extension, is_logged=is_logged)

    def about(self, request: httpx.Request) -> Trace:
        """Return a trace of another request that is sent on the way, for the same listeners."""
        return Trace(request, self._extension, is_logged=self._is_logged)

    async def step(
        self,
        name: str,
        do: Callable[[], Awaitable[T]],
        info: Mapping[str, object] | None = None,
        result: Callable[[T], object] = lambda _: None,
    ) -> T:
        """Do a step, and emit an event when it starts and another when it ends.

        Args:
            name: such as ``"http11.send_request_body"``.
            do: does the step.
            info: the info of ``<name>.started``; None: the request.
            result: turns what ``do`` returns into the ``return_value`` of ``<name>.complete``. The info of
                ``<name>.failed`` is the ``exception``.
        """
        await self.emit(f"{name}.started", info)
        try:
            returned = await do()
        except BaseException as error:
            await self.emit(f"{name}.failed", {"exception": error})
            raise
        await self.emit(f"{name}.complete", {"return_value": result(returned)})
        return returned

    async def close(
        self, do: Callable[[], Awaitable[None]], protocol: str = "http11", info: Mapping[str, object] = _NO_INFO
    ) -> None:
        """Close a response, even if the extension fails, and emit the events of that."""
        try:
            await self.emit(f"{protocol}.response_closed.started", info)
        finally:
            await do()
        await self.emit(f"{protocol}.response_closed.complete", {"return_value": None})

    def info(self, **more: object) -> dict[str, object]:
        """Return the info of an event: the request, and something more."""
        return {"request": self._request, **more}

    async def emit(self, event: str, info: Mapping[str, object] | None = None) -> None:
        """Emit an event, with its info; None: the request.

        Raises:
            TypeError: the extension is not an async function.
            BaseException: what the extension raises.
        """
        if info is None:
            info = {"request": self._request}
        if self._is_logged:
            _logger.debug("%s %s: %s%s", self._request.method, safe_url(self._request.url), event, _brief(info))
        if self._extension is not None:
            returned = self._extension(event, dict(info))
            if not inspect.isawaitable(returned):
                raise TypeError(f'extensions["trace"] must be an async function, not {self._extension!r}')
            await returned


def _brief(info: Mapping[str, object]) -> str:
    """Return what may be logged of an event's info: no headers, since they may hold credentials."""
    shown = [f"{name}={info[name]!r}" for name in ("host", "port", "server_hostname") if name in info]
    if isinstance(error := info.get("exception"), BaseException):
        shown.append(safe_exception(error))
    if isinstance(returned := info.get("return_value"), tuple):  # the head of a response: only its status
        shown += [str(part) for part in cast("tuple[object, ...]", returned) if isinstance(part, int)]
    return "".join(f" {each}" for each in shown)


async def step(
    trace: Trace | None,
    name: str,
    do: Callable[[], Awaitable[T]],
    info: Mapping[str, object] | None = None,
    result: Callable[[T], object] = lambda _: None,
) -> T:
    """Do a step, whether anything listens or not; see ``Trace.step()``."""
    return await (do() if trace is None else trace.step(name, do, info, result))
