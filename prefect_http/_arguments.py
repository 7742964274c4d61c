"""The keyword arguments of httpx.AsyncClient, typed. httpx has no public names for these types."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from http.cookiejar import CookieJar
from typing import TypedDict

import httpx

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
Certificate = str | tuple[str, str] | tuple[str, str, str]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
Timeout = float | tuple[float | None, float | None, float | None, float | None] | httpx.Timeout | None


class HttpxArguments(TypedDict, total=False):
    """Every keyword of httpx.AsyncClient, with httpx's meaning and default."""

    auth: Auth | None
    params: QueryParams | None
    headers: Headers | None
    cookies: Cookies | None
    verify: ssl.SSLContext | str | bool
    cert: Certificate | None
    http1: bool
    http2: bool
    proxy: httpx.URL | str | httpx.Proxy | None
    mounts: Mapping[str, httpx.AsyncBaseTransport | None] | None
    timeout: Timeout
    follow_redirects: bool
    limits: httpx.Limits
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., object]]] | None
    base_url: httpx.URL | str
    transport: httpx.AsyncBaseTransport | None
    trust_env: bool
    default_encoding: str | Callable[[bytes], str]
