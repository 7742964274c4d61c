"""Where the network fails: a time limit, what a broken connection raises as httpx's errors, and closing a stream."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import anyio
import anyio.lowlevel
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import new_cancel_scope

T = TypeVar("T")

BROKEN = (
    anyio.BrokenResourceError,
    anyio.BusyResourceError,  # TLS may have to write in order to read, while another task is writing
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    OSError,
    UnicodeError,  # a host name that is none
    ssl.SSLError,
)


def why(error: BaseException) -> str:
    """Say in words why the network failed: anyio's errors often say it in their cause only."""
    if isinstance(error, anyio.ClosedResourceError):
        return "it has been closed from this side"
    cause = error.__cause__ or error
    if isinstance(cause, ExceptionGroup):  # a host has several addresses
        cause = cast("ExceptionGroup[Exception]", cause).exceptions[0]
    return str(cause) or type(cause).__name__


async def close_at_once(stream: ByteStream) -> None:
    """Close a stream, whatever is cancelled; that does not wait for the network."""
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)


async def within(
    seconds: float | None,
    do: Callable[[], Awaitable[T]],
    timed_out: type[httpx.TimeoutException],
    failed: type[httpx.NetworkError],
    failure: str,
) -> T:
    """Do something with the network.

    Args:
        seconds: how long it may take; None: any time.
        do: does it.
        timed_out: raised if it takes longer.
        failed: raised if the network fails.
        failure: what has failed then, for the message.
    """
    scope = new_cancel_scope()
    if seconds is not None:
        scope.deadline = anyio.current_time() + seconds
    with scope:
        try:
            return await do()
        except BROKEN as error:
            raise failed(f"{failure}: {why(error)}") from error
    await anyio.lowlevel.checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
    raise timed_out(f"{failure} within {seconds:g} s")
