"""Ending an iteration before it is through."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import anyio

# How many chunks a stream may have in store, to give without waiting for the network: httpcore has one or two.
_CHUNKS_AT_HAND = 16


async def end_iteration(chunks: AsyncIterator[bytes]) -> None:
    """End the reading of a stream before it is through.

    httpx and httpcore read through generators within generators. Closing the outermost would leave the others
    to the garbage collector, which trio complains about. A cancellation reaches the innermost, and so all.
    """
    with anyio.CancelScope() as scope, contextlib.suppress(Exception):
        scope.cancel()
        await cancel_iteration(chunks)


async def cancel_iteration(chunks: AsyncIterator[bytes]) -> None:
    """Have a cancellation that is in force reach a stream, and all that it reads from."""
    for _ in range(_CHUNKS_AT_HAND):
        if await anext(chunks, None) is None:
            return
    if isinstance(chunks, AsyncGenerator):  # one that has chunks without end, and never waits
        await cast("AsyncGenerator[bytes]", chunks).aclose()
