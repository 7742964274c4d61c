"""Exceptions leave no reference cycles: they are freed once they are handled, without the garbage collector."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import httpx
import pytest
from support.asgi_apps import Boom, FakeApp, MakeClient, both_clients, hang, last, listen, part, plain_client, start
from support.rows import each_row

from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _no_collector_and_no_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # pytest keeps log records, and with them their exceptions.
    monkeypatch.setattr(logging.getLogger("prefect_http"), "disabled", True)
    gc.disable()
    yield
    gc.enable()


class Failing:
    """A handler that sends messages and raises, and can tell whether its exceptions still exist.

    Args:
        messages: what to send. An invalid message raises by itself.
    """

    def __init__(self, *messages: Message) -> None:
        self._messages = messages
        self._errors: list[weakref.ref[Exception]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            for message in self._messages:
                await send(message)
            raise Boom
        except Exception as error:
            self._errors.append(weakref.ref(error))
            raise

    async def exist(self) -> bool:
        """Whether one of the exceptions still exists, once all tasks have ended."""
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return any(error() is not None for error in self._errors)


before = each_row("messages", [(), (start(), part(b"x")), (start(), last(b"x"))])


@before
@both_clients
async def test_exception_of_the_app(make_client: MakeClient, messages: tuple[Message, ...]) -> None:
    """An exception of the app is freed after it was raised by the request or the read."""
    handler = Failing(*messages)
    async with make_client(FakeApp(handler)) as client:
        with pytest.raises(Boom):
            await client.get("/")
        with pytest.raises(Boom):
            async with client.stream("GET", "/") as response:
                await response.aread()
    assert not await handler.exist()


@before
@both_clients
async def test_exception_that_is_not_read(make_client: MakeClient, messages: tuple[Message, ...]) -> None:
    """An exception of the app is freed if the response is left before the exception was read."""
    handler = Failing(start(), *messages[1:])
    async with make_client(FakeApp(handler)) as client:
        async with client.stream("GET", "/"):
            await anyio.wait_all_tasks_blocked()
    assert not await handler.exist()


@pytest.mark.parametrize("message", [{"type": "wrong"}, last()])
async def test_invalid_message(message: Message) -> None:
    """The error for an invalid message is freed with the RemoteProtocolError that it causes."""
    handler = Failing(message)
    async with plain_client(FakeApp(handler)) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
    assert not await handler.exist()


async def test_failed_request_body() -> None:
    """The exception of a request body is freed, too."""

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        try:
            raise Boom
        except Boom as error:
            errors.append(weakref.ref(error))
            raise

    errors: list[weakref.ref[Exception]] = []
    async with plain_client(FakeApp(listen)) as client:
        with pytest.raises(Boom):
            await client.post("/", content=body())
    await anyio.wait_all_tasks_blocked()
    assert [error() for error in errors] == [None]


@pytest.mark.parametrize("handler", [hang, listen])
async def test_call_that_has_timed_out(handler: ASGIApp) -> None:
    """The call of a request that has timed out is freed when its app has ended."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        calls.append(weakref.ref(getattr(receive, "__self__")))  # noqa: B009  # its type does not have it
        await handler(scope, receive, send)

    calls: list[weakref.ref[object]] = []
    async with plain_client(watched) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=1)
        await anyio.sleep(2)
    assert [call() for call in calls] == [None]
