"""``client.send_many()``: the block that many requests are sent in."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import NoReturn, Protocol, cast

import anyio
import httpx

from prefect_http._concurrency.backend import open_nursery
from prefect_http._redact import safe_exception
from prefect_http._response import PrefectResponse
from prefect_http._streams.outcome import Outcome
from prefect_http._streams.outcome_queue import CompletionOrder, OutcomeQueue, RequestOrder
from prefect_http._streams.request_source import AsyncSource, Pulled, RequestSource, SyncSource
from prefect_http._streams.workers import Finished, Outcomes
from prefect_http._types import Requests


class Client(Protocol):
    """What sends the requests."""

    def build_request(self, method: str, url: httpx.URL | str, /) -> httpx.Request: ...
    def send(self, request: httpx.Request, /) -> Awaitable[PrefectResponse]: ...


class SendMany(AbstractAsyncContextManager[AsyncIterator[Outcome]]):
    """Sends many requests while it is entered; the value of ``async with`` is an iterator over their outcomes.

    Args:
        client: sends them, and makes requests of URLs.
        requests: an iterable or an async iterable of requests and URLs.
        max_at_once: how many are on their way at once, at most.
        ordered: whether the outcomes come in the order of the requests.

    Raises:
        TypeError: ``requests`` cannot be iterated over, or is a single one; or ``max_at_once`` is not an integer.
        ValueError: ``max_at_once`` is less than 1.
    """

    def __init__(self, client: Client, requests: Requests, max_at_once: int, *, ordered: bool) -> None:
        if isinstance(requests, str | bytes) or not isinstance(requests, Iterable | AsyncIterable):
            raise TypeError(
                f"requests must be an iterable or async iterable of requests and URLs, not {_single_or_name(requests)}"
            )
        if not isinstance(max_at_once, int) or isinstance(max_at_once, bool):
            raise TypeError(f"max_at_once must be an integer, not {max_at_once!r}")
        if max_at_once < 1:
            raise ValueError(f"max_at_once must be 1 or more, not {max_at_once!r}")
        self._client = client
        self._requests = requests
        self._max_at_once = max_at_once
        self._is_ordered = ordered
        self._failures: list[BaseException] = []
        self._is_entered = False
        self._feeder: AsyncSource | None = None

    async def __aenter__(self) -> AsyncIterator[Outcome]:
        """Open the nursery, and return the outcomes.

        Raises:
            RuntimeError: it has been entered before.
        """
        if self._is_entered:
            raise RuntimeError("send_many() can be entered only once: call it again for each `async with`")
        self._is_entered = True
        self._nursery_context = open_nursery()
        self._nursery = await self._nursery_context.__aenter__()
        queue: OutcomeQueue[Finished] = RequestOrder() if self._is_ordered else CompletionOrder()
        source: RequestSource
        if isinstance(self._requests, AsyncIterable):
            source = self._feeder = AsyncSource(self._requests)
            self._start(source.feed)
        else:
            source = SyncSource(self._requests)
        self._outcomes = Outcomes(source, queue, self._max_at_once, self._send, self._start)
        self._outcomes.start_worker()
        return self._outcomes

    def __aiter__(self) -> NoReturn:
        """Raise a RuntimeError: what can be iterated over is the value of ``async with``."""
        raise RuntimeError("send_many() must be entered: use `async with client.send_many(...) as outcomes`")

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancel the requests that are still on their way, and wait for that.

        Raises:
            BaseException: a request or the iterable raised something that is no Exception, like a KeyboardInterrupt.
            Exception: the generator of requests raised it while it was closed.
        """
        is_cancelled, has_failed = _is_cancellation(exc), bool(self._failures)
        if self._feeder is not None:
            self._feeder.is_left = not is_cancelled and anyio.current_effective_deadline() > -math.inf
        self._outcomes.leave()
        self._nursery.cancel_scope.cancel()
        # A failure has cancelled the block, which only the nursery can end. Other exceptions would come out in a group.
        passed = (exc_type, exc, traceback) if is_cancelled and has_failed else (None, None, None)
        try:
            await self._nursery_context.__aexit__(*passed)
        except BaseException:  # a cancellation; older versions of trio put it into a group
            if not self._failures:
                raise
        finally:
            del self._outcomes  # which refers to this object, for nothing but the garbage collector
        if self._failures:
            if exc is None or has_failed or not isinstance(self._failures[0], Exception):
                raise self._failures.pop(0)  # not by a name: the error would refer to this frame, and it to the error
            exc.add_note(f"closing the iterable of requests failed as well: {safe_exception(self._failures.pop(0))}")

    def _start(self, main: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(functools.partial(self._run, main))

    async def _run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run a task of the nursery. What it raises is kept for the end of the block, to be raised without a group."""
        try:
            await main()
        except BaseException as error:
            # On asyncio, one may be cancelled without the scopes around it.
            if not _is_cancellation(error) or anyio.current_effective_deadline() > -math.inf:
                self._failures.append(error)
                self._nursery.cancel_scope.cancel()
            self._outcomes.stop()

    async def _send(self, pulled: Pulled, outcomes: list[Outcome]) -> None:
        request: httpx.Request | None = None
        try:
            request = self._request(pulled.item, pulled.number)
            outcomes.append(Outcome(request, await self._client.send(request), None))
        except Exception as error:
            outcomes.append(Outcome(request, None, error))

    def _request(self, item: object, number: int) -> httpx.Request:
        if isinstance(item, httpx.Request):
            return item
        if not isinstance(item, httpx.URL | str):
            raise TypeError(f"item {number} of the requests is {_name(item)}, not an httpx.Request, a URL or a string")
        try:
            return self._client.build_request("GET", item)
        except (httpx.InvalidURL, UnicodeError) as error:
            # Without the parts that it quotes and without the cause, which may be credentials.
            reason = "" if isinstance(error, UnicodeError) else f": {str(error).partition(':')[0]}"
            raise httpx.InvalidURL(f"item {number} of the requests is not a valid URL{reason}") from None


def _is_cancellation(error: BaseException | None) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):  # older versions of trio put cancellations into groups
        return cast("BaseExceptionGroup[BaseException]", error).split(cancelled)[1] is None
    return isinstance(error, cancelled)


def _single_or_name(item: object) -> str:
    if isinstance(item, httpx.URL | str):
        return "a single URL; put it into a list"
    if isinstance(item, httpx.Request):
        return "a single request; put it into a list"
    return _name(item)


def _name(item: object) -> str:
    return f"an object of the class {type(item).__qualname__}"
