"""The types of ASGI 3.0. Message values are whatever the ASGI spec says for the message, hence Any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from types import FunctionType, MethodType
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_app(app: object) -> None:
    """Raise a TypeError that says what an app is, if this is none."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI app, a callable of scope, receive and send, not {app!r}")


def app_name(app: ASGIApp) -> str:
    """Say what an app is called in messages. Not its repr(): it may be long, or fail."""
    named = app if isinstance(app, FunctionType | MethodType) else type(app)
    return f"the app {named.__qualname__}"
