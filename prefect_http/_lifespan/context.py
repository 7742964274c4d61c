"""app_lifespan_context: one user's hold on an app's lifespan, which any number of users share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal

from prefect_http._app import check_app
from prefect_http._concurrency.backend import checkpoint, checkpoint_if_cancelled, wait_shielded
from prefect_http._errors import LifespanCrashed
from prefect_http._lifespan.body_scope import BodyScope
from prefect_http._lifespan.lifespan import Lifespan
from prefect_http._lifespan.registry import hold
from prefect_http._lifespan.run import AppRun, logger
from prefect_http._types import ASGIApp

Mode = Literal["auto", "on", "off"]

_TIMEOUT = 30.0


def app_lifespan_context(
    app: ASGIApp,
    *,
    startup_timeout: float | None = _TIMEOUT,
    shutdown_timeout: float | None = _TIMEOUT,
    mode: Mode = "auto",
    cancel_on_crash: bool = False,
) -> AbstractAsyncContextManager[Lifespan]:
    """Hold an ASGI app's lifespan: run its startup before the body, and its shutdown after the last body.

    Within one run of an event loop, the app's hooks run once for all contexts that hold it at the same time. These may
    be in any task, and may be left in any order. The app's lifespan task depends on none of them. Once the last context
    has been left, the app can be started again.

    Args:
        app: the ASGI app; apps are compared by identity.
        startup_timeout: seconds, above 0, for the app to complete its startup; None or infinity: no limit. The context
            that starts the app sets it.
        shutdown_timeout: seconds, above 0, for the app to complete its shutdown; None or infinity: no limit. Set by
            the same context.
        mode: if the app does not support lifespan, "auto" runs the body without hooks, and "on" raises
            LifespanNotSupported. "off" sends nothing and holds nothing.
        cancel_on_crash: whether the body is cancelled if the app crashes. With True, a cancel scope stays open around
            the body, so the context must be left in the task that entered it, and innermost first, like a nursery.
            With False, it may be left in any task and in any order.

    Raises:
        TypeError: the app is not callable.
        ValueError: another argument is invalid.

    Entering raises:
        LifespanStartupError: the startup failed, with the app's own message and its exception as the cause.
        LifespanTimeoutError: the startup took too long.
        LifespanNotSupported: with ``mode="on"``, the app does not support lifespan.
        LifespanCrashed: the app crashed right after its startup.
        LifespanError: the app's own startup or shutdown enters the context, which would wait for itself, or a task that
            it has spawned enters it while the app is not running.

    Leaving raises:
        LifespanCrashed: the app crashed while it was held, with its exception as the cause. The crash was logged at
            level ERROR when it happened.
        LifespanShutdownError: the shutdown failed; raised by the last context to be left.
        LifespanTimeoutError: the shutdown took too long; raised by the last context to be left.
        RuntimeError: with ``cancel_on_crash=True``, the context is left in another task, or while another cancel scope
            is open inside it. It still releases the app.

    If the body raises an exception, that takes precedence; the problem is added to it as a note, and logged.

    Cancellation:
        While entering: the startup continues for the other tasks that wait for it, and is cancelled if there are none.
        While leaving: the shutdown is shielded, for at most ``shutdown_timeout``. An app that is cancelled after a
        timeout has one more second to clean up. A cancellation in the meantime takes effect afterwards, unless the body
        has raised an exception; a native one of the asyncio task takes effect in any case.

    https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """
    check_app(app)
    startup_seconds = _checked_seconds("startup_timeout", startup_timeout)
    shutdown_seconds = _checked_seconds("shutdown_timeout", shutdown_timeout)
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"mode must be 'auto', 'on' or 'off', not {mode!r}")
    if not isinstance(cancel_on_crash, bool):
        raise ValueError(f"cancel_on_crash must be True or False, not {cancel_on_crash!r}")
    return LifespanContext(app, startup_seconds, shutdown_seconds, mode, cancel_on_crash)


def _checked_seconds(name: str, timeout: float | None) -> float:
    """Return a timeout in seconds, infinity for None, or raise a ValueError."""
    if timeout is None:
        return math.inf
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, or None for no limit, not {timeout!r}")
    try:
        return float(timeout)
    except OverflowError:  # an integer beyond all floats
        return math.inf


class LifespanContext:
    """One user's hold on an app's lifespan, for use once."""

    def __init__(
        self,
        app: ASGIApp,
        startup_timeout: float = _TIMEOUT,
        shutdown_timeout: float = _TIMEOUT,
        mode: Mode = "auto",
        cancel_on_crash: bool = False,
    ) -> None:
        self._app: ASGIApp | None = app
        self._timeouts = startup_timeout, shutdown_timeout
        self._mode: Mode = mode
        self._cancel_on_crash = cancel_on_crash
        self._is_held = False
        self._run: AppRun | None = None
        self._on_crash: Callable[[], None] | None = None
        self._scope: BodyScope | None = None

    async def enter(self, on_crash: Callable[[], None] | None = None) -> Lifespan:
        """Start the app, or join those who hold it; ``on_crash`` is called if it crashes while it is held."""
        app, self._app = self._app, None
        if app is None:
            raise RuntimeError("this context has been entered before; call app_lifespan_context() for each use")
        await checkpoint()
        if self._mode == "off":
            self._is_held = True
            return Lifespan(app, {}, supported=False)
        run = hold(app, *self._timeouts)
        try:
            if not run.is_up:
                await run.answered.wait()
            _check(run, self._mode)
        except BaseException:
            if run.release():
                try:
                    await wait_shielded(run.over)
                finally:  # a native cancellation may have been held back
                    if (problem := run.outcome.shutdown_error()) is not None:
                        logger.error("%s", problem, exc_info=problem)
            raise
        self._run, self._is_held = run, True
        if on_crash is not None:
            self._on_crash = on_crash
            run.on_crash.add(on_crash)
        if self._cancel_on_crash:
            self._scope = BodyScope()
            run.on_crash.add(self._scope.cancel)
        return run.lifespan

    def crash_error(self) -> BaseException | None:
        """Return a new error if the app has crashed while it is held, or has ended with its event loop."""
        run = self._run
        if run is not None and run.over.is_set() and run.is_elsewhere():
            return RuntimeError(
                "the app was entered in an event loop that has ended, and its lifespan with it; enter it in each loop"
            )
        return None if run is None else run.outcome.crash_error()

    async def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Release the app, and wait for its shutdown if this was the last user."""
        run = self._end_hold()
        if run is None:
            return
        rest, misuse = self._leave_scope(run, exc_type, exc, tb)
        is_last = run.release()
        try:
            if is_last:
                await wait_shielded(run.over)
                if rest is None:
                    await checkpoint_if_cancelled()
        except BaseException as cancellation:  # it was held back
            rest = cancellation
        problems = run.outcome.crash_error(), misuse, run.outcome.shutdown_error() if is_last else None
        error = _settle(rest, [problem for problem in problems if problem is not None])
        if error is not None and error is not exc:
            try:
                raise error
            finally:
                del error, problems, misuse, rest  # an exception must not refer to itself through this frame

    __aenter__ = enter
    __aexit__ = leave

    def _end_hold(self) -> AppRun | None:
        """Return the run that was held until now; None with ``mode="off"``."""
        if not self._is_held:
            raise RuntimeError("this context is not entered: it never was, or it has been left already")
        run = self._run
        if run is not None and run.is_elsewhere():
            raise RuntimeError("this context must be left in the event loop that it was entered in")
        self._run, self._is_held = None, False
        return run

    def _leave_scope(
        self, run: AppRun, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> tuple[BaseException | None, RuntimeError | None]:
        """Return what is left of the body's exception, and what is wrong with the way that the context is left."""
        if self._on_crash is not None:
            run.on_crash.discard(self._on_crash)
        scope, self._scope = self._scope, None
        if scope is None:
            return exc, None
        run.on_crash.discard(scope.cancel)
        try:
            return scope.leave(exc_type, exc, tb), None
        except RuntimeError as misuse:
            return exc, misuse


def _check(run: AppRun, mode: Mode) -> None:
    """Raise what keeps a user from entering."""
    error = run.outcome.startup_error() or run.outcome.crash_error()
    if mode == "on":
        error = error or run.outcome.not_supported_error()
    if error is not None:
        try:
            raise error
        finally:
            del error  # an exception must not refer to itself through this frame


def _settle(error: BaseException | None, problems: list[BaseException]) -> BaseException | None:
    """Return what is raised in the end: the body's own exception if there is one, with the problems as notes on it.

    Only an interrupt or an exit of the app's goes before the body's exception, so that it is not lost.
    """
    if not problems:
        return error
    if error is None or not isinstance(problems[0], Exception):
        error, *problems = problems
    for problem in problems:
        if not isinstance(problem, LifespanCrashed):  # a crash was logged when it happened
            logger.error("%s", problem, exc_info=problem)
        with contextlib.suppress(Exception):  # some exceptions are frozen
            error.add_note(f"{type(problem).__name__}: {problem}")
    return error
