"""Type aliases: those of ASGI 3.0, which are public, and those of httpx's arguments, which httpx does not export."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from http.cookiejar import CookieJar
from typing import IO, Any

import httpx

# A message's values are whatever the ASGI specification says for its type, hence Any.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Primitive = str | int | float | bool | None
QueryParams = (
    httpx.QueryParams
    | Mapping[str, Primitive | Sequence[Primitive]]
    | list[tuple[str, Primitive]]
    | tuple[tuple[str, Primitive], ...]
    | str
    | bytes
)
Headers = (
    httpx.Headers
    | Mapping[str, str]
    | Mapping[bytes, bytes]
    | Sequence[tuple[str, str]]
    | Sequence[tuple[bytes, bytes]]
)
Cookies = httpx.Cookies | CookieJar | dict[str, str] | list[tuple[str, str]]
Auth = tuple[str | bytes, str | bytes] | Callable[[httpx.Request], httpx.Request] | httpx.Auth
Content = str | bytes | Iterable[bytes] | AsyncIterable[bytes]
FileContent = IO[bytes] | bytes | str
File = (
    FileContent
    | tuple[str | None, FileContent]
    | tuple[str | None, FileContent, str | None]
    | tuple[str | None, FileContent, str | None, Mapping[str, str]]
)
Files = Mapping[str, File] | Sequence[tuple[str, File]]
Certificate = str | tuple[str, str] | tuple[str, str, str]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
Timeout = float | tuple[float | None, float | None, float | None, float | None] | httpx.Timeout | None
# What a client can send many of. A string is a URL, never the iterable.
RequestLike = httpx.Request | httpx.URL | str
Requests = Iterable[RequestLike] | AsyncIterable[RequestLike]
