"""Cancelling something at its n-th scheduling point, on both backends.

Each point is hit in two ways: while the task waits there, and when what it waits for has just happened, so that the two
race. On asyncio, it is either one of anyio's scopes that is cancelled, or the task itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Literal, cast

import anyio
import pytest
import trio

from support.wire import is_asyncio

When = Literal["waiting", "woken"]
Way = Literal["scope", "task"]
MOST = 300
"""More scheduling points than any case has."""


class Steps(trio.abc.Instrument):
    """Cancels a trio task at one of its scheduling points, of which the first is number 1."""

    def __init__(self, number: int, when: When, cancel: Callable[[], object]) -> None:
        self.task = trio.lowlevel.current_task()
        self.number = number
        self.when = when
        self.cancel = cancel
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.when == "woken" and self.count == self.number:
            self.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.count += 1
            if self.when == "waiting" and self.count == self.number:
                self.cancel()


class Stepped(Coroutine[Any, Any, bool]):
    """A coroutine for an asyncio task that is cancelled at one of its scheduling points."""

    def __init__(self, inner: Coroutine[Any, Any, bool], number: int, when: When, cancel: Callable[[], object]) -> None:
        self.inner = inner
        self.left = number
        self.when = when
        self.cancel = cancel

    def __await__(self) -> Generator[Any, Any, bool]:
        raise NotImplementedError

    def send(self, value: Any) -> Any:
        return self.stepped(self.inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self.stepped(self.inner.throw(*error))

    def close(self) -> None:
        self.inner.close()

    def stepped(self, future: asyncio.Future[Any] | None) -> asyncio.Future[Any] | None:
        """Cancel now, or as soon as the future is done; the task's own callback comes after this one."""
        self.left -= 1
        if self.left == 0:
            if self.when == "waiting" or future is None:
                self.cancel()
            else:
                future.add_done_callback(lambda _: self.cancel())
        return future


async def run_cancelled(number: int, way: Way, when: When, run: Callable[[], Awaitable[None]]) -> bool:
    """Run something, cancel it at a scheduling point, and return whether it got there; nothing else may be raised.

    The cancellation of an asyncio task is raised in it once only, so it must not get lost either.
    """
    scope = anyio.CancelScope()
    calls: list[None] = []

    def cancel() -> None:
        calls.append(None)
        if way == "scope":
            scope.cancel()
        else:
            task.cancel()

    async def watched() -> bool:
        with scope:
            try:
                await run()
            except BaseException as error:
                if type(error) is not anyio.get_cancelled_exc_class():
                    raise AssertionError(f"not plainly cancelled: {error!r}") from error
                raise
        return True

    if is_asyncio():
        task = asyncio.get_running_loop().create_task(Stepped(watched(), number, when, cancel))
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        assert task.cancelled() == (way == "task" and bool(calls)), "the cancellation got lost"
    else:
        steps = Steps(number, when, cancel)
        trio.lowlevel.add_instrument(steps)
        try:
            await watched()
        finally:
            trio.lowlevel.remove_instrument(steps)
    return bool(calls)


def plain(error: Exception) -> Exception:
    """Take an exception out of the groups around it."""
    if isinstance(error, ExceptionGroup):
        return plain(cast("ExceptionGroup[Exception]", error).exceptions[0])
    return error


WAYS = pytest.mark.parametrize(
    ("way", "anyio_backend"),
    [("scope", "asyncio"), ("scope", "trio"), ("task", "asyncio")],
    ids=["asyncio-scope", "trio-scope", "asyncio-task"],
)
"""For a test that cancels in each way."""
