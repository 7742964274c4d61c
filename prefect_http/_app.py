"""Checking ASGI apps, and naming them in messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType

from prefect_http._types import ASGIApp

# By how many arguments an object takes.
_LOOKS_LIKE = {
    0: "may be called without arguments; if it is a factory, pass the app that it returns",
    1: (
        "takes one argument, as an ASGI 2 app does; wrap it in asgiref's guarantee_single_callable(), or if it is a "
        "factory, pass the app that it returns"
    ),
    2: "takes two arguments, as a WSGI app does; wrap it in asgiref's WsgiToAsgi or a2wsgi's WSGIMiddleware",
}


def check_app(app: object) -> None:
    """Raise a TypeError if an object cannot be an ASGI app; it says what the object looks like instead."""
    if not callable(app):
        raise TypeError(f"app must be an ASGI app, a callable that takes scope, receive and send, not {app!r}")
    if not _has_three_arguments(app) and (instead := _what_instead(app)) is not None:
        raise TypeError(f"app must be an ASGI 3 app, a callable that takes scope, receive and send, but {instead}")


def app_name(app: ASGIApp) -> str:
    """Return what to call an app in messages. This is not its repr(), which may be long or fail."""
    return f"the app {_name(app)}"


def _name(app: object) -> str:
    named = app if isinstance(app, FunctionType | MethodType | type) else type(app)
    return named.__qualname__


def _has_three_arguments(app: Callable[..., object]) -> bool:
    """Whether an app is a function, or has a method, with just the right number of arguments, as most apps do.

    A signature says more, but takes a hundred times longer.
    """
    is_function = isinstance(app, FunctionType)
    call = app if is_function else type(app).__call__
    return isinstance(call, FunctionType) and call.__code__.co_argcount == (3 if is_function else 4)


def _what_instead(app: Callable[..., object]) -> str | None:
    """Return what a callable looks like if it is not an ASGI 3 app; None if it may be one."""
    try:
        signature = inspect.signature(app)
    except Exception:  # nothing is known about it; a proxy object may raise anything
        return None
    if isinstance(app, type) and not hasattr(app, "__await__"):
        if list(signature.parameters) == ["scope"]:
            return f"{app.__qualname__} {_LOOKS_LIKE[1]}"
        return f"{app.__qualname__} is a class; pass an instance of it"
    if _takes(signature, 3):
        return None
    count = next((count for count in _LOOKS_LIKE if _takes(signature, count)), None)
    return f"{_name(app)} {'takes other arguments' if count is None else _LOOKS_LIKE[count]}"


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
