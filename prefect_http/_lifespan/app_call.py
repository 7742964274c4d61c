"""One call of an app with a lifespan scope: the app's side of a run."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from typing import Any, Literal

import anyio
import anyio.lowlevel

from prefect_http._concurrency.backend import current_task, new_cancel_scope, new_event
from prefect_http._lifespan.protocol import LifespanProtocol, Phase
from prefect_http._types import ASGIApp, Message

# How long an app may take to end when it is cancelled, or has announced that it crashes.
UNWINDING_SECONDS = 1.0

# Markers of the calls that the current task is part of: an app's own startup and shutdown, and all that they call.
_inside: contextvars.ContextVar[frozenset[object]] = contextvars.ContextVar("prefect_http_inside", default=frozenset())


class LifespanCall:
    """The call, and what its app has said so far.

    Attributes:
        app: the app.
        state: what the app put into ``scope["state"]``.
        protocol: how far the app has come.
        quiet: set once no answer will come any more: the call has ended, or waits for a message that will not come.
        ended: set once the call has ended.
    """

    def __init__(self, app: ASGIApp, on_change: Callable[[], None]) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self.protocol = LifespanProtocol()
        self.quiet = new_event()
        self.ended = new_event()
        self._on_change = on_change  # called when the phase may have changed
        self._stop_asked = new_event()
        self._scope = new_cancel_scope()
        self._marker = object()
        self._task: object = None

    def ask_to_stop(self) -> None:
        """Let the app have its shutdown message."""
        self.protocol.asked_to_stop = True
        self._stop_asked.set()

    def cancel(self) -> None:
        """Cancel the call."""
        self._scope.cancel()

    def is_caller(self) -> bool:
        """Whether the current task is part of the call, or was spawned by a part of it."""
        return self._marker in _inside.get()

    def is_in_own_task(self) -> bool:
        """Whether the current task is the one that the app is called in."""
        return self._task is current_task()

    async def run(self) -> None:
        """Call the app.

        What it raises is recorded, and goes no further.

        Cancellation:
            Goes through to the app, and on from there unless it came from ``cancel()``.
        """
        self._task = current_task()
        _inside.set(_inside.get() | {self._marker})
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        how: Literal["returned", "raised", "cancelled"] = "returned"
        raised: BaseException | None = None
        try:
            with self._scope:
                await self.app(scope, self._receive, self._send)
        except anyio.get_cancelled_exc_class() as error:
            how, raised = "cancelled", error
            if anyio.current_effective_deadline() == -math.inf:
                raise  # the root task is being cancelled
        except BaseException as error:
            # Like a cancellation, an interrupt or an exit says nothing about the app.
            how, raised = "raised" if isinstance(error, Exception) else "cancelled", error
        finally:
            self.protocol.end(how, raised)
            self._task = None
            self.ended.set()
            self.quiet.set()
            self._on_change()

    async def _receive(self) -> Message:
        await anyio.lowlevel.checkpoint()
        message = self.protocol.receive()
        if message is None and self.protocol.phase in (Phase.STARTING, Phase.UP):
            await self._stop_asked.wait()
            message = self.protocol.receive()
        while message is None:
            if self.protocol.phase is not Phase.STOPPING:
                self.quiet.set()
            await anyio.sleep_forever()
        return message

    async def _send(self, message: Message) -> None:
        try:
            self.protocol.send(message)
            if self.protocol.phase is Phase.FAILING:
                self._scope.deadline = anyio.current_time() + UNWINDING_SECONDS  # to raise what has happened
        finally:
            self._on_change()
