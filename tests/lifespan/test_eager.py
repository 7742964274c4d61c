"""Eager tasks, which asyncio has had since Python 3.12: they start to run before they are even scheduled."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest
from support.lifespan_apps import LIFESPAN, STARTED, Boom, CrashableApp, FakeApp, run_on_asyncio, steps

from prefect_http import LifespanCrashed, LifespanShutdownError, app_lifespan_context
from prefect_http._types import Receive, Scope, Send

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")


def test_hooks_run_once() -> None:
    """With eager tasks, hooks run once, around all bodies, as without."""
    app = FakeApp(startup=steps, shutdown=steps)

    async def user() -> None:
        async with app_lifespan_context(app):
            assert app.log[-2:] == ["startup", "up"]
            await steps()

    async def main() -> None:
        for _ in range(2):
            await asyncio.gather(*(user() for _ in range(5)))

    run_on_asyncio(main, eagerly=True)
    assert app.log == LIFESPAN * 2


def test_app_that_never_waits() -> None:
    """With eager tasks, an app may end before it has waited for anything."""

    async def raising(scope: Scope, receive: Receive, send: Send) -> None:
        raise Boom

    async def sending_at_once(scope: Scope, receive: Receive, send: Send) -> None:
        await send(STARTED)

    async def main() -> None:
        async with app_lifespan_context(raising) as lifespan:
            assert not lifespan.supported
        async with app_lifespan_context(sending_at_once) as lifespan:
            assert lifespan.supported

    run_on_asyncio(main, eagerly=True)


def test_failures() -> None:
    """With eager tasks, crashes, failed shutdowns and cancellations reach the right users."""

    async def fail() -> None:
        raise Boom

    async def hold(app: FakeApp) -> None:
        async with app_lifespan_context(app):
            await anyio.sleep_forever()

    async def main() -> None:
        app = CrashableApp()
        with pytest.raises(LifespanCrashed):
            async with app_lifespan_context(app), app_lifespan_context(app, cancel_on_crash=True):
                app.crash.set()
                await anyio.sleep_forever()
        with pytest.raises(LifespanShutdownError):
            async with app_lifespan_context(FakeApp(shutdown=fail)):
                await steps()
        stopped = FakeApp(shutdown=steps)
        task = asyncio.create_task(hold(stopped))
        await steps()
        task.cancel()
        await asyncio.wait([task])
        assert stopped.log == LIFESPAN

    run_on_asyncio(main, eagerly=True)
