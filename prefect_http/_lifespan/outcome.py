"""What went wrong in one run of an app's lifespan, and the errors that its users get for it. Pure."""

from __future__ import annotations

from typing import cast

from prefect_http._errors import (
    LifespanCrashed,
    LifespanError,
    LifespanNotSupported,
    LifespanShutdownError,
    LifespanStartupError,
    LifespanTimeoutError,
)
from prefect_http._lifespan.protocol import LifespanProtocol, Phase
from prefect_http._redact import safe_exception


class Outcome:
    """The problems of one run.

    Each user gets an exception of its own, with the app's exception as the shared cause. A KeyboardInterrupt or a
    SystemExit from the app is meant for the program, so users get that itself, or the group that it comes in.

    Attributes:
        name: what the app is called in messages.
    """

    __slots__ = ("_protocol", "_shutdown_problem", "_startup_problem", "name")

    def __init__(self, name: str, protocol: LifespanProtocol) -> None:
        self.name = name
        self._protocol = protocol
        self._startup_problem: tuple[type[LifespanError], str] | None = None
        self._shutdown_problem: tuple[type[LifespanError], str] | None = None

    # Recorded by the root task. The first problem found stays.

    def check_startup(self, timeout: float) -> None:
        """Record a startup that failed, or that is not decided after ``timeout`` seconds."""
        if self._protocol.phase is Phase.STARTUP_FAILED:
            self._fail_startup(LifespanStartupError, f"{self.name} failed to start: {self._reason}")
        elif self._protocol.phase in (Phase.CALLED, Phase.STARTING):
            self._fail_startup(
                LifespanTimeoutError, f"{self.name} did not complete its startup within {timeout:g} seconds"
            )

    def startup_cancelled(self) -> None:
        """Record that the root task was cancelled before the app was up."""
        self._fail_startup(LifespanStartupError, f"{self.name} was cancelled during its startup")

    def turn_timed_out(self, timeout: float) -> None:
        """Record that the app could not be called within ``timeout`` seconds, because its previous call goes on."""
        text = f"{self.name} cannot be started: its previous lifespan has not ended within {timeout:g} seconds"
        self._fail_startup(LifespanTimeoutError, text)

    def check_shutdown(self, timeout: float) -> None:
        """Record a shutdown that failed, or that is not complete after ``timeout`` seconds."""
        if self._shutdown_problem is not None:
            return
        if self._protocol.phase in (Phase.UP, Phase.STOPPING):
            text = f"{self.name} did not complete its shutdown within {timeout:g} seconds"
            self._shutdown_problem = LifespanTimeoutError, text
        elif self._protocol.phase is Phase.SHUTDOWN_FAILED:
            text = f"{self.name} failed to shut down: {self._reason}"
            self._shutdown_problem = LifespanShutdownError, text

    def _fail_startup(self, kind: type[LifespanError], text: str) -> None:
        self._startup_problem = self._startup_problem or (kind, text)

    # For the users.

    def startup_error(self) -> BaseException | None:
        """Return a new error if the app did not come up."""
        return self._error(self._startup_problem)

    def not_supported_error(self) -> LifespanNotSupported | None:
        """Return a new error if the app does not support the lifespan protocol."""
        if self._protocol.phase is not Phase.UNSUPPORTED:
            return None
        error = LifespanNotSupported(f'{self.not_supported_message}; mode="on" requires it')
        error.__cause__ = self._protocol.error
        return error

    def crash_error(self) -> BaseException | None:
        """Return a new error if the app crashed while it was up."""
        if self._protocol.phase not in (Phase.FAILING, Phase.CRASHED):
            return None
        return self._error((LifespanCrashed, self.crash_message))

    def shutdown_error(self) -> BaseException | None:
        """Return a new error if the app did not shut down properly."""
        return self._error(self._shutdown_problem)

    @property
    def not_supported_message(self) -> str:
        """Return what to say of an app that does not support the protocol."""
        reason = "" if self._protocol.error is None else f" ({self._reason})"
        return f"{self.name} does not support the lifespan protocol{reason}"

    @property
    def crash_message(self) -> str:
        """Return what to say of an app that crashed; its own message is the whole traceback in most frameworks."""
        error = self._protocol.error
        return f"{self.name} crashed in its lifespan: {self._reason if error is None else safe_exception(error)}"

    def _error(self, problem: tuple[type[LifespanError], str] | None) -> BaseException | None:
        if problem is None:
            return None
        if _is_for_program(self._protocol.error):
            return self._protocol.error
        kind, text = problem
        error = kind(text)
        error.__cause__ = self._protocol.error
        return error

    @property
    def _reason(self) -> str:
        if self._protocol.message or self._protocol.error is None:
            return self._protocol.message or "it gave no reason"
        return safe_exception(self._protocol.error)


def _is_for_program(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):  # of a nursery in the app
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.subgroup((KeyboardInterrupt, SystemExit)) is not None
    return isinstance(error, KeyboardInterrupt | SystemExit)
