"""One run of an app's lifespan, from startup to shutdown, in a root task of its own.

Nobody who uses the app runs any part of it. Users hold the run: they add to a count, wait for events, and may be
cancelled at any of those waits; what they do never reaches into the app. The root task alone starts the app, times
it, asks it to stop, and ends it:

    user tasks                     root task                            app task (in the root task's nursery)
    hold() ─────────────────────>  take the turn among the app's runs
    answered.wait()                start the app ─────────────────────>  receive: lifespan.startup
           <─ answered.set() ────        <───────────────────────────── send: lifespan.startup.complete
    ... bodies ...                 wait until nobody holds the run
    release(), the last one ────>  ask it to stop ────────────────────>  receive: lifespan.shutdown
    over.wait(), shielded                <───────────────────────────── send: lifespan.shutdown.complete
           <──── over.set() ─────  done

Deciding to start, to join and to stop happens between two awaits, so it cannot interleave with anything. The turn
is a lock that the root task holds for as long as the app runs: two runs of one app cannot overlap, whatever order
their users come in.
"""

from __future__ import annotations

import contextvars
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import anyio
import anyio.lowlevel

from prefect_http._app import app_name
from prefect_http._concurrency.backend import (
    CancelScope,
    Lock,
    Nursery,
    current_loop,
    new_cancel_scope,
    new_event,
    open_nursery,
)
from prefect_http._errors import (
    LifespanCrashed,
    LifespanError,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
)
from prefect_http._lifespan.protocol import LifespanProtocol, Phase
from prefect_http._redact import safe_exception
from prefect_http._types import ASGIApp, Message

logger = logging.getLogger("prefect_http")

# The runs whose app is the caller: the app's own startup and shutdown, and all that they call.
_inside: contextvars.ContextVar[frozenset[object]] = contextvars.ContextVar("prefect_http_inside", default=frozenset())

# Scheduler steps that a cancelled app gets to unwind before its users are told. In steps, not in seconds: the
# timeouts are promises, and an app that only lets the cancellation through needs no time, but steps.
_UNWINDING_STEPS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Lifespan:
    """An app whose startup is complete.

    Attributes:
        app: the app.
        state: what the app's startup put into ``scope["state"]``; the same dict for everyone who holds the app.
        supported: whether the app speaks the lifespan protocol; False too with ``mode="off"``.
    """

    app: ASGIApp
    state: dict[str, Any]
    supported: bool


class AppRun:
    """One run of an app's lifespan.

    Attributes:
        app: the app.
        name: what it is called in messages.
        state: what the app put into ``scope["state"]``.
        is_open: whether the run may still be held by more.
        answered: set once the startup is decided; ``startup_error()`` then tells how.
        over: set once there is nothing left to wait for.
        root_task: held here, for nobody else holds on to it.
        unguarded: how many users have no cancel scope that a crash would cancel.
        on_crash: what is called when the app crashes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        startup_timeout: float,
        shutdown_timeout: float,
        turn: Lock,
        predecessors: Sequence[AppRun],
        on_end: Callable[[AppRun], None],
    ) -> None:
        self.app = app
        self.name = app_name(app)
        self.state: dict[str, Any] = {}
        self.is_open = True
        self.answered = new_event()
        self.over = new_event()
        self.root_task: object = None
        self.unguarded = 0
        self.on_crash: set[Callable[[], None]] = set()
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        self._turn = turn
        self._predecessors = predecessors
        self._on_end = on_end
        self._marker = object()
        self._loop = current_loop()
        self._holders = 0
        self._guards: set[CancelScope] = set()
        self._protocol = LifespanProtocol()
        self._app_error: BaseException | None = None
        self._startup_problem: tuple[type[LifespanError], str] | None = None
        self._shutdown_problem: tuple[type[LifespanError], str] | None = None
        self._decided = new_event()  # the startup has an outcome
        self._unwanted = new_event()  # nobody holds the run any more, or the app has crashed
        self._stop_asked = new_event()
        self._quiet = new_event()  # the app has ended, or waits for a message that will not come
        self._ended = new_event()
        self._queue_scope = new_cancel_scope()
        self._startup_scope = new_cancel_scope()
        self._app_scope = new_cancel_scope()

    # For those who hold the run.

    def hold(self) -> None:
        """Count one more user."""
        self._holders += 1

    def is_elsewhere(self) -> bool:
        """Say whether the caller is in another event loop, where it can neither count nor wait."""
        return self._loop is not current_loop()

    def release(self) -> bool:
        """Count one user less; if it was the last, end the run and return True: ``over`` is worth waiting for."""
        self._holders -= 1
        if self._holders:
            return False
        self.is_open = False
        self._unwanted.set()
        self._queue_scope.cancel()
        self._startup_scope.cancel()
        return True

    def add_guard(self) -> CancelScope:
        """Give a cancel scope for a user's body, cancelled if the app crashes."""
        guard = new_cancel_scope()
        self._guards.add(guard)
        return guard

    def remove_guard(self, guard: CancelScope) -> None:
        """Forget a scope, which is not cancelled any more."""
        self._guards.discard(guard)

    @property
    def is_up(self) -> bool:
        """Whether the startup is complete, or the run does without."""
        return self.answered.is_set() or self._protocol.phase is Phase.UP

    @cached_property
    def lifespan(self) -> Lifespan:
        """What all who hold the run are given, once it is up."""
        return Lifespan(self.app, self.state, self.is_supported)

    @property
    def is_supported(self) -> bool:
        """Whether the app speaks the lifespan protocol."""
        return self._protocol.phase is not Phase.UNSUPPORTED

    def is_called_from_inside(self) -> bool:
        """Say whether the caller is part of the app's own lifespan."""
        return self._marker in _inside.get()

    @property
    def app_error(self) -> BaseException | None:
        """What the app's call raised."""
        return self._app_error

    @property
    def was_cancelled(self) -> bool:
        """Whether the app's call was cancelled from outside, as the end of the event loop's run does."""
        return isinstance(self._app_error, anyio.get_cancelled_exc_class())

    def startup_error(self) -> BaseException | None:
        """Make an error if the app did not come up, a new one for each who waited."""
        return self._error(self._startup_problem)

    def crash_error(self) -> BaseException | None:
        """Make an error if the app crashed while it was held."""
        if self._protocol.phase is not Phase.CRASHED:
            return None
        return self._error((LifespanCrashed, f"{self.name} crashed in its lifespan: {self._reason}"))

    def shutdown_error(self) -> BaseException | None:
        """Make an error if the app did not shut down well."""
        return self._error(self._shutdown_problem)

    def _error(self, problem: tuple[type[LifespanError], str] | None) -> BaseException | None:
        if problem is None:
            return None
        if isinstance(self._app_error, KeyboardInterrupt | SystemExit):
            return self._app_error  # meant for the program, wherever it struck
        kind, text = problem
        error = kind(text)
        error.__cause__ = self._app_error
        return error

    @property
    def _reason(self) -> str:
        if self._protocol.message or self._app_error is None:
            return self._protocol.message or "it did not say why"
        return safe_exception(self._app_error)

    # The root task.

    async def main(self) -> None:
        """Run the app's lifespan; the root task's whole life."""
        if await self._take_turn():
            try:
                async with open_nursery() as nursery:
                    await self._run(nursery)
            finally:
                self._turn.release()

    def on_exit(self) -> None:
        """Tell everyone who still waits; the root task has ended."""
        if not self.is_up:
            # Reached by cancellation only; where there is a better reason, it has been given.
            self._fail_startup(LifespanStartupError, f"{self.name} was cancelled during its startup")
        self.is_open = False
        self._on_end(self)
        self.answered.set()
        self.over.set()

    async def _take_turn(self) -> bool:
        with self._queue_scope:
            for run in self._predecessors:
                await run.over.wait()
            self._predecessors = ()
            self._queue_scope.deadline = anyio.current_time() + self._startup_timeout
            await self._turn.acquire()
            return True
        if not self._unwanted.is_set():
            self._fail_startup(
                LifespanTimeoutError,
                f"the lifespan that {self.name} had before has not ended within {self._startup_timeout:g} s",
            )
        return False

    async def _run(self, nursery: Nursery) -> None:
        nursery.start_soon(self._call_app)
        await self._start()
        self.answered.set()
        await self._unwanted.wait()
        await self._stop()

    async def _start(self) -> None:
        self._startup_scope.deadline = anyio.current_time() + self._startup_timeout
        with self._startup_scope:
            await self._decided.wait()
            if self._protocol.phase is Phase.STARTUP_FAILED:
                await self._quiet.wait()  # it may still raise what went wrong
        if self._protocol.phase in (Phase.UP, Phase.DOWN, Phase.CRASHED):
            return
        if self._protocol.phase is Phase.STARTUP_FAILED:
            self._fail_startup(LifespanStartupError, f"{self.name} failed to start: {self._reason}")
        elif self._protocol.phase is Phase.UNSUPPORTED:
            logger.debug("%s does not speak the lifespan protocol: %s", self.name, self._reason)
        else:
            self._fail_startup(
                LifespanTimeoutError, f"{self.name} did not finish its startup within {self._startup_timeout:g} s"
            )
        await self._end_app()

    def _fail_startup(self, kind: type[LifespanError], text: str) -> None:
        self.is_open = False
        self._startup_problem = self._startup_problem or (kind, text)

    async def _stop(self) -> None:
        if self._protocol.phase is not Phase.UP:
            return
        self._protocol.asked_to_stop = True
        self._stop_asked.set()
        patience = new_cancel_scope()
        patience.deadline = anyio.current_time() + self._shutdown_timeout
        with patience:
            await self._quiet.wait()
        self._check_shutdown()
        await self._end_app()
        self._check_shutdown()  # again, for what the app may have raised at its cancellation

    def _check_shutdown(self) -> None:
        """Note what is wrong with the shutdown; a first finding stays."""
        if self._shutdown_problem is not None:
            return
        if self._protocol.phase in (Phase.UP, Phase.STOPPING):
            text = f"{self.name} did not finish its shutdown within {self._shutdown_timeout:g} s"
            self._shutdown_problem = LifespanTimeoutError, text
        elif self._protocol.phase is Phase.SHUTDOWN_FAILED:
            text = f"{self.name} failed to shut down: {self._reason}"
            self._shutdown_problem = LifespanShutdownError, text

    async def _end_app(self) -> None:
        """Cancel what is left of the app's call. Where it does not give way, tell its users all the same."""
        self._app_scope.cancel()
        for _ in range(_UNWINDING_STEPS):
            if self._ended.is_set():
                return
            await anyio.lowlevel.cancel_shielded_checkpoint()
        logger.warning("%s has not ended at its cancellation; its lifespan task goes on", self.name)
        self.answered.set()
        self.over.set()

    # The app task.

    async def _call_app(self) -> None:
        _inside.set(_inside.get() | {self._marker})
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        how: Literal["returned", "raised", "cancelled"] = "returned"
        try:
            with self._app_scope:
                await self.app(scope, self._receive, self._send)
        except anyio.get_cancelled_exc_class() as error:
            how, self._app_error = "cancelled", error
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the root task is being cancelled
        except BaseException as error:
            # An interrupt or an exit says as little about the app as a cancellation does.
            how, self._app_error = "raised" if isinstance(error, Exception) else "cancelled", error
        finally:
            self._protocol.end(how)
            self._ended.set()
            self._quiet.set()
            self._react()

    async def _receive(self) -> Message:
        await anyio.lowlevel.checkpoint()
        message = self._protocol.receive()
        if message is None and self._protocol.phase in (Phase.STARTING, Phase.UP):
            await self._stop_asked.wait()
            message = self._protocol.receive()
        while message is None:
            if self._protocol.phase is not Phase.STOPPING:
                self._quiet.set()
            await anyio.sleep_forever()
        return message

    async def _send(self, message: Message) -> None:
        try:
            self._protocol.send(message)
        finally:
            self._react()

    def _react(self) -> None:
        """Tell whoever waits for the phase that the app has reached."""
        if self._protocol.phase not in (Phase.CALLED, Phase.STARTING):
            self._decided.set()
        if self._protocol.phase is Phase.STARTUP_FAILED:
            self.is_open = False
        if self._protocol.phase is Phase.CRASHED:
            self.is_open = False
            self._unwanted.set()
            for guard in self._guards:
                guard.cancel()
            for tell in tuple(self.on_crash):
                tell()
            if self.unguarded and not self.was_cancelled:
                logger.error("%s", self.crash_error(), exc_info=self._app_error)
