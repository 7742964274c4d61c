"""What leans on how httpx works inside, though through its public names."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx


class ReadyResponse(httpx.Response):
    """A response whose body is there already, and so is read without the three async generators of httpx.

    They are a twentieth of what a request to an app in this process costs. ``as_prefect_response()`` makes a PrefectResponse of it.

    Args:
        status_code: the status.
        headers: names and values.
        body: all of the body.
        stream: gives the body as well, and is told when the response is closed.
        extensions: of the response.
    """

    def __init__(
        self,
        status_code: int,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        stream: httpx.AsyncByteStream | None = None,
        extensions: dict[str, object] | None = None,
    ) -> None:
        self._body = httpx.ByteStream(body)
        super().__init__(status_code, headers=headers, stream=stream or self._body, extensions=extensions)

    async def aread(self) -> bytes:
        if self.is_stream_consumed or self.is_closed:  # read already, maybe by an event hook
            return await super().aread()
        # The client has put a stream of its own around the body, which cannot be read without waiting.
        stream, self.stream = self.stream, self._body
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            return self.read()
        finally:
            self.stream = stream
            del self._body
            # So that the response has an elapsed time, and gives its connection back, also if it cannot be decoded.
            await stream.aclose()


_SETTING_COOKIES = frozenset({b"set-cookie", b"set-cookie2"})


class LeanCookies(httpx.Cookies):
    """httpx.Cookies that look for a ``Set-Cookie`` first.

    httpx puts the request and all headers of every response together for the standard library, which then finds that
    there is none: 27 us of the 182 that a small request takes with 100 tasks. httpx2 looks first by itself.
    """

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take the cookies from a response."""
        for name, _ in response.headers.raw:
            if name.lower() in _SETTING_COOKIES:
                super().extract_cookies(response)
                return


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


def set_content(response: httpx.Response, content: bytes) -> None:
    """Make a response hold content that is decoded already, as if it had read it."""
    headers, stream = response.headers, response.stream
    response.headers, response.stream = httpx.Headers(), httpx.ByteStream(content)
    response.read()
    response.headers, response.stream = headers, stream
