"""One run of an app's lifespan, from startup to shutdown, in a root task of its own.

The app's users never run any part of it. They hold the run: they add to a count, wait for events, and may be
cancelled at any of those waits; nothing they do reaches into the app. The root task alone starts the app, times it,
asks it to stop, and ends it:

    user tasks                     root task                            app task (in the root task's nursery)
    hold() ─────────────────────>  take the turn among the app's runs
    answered.wait()                start the app ─────────────────────>  receive: lifespan.startup
           <─ answered.set() ────        <───────────────────────────── send: lifespan.startup.complete
    ... bodies ...                 wait for the last user to leave
    release(), the last one ────>  ask it to stop ────────────────────>  receive: lifespan.shutdown
    over.wait(), shielded                <───────────────────────────── send: lifespan.shutdown.complete
           <──── over.set() ─────  done

Deciding to start, to join and to stop happens between two awaits, so it cannot interleave with anything. The turn
is a lock that the root task holds for as long as the app runs: two runs of one app cannot overlap, whatever order
their users come in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property

import anyio

from prefect_http._app import app_name
from prefect_http._concurrency.backend import (
    current_loop,
    is_root_task_cancelled,
    new_cancel_scope,
    new_event,
    open_nursery,
    wait_shielded,
)
from prefect_http._concurrency.fair_lock import FairLock
from prefect_http._lifespan.app_call import UNWINDING_SECONDS, LifespanCall
from prefect_http._lifespan.lifespan import Lifespan
from prefect_http._lifespan.outcome import Outcome
from prefect_http._lifespan.protocol import Phase
from prefect_http._types import ASGIApp

logger = logging.getLogger("prefect_http")


class AppRun:
    """One run of an app's lifespan.

    Attributes:
        is_open: whether more users may hold the run.
        answered: set once the startup is decided; ``outcome.startup_error()`` then tells how.
        over: set once there is nothing left to wait for.
        call: the app's side of it.
        outcome: what went wrong.
        on_crash: called when the app crashes.
        root_task: the task, held here because asyncio keeps no strong reference to it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        startup_timeout: float,
        shutdown_timeout: float,
        turn: FairLock,
        predecessors: Sequence[AppRun],
        on_end: Callable[[AppRun], None],
    ) -> None:
        self.is_open = True
        self.answered = new_event()
        self.over = new_event()
        self.call = LifespanCall(app, self._react)
        self.outcome = Outcome(app_name(app), self.call.protocol)
        self.on_crash: set[Callable[[], None]] = set()
        self.root_task: object = None
        self._startup_timeout = startup_timeout
        self._shutdown_timeout = shutdown_timeout
        self._turn = turn
        self._predecessors = predecessors
        self._on_end = on_end
        self._loop = current_loop()
        self._holders = 0
        self._decided = new_event()  # the startup has an outcome
        self._unwanted = new_event()  # the last user has left, or the app has crashed
        self._queue_scope = new_cancel_scope()
        self._startup_scope = new_cancel_scope()

    # For the users.

    def hold(self) -> None:
        """Count one more user."""
        self._holders += 1

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

    def is_elsewhere(self) -> bool:
        """Whether the caller is in another event loop, where it can neither count nor wait."""
        return self._loop is not current_loop()

    @property
    def is_up(self) -> bool:
        """Whether the startup is complete, or the app runs without hooks."""
        return self.answered.is_set() or self.call.protocol.phase is Phase.UP

    @cached_property
    def lifespan(self) -> Lifespan:
        """What each user gets, once the run is up."""
        return Lifespan(self.call.app, self.call.state, self.call.protocol.phase is not Phase.UNSUPPORTED)

    # The root task.

    async def main(self) -> None:
        """Run the app's lifespan; the root task's whole life."""
        if await self._take_turn():
            try:
                async with open_nursery() as nursery:
                    nursery.start_soon(self._call_app)
                    await self._start()
                    self.answered.set()
                    await self._unwanted.wait()
                    await self._stop()
            finally:
                self._turn.release()

    def on_exit(self) -> None:
        """Wake everyone who still waits; the root task has ended."""
        if not self.is_up:
            # Only a cancelled root task gets here without an answer. A problem that is already known stays.
            self.outcome.startup_cancelled()
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
            self.is_open = False
            self.outcome.turn_timed_out(self._startup_timeout)
        return False

    async def _start(self) -> None:
        protocol = self.call.protocol
        self._startup_scope.deadline = anyio.current_time() + self._startup_timeout
        with self._startup_scope:
            await self._decided.wait()
            if protocol.phase is Phase.STARTUP_FAILED:
                await self.call.quiet.wait()  # it may still raise what went wrong
        self.outcome.check_startup(self._startup_timeout)
        if protocol.phase in (Phase.UP, Phase.DOWN, Phase.FAILING, Phase.CRASHED):
            return
        if protocol.phase is Phase.UNSUPPORTED:
            logger.debug("%s", self.outcome.not_supported_message)
        else:
            self.is_open = False
        await self._end_app()

    async def _stop(self) -> None:
        if self.call.protocol.phase is Phase.FAILING:
            await self._end_app()
        if self.call.protocol.phase is not Phase.UP:
            return
        self.call.ask_to_stop()
        patience = new_cancel_scope()
        patience.deadline = anyio.current_time() + self._shutdown_timeout
        with patience:
            await self.call.quiet.wait()
        self.outcome.check_shutdown(self._shutdown_timeout)
        await self._end_app()
        self.outcome.check_shutdown(self._shutdown_timeout)  # again, for what the app may have raised when cancelled

    async def _end_app(self) -> None:
        """Cancel what is left of the app's call. If it does not end, its users stop waiting for it all the same."""
        if self.call.ended.is_set():
            return
        self.call.cancel()
        try:
            await wait_shielded(self.call.ended, anyio.current_time() + UNWINDING_SECONDS)
        finally:
            if not self.call.ended.is_set():
                text = "%s was cancelled and has not ended after %g s; its lifespan task goes on"
                logger.warning(text, self.outcome.name, UNWINDING_SECONDS)
                self.answered.set()
                self.over.set()

    # The app task.

    async def _call_app(self) -> None:
        try:
            await self.call.run()
        finally:
            if self.call.protocol.phase is Phase.CRASHED:
                self._crash()

    def _react(self) -> None:
        """Take note of the phase that the app has reached."""
        if self.call.protocol.phase not in (Phase.CALLED, Phase.STARTING):
            self._decided.set()
        if self.call.protocol.phase in (Phase.STARTUP_FAILED, Phase.FAILING):
            self.is_open = False

    def _crash(self) -> None:
        """Log the crash, and notify everyone who holds the run."""
        self.is_open = False
        self._unwanted.set()
        error = self.call.protocol.error
        # The end of the event loop's run cancels the app: that is not worth a log line.
        if not (isinstance(error, anyio.get_cancelled_exc_class()) and is_root_task_cancelled(self.root_task)):
            logger.error("%s", self.outcome.crash_message, exc_info=error)
        for notify in tuple(self.on_crash):
            notify()
