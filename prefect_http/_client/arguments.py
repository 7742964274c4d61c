"""The keyword arguments of httpx.AsyncClient, typed. httpx has no public names for these types."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import TypedDict

import httpx

from prefect_http._types import Auth, Certificate, Cookies, Headers, QueryParams, Timeout


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
