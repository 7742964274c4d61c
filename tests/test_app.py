"""Checking apps: what is taken for an ASGI 3 app, and what an error says about everything else."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Self, cast
from unittest.mock import AsyncMock

import pytest
from support.rows import each_row

from prefect_http import ASGITransport, PrefectHttpxClient, app_lifespan_context
from prefect_http._app import app_name, check_app
from prefect_http._types import Receive, Scope, Send


async def asgi3(scope: Scope, receive: Receive, send: Send) -> None:
    """Be an ASGI 3 app."""


class ASGI3:
    """An ASGI 3 app as an instance, a method, a class method and a static method."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def method(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    @classmethod
    async def of_class(cls, scope: Scope, receive: Receive, send: Send) -> None: ...

    @staticmethod
    async def static(scope: Scope, receive: Receive, send: Send) -> None: ...


class Endpoint:
    """A class that is an ASGI 3 app, as Starlette's HTTPEndpoint is: its instances can be awaited."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def __await__(self) -> Generator[Any, None, None]:
        return asgi3({}, cast(Any, None), cast(Any, None)).__await__()


class Opaque:
    """A callable without a signature, as some from extension modules are."""

    @property
    def __signature__(self) -> None:
        raise ValueError

    def __call__(self, *args: object) -> Awaitable[None]:
        return asgi3({}, cast(Any, None), cast(Any, None))


class Proxy:
    """A stand-in for an app that is not there yet: any other attribute raises."""

    def __getattr__(self, name: str) -> None:
        raise RuntimeError(name)

    def __call__(self, *args: object) -> Awaitable[None]:
        return asgi3({}, cast(Any, None), cast(Any, None))


async def anything(*args: object, **kwargs: object) -> None:
    """Take any arguments."""


async def with_more(scope: Scope, receive: Receive, send: Send, more: int = 0) -> None:
    """Take an argument more than an app needs."""


async def configured(settings: object, scope: Scope, receive: Receive, send: Send) -> None:
    """Be an app once the settings are known."""


ASGI_3_APPS = [
    asgi3,
    ASGI3(),
    ASGI3().method,
    ASGI3.of_class,
    ASGI3.static,
    Endpoint,
    Opaque(),
    Proxy(),
    anything,
    with_more,
    functools.partial(configured, "settings"),
    functools.wraps(asgi3)(anything),
    lambda scope, receive, send: asgi3(scope, receive, send),
    AsyncMock(),
]


def wsgi(environ: object, start_response: object) -> list[bytes]:
    """Be a WSGI app."""
    return []


class WSGI:
    """A WSGI app as an instance."""

    def __call__(self, environ: object, start_response: object) -> list[bytes]:
        return []


def asgi2(scope: Scope) -> Callable[[Receive, Send], Awaitable[None]]:
    """Be an ASGI 2 app."""
    raise NotImplementedError


class ASGI2:
    """An ASGI 2 app as a class."""

    def __init__(self, scope: Scope) -> None: ...

    async def __call__(self, receive: Receive, send: Send) -> None: ...


def factory() -> object:
    """Return an app."""
    return asgi3


def configurable_factory(debug: bool = False, *, name: str = "") -> object:
    """Return an app."""
    return asgi3


class Framework:
    """A framework's class of apps, which is not an app."""

    def __init__(self, debug: bool = False, routes: object = None, middleware: object = None) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    @classmethod
    def make(cls) -> Self:
        """Return an app."""
        return cls()


def four(a: object, b: object, c: object, d: object) -> None:
    """Take four arguments."""


OTHERS = [
    (wsgi, "wsgi takes two arguments, as a WSGI app does; wrap it in asgiref's WsgiToAsgi or a2wsgi's WSGIMiddleware"),
    (WSGI(), "WSGI takes two arguments, as a WSGI app does"),
    (asgi2, "asgi2 takes one argument, as an ASGI 2 app does; wrap it in asgiref's guarantee_single_callable()"),
    (ASGI2, "ASGI2 takes one argument, as an ASGI 2 app does"),
    (ASGI2({}), "ASGI2 takes two arguments"),
    (factory, "factory may be called without arguments; if it is a factory, pass the app that it returns"),
    (configurable_factory, "configurable_factory may be called without arguments; if it is a factory"),
    (Framework.make, "Framework.make may be called without arguments; if it is a factory"),
    (Framework, "Framework is a class; pass an instance of it"),
    (four, "four takes other arguments"),
]


@each_row("app", ASGI_3_APPS, ids=[str(number) for number in range(len(ASGI_3_APPS))])
def test_asgi_3_apps(app: object) -> None:
    """A callable that may take three arguments is taken for an app, and so is one of which nothing is known."""
    check_app(app)


def client_of(app: Any) -> PrefectHttpxClient:
    """Return a client of an app."""
    return PrefectHttpxClient(app=app)


@each_row(("other", "instead"), OTHERS, ids=[instead.split(";")[0] for _, instead in OTHERS])
@each_row("use", [ASGITransport, app_lifespan_context, client_of])
def test_everything_else(other: object, instead: str, use: Callable[[Any], object]) -> None:
    """Anything else is a TypeError at once, which says what it looks like, and what to do."""
    with pytest.raises(TypeError) as raised:
        use(other)
    text = "app must be an ASGI 3 app, a callable that takes scope, receive and send, but "
    assert str(raised.value).startswith(text + instead)


@each_row(
    ("app", "name"), [(asgi3, "asgi3"), (ASGI3(), "ASGI3"), (ASGI3().method, "ASGI3.method"), (Endpoint, "Endpoint")]
)
def test_name(app: Any, name: str) -> None:
    """An app is called by the name of its function, method or class."""
    assert app_name(app) == f"the app {name}"
