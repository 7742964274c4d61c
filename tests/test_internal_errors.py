"""Errors that are not public are named as the public ones that they are derived from."""

from __future__ import annotations

import httpx
from support.rows import each_row

import prefect_http
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


def test_names_of_public_errors() -> None:
    """Each of the package's own is named as it is imported."""
    public = [each for each in map(prefect_http.__dict__.get, prefect_http.__all__) if isinstance(each, type)]
    errors = [each for each in public if issubclass(each, BaseException)]
    assert len(errors) > 5
    assert all(full_name(each.__new__(each)) == f"prefect_http.{each.__name__}" for each in errors)
