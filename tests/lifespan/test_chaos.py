"""A thousand users that come and go at random, over a few apps that fail at random: what is promised holds throughout.

Waits are drawn from a seeded generator. Under trio they are seconds of a virtual clock; under asyncio, which has none,
they are rounds of the scheduler.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import weakref
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
from support.lifespan_apps import STARTED, STOPPED, BodyError, Boom, nothing_left, steps
from trio.testing import MockClock

from prefect_http import (
    Lifespan,
    LifespanCrashed,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
    app_lifespan_context,
)
from prefect_http._types import Receive, Scope, Send

# Other tests cover the same lines, and to trace them would double the time that this takes.
pytestmark = pytest.mark.no_cover

USERS, APPS, SEEDS = 1000, 5, range(2)
DURATION, ENDLESS, SHORT, LONG = 800, 30, (0, 0, 0.1, 1, 3), (0, 0, 0.1, 1, 5, 20)

ENDINGS = (
    *["well"] * 6,
    "speaks no lifespan",
    "says it cannot start",
    "raises in the startup",
    "hangs in the startup",
    *["crashes"] * 2,
    "says it cannot stop",
    "raises in the shutdown",
    "hangs in the shutdown",
)
OUTCOMES = {
    *(LifespanCrashed, LifespanNotSupported, LifespanShutdownError, LifespanStartupError, LifespanTimeoutError),
    BodyError,
}


@dataclass
class Chaos:
    """What users and apps share.

    Attributes:
        dice: decides everything.
        pause: waits for this long, in seconds or rounds.
        group: runs the tasks that users start.
        native: whether some users are cancelled by asyncio's own means.
        seen: counts what has happened.
        deck: the endings that have yet to be drawn.
    """

    dice: random.Random
    pause: Callable[[float], Awaitable[None]]
    group: anyio.abc.TaskGroup
    native: bool
    seen: Counter[str] = field(default_factory=Counter)
    deck: list[str] = field(default_factory=list)

    def draw_ending(self) -> str:
        """Draw how an app's lifespan ends; from a deck of cards, because dice might leave an ending out."""
        self.deck = self.deck or self.dice.sample(ENDINGS, len(ENDINGS))
        return self.deck.pop()


class ChaoticApp:
    """An app that fails at random, and knows what its users may see."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos = chaos
        self.running = False
        self.run = 0
        self.is_up = False
        self.crashed: set[int] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Live, if no other lifespan of this app is under way."""
        assert not self.running, "two lifespans of one app at a time"
        self.running = True
        self.run += 1
        try:
            await self.live(scope, receive, send)
        finally:
            self.running = False

    async def live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go through a lifespan, as far as it goes."""
        ending = self.chaos.draw_ending()
        self.chaos.seen[ending] += 1
        if ending == "speaks no lifespan":
            raise Boom
        await receive()
        await self.take_time()
        if ending == "hangs in the startup":
            await self.chaos.pause(ENDLESS)
        if ending == "raises in the startup":
            raise Boom
        if ending == "says it cannot start":
            return await send({"type": "lifespan.startup.failed", "message": "chaos"})
        scope["state"]["run"] = self.run
        self.is_up = True
        await send(STARTED)
        if ending == "crashes":
            try:
                await self.take_time()
            finally:
                self.is_up = False  # not so below: what is up must be told to stop
            self.crashed.add(self.run)
            raise Boom
        await receive()
        self.is_up = False
        await self.take_time()
        if ending == "hangs in the shutdown":
            await self.chaos.pause(ENDLESS)
        if ending == "raises in the shutdown":
            raise Boom
        if ending == "says it cannot stop":
            return await send({"type": "lifespan.shutdown.failed", "message": "chaos"})
        return await send(STOPPED)

    async def take_time(self) -> None:
        """Do a hook's work."""
        await self.chaos.pause(self.chaos.dice.choice(SHORT))

    def is_held_by(self, lifespan: Lifespan) -> bool:
        """Whether the app is as up as a holder may expect."""
        run = lifespan.state.get("run")
        return run is None or run in self.crashed or (self.is_up and run == self.run)


class User:
    """Holds an app once, in one of several ways, for a random time that may be cut short."""

    def __init__(self, app: ChaoticApp) -> None:
        self.app = app
        self.chaos = app.chaos

    async def come_and_go(self) -> None:
        """Hold the app, and note how that ended."""
        dice, seen = self.chaos.dice, self.chaos.seen
        arrival = dice.uniform(0, DURATION)
        await self.chaos.pause(dice.choice([arrival, round(arrival, -1)]))  # some come together
        scope, task = anyio.CancelScope(), asyncio.current_task() if self.chaos.native else None
        if dice.random() < 0.3:
            self.chaos.group.start_soon(self.stop_later, task.cancel if task and dice.random() < 0.5 else scope.cancel)
        try:
            with scope:
                await dice.choice([self.by_statement, self.nested, self.by_stack, self.by_hand])()
        except (asyncio.CancelledError, *OUTCOMES) as error:
            seen[type(error).__name__] += 1
            if isinstance(error, asyncio.CancelledError):
                assert task, "a cancellation out of nowhere"
        else:
            seen["cancelled" if scope.cancelled_caught else "no error"] += 1

    async def stop_later(self, stop: Callable[[], object]) -> None:
        """Cancel the user after a while, wherever it is by then."""
        await self.chaos.pause(self.chaos.dice.choice(LONG))
        stop()

    def context(self, *, cancel_on_crash: bool = False) -> AbstractAsyncContextManager[Lifespan]:
        """Return a context, with timeouts that may be too short."""
        timeout = self.chaos.dice.choice([2, 100, 100])
        mode: Any = self.chaos.dice.choice(["auto", "auto", "on"])
        return app_lifespan_context(
            self.app,
            startup_timeout=timeout,
            shutdown_timeout=timeout,
            mode=mode,
            cancel_on_crash=cancel_on_crash and self.chaos.dice.random() < 0.5,
        )

    async def body(self, lifespan: Lifespan) -> None:
        """Check that the app is up, from beginning to end; raise at times."""
        assert self.app.is_held_by(lifespan)
        await self.chaos.pause(self.chaos.dice.choice(LONG))
        assert self.app.is_held_by(lifespan)
        if self.chaos.dice.random() < 0.1:
            raise BodyError

    async def by_statement(self) -> None:
        """Hold the app in the usual way."""
        async with self.context(cancel_on_crash=True) as lifespan:
            await self.body(lifespan)

    async def nested(self) -> None:
        """Hold the app twice."""
        async with self.context(cancel_on_crash=True) as outer, self.context(cancel_on_crash=True) as inner:
            assert outer.state is inner.state or outer.state.get("run") in {None, *self.app.crashed}
            await self.body(inner)

    async def by_stack(self) -> None:
        """Hold the app through an exit stack, entered in a scope of its own."""
        async with AsyncExitStack() as stack:
            with anyio.CancelScope():
                lifespan = await stack.enter_async_context(self.context())
            await self.body(lifespan)

    async def by_hand(self) -> None:
        """Enter here; another task leaves."""
        context = self.context()
        lifespan = await context.__aenter__()
        self.chaos.seen["to be left elsewhere"] += 1
        self.chaos.group.start_soon(self.leave, context, lifespan)

    async def leave(self, context: AbstractAsyncContextManager[Lifespan], lifespan: Lifespan) -> None:
        """Leave what another task has entered."""
        await self.chaos.pause(self.chaos.dice.choice(LONG))
        assert self.app.is_held_by(lifespan)
        with suppress(LifespanCrashed, LifespanShutdownError, LifespanTimeoutError):
            await context.__aexit__(None, None, None)
        self.chaos.seen["left elsewhere"] += 1


async def run_chaos(seed: int, pause: Callable[[float], Awaitable[None]], *, native: bool) -> None:
    """Let the users come and go, and check that nothing is left, and that everything has happened."""
    with nothing_left():
        async with anyio.create_task_group() as group:
            chaos = Chaos(random.Random(seed), pause, group, native)
            apps = [ChaoticApp(chaos) for _ in range(APPS)]
            for _ in range(USERS):
                group.start_soon(User(chaos.dice.choice(apps)).come_and_go)
        assert [(app.running, app.is_up) for app in apps] == [(False, False)] * APPS
        refs = [weakref.ref(app) for app in apps]
        seen = chaos.seen
        del apps, chaos, group
        await steps()
        gc.collect()
        assert [ref() for ref in refs] == [None] * APPS
    assert seen["to be left elsewhere"] == seen["left elsewhere"]
    errors = {outcome.__name__ for outcome in OUTCOMES} - ({"LifespanTimeoutError"} if native else set())
    assert {*ENDINGS, *errors, "cancelled", "no error", "left elsewhere"} <= set(seen), seen


class Rounds:
    """The rounds of asyncio's scheduler as a clock that wakes those whose time has come, so waiting costs little."""

    def __init__(self) -> None:
        self._now = 0
        self._waiting: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)

    async def count(self) -> None:
        """Count the rounds for ever."""
        while True:
            await asyncio.sleep(0)
            self._now += 1
            for future in self._waiting.pop(self._now, ()):
                if not future.done():
                    future.set_result(None)

    async def pause(self, rounds: float) -> None:
        """Wait for this many rounds; none at all is not even a checkpoint."""
        if round(rounds) > 0:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[self._now + round(rounds)].append(future)
            await future


@pytest.fixture(autouse=True)
def _no_log(caplog: pytest.LogCaptureFixture) -> None:
    # Log records refer to exceptions, and these to all the frames that they have passed.
    caplog.set_level(logging.CRITICAL, logger="prefect_http")


@pytest.mark.trio
@pytest.mark.parametrize("seed", SEEDS)
async def test_on_trio(seed: int, autojump_clock: MockClock) -> None:
    """Never two lifespans of one app, never a body without its app, never a hang, and nothing is left; on trio."""
    with trio.fail_after(100_000):
        await run_chaos(seed, trio.sleep, native=False)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_on_asyncio(seed: int) -> None:
    """Never two lifespans of one app, never a body without its app, never a hang, and nothing is left; on asyncio."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            rounds = Rounds()
            group.start_soon(rounds.count)
            await steps(1)
            await run_chaos(seed, rounds.pause, native=True)
            group.cancel_scope.cancel()
