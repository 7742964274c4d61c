"""ASGI apps that do what a test says and record it, the ways to hold one, and a check that nothing is left."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from prefect_http import Lifespan, app_lifespan_context
from prefect_http._lifespan.registry import current_entries
from prefect_http._types import ASGIApp, Message, Receive, Scope, Send

Hook = Callable[[], Coroutine[Any, Any, None]]

STARTED: Message = {"type": "lifespan.startup.complete"}
STOPPED: Message = {"type": "lifespan.shutdown.complete"}

LIFESPAN = ["startup", "up", "shutdown", "down"]
"""The log of an app that has been through one whole lifespan."""


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
    """An app that raises an error, Boom by default, while it is up, once ``crash`` is set."""

    def __init__(self, *, log: list[str] | None = None, name: str = "", error: BaseException | None = None) -> None:
        super().__init__(log=log, name=name)
        self.crash = anyio.Event()
        self._error = error

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
            raise self._error or Boom("the app crashed")


def sending(*kinds: str) -> ASGIApp:
    """Return an app that asks for its startup message, sends messages of these types at once, and waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for kind in kinds:
            await send({"type": kind})
        await receive()

    return app


def ending(how: Callable[[Receive, Send], Awaitable[None]]) -> ASGIApp:
    """Return an app that starts properly and then does this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(STARTED)
        await how(receive, send)

    return app


async def steps(count: int = 30) -> None:
    """Let all other tasks run, for this many rounds of the scheduler."""
    for _ in range(count):
        await anyio.lowlevel.checkpoint()


Body = Callable[[], Awaitable[None]]


class Hold(Protocol):
    """A way to hold an app around a body."""

    def __call__(self, app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> Awaitable[None]:
        """Enter, run the body, leave."""


async def by_statement(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app with a plain ``async with``."""
    async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash):
        await body()


async def by_exit_stack(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app through an exit stack."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app_lifespan_context(app, cancel_on_crash=cancel_on_crash))
        await body()


async def by_hand(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app by calling ``__aenter__`` and ``__aexit__``, and pass on what the body raised."""
    context = app_lifespan_context(app, cancel_on_crash=cancel_on_crash)
    await context.__aenter__()
    try:
        await body()
    except BaseException as error:
        if not await context.__aexit__(type(error), error, error.__traceback__):
            raise
    else:
        await context.__aexit__(None, None, None)


async def by_finally(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app by calling ``__aenter__`` and ``__aexit__``, and keep what the body raised to oneself."""
    context = app_lifespan_context(app, cancel_on_crash=cancel_on_crash)
    await context.__aenter__()
    try:
        await body()
    finally:
        await context.__aexit__(None, None, None)


@asynccontextmanager
async def wrapped(app: ASGIApp, *, cancel_on_crash: bool = False) -> AsyncIterator[Lifespan]:
    """Hold the app in an async generator, as fixtures do."""
    async with app_lifespan_context(app, cancel_on_crash=cancel_on_crash) as lifespan:
        yield lifespan


async def by_generator(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app in an async generator that a context manager drives."""
    async with wrapped(app, cancel_on_crash=cancel_on_crash):
        await body()


class Wrapper:
    """A context manager that hands everything on."""

    def __init__(self, context: AbstractAsyncContextManager[Lifespan]) -> None:
        self._context = context

    async def __aenter__(self) -> Lifespan:
        return await self._context.__aenter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(exc_type, exc, tb)


async def by_wrapper(app: ASGIApp, body: Body, *, cancel_on_crash: bool = False) -> None:
    """Hold the app in a class of one's own."""
    async with Wrapper(app_lifespan_context(app, cancel_on_crash=cancel_on_crash)):
        await body()


WAYS_TO_HOLD: list[Hold] = [by_statement, by_exit_stack, by_hand, by_finally, by_generator, by_wrapper]


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that what is done in here leaves no entry in the registry and no task behind."""
    before = {task.id for task in anyio.get_running_tasks()}
    assert current_entries() == {}
    yield
    assert current_entries() == {}
    assert [task for task in anyio.get_running_tasks() if task.id not in before] == []


def run_on_asyncio(main: Callable[[], Coroutine[Any, Any, None]], *, eagerly: bool = False) -> None:
    """Run a test on asyncio, and check for leftovers; in a thread, because a loop may hang when it is closed."""
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
