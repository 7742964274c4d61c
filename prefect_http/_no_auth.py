"""No authentication, at no cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx


class NoAuth(httpx.Auth):
    """What httpx does where nobody authenticates: send the request as it is.

    httpx does it with an async generator around a generator, which trio has to keep track of: 6 % of what a small
    request costs in the client.
    """

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Give the request, and no other."""
        return _OneRequest(request)


class _OneRequest(AsyncGenerator[httpx.Request, httpx.Response]):
    __slots__ = ("_request",)

    def __init__(self, request: httpx.Request) -> None:
        self._request: httpx.Request | None = request

    async def __anext__(self) -> httpx.Request:
        request, self._request = self._request, None
        if request is None:
            raise StopAsyncIteration
        return request

    async def asend(self, value: httpx.Response, /) -> httpx.Request:
        raise StopAsyncIteration

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None, /) -> httpx.Request:
        raise typ

    async def aclose(self) -> None:
        pass
