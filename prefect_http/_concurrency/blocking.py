"""Calling a function that blocks, such as one that writes to a file, without blocking the event loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from prefect_http._concurrency.backend import checkpoint, checkpoint_if_cancelled, clock

T = TypeVar("T")

# More threads would not make a disk faster.
_MAX_THREADS = 8
_limiters = anyio.lowlevel.RunVar[anyio.CapacityLimiter]("prefect_http.blocking")


async def run_blocking(function: Callable[[], T]) -> T:
    """Call a function in a worker thread; in virtual time, which cannot wait for threads, in this one.

    The threads are not those that anyio lends to everybody: these may all wait for what calls this.

    Args:
        function: what to call. It must end in bounded time.

    Cancellation:
        Takes effect before the call, or after it. Only a native cancellation of an asyncio task does not wait for the
        thread.
    """
    if _is_time_virtual():
        await checkpoint()
        return function()
    await checkpoint_if_cancelled()  # or under asyncio, the limiter might wait for a cancellation for ever
    return await anyio.to_thread.run_sync(function, limiter=_limiter())


def _is_time_virtual() -> bool:
    """Whether the clock jumps as soon as all tasks wait, without regard to threads.

    So it does under a trio.testing.MockClock with an autojump_threshold, and on the asyncio event loop of
    prefect_http.testing.
    """
    owner = getattr(clock(), "__self__", None)  # trio's clock, or asyncio's event loop
    return getattr(owner, "autojump_threshold", math.inf) < math.inf or getattr(owner, "is_time_virtual", False)


def _limiter() -> anyio.CapacityLimiter:
    limiter = _limiters.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _limiters.set(limiter)
    return limiter
