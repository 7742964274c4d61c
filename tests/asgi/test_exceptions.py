"""Exceptions of an app, of every type: they are raised in the caller as they are, and a cut body is never whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.asgi_apps import Boom, FakeApp, MakeClient, both_clients, last, part, sending, start
from support.rows import each_row

from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio


class Odd(BaseException):
    """A BaseException of an app's own."""


class Falsy(Exception):
    """An exception that is false, as one is that can be empty."""

    def __bool__(self) -> bool:
        return False


EXCEPTIONS: list[Callable[[], BaseException]] = [
    Boom,
    Falsy,
    partial(StopAsyncIteration, "too few"),
    partial(ExceptionGroup, "group", [Boom()]),
    partial(httpx.ReadTimeout, "the app's own"),
    TimeoutError,
    KeyboardInterrupt,
    partial(SystemExit, 3),
    GeneratorExit,
    Odd,
    partial(BaseExceptionGroup, "group", [Odd()]),
]
each_exception = each_row("make", EXCEPTIONS)

CUT = [start(), part(b"cut")]
WHOLE = [start(), last(b"whole")]


def raising(error: BaseException, messages: list[Message]) -> ASGIApp:
    """Return a handler that sends these messages, and then raises an exception."""

    async def handler(scope: Scope, receive: Receive, send: Send) -> None:
        await sending(*messages)(scope, receive, send)
        raise error

    return FakeApp(handler)


async def get(client: httpx.AsyncClient) -> None:
    """Send a request, and read the response."""
    await client.get("/")


async def stream(client: httpx.AsyncClient) -> None:
    """Send a request, and then read the response."""
    response = await client.send(client.build_request("GET", "/"), stream=True)
    try:
        await response.aread()
    finally:
        await response.aclose()


each_way = each_row("call", [get, stream])


@both_clients
@each_way
@each_exception
async def test_instead_of_a_response(
    make_client: MakeClient, call: Callable[[httpx.AsyncClient], Awaitable[None]], make: Callable[[], BaseException]
) -> None:
    """What an app raises before its headers is raised by the request, as it is."""
    error = make()
    async with make_client(raising(error, [])) as client:
        with pytest.raises(type(error)) as raised:
            await call(client)
    assert raised.value is error


@both_clients
@each_way
@each_row("messages", [CUT, WHOLE], ids=["cut", "whole"])
@each_exception
async def test_after_the_headers(
    make_client: MakeClient,
    call: Callable[[httpx.AsyncClient], Awaitable[None]],
    messages: list[Message],
    make: Callable[[], BaseException],
) -> None:
    """What it raises later is raised by the read. An iteration cannot raise a StopAsyncIteration: that is the cause.

    https://peps.python.org/pep-0479/
    """
    error = make()
    expected = RuntimeError if isinstance(error, StopAsyncIteration) else type(error)
    async with make_client(raising(error, messages)) as client:
        with pytest.raises(expected) as raised:
            await call(client)
    if expected is RuntimeError:
        assert str(raised.value) == "the app raised StopAsyncIteration"
        assert raised.value.__cause__ is error
    else:
        assert raised.value is error


@both_clients
@each_way
@each_row("messages", [[], CUT, WHOLE], ids=["no head", "cut", "whole"])
async def test_stop_iteration(
    make_client: MakeClient, call: Callable[[httpx.AsyncClient], Awaitable[None]], messages: list[Message]
) -> None:
    """Python itself turns a StopIteration out of a coroutine into a RuntimeError, which is raised like any other."""
    error = StopIteration()
    async with make_client(raising(error, messages)) as client:
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration") as raised:
            await call(client)
    assert raised.value.__cause__ is error


@both_clients
@each_way
@each_row("messages", [[], CUT], ids=["no head", "cut"])
async def test_cancelled_error(
    make_client: MakeClient, call: Callable[[httpx.AsyncClient], Awaitable[None]], messages: list[Message]
) -> None:
    """On asyncio, a CancelledError that an app raises does not cancel its caller: it is a response cut short."""
    error = asyncio.CancelledError()
    is_plain = anyio.get_cancelled_exc_class() is not asyncio.CancelledError
    async with make_client(raising(error, messages)) as client:
        with pytest.raises(asyncio.CancelledError if is_plain else httpx.RemoteProtocolError) as raised:
            await call(client)
    assert raised.value is error if is_plain else str(raised.value) == "the app's call was cancelled"
    await anyio.lowlevel.checkpoint()
