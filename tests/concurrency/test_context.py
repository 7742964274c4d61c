"""in_context(): what a coroutine sees and sets, and that it is otherwise awaited as usual."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any

import anyio
import outcome
import pytest
import trio
from anyio.lowlevel import checkpoint
from support.rows import each_row

from prefect_http._concurrency.context import in_context

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])

color: ContextVar[str] = ContextVar("color", default="none")


class Odd(BaseException):
    """A BaseException that is not an Exception."""


def nothing() -> None:
    """Do nothing."""


@types.coroutine
def ask(question: object) -> Generator[object, object, object]:
    """Yield a question to the event loop, and return its answer."""
    return (yield question)


def begin(
    coroutine: Coroutine[Any, Any, None], context: Context | None = None, on_wait: Callable[[], None] = nothing
) -> Coroutine[Any, Any, None]:
    """Return the awaiting of a coroutine in a context, for a test that acts as the event loop."""
    return in_context(copy_context() if context is None else context, coroutine, on_wait)


# Context variables.


@pytest.mark.anyio
async def test_sees_the_callers_variables() -> None:
    """In a copy of the caller's context, a coroutine sees what the caller had set, in each of its steps."""
    seen: list[str] = []

    async def look() -> None:
        seen.append(color.get())
        await checkpoint()
        seen.append(color.get())

    color.set("red")
    context = copy_context()
    color.set("green")
    await in_context(context, look(), nothing)
    assert seen == ["red", "red"]


@pytest.mark.anyio
async def test_sees_an_empty_context() -> None:
    """A coroutine sees only its context."""
    seen: list[str] = []

    async def look() -> None:
        seen.append(color.get())

    color.set("red")
    await in_context(Context(), look(), nothing)
    assert seen == ["none"]


@pytest.mark.anyio
async def test_keeps_what_it_sets() -> None:
    """What a coroutine sets lasts beyond its waits and is set in its context, but not for the caller."""
    seen: list[str] = []

    async def paint() -> None:
        for name in ("blue", "white"):
            color.set(name)
            await checkpoint()
            seen.append(color.get())
        color.set("black")

    color.set("red")
    context = copy_context()
    await in_context(context, paint(), nothing)
    assert (seen, context[color], color.get()) == (["blue", "white"], "black", "red")


@pytest.mark.anyio
async def test_resets_what_it_sets() -> None:
    """A token from before a wait is valid after it."""
    seen: list[str] = []

    async def paint() -> None:
        token = color.set("blue")
        await checkpoint()
        color.reset(token)
        seen.append(color.get())

    color.set("red")
    await in_context(copy_context(), paint(), nothing)
    assert seen == ["red"]


@pytest.mark.anyio
async def test_two_at_a_time() -> None:
    """Two coroutines that take turns each see their own context."""
    seen: dict[str, list[str]] = {"blue": [], "white": []}

    async def paint(name: str) -> None:
        color.set(name)
        for _ in range(5):
            await checkpoint()
            seen[name].append(color.get())

    async def run(name: str) -> None:
        await in_context(copy_context(), paint(name), nothing)
        assert color.get() == "red"

    color.set("red")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(run, "blue")
            group.start_soon(run, "white")
    assert seen == {"blue": ["blue"] * 5, "white": ["white"] * 5}


@pytest.mark.anyio
async def test_one_in_another() -> None:
    """A coroutine may await another in a context of its own."""
    seen: list[str] = []

    async def inner() -> None:
        color.set("white")
        await checkpoint()
        seen.append(color.get())

    async def outer() -> None:
        color.set("blue")
        await in_context(copy_context(), inner(), nothing)
        seen.append(color.get())

    color.set("red")
    await in_context(copy_context(), outer(), nothing)
    assert [*seen, color.get()] == ["white", "blue", "red"]


@pytest.mark.anyio
async def test_child_tasks() -> None:
    """The tasks that a coroutine starts get a copy of its context, not of the caller's."""
    seen: list[str] = []

    async def child() -> None:
        seen.append(color.get())
        color.set("black")
        await checkpoint()
        seen.append(color.get())

    async def parent() -> None:
        color.set("blue")
        async with anyio.create_task_group() as group:
            group.start_soon(child)
            await checkpoint()
            color.set("white")
            group.start_soon(child)
        seen.append(color.get())

    color.set("red")
    with anyio.fail_after(5):
        await in_context(copy_context(), parent(), nothing)
    assert sorted(seen) == ["black", "black", "blue", "white", "white"]
    assert color.get() == "red"


@pytest.mark.anyio
async def test_threads() -> None:
    """A thread that a coroutine waits for sees its context."""
    seen: list[str] = []

    async def ask_a_thread() -> None:
        color.set("blue")
        seen.append(await anyio.to_thread.run_sync(color.get))

    with anyio.fail_after(5):
        await in_context(copy_context(), ask_a_thread(), nothing)
    assert seen == ["blue"]


@pytest.mark.anyio
async def test_runs_in_the_callers_task() -> None:
    """A coroutine runs in the task that awaits it, within the same cancel scopes."""
    seen: list[object] = []

    async def look() -> None:
        seen.extend([anyio.get_current_task(), anyio.current_effective_deadline()])
        await checkpoint()
        seen.extend([anyio.get_current_task(), anyio.current_effective_deadline()])

    with anyio.fail_after(5):
        task, deadline = anyio.get_current_task(), anyio.current_effective_deadline()
        await in_context(copy_context(), look(), nothing)
    assert seen == [task, deadline] * 2


# Before the first wait.


@pytest.mark.anyio
async def test_never_waits() -> None:
    """The callback is not called for a coroutine that never waits."""
    log: list[str] = []

    async def write() -> None:
        log.append("step")

    await in_context(copy_context(), write(), lambda: log.append("waits"))
    assert log == ["step"]


@pytest.mark.anyio
async def test_before_the_first_wait() -> None:
    """The callback is called once, between the first step and the second, in the caller's context."""
    log: list[str] = []

    async def write() -> None:
        color.set("blue")
        for number in (1, 2, 3):
            log.append(f"step {number}")
            await checkpoint()

    color.set("red")
    await in_context(copy_context(), write(), lambda: log.append(f"waits in {color.get()}"))
    assert log == ["step 1", "waits in red", "step 2", "step 3"]


# Exceptions.


@pytest.mark.anyio
@each_row("waits", [0, 1, 2])
@each_row("error", [ZeroDivisionError(), Odd(), ExceptionGroup("", [OSError()])])
async def test_exceptions(error: BaseException, waits: int) -> None:
    """What a coroutine raises, before or after a wait, is raised unchanged; its context stays its own."""
    log: list[str] = []

    async def fail() -> None:
        color.set("blue")
        for _ in range(waits):
            await checkpoint()
        raise error

    color.set("red")
    with pytest.raises(type(error)) as caught:
        await in_context(copy_context(), fail(), lambda: log.append("waits"))
    assert caught.value is error
    assert color.get() == "red"
    assert log == ["waits"] * (waits > 0)


@pytest.mark.anyio
@pytest.mark.parametrize("waits", [0, 1])
async def test_stop_iteration(waits: int) -> None:
    """A coroutine that raises StopIteration has failed, as anywhere else."""

    async def fail() -> None:
        for _ in range(waits):
            await checkpoint()
        raise StopIteration

    with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
        await in_context(copy_context(), fail(), nothing)


# Cancellation.


@pytest.mark.anyio
async def test_cancellation() -> None:
    """A cancellation reaches the coroutine where it waits, in its context, and then the caller."""
    seen: list[str] = []

    async def wait() -> None:
        color.set("blue")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            seen.append(color.get())
            color.set("white")
            raise
        finally:
            seen.append(color.get())

    color.set("red")
    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            await in_context(copy_context(), wait(), scope.cancel)
    assert scope.cancelled_caught
    assert [*seen, color.get()] == ["blue", "white", "red"]


@pytest.mark.anyio
async def test_cancellation_inside() -> None:
    """A coroutine may cancel a part of itself and go on."""
    seen: list[str] = []

    async def wait() -> None:
        color.set("blue")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        seen.append(color.get())
        await checkpoint()
        seen.append(color.get())

    with anyio.fail_after(5):
        await in_context(copy_context(), wait(), nothing)
    assert seen == ["blue", "blue"]


@pytest.mark.anyio
async def test_unwinding_under_a_shield() -> None:
    """A cancelled coroutine may wait in a shielded scope before it lets the cancellation through."""
    log: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
                await checkpoint()
            log.append("unwound")

    with anyio.fail_after(5):
        with anyio.CancelScope() as scope:
            await in_context(copy_context(), wait(), scope.cancel)
    assert scope.cancelled_caught
    assert log == ["unwound"]


@asyncio_only
@pytest.mark.anyio
async def test_native_cancellation() -> None:
    """A native cancellation of the task, with its message, reaches the coroutine and the caller."""
    seen: list[object] = []

    async def wait() -> None:
        color.set("blue")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as error:
            seen.extend([color.get(), *error.args])
            raise

    task = asyncio.create_task(in_context(copy_context(), wait(), lambda: seen.append("waits")))
    await checkpoint()
    task.cancel("enough")
    with anyio.fail_after(5):
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
    assert seen == ["waits", "blue", "enough"]


# What the coroutine and the event loop exchange.


@asyncio_only
@pytest.mark.anyio
async def test_asyncio_futures() -> None:
    """The coroutine gets the result of a future, or its exception."""
    loop = asyncio.get_running_loop()
    good, bad = loop.create_future(), loop.create_future()
    seen: list[object] = []

    async def wait() -> None:
        seen.append(await good)
        try:
            await bad
        except ZeroDivisionError as error:
            seen.append(error)

    error = ZeroDivisionError()
    loop.call_soon(good.set_result, 5)
    loop.call_soon(loop.call_soon, bad.set_exception, error)
    with anyio.fail_after(5):
        await in_context(copy_context(), wait(), nothing)
    assert seen == [5, error]


@pytest.mark.trio
async def test_trio_outcomes(autojump_clock: trio.testing.MockClock) -> None:
    """The coroutine gets the value that its task is rescheduled with, or the exception."""
    seen: list[object] = []
    error = ZeroDivisionError()

    async def wait_for(result: outcome.Outcome[object]) -> object:
        trio.lowlevel.reschedule(trio.lowlevel.current_task(), result)
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    async def wait() -> None:
        seen.append(await wait_for(outcome.Value(5)))
        try:
            await wait_for(outcome.Error(error))
        except ZeroDivisionError as caught:
            seen.append(caught)
        await trio.sleep(7)
        seen.append(trio.current_time() - began)

    with trio.fail_after(30):
        began = trio.current_time()
        await in_context(copy_context(), wait(), nothing)
    assert seen == [5, error, 7.0]


def test_values_and_exceptions() -> None:
    """What the coroutine yields reaches the event loop unchanged, and the answer reaches the coroutine."""
    question, answer, error = object(), object(), Odd()
    seen: list[object] = []

    async def talk() -> None:
        seen.append(await ask(question))
        try:
            await ask("another")
        except Odd as caught:
            seen.append(caught)
        seen.append(await ask("a third"))

    loop = begin(talk())
    assert loop.send(None) is question
    assert loop.send(answer) == "another"
    assert loop.throw(error) == "a third"
    with pytest.raises(StopIteration):
        loop.send(None)
    assert seen == [answer, error, None]


@pytest.mark.parametrize("swallows", [False, True])
def test_exception_of_the_event_loop(swallows: bool) -> None:
    """A coroutine may end with the exception that the event loop throws into it, or swallow it and return."""
    error = Odd()

    async def wait() -> None:
        try:
            await ask("something")
        except Odd:
            if not swallows:
                raise

    loop = begin(wait())
    loop.send(None)
    with pytest.raises(StopIteration if swallows else Odd) as caught:
        loop.throw(error)
    assert swallows or caught.value is error


def test_closing() -> None:
    """Closing the awaiting closes the coroutine, in its context."""
    seen: list[str] = []

    async def wait() -> None:
        color.set("blue")
        try:
            await ask("something")
        except GeneratorExit:
            seen.append(color.get())
            raise

    loop = begin(wait())
    loop.send(None)
    loop.close()
    assert seen == ["blue"]
