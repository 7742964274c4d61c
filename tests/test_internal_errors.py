"""Errors that are not public are named as the public ones that they are derived from."""

from __future__ import annotations

import httpx
from support.rows import each_row

from prefect_http import InvalidResponse
from prefect_http._internal_errors import RequestNotProcessed, TunnelDelayed, TunnelFailed, full_name, public_class


@each_row(
    ("error", "cls", "name"),
    [
        (OSError(), OSError, "OSError"),
        (httpx.ConnectError(""), httpx.ConnectError, f"{httpx.__name__}.ConnectError"),
        (InvalidResponse(""), InvalidResponse, "prefect_http.InvalidResponse"),
        (RequestNotProcessed(""), httpx.ConnectError, f"{httpx.__name__}.ConnectError"),
        (TunnelFailed(""), httpx.ProxyError, f"{httpx.__name__}.ProxyError"),
        (TunnelDelayed(""), httpx.ProxyError, f"{httpx.__name__}.ProxyError"),
    ],
)
def test_what_users_know(error: Exception, cls: type[Exception], name: str) -> None:
    """The class, and its name as users import it."""
    assert (public_class(error), full_name(error)) == (cls, name)
