"""Everything that relies on how httpx works inside, though it only uses httpx's public names.

Each piece is here for a measured gain or because httpx offers no other way, and says which.
tests/test_httpx_details.py fails if a version of httpx, or of httpx2, works differently.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx

from prefect_http._types import Cookies, Headers

R = TypeVar("R", bound=httpx.Response)


# --- Responses


class ReadyResponse(httpx.Response):
    """A response whose body has arrived already, and is read without the three async generators of httpx.

    They are a twentieth of the cost of a request to an in-process app. `change_class` turns it into a PrefectResponse.

    Args:
        status_code: the status.
        headers: names and values.
        body: the whole body.
        stream: yields the body as well, and is closed with the response; None: a stream of ``body``.
        extensions: the response's extensions.
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
        """Return the whole body, decoded."""
        if self.is_stream_consumed or self.is_closed:  # read already, perhaps by an event hook
            return await super().aread()
        # httpx's client has wrapped the stream in one of its own, which cannot be read synchronously.
        stream, self.stream = self.stream, self._body
        assert isinstance(stream, httpx.AsyncByteStream)
        try:
            return self.read()
        finally:
            self.stream = stream
            del self._body
            # Sets `elapsed` and returns the connection to the pool, even if the body cannot be decoded.
            await stream.aclose()


_PLAIN_CLASSES = frozenset({httpx.Response, ReadyResponse})


def change_class(response: httpx.Response, cls: type[httpx.Response]) -> None:
    """Turn a response into one of ``cls`` in place, if it is of httpx's own class; otherwise do nothing.

    A new object would need a stream that forwards to the old one, because httpx ties a response's stream to the
    object that its client has made. Any state of ``cls`` beyond that of httpx.Response must have defaults.
    """
    if type(response) in _PLAIN_CLASSES:
        response.__class__ = cls
        response.__dict__.pop("_body", None)  # a ReadyResponse's own, unused from here on


def copy_of(response: httpx.Response, cls: type[R]) -> R:
    """Return a response of ``cls`` in the same state, that shares the stream with ``response`` and nothing mutable.

    ``copy.copy()`` uses the methods for pickling, which drop the stream and the extensions; and the constructor
    takes neither content that is decoded already nor the state of a stream that has been read.
    """
    new = cls.__new__(cls)
    new.__dict__.update(response.__dict__)
    new.headers = response.headers.copy()
    new.extensions = dict(response.extensions)
    new.history = list(response.history)
    return new


def set_content(response: httpx.Response, content: bytes) -> None:
    """Make a response hold content that is decoded already, as if it had been read. Its stream is left to be closed.

    A response's content cannot be set, and without it neither ``response.text`` nor ``response.json()`` works.
    """
    headers, stream, is_closed = response.headers, response.stream, response.is_closed
    response.headers, response.stream = httpx.Headers(), httpx.ByteStream(content)
    response.read()
    response.headers, response.stream, response.is_closed = headers, stream, is_closed


@contextlib.contextmanager
def lent(response: httpx.Response, stream: httpx.AsyncByteStream, headers: httpx.Headers) -> Generator[None]:
    """Let an unread response be read from another stream, with other headers; afterwards it is unread again.

    Reading changes half a dozen attributes, most of them private.
    """
    cls, state = type(response), dict(response.__dict__)
    if cls is ReadyResponse:
        response.__class__ = httpx.Response  # it would not read the stream
    response.stream, response.headers = stream, headers
    try:
        yield
    finally:
        response.__class__ = cls
        response.__dict__.clear()
        response.__dict__.update(state)


# --- The client

# A request extension: its ``Cookie`` header, if there is one, is made of cookies, and not given by hand.
COOKIES_OF_CLIENT = "prefect_http.cookies"
_MAX_URLS = 256
_SET_COOKIE = frozenset({b"set-cookie", b"set-cookie2"})
_HEADERS = cast(property, httpx.AsyncClient.headers)
_COOKIES = cast(property, httpx.AsyncClient.cookies)


class LeanClient(httpx.AsyncClient):
    """An httpx.AsyncClient with another default User-Agent, and with less work for each request.

    - Programs use the same URLs again and again, and parsing one is a quarter of a request's cost in the client. So
      the URLs that were used last are kept; they are immutable.
    - `LeanCookies` take the place of httpx's.

    Requests with cookies have the extension `COOKIES_OF_CLIENT`, because httpx does not tell where a header is from.

    Args:
        user_agent: the ``User-Agent`` where no other is set, also in headers that are assigned later.
        **httpx_arguments: the keyword arguments of httpx.AsyncClient.
    """

    def __init__(self, *, user_agent: str, **httpx_arguments: Any) -> None:
        self._user_agent = user_agent
        self._parse_url = functools.lru_cache(_MAX_URLS)(httpx.URL)
        super().__init__(**httpx_arguments)
        self._lean_cookies = LeanCookies(_COOKIES.__get__(self).jar)

    def _set_headers(self, headers: Headers | None) -> None:
        merged = httpx.Headers(headers)
        merged.setdefault("User-Agent", self._user_agent)
        _HEADERS.__set__(self, merged)

    def _get_cookies(self) -> httpx.Cookies:
        """The cookies of the client, sent with every request that they match, as in httpx."""
        return self._lean_cookies

    def _set_cookies(self, cookies: Cookies) -> None:
        _COOKIES.__set__(self, cookies)
        self._lean_cookies = LeanCookies(_COOKIES.__get__(self).jar)

    if not TYPE_CHECKING:
        # Each request reads the headers: with httpx's own getter, that costs nothing extra.
        headers = _HEADERS.setter(_set_headers)
        cookies = property(_get_cookies, _set_cookies)

        def build_request(self, method: str, url: httpx.URL | str, **arguments: object) -> httpx.Request:
            """Build a request, as httpx does."""
            request = super().build_request(method, self._parse_url(url) if type(url) is str else url, **arguments)
            if (self._lean_cookies or arguments.get("cookies")) and not self._has_cookie_header(arguments):
                request.extensions = {**request.extensions, COOKIES_OF_CLIENT: True}
            return request

        def _has_cookie_header(self, arguments: dict[str, object]) -> bool:
            return "Cookie" in self.headers or "Cookie" in httpx.Headers(arguments.get("headers"))


class LeanCookies(httpx.Cookies):
    """httpx.Cookies that look for a ``Set-Cookie`` before anything else.

    httpx converts the request and all headers of every response for the standard library, which then finds no cookie:
    27 us of the 182 us that a small request takes with 100 tasks. httpx2 looks first by itself.
    """

    def extract_cookies(self, response: httpx.Response) -> None:
        """Take the cookies from a response."""
        for name, _ in response.headers.raw:
            if name.lower() in _SET_COOKIE:
                super().extract_cookies(response)
                return


# --- Authentication


class NoAuth(httpx.Auth):
    """Sends the request as it is, like httpx.Auth itself.

    httpx.Auth does so with an async generator around a generator, which trio has to keep track of: 6 % of what a small
    request costs in the client.
    """

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Return an iterator of the request alone."""
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
