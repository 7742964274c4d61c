"""Apps that send messages out of order, unknown ones or no messages at all, and apps that cannot be printed."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.lifespan_apps import STARTED, BodyError, Boom, nothing_left, sending, steps
from support.rows import each_row

from prefect_http import (
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    app_lifespan_context,
)
from prefect_http._types import ASGIApp, Receive, Scope, Send

pytestmark = pytest.mark.anyio

UP, UP_FAILED = "lifespan.startup.complete", "lifespan.startup.failed"
DOWN, DOWN_FAILED = "lifespan.shutdown.complete", "lifespan.shutdown.failed"


async def hold(app: ASGIApp) -> None:
    """Hold an app for a while."""
    async with app_lifespan_context(app):
        await steps()


@each_row(
    ("kinds", "error"),
    [
        (DOWN, LifespanStartupError),
        (DOWN_FAILED, LifespanStartupError),
        ("lifespan.restart", LifespanStartupError),
        ("startup.complete", LifespanStartupError),
        ("lifespan.startup", LifespanStartupError),
        ("lifespan.shutdown", LifespanStartupError),
        (f"{UP} {UP}", LifespanCrashed),
        (f"{UP} {UP_FAILED}", LifespanCrashed),
        (f"{UP} {DOWN}", LifespanCrashed),
        (f"{UP} {DOWN_FAILED} {DOWN_FAILED}", LifespanCrashed),
        (f"{UP} {DOWN_FAILED} {UP}", LifespanCrashed),
        (f"{UP} lifespan.restart", LifespanCrashed),
        (f"{UP} http.response.start", LifespanCrashed),
        (f"{UP_FAILED} {UP}", LifespanStartupError),
        (f"{UP_FAILED} {UP_FAILED}", LifespanStartupError),
    ],
)
async def test_out_of_place(kinds: str, error: type[LifespanError]) -> None:
    """A message out of place is an error for the app, and one for its users that names the message."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(error) as caught:
            await hold(sending(*kinds.split()))
    assert type(caught.value) is error
    assert type(caught.value.__cause__) is LifespanError
    assert repr(kinds.split()[-1]) in str(caught.value.__cause__)


@each_row(
    ("kinds", "error"),
    [
        (f"{DOWN} {DOWN}", LifespanShutdownError),
        (f"{DOWN} {UP}", LifespanShutdownError),
        (UP, LifespanShutdownError),
        ("http.response.start", LifespanShutdownError),
        (f"{DOWN_FAILED} {DOWN}", LifespanShutdownError),
    ],
)
async def test_out_of_place_while_shutting_down(kinds: str, error: type[LifespanError]) -> None:
    """A message out of place in the shutdown is a failed shutdown, with the error as its cause."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await receive()
        for kind in kinds.split():
            await send({"type": kind})

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(error) as caught:
            await hold(app)
    assert repr(kinds.split()[-1]) in str(caught.value.__cause__)


async def test_the_app_may_carry_on() -> None:
    """An app that catches the error for a message out of place goes on as if it had not sent it."""
    errors: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for kind in (DOWN, UP, UP, "lifespan.restart"):
            try:
                await send({"type": kind})
            except LifespanError as error:
                errors.append(str(error))
        assert await receive() == {"type": "lifespan.shutdown"}
        await send({"type": DOWN})

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode="on"):
            await steps()
    assert len(errors) == 3


@each_row("message", [None, "lifespan.startup.complete", 5, [], {}, {"type": None}, ...])
async def test_not_a_message(message: Any) -> None:
    """Sending what is not an ASGI message is a clear error for the app, and a failed startup for its users."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(message)

    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError) as caught:
            await hold(app)
    assert "must be a mapping with a 'type'" in str(caught.value.__cause__)


async def test_any_mapping_is_a_message() -> None:
    """An app may send messages that are mappings other than dicts."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(UserDict(STARTED))
        await receive()

    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app, mode="on") as lifespan:
            assert lifespan.supported


async def test_several_tasks_ask() -> None:
    """If several tasks of an app ask for the shutdown message, one gets it, and the others go on waiting."""
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def ask() -> None:
            got.append(str((await receive())["type"]))
            group.cancel_scope.cancel()

        await receive()
        await send(STARTED)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask)
        await send({"type": DOWN})

    with anyio.fail_after(30), nothing_left():
        await hold(app)
    assert got == ["lifespan.shutdown"]


async def test_asking_again_after_a_failed_startup() -> None:
    """An app that waits for a message after its failed startup is cancelled at once, however long its timeout."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(LifespanStartupError):
            async with app_lifespan_context(sending(UP_FAILED), startup_timeout=math.inf):
                pytest.fail("the body ran")


class UnprintableError(Exception):
    def __repr__(self) -> str:
        raise Boom("no repr")

    __str__ = __repr__


Script = Callable[[Receive, Send], Awaitable[None]]


async def refuse(receive: Receive, send: Send) -> None:
    """Raise before looking at the scope."""
    raise UnprintableError


async def fail_to_start(receive: Receive, send: Send) -> None:
    """Raise in the startup."""
    await receive()
    raise UnprintableError


async def crash(receive: Receive, send: Send) -> None:
    """Raise while up."""
    await receive()
    await send(STARTED)
    raise UnprintableError


async def fail_to_stop(receive: Receive, send: Send) -> None:
    """Raise in the shutdown."""
    await receive()
    await send(STARTED)
    await receive()
    raise UnprintableError


class UnprintableApp:
    """An app whose every attribute raises, like a proxy that is not bound."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def __getattr__(self, name: str) -> object:
        raise Boom(f"no {name}")

    def __repr__(self) -> str:
        raise Boom("no repr")

    __str__ = __repr__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.script(receive, send)


@each_row("printable", [False, True], ids=["unprintable-app", "printable-app"])
@each_row(
    ("script", "error"),
    [
        (refuse, LifespanNotSupported),
        (fail_to_start, LifespanStartupError),
        (crash, LifespanCrashed),
        (fail_to_stop, LifespanShutdownError),
    ],
)
async def test_unprintable(script: Script, error: type[LifespanError], printable: bool) -> None:
    """An app that raises what cannot be printed, and cannot be printed itself, gets the same errors as any other."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        await script(receive, send)

    app: ASGIApp = plain if printable else UnprintableApp(script)
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(error) as caught:
            async with app_lifespan_context(app, mode="on"):
                await steps()
    assert type(caught.value.__cause__) is UnprintableError


async def test_unprintable_beside_the_bodys_exception() -> None:
    """What the body raised wins, even if the shutdown problem cannot be printed."""
    with anyio.fail_after(30), nothing_left():
        with pytest.raises(BodyError):
            async with app_lifespan_context(UnprintableApp(fail_to_stop)):
                raise BodyError
