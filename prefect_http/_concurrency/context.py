"""Awaiting a coroutine in a context of its own, without a task of its own."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Runner(Protocol):
    """What has the ``run()`` of a contextvars.Context."""

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the context."""
        ...


async def in_context(
    context: Runner | contextvars.Context,
    coroutine: Coroutine[Any, Any, None],
    before_first_wait: Callable[[], None],
    guard: Callable[[object], object] = lambda awaited: awaited,
) -> None:
    """Await a coroutine in a context: it sees the context variables there, and sets them there.

    A task keeps its context for life. So apart from a task of its own, this is the only way to hide the variables that
    a coroutine sets from the code that awaits it.

    Args:
        context: the context that each step of the coroutine runs in.
        coroutine: the coroutine to await.
        before_first_wait: called when the coroutine is about to yield to the event loop for the first time; not called
            if it never does.
        guard: returns what to yield to the event loop in place of what the coroutine yields.

    Raises:
        BaseException: what the coroutine raised.

    Cancellation:
        Reaches the coroutine, in its context.
    """
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration:
        return
    before_first_wait()
    await _resume(context, coroutine, awaited, guard)


@types.coroutine
def _resume(
    context: Runner | contextvars.Context,
    coroutine: Coroutine[Any, Any, None],
    awaited: object,
    guard: Callable[[object], object],
) -> Generator[Any, Any, None]:
    while True:
        try:
            resume, sent = coroutine.send, (yield guard(awaited))
        except BaseException as error:  # what the event loop throws into the coroutine
            resume, sent = coroutine.throw, error
        try:
            awaited = context.run(resume, sent)
        except StopIteration:
            return
        finally:
            sent = None  # an error that passes through this frame would refer to itself
