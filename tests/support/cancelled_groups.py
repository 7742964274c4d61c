"""A task for which anyio sends no cancellation by itself under asyncio, and to which a busy loop would be fatal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from support.scripted_servers import settle


async def run_in_cancelled_group(do: Callable[[], Awaitable[object]]) -> bool:
    """Do something in a task that a shielded cleanup starts in a group which has been cancelled.

    Returns:
        Whether that was cancelled.
    """
    was_cancelled = False
    has_ended = anyio.Event()

    async def run() -> None:
        nonlocal was_cancelled
        try:
            await do()
        except anyio.get_cancelled_exc_class():
            was_cancelled = True
            raise
        finally:
            has_ended.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True):
            tasks.cancel_scope.cancel()
            await settle()
            tasks.start_soon(run)
            with anyio.fail_after(5):
                await has_ended.wait()
    return was_cancelled
