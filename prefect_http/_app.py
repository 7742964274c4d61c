"""What an ASGI app is, and what it is called in messages."""

from __future__ import annotations

from types import FunctionType, MethodType

from prefect_http._types import ASGIApp


def check_app(app: object) -> None:
    """Raise a TypeError that says what an app is, if this is none."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI app, a callable of scope, receive and send, not {app!r}")


def app_name(app: ASGIApp) -> str:
    """Say what an app is called in messages. Not its repr(): it may be long, or fail."""
    named = app if isinstance(app, FunctionType | MethodType) else type(app)
    return f"the app {named.__qualname__}"
