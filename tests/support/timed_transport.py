"""A server that takes its time, for the tests of the throttle."""

from __future__ import annotations

import anyio
import httpx

KEY = ("http", "host", 80)


class Server(httpx.AsyncBaseTransport):
    """A transport that answers in order of a script, after ``seconds`` of the event loop's time.

    Attributes:
        sent: when each request arrived.
        closed: how often it has been closed; entered likewise.
    """

    def __init__(self, *answers: httpx.Response | BaseException, seconds: float = 0.1) -> None:
        self.answers = list(answers)
        self.seconds = seconds
        self.sent: list[float] = []
        self.entered = 0
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append(anyio.current_time())
        answer = self.answers.pop(0) if self.answers else httpx.Response(200)
        await anyio.sleep(self.seconds)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def __aenter__(self) -> Server:
        self.entered += 1
        return self

    async def aclose(self) -> None:
        self.closed += 1


async def ask(transport: httpx.AsyncBaseTransport, url: str = "http://host/", method: str = "GET") -> httpx.Response:
    """Send a request through a transport."""
    return await transport.handle_async_request(httpx.Request(method, url))


def busy(seconds: int | None = None, status: int = 429) -> httpx.Response:
    """Make a rejection."""
    return httpx.Response(status, headers={} if seconds is None else {"Retry-After": str(seconds)})
