"""A transport whose answers take time on the event loop's clock, for the tests of the throttle."""

from __future__ import annotations

import anyio
import httpx

KEY = ("http", "host", 80)


class Server(httpx.AsyncBaseTransport):
    """A transport that answers from a script, each time after ``seconds``; when the script ends, with 200.

    Attributes:
        sent: when each request arrived.
        entered: how often it has been entered.
        closed: how often it has been closed.
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
        try:
            if isinstance(answer, BaseException):
                raise answer
            return answer
        finally:
            del answer  # its traceback holds this frame

    async def __aenter__(self) -> Server:
        self.entered += 1
        return self

    async def aclose(self) -> None:
        self.closed += 1


async def ask(transport: httpx.AsyncBaseTransport, url: str = "http://host/", method: str = "GET") -> httpx.Response:
    """Send a request through a transport."""
    return await transport.handle_async_request(httpx.Request(method, url))


def busy(seconds: int | None = None, status: int = 429) -> httpx.Response:
    """Return a rejection, with a Retry-After if ``seconds`` is given."""
    return httpx.Response(status, headers={} if seconds is None else {"Retry-After": str(seconds)})
