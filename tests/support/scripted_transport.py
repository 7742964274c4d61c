"""A transport that responds as a script says, and bodies that follow a script."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass

import anyio
import anyio.lowlevel
import httpx

from prefect_http import RetryPolicy

AT_ONCE = RetryPolicy(backoff_base=0, jitter=0)
ONCE = RetryPolicy(max_retries=0)
URL = "http://server/path"

Answer = int | httpx.Response | BaseException | Callable[[httpx.Request], Awaitable[httpx.Response]]


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    method: str
    url: str
    headers: httpx.Headers
    body: bytes | None
    at: float


class Server(httpx.AsyncBaseTransport):
    """A transport that responds as a script says, one entry per request, and records the requests.

    An entry is a status, a response, an exception to raise, or an async function of the request. A script that ends
    in ``...`` goes on with the entry before it for ever.
    """

    def __init__(self, *script: Answer | object, reads_body: bool = True) -> None:
        if script and script[-1] is ...:
            self._script = itertools.chain(script[:-1], itertools.repeat(script[-2]))
        else:
            self._script = itertools.chain(script)
        self._reads_body = reads_body
        self.seen: list[Seen] = []

    @property
    def count(self) -> int:
        """How many requests came."""
        return len(self.seen)

    @property
    def times(self) -> list[float]:
        """When the requests came."""
        return [seen.at for seen in self.seen]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await anyio.lowlevel.checkpoint()
        assert isinstance(request.stream, httpx.AsyncByteStream)
        at = anyio.current_time()
        body = b"".join([chunk async for chunk in request.stream]) if self._reads_body else None
        self.seen.append(Seen(request.method, str(request.url), request.headers.copy(), body, at))
        answer = next(self._script, None)
        assert answer is not None, f"request {self.count} was not expected"
        return await responded(answer, request)


async def responded(answer: object, request: httpx.Request) -> httpx.Response:
    """Return what an entry of a script makes of a request, or raise it."""
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, int):
        return httpx.Response(answer)
    if isinstance(answer, httpx.Response):
        return answer
    assert callable(answer)
    response = answer(request)
    if not isinstance(response, httpx.Response):
        response = await response
        assert isinstance(response, httpx.Response)
    return response


class Body(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """A body that follows a script, and records when it was closed.

    Each part is bytes to give, seconds to let pass, or an exception to raise.
    """

    def __init__(
        self,
        parts: Iterable[bytes | float | BaseException] = (),
        *,
        on_close: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._parts = parts
        self._on_close = on_close
        self.is_started = False
        self.given = 0
        self.close_count = 0
        self.closed_at: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it has been closed."""
        return self.closed_at is not None

    # Not a generator: trio warns about those that httpx does not close.
    def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_started = True
        self._left = iter(self._parts)
        return self

    async def __anext__(self) -> bytes:
        await anyio.lowlevel.checkpoint()
        for part in self._left:
            if isinstance(part, BaseException):
                raise part
            if isinstance(part, bytes):
                self.given += len(part)
                return part
            await anyio.sleep(part)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.close_count += 1
        if self.closed_at is None:
            self.closed_at = anyio.current_time()
        if self._on_close is not None:
            await self._on_close()


def raising(error: BaseException) -> Callable[[], Awaitable[object]]:
    """Return a function for Body's ``on_close`` that raises."""

    async def fail() -> object:
        raise error

    return fail


def notes_of(error: BaseException) -> str:
    """Return the notes of an error as one text."""
    return "\n".join(getattr(error, "__notes__", []))
