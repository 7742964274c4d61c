"""A server for the tests of ``send_many()``: it takes as long as a request asks it to, and counts what is going on."""

from __future__ import annotations

import re
from typing import Any

import anyio
import anyio.lowlevel
import httpx

from prefect_http import Outcome, PrefectHttpxClient, RetryPolicy

ONCE = RetryPolicy(max_retries=0)


class CountingServer(httpx.AsyncBaseTransport):
    """Answers to ``/<name>/<seconds>`` after so many seconds, and to ``/<name>/<seconds>/<status>`` with a status.

    Attributes:
        current: the number of requests that are being answered.
        most: the most that have been answered at once.
        started: the paths of all requests, as they came.
        cancelled: those of the requests that were cancelled.
    """

    def __init__(self) -> None:
        self.current = 0
        self.most = 0
        self.started: list[str] = []
        self.cancelled: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _, seconds, status = re.fullmatch(r"/(.*?)/([\d.]+)(?:/(\d+))?", request.url.path).groups()  # type: ignore[union-attr]
        self.started.append(request.url.path)
        self.current += 1
        self.most = max(self.most, self.current)
        try:
            await anyio.sleep(float(seconds))
        except anyio.get_cancelled_exc_class():
            self.cancelled.append(request.url.path)
            raise
        finally:
            self.current -= 1
        return httpx.Response(int(status or 200), text=request.url.path)

    def client(self, **arguments: Any) -> PrefectHttpxClient:
        """Return a client whose network this is."""
        return PrefectHttpxClient(transport=self, base_url="http://server", retry=ONCE, **arguments)


def name_of(outcome: Outcome) -> str:
    """Return the name in the URL of a request."""
    assert outcome.request is not None
    return outcome.request.url.path.split("/")[1]
