"""Checking ASGI apps, and naming them in messages."""

from __future__ import annotations

from types import FunctionType, MethodType

from prefect_http._types import ASGIApp


def check_app(app: object) -> None:
    """Raise a TypeError if an object cannot be an ASGI app."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI app, a callable that takes scope, receive and send, not {app!r}")


def app_name(app: ASGIApp) -> str:
    """Return what to call an app in messages. This is not its repr(), which may be long or fail."""
    named = app if isinstance(app, FunctionType | MethodType) else type(app)
    return f"the app {named.__qualname__}"
