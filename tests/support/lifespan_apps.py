"""ASGI apps that do as a test says and write down what they go through, and a check that nothing stays behind."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel

from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

Hook = Callable[[], Coroutine[Any, Any, None]]

STARTED: Message = {"type": "lifespan.startup.complete"}
STOPPED: Message = {"type": "lifespan.shutdown.complete"}


class Boom(Exception):
    """What an app raises."""


class BodyError(Exception):
    """What the body of a context raises."""


async def nothing() -> None:
    """Do nothing."""


class FakeApp:
    """An app with hooks.

    Attributes:
        log: "startup" and "shutdown" when the hooks begin, "up" and "down" when they have ended; may be shared.
        scopes: the scopes it was called with.
        running: how many of its calls have not ended.
    """

    def __init__(
        self, *, startup: Hook = nothing, shutdown: Hook = nothing, log: list[str] | None = None, name: str = ""
    ) -> None:
        self.startup = startup
        self.shutdown = shutdown
        self.log: list[str] = [] if log is None else log
        self.scopes: list[Scope] = []
        self.running = 0
        self._prefix = f"{name} " if name else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the hooks, one lifespan at a time."""
        assert not self.running, "two lifespans of one app at a time"
        self.scopes.append(scope)
        self.running += 1
        try:
            assert await receive() == {"type": "lifespan.startup"}
            self.note("startup")
            await self.startup()
            self.note("up")
            await send(STARTED)
            await self.serve(receive)
            self.note("shutdown")
            await self.shutdown()
            self.note("down")
            await send(STOPPED)
        finally:
            self.running -= 1

    async def serve(self, receive: Receive) -> None:
        """Wait for the end."""
        assert await receive() == {"type": "lifespan.shutdown"}

    def note(self, line: str) -> None:
        """Write a line into the log."""
        self.log.append(self._prefix + line)


class CrashableApp(FakeApp):
    """An app that raises Boom while it is up, once it is told to."""

    def __init__(self, *, log: list[str] | None = None, name: str = "") -> None:
        super().__init__(log=log, name=name)
        self.crash = anyio.Event()

    async def serve(self, receive: Receive) -> None:
        """Wait for the end, or for the order to crash, whichever comes first."""
        crash = self.crash

        async def crash_when_told() -> None:
            await crash.wait()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(crash_when_told)
            await super().serve(receive)
            group.cancel_scope.cancel()
        if crash.is_set():
            self.crash = anyio.Event()
            self.note("crash")
            raise Boom("the app crashed")


LIFESPAN = ["startup", "up", "shutdown", "down"]
"""The log of an app that has been through one whole lifespan."""


def sending(*kinds: str) -> ASGIApp:
    """Make an app that asks for its startup message, sends messages of these types at once, and waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for kind in kinds:
            await send({"type": kind})
        await receive()

    return app


async def steps(count: int = 30) -> None:
    """Let all other tasks go on, for so many rounds of the scheduler."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that what is done in here leaves no entry in the registry and no task behind."""
    before = {task.id for task in anyio.get_running_tasks()}
    assert current_entries() == {}
    yield
    assert current_entries() == {}
    assert [task for task in anyio.get_running_tasks() if task.id not in before] == []


def run_on_asyncio(main: Callable[[], Coroutine[Any, Any, None]], *, eagerly: bool = False) -> None:
    """Run a test on asyncio, and check that nothing stays behind; in a thread, for a loop may hang on closing."""
    errors: list[BaseException] = []

    async def timed() -> None:
        if eagerly and sys.version_info >= (3, 12):
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with asyncio.timeout(30):
            with nothing_left():
                await main()

    def target() -> None:
        try:
            asyncio.run(timed())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the loop hangs"
    if errors:
        raise errors[0]
