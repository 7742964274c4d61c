"""Contexts that nest, overlap and interleave, in one task and in several, and that are left anywhere."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anyio
import anyio.abc
import pytest
from support.lifespan_apps import LIFESPAN, FakeApp, nothing_left, steps, wrapped
from support.rows import each_row

from prefect_http import Lifespan, app_lifespan_context
from prefect_http._types import ASGIApp

pytestmark = pytest.mark.anyio

ORDERS = list(itertools.permutations(range(3)))


async def hold(app: ASGIApp, until: anyio.Event, *, held: anyio.Event | None = None) -> None:
    """Hold an app until an event."""
    async with app_lifespan_context(app):
        if held is not None:
            held.set()
        await until.wait()


async def test_nested() -> None:
    """Contexts that nest are one lifespan; the outermost ends it."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with app_lifespan_context(app):
            for _ in range(2):
                async with app_lifespan_context(app), app_lifespan_context(app):
                    assert app.log == ["startup", "up"]
                await steps()
            assert app.log == ["startup", "up"]
        assert app.log == LIFESPAN


@each_row("order", ORDERS)
async def test_left_in_any_order(order: tuple[int, ...]) -> None:
    """Contexts that interleave in one task are one lifespan, whatever the order; the last to leave ends it."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        contexts = [app_lifespan_context(app) for _ in order]
        for context in contexts:
            await context.__aenter__()
        for count, number in enumerate(order, 1):
            await steps()
            assert app.log == ["startup", "up"]
            await contexts[number].__aexit__(None, None, None)
            assert app.log == (LIFESPAN if count == len(order) else ["startup", "up"])


@each_row("order", ORDERS)
async def test_tasks_leave_in_any_order(order: tuple[int, ...]) -> None:
    """Contexts that overlap across tasks are one lifespan, also when the task that entered first leaves first."""
    app = FakeApp(startup=steps)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            ends = [anyio.Event() for _ in order]
            for end in ends:
                group.start_soon(hold, app, end)
                await steps(3)
            await steps(60)
            for number in order:
                assert app.log == ["startup", "up"]
                ends[number].set()
                await steps()
    assert app.log == LIFESPAN


async def test_two_apps_interleave() -> None:
    """Contexts of two apps may be left in the order in which they were entered; they are independent."""
    log: list[str] = []
    first, second = FakeApp(log=log, name="a"), FakeApp(log=log, name="b")
    with anyio.fail_after(30), nothing_left():
        one, other = app_lifespan_context(first), app_lifespan_context(second)
        await one.__aenter__()
        await other.__aenter__()
        await one.__aexit__(None, None, None)
        await steps()
        assert log == ["a startup", "a up", "b startup", "b up", "a shutdown", "a down"]
        await other.__aexit__(None, None, None)
    assert log[6:] == ["b shutdown", "b down"]


async def test_left_in_another_task() -> None:
    """A context may be left in another task than it was entered in, after that one has ended."""
    app = FakeApp()
    context = app_lifespan_context(app)

    async def enter() -> None:
        await context.__aenter__()

    async def leave() -> None:
        await context.__aexit__(None, None, None)

    with anyio.fail_after(30), nothing_left():
        for step in (enter, leave):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
            await steps()
    assert app.log == LIFESPAN


@pytest.mark.parametrize("around", ["fail_after", "task_group"])
async def test_outlives_the_scope_it_was_entered_in(around: str) -> None:
    """A context entered by hand inside a timeout or a task group may be left when that is long over."""
    app = FakeApp()
    context = app_lifespan_context(app)
    with anyio.fail_after(30), nothing_left():
        if around == "fail_after":
            with anyio.fail_after(1):
                await context.__aenter__()
        else:
            async with anyio.create_task_group():
                await context.__aenter__()
        await steps()
        assert app.log == ["startup", "up"]
        await context.__aexit__(None, None, None)
    assert app.log == LIFESPAN


async def test_outlives_a_cancelled_scope() -> None:
    """The end of a cancelled scope does not touch a context that was entered in it and is left after it."""
    app = FakeApp()
    context = app_lifespan_context(app)
    with anyio.fail_after(30), nothing_left():
        with anyio.CancelScope() as scope:
            await context.__aenter__()
            scope.cancel()
            await anyio.sleep_forever()
        await steps()
        assert app.log == ["startup", "up"]
        await context.__aexit__(None, None, None)
    assert app.log == LIFESPAN


async def test_exit_stack() -> None:
    """A context may be handed to an exit stack, moved to another one, and closed in another task."""
    app = FakeApp()
    with anyio.fail_after(30), nothing_left():
        async with AsyncExitStack() as stack:
            with anyio.fail_after(1):
                lifespan = await stack.enter_async_context(app_lifespan_context(app))
            assert lifespan.app is app
            moved = stack.pop_all()
        assert app.log == ["startup", "up"]
        async with anyio.create_task_group() as group:
            group.start_soon(moved.aclose)
    assert app.log == LIFESPAN


async def test_wrapped_contexts_interleave() -> None:
    """Contexts inside async generators may be left in any order, and outlive the scope they were entered in."""
    log: list[str] = []
    one, other = wrapped(FakeApp(log=log, name="a")), wrapped(FakeApp(log=log, name="b"))
    with anyio.fail_after(30), nothing_left():
        with anyio.fail_after(1):
            await one.__aenter__()
            await other.__aenter__()
        await one.__aexit__(None, None, None)
        await other.__aexit__(None, None, None)
    assert log == [f"{name} {line}" for lines in (LIFESPAN[:2], LIFESPAN[2:]) for name in "ab" for line in lines]


async def test_generator_finished_by_another_task() -> None:
    """A context inside an async generator may be left in another task, the one that finishes the generator."""
    app = FakeApp()

    async def lifespans() -> AsyncIterator[Lifespan]:
        async with app_lifespan_context(app) as lifespan:
            yield lifespan

    generator = lifespans()

    async def begin() -> None:
        with anyio.fail_after(1):
            await anext(generator)

    async def finish() -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

    with anyio.fail_after(30), nothing_left():
        for step in (begin, finish):
            async with anyio.create_task_group() as group:
                group.start_soon(step)
    assert app.log == LIFESPAN


async def test_entered_while_the_last_is_leaving() -> None:
    """Users that enter during the shutdown wait for its end, and share a new lifespan with all its hooks."""
    go_on, left = anyio.Event(), anyio.Event()
    app = FakeApp(shutdown=go_on.wait)
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            held = anyio.Event()
            group.start_soon(hold, app, left)
            await steps()
            left.set()
            await steps()
            assert app.log == ["startup", "up", "shutdown"]
            for _ in range(2):
                group.start_soon(lambda: hold(app, left, held=held))
            await steps()
            assert app.log == ["startup", "up", "shutdown"]
            assert not held.is_set()
            go_on.set()
            await held.wait()
    assert app.log == LIFESPAN * 2


@each_row("delay", range(12))
async def test_entered_around_the_last_ones_leave(delay: int) -> None:
    """A user that enters while the last one leaves shares its lifespan or gets a new one, never a broken one."""
    app = FakeApp(startup=steps, shutdown=steps)
    bodies: list[list[str]] = []

    async def enter_late() -> None:
        await steps(delay)
        async with app_lifespan_context(app):
            bodies.append(app.log[-1:])
            await steps(3)
            bodies.append(app.log[-1:])

    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            async with app_lifespan_context(app):
                group.start_soon(enter_late)
                await steps(4)
    assert app.log in (LIFESPAN, LIFESPAN * 2)
    assert bodies == [["up"]] * 2


async def test_crowd_starts_it_once() -> None:
    """However many users enter at once, the app is started once, and all wait for it."""
    app = FakeApp(startup=steps)
    end = anyio.Event()
    with anyio.fail_after(30), nothing_left():
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(hold, app, end)
            await steps(60)
            end.set()
    assert app.log == LIFESPAN
