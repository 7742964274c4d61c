"""The lifespan protocol, server side, as a state machine. Pure: messages in, state and next message out.

The app calls ``receive`` and ``send``, and in the end returns or raises; we ask it to shut down:

    CALLED ── receive: lifespan.startup ──> STARTING ── startup.complete ──> UP
                                                    └── startup.failed ────> STARTUP_FAILED
    UP ── receive, once asked to shut down: lifespan.shutdown ──> STOPPING ── shutdown.complete ──> DOWN
                                                                          └── shutdown.failed ────> SHUTDOWN_FAILED

and, by how the app's call ends:

    CALLED    returns or raises   UNSUPPORTED: it does not handle lifespan scopes
              is cancelled        STARTUP_FAILED: the cancellation came from outside and says nothing about the app
    STARTING  returns             UNSUPPORTED: it took the message and did not answer it
              raises              STARTUP_FAILED
    UP        returns             DOWN: it has no shutdown hooks
              raises              CRASHED
    FAILING   returns or raises   CRASHED
    STOPPING  returns             DOWN
              raises              SHUTDOWN_FAILED
    DOWN      raises              SHUTDOWN_FAILED

Except in CALLED, being cancelled counts as raising.

Frameworks announce a crash as a failed shutdown, and then raise what has happened: an app that sends shutdown.failed
without having been asked to shut down goes from UP to FAILING.

An app that answers with the messages of a request ("http.response.start") never looked at the scope's type: it is
UNSUPPORTED. Any other message out of place is an error for the app.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

from prefect_http._errors import LifespanError


class Phase(enum.Enum):
    """How far an app has come in its lifespan."""

    CALLED = enum.auto()
    STARTING = enum.auto()
    UP = enum.auto()
    STOPPING = enum.auto()
    FAILING = enum.auto()
    DOWN = enum.auto()
    UNSUPPORTED = enum.auto()
    STARTUP_FAILED = enum.auto()
    SHUTDOWN_FAILED = enum.auto()
    CRASHED = enum.auto()


_SENT = {
    # An app may announce that its startup is complete without having received the startup message.
    (Phase.CALLED, "lifespan.startup.complete"): Phase.UP,
    (Phase.CALLED, "lifespan.startup.failed"): Phase.STARTUP_FAILED,
    (Phase.STARTING, "lifespan.startup.complete"): Phase.UP,
    (Phase.STARTING, "lifespan.startup.failed"): Phase.STARTUP_FAILED,
    (Phase.UP, "lifespan.shutdown.failed"): Phase.FAILING,
    (Phase.STOPPING, "lifespan.shutdown.complete"): Phase.DOWN,
    (Phase.STOPPING, "lifespan.shutdown.failed"): Phase.SHUTDOWN_FAILED,
}
_RETURNED = {
    Phase.CALLED: Phase.UNSUPPORTED,
    Phase.STARTING: Phase.UNSUPPORTED,
    Phase.UP: Phase.DOWN,
    Phase.FAILING: Phase.CRASHED,
    Phase.STOPPING: Phase.DOWN,
}
_RAISED = {
    Phase.CALLED: Phase.UNSUPPORTED,
    Phase.STARTING: Phase.STARTUP_FAILED,
    Phase.UP: Phase.CRASHED,
    Phase.FAILING: Phase.CRASHED,
    Phase.STOPPING: Phase.SHUTDOWN_FAILED,
    Phase.DOWN: Phase.SHUTDOWN_FAILED,
}
_CANCELLED = {**_RAISED, Phase.CALLED: Phase.STARTUP_FAILED}
_EXPECTED = {
    Phase.CALLED: "lifespan.startup.complete or lifespan.startup.failed",
    Phase.STARTING: "lifespan.startup.complete or lifespan.startup.failed",
    Phase.UP: "nothing before it has received lifespan.shutdown",
    Phase.STOPPING: "lifespan.shutdown.complete or lifespan.shutdown.failed",
}


class LifespanProtocol:
    """One call of an app with a lifespan scope.

    Attributes:
        phase: how far the app has come.
        asked_to_stop: whether the app gets ``lifespan.shutdown`` when it next asks for a message.
        message: the message that the app sent with a failure; empty if there was none.
        error: what the app's call raised; None if it returned or has not ended.
    """

    __slots__ = ("asked_to_stop", "error", "message", "phase")

    def __init__(self) -> None:
        self.phase = Phase.CALLED
        self.asked_to_stop = False
        self.message = ""
        self.error: BaseException | None = None

    def receive(self) -> dict[str, object] | None:
        """Return the next message for the app; None if there is none yet."""
        if self.phase is Phase.CALLED:
            self.phase = Phase.STARTING
            return {"type": "lifespan.startup"}
        if self.phase is Phase.UP and self.asked_to_stop:
            self.phase = Phase.STOPPING
            return {"type": "lifespan.shutdown"}
        return None

    def send(self, message: Mapping[str, object]) -> None:
        """Take a message from the app.

        Raises:
            LifespanError: the message is unknown or out of place; meant for the app.
        """
        kind = message.get("type") if isinstance(message, Mapping) else None
        if not isinstance(kind, str):
            raise LifespanError(f"an ASGI message must be a mapping with a 'type', not {message!r}")
        if kind.startswith(("http.", "websocket.")) and self.phase in (Phase.CALLED, Phase.STARTING):
            self.phase = Phase.UNSUPPORTED
            raise LifespanError(f"the app answered a lifespan scope with {kind!r}")
        if kind.startswith("lifespan.shutdown."):
            self._stop_if_asked()
        following = _SENT.get((self.phase, kind))
        if following is None:
            expected = _EXPECTED.get(self.phase, "nothing more")
            raise LifespanError(f"the app sent {kind!r} in its lifespan; at this point it may send {expected}")
        if kind.endswith(".failed"):
            self.message = str(message.get("message", ""))
        self.phase = following

    def end(self, how: Literal["returned", "raised", "cancelled"], error: BaseException | None = None) -> None:
        """Record that the app's call has ended.

        Args:
            how: "cancelled" for any end that came from outside: a cancellation, an interrupt, an exit.
            error: what the call raised.
        """
        self.error = error
        self._stop_if_asked()
        endings = {"returned": _RETURNED, "raised": _RAISED, "cancelled": _CANCELLED}[how]
        self.phase = endings.get(self.phase, self.phase)

    def _stop_if_asked(self) -> None:
        """Note that the app shuts down as it was asked to, though it has not asked for the message."""
        if self.phase is Phase.UP and self.asked_to_stop:
            self.phase = Phase.STOPPING
