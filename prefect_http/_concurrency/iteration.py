"""Ending an iteration early."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from types import AsyncGeneratorType
from typing import Any, cast

import anyio

# How many chunks a stream may hold that it can yield without waiting for the network: httpcore holds one or two.
_BUFFERED_CHUNKS = 16


async def end_iteration(chunks: AsyncIterator[bytes]) -> None:
    """End the iteration over a stream early, and close its generators.

    httpx and httpcore read through generators within generators. Closing the outermost one would leave the others to
    the garbage collector, which trio warns about. A cancellation reaches the innermost one, and so all of them.
    """
    with anyio.CancelScope() as scope, contextlib.suppress(Exception):
        scope.cancel()
        await cancel_iteration(chunks)


async def cancel_iteration(chunks: AsyncIterator[bytes]) -> None:
    """Let a cancellation that is already in effect reach a stream, and everything that it reads from."""
    for _ in range(_BUFFERED_CHUNKS):
        if await anext(chunks, None) is None:
            return
    if isinstance(chunks, AsyncGenerator):  # it yields chunks endlessly, without ever waiting
        await _close(cast("AsyncGenerator[Any]", chunks))


async def _close(generator: AsyncGenerator[Any]) -> None:
    """Close a generator, and then those that it is reading from, whatever they do at their end."""
    # Nothing else knows the iterator of an `async for` that is suspended.
    referents: list[Any] = gc.get_referents(generator)
    read: list[AsyncGeneratorType[Any, Any]] = [each for each in referents if isinstance(each, AsyncGeneratorType)]
    try:
        await generator.aclose()
    finally:
        for each in read:
            if not each.ag_running:  # by another task
                await _close(each)
