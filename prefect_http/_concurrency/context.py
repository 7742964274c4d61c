"""A coroutine awaited in a context of its own, by the task that awaits it."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


async def in_context(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, None], before_first_wait: Callable[[], None]
) -> None:
    """Await a coroutine each of whose steps runs in ``context``: it sees the variables there, and sets them there.

    A task has one context for life, so this is the only way but a task of its own to keep what a coroutine sets from
    the code that awaits it.

    Args:
        context: the context.
        coroutine: what to await.
        before_first_wait: called when the coroutine is about to let the event loop have its turn for the first time.
    """
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration:
        return
    before_first_wait()
    await _resume(context, coroutine, awaited)


@types.coroutine
def _resume(
    context: contextvars.Context, coroutine: Coroutine[Any, Any, None], awaited: object
) -> Generator[Any, Any, None]:
    while True:
        try:
            resume, sent = coroutine.send, (yield awaited)
        except BaseException as error:  # whatever the event loop has for the coroutine
            resume, sent = coroutine.throw, error
        try:
            awaited = context.run(resume, sent)
        except StopIteration:
            return
        finally:
            sent = None  # an error that passes through here would refer to itself
