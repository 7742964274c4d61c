"""app_lifespan_context: holds an app's lifespan, whoever else holds it, and whoever leaves first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from prefect_http._app import check_app
from prefect_http._concurrency.backend import CancelScope, checkpoint, wait_shielded
from prefect_http._errors import LifespanNotSupported
from prefect_http._lifespan.registry import hold
from prefect_http._lifespan.run import AppRun, Lifespan, logger
from prefect_http._lifespan.statement import Caller, RememberedLook, current_caller, is_statement
from prefect_http._types import ASGIApp

Mode = Literal["auto", "on", "off"]

_TIMEOUT = 30.0


def app_lifespan_context(
    app: ASGIApp,
    *,
    startup_timeout: float = _TIMEOUT,
    shutdown_timeout: float = _TIMEOUT,
    mode: Mode = "auto",
) -> AbstractAsyncContextManager[Lifespan]:
    """Hold an ASGI app's lifespan: its startup is complete before the body, its shutdown comes after the last body.

    However many hold the app within one event loop's run, in whatever tasks, and in whatever order they leave, its
    hooks run once. A context may be left in another task than it was entered in. The app's lifespan task belongs to
    none of them. Once the last has left, the app can be started anew.

    Args:
        app: the ASGI app, told from others by identity.
        startup_timeout: seconds, above 0, for the app to complete its startup. Those of whoever starts the app
            count.
        shutdown_timeout: seconds, above 0, for the app to complete its shutdown; likewise.
        mode: "auto" runs without hooks if the app does not speak lifespan, "on" raises LifespanNotSupported,
            "off" sends nothing and holds nothing.

    Raises:
        TypeError: the app is not callable.
        ValueError: a timeout or the mode is bad.

    Entering raises:
        LifespanStartupError: the startup failed, with the app's own message and its exception as the cause.
        LifespanTimeoutError: the startup took too long.
        LifespanNotSupported: with ``mode="on"``.
        LifespanCrashed: the app crashed right after its startup.
        LifespanError: the app's own startup or shutdown tries to enter, and would wait for itself.

    Leaving raises:
        LifespanCrashed: the app crashed while it was held. The body of an ``async with`` statement is cancelled
            then. Who entered by hand, through an exit stack or in an async generator learns it on leaving, and from
            the log, because such a body may end in another task.
        LifespanShutdownError: the shutdown failed; for the last to leave.
        LifespanTimeoutError: the shutdown took too long; likewise.

    If the body raised an exception itself, that goes on, and the problem is logged and noted on it.

    Cancellation:
        While entering: the startup goes on for the others who wait for it, and is cancelled if there are none.
        While leaving: the shutdown is shielded, for at most ``shutdown_timeout``.

    https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """
    check_app(app)
    for name, seconds in (("startup_timeout", startup_timeout), ("shutdown_timeout", shutdown_timeout)):
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0:
            raise ValueError(f"{name} must be a number of seconds above 0, not {seconds!r}")
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"mode must be 'auto', 'on' or 'off', not {mode!r}")
    # A cast, because type checkers take a descriptor in the place of __aexit__ for a plain attribute.
    context = LifespanContext(app, startup_timeout, shutdown_timeout, mode)
    return cast("AbstractAsyncContextManager[Lifespan]", context)


class LifespanContext:
    """One user's hold on an app's lifespan, for use once."""

    def __init__(
        self,
        app: ASGIApp,
        startup_timeout: float = _TIMEOUT,
        shutdown_timeout: float = _TIMEOUT,
        mode: Mode = "auto",
    ) -> None:
        self._app: ASGIApp | None = app
        self._timeouts = startup_timeout, shutdown_timeout
        self._mode = mode
        self._run: AppRun | None = None
        self._is_held = False
        self._guard: CancelScope | None = None
        self._on_crash: Callable[[], None] | None = None
        self.last_look: Caller | None = None

    def __aenter__(self) -> Coroutine[Any, Any, Lifespan]:
        return self._enter(in_statement=is_statement(self.last_look, current_caller()))

    async def enter(self, on_crash: Callable[[], None]) -> Lifespan:
        """Enter by hand, as ``__aenter__`` does; ``on_crash`` is called if the app crashes."""
        lifespan = await self._enter(in_statement=False)
        assert self._run is not None, 'nobody enters like this with mode="off"'
        self._on_crash = on_crash
        self._run.on_crash.add(on_crash)
        return lifespan

    async def _enter(self, *, in_statement: bool) -> Lifespan:
        app, self._app = self._app, None
        if app is None:
            raise RuntimeError("this context was entered before; call app_lifespan_context() anew for each use")
        await checkpoint()
        if self._mode == "off":
            self._is_held = True
            return Lifespan(app, {}, supported=False)
        run = hold(app, *self._timeouts)
        try:
            if not run.is_up:
                await run.answered.wait()
            error = run.startup_error() or run.crash_error()
            if error is not None:
                raise error
            if self._mode == "on" and not run.is_supported:
                raise LifespanNotSupported(f"{run.name} does not speak the lifespan protocol") from run.app_error
        except BaseException:
            if run.release():
                await wait_shielded(run.over)
                if (problem := run.shutdown_error()) is not None:
                    logger.error("%s", problem, exc_info=problem)
            raise
        self._run, self._is_held = run, True
        if in_statement:
            self._guard = run.add_guard()
            self._guard.__enter__()
        else:
            run.unguarded += 1
        return run.lifespan

    def crash_error(self) -> BaseException | None:
        """Make an error if the app has crashed while it is held."""
        return None if self._run is None else self._run.crash_error()

    async def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """End the hold; this is what ``__aexit__`` does."""
        if not self._is_held:
            raise RuntimeError("this context is not entered: it never was, or it has been left already")
        run = self._run
        if run is not None and run.is_elsewhere():
            raise RuntimeError("this context must be left in the event loop that it was entered in")
        self._is_held = False
        if run is None:  # mode="off"
            return False
        self._run = None
        if self._on_crash is not None:
            run.on_crash.discard(self._on_crash)
        stopped, error = self._leave_guard(run, exc_type, exc, tb)
        is_last = run.release()
        try:
            if is_last:
                await wait_shielded(run.over)
            if stopped:
                await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
        except BaseException as cancellation:  # an outer one, or a native one that was held back
            error = cancellation
        problem = run.crash_error() or (run.shutdown_error() if is_last else None)
        if problem is not None:
            if error is None or not isinstance(problem, Exception):
                raise problem
            if not run.was_cancelled:
                logger.error("%s", problem, exc_info=problem)
            with contextlib.suppress(Exception):  # some exceptions are frozen
                error.add_note(f"{type(problem).__name__}: {problem}")
        if error is not None and error is not exc:
            raise error
        return stopped

    def _leave_guard(
        self, run: AppRun, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> tuple[bool, BaseException | None]:
        """Leave the body's cancel scope; say whether a crash ended the body, and what else the body raised."""
        guard, self._guard = self._guard, None
        if guard is None:
            run.unguarded -= 1
            return False, exc
        run.remove_guard(guard)
        own = None if exc is None else _without_cancellations(exc)
        try:
            swallowed = bool(guard.__exit__(exc_type, exc, tb))
        except BaseException as rest:  # an exception group, less its cancellations
            return False, rest
        # anyio may swallow whole groups.
        stopped = swallowed and own is None
        error = own if swallowed and own is not None else exc
        return stopped, None if stopped else error

    __aexit__ = RememberedLook()


def _without_cancellations(exc: BaseException) -> BaseException | None:
    """Give what a group holds besides cancellations; None for anything but a group."""
    if not isinstance(exc, BaseExceptionGroup):
        return None
    return cast("BaseExceptionGroup[BaseException]", exc).split(anyio.get_cancelled_exc_class())[1]
