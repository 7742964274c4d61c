"""Ending an iteration early."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

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
        await cast("AsyncGenerator[bytes]", chunks).aclose()
