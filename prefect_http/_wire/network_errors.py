"""Network failures: as httpx's errors, within a time limit; and closing a stream without waiting for the network."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import anyio
import httpx
from anyio.abc import ByteStream

from prefect_http._concurrency.backend import checkpoint_if_cancelled, new_cancel_scope
from prefect_http._concurrency.exception_groups import first_exception

T = TypeVar("T")

NETWORK_ERRORS = (
    anyio.BrokenResourceError,
    anyio.BusyResourceError,  # TLS may have to write in order to read, while another task is writing
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    OSError,
    UnicodeError,  # an invalid host name
    ssl.SSLError,
)


def reason_for(error: BaseException) -> str:
    """Return why the network failed, in words; anyio's errors often say it in their cause only."""
    if isinstance(error, anyio.ClosedResourceError):
        return "the connection was closed locally"
    if isinstance(error, anyio.EndOfStream):
        return "the other side closed the connection"
    cause = error.__cause__ or error
    if isinstance(cause, ExceptionGroup):  # a host with several addresses
        cause = first_exception(cast("ExceptionGroup[Exception]", cause))
    return str(cause) or type(cause).__name__


def forget_frames(error: BaseException) -> None:
    """Clear the local variables of the calls that an exception has ended, below the one that has caught it.

    anyio's sockets on trio, and trio's threads, raise an exception by the name of a variable. The variable's frame then
    refers to the exception, and the exception's traceback to the frame: a garbage cycle for each failure, with all that
    the request has used.
    """
    if error.__traceback__ is not None:
        traceback.clear_frames(error.__traceback__.tb_next)


async def close_forcefully(stream: ByteStream) -> None:
    """Close a stream without waiting for the network.

    Cancellation:
        Is shielded off.
    """
    with anyio.CancelScope(shield=True):
        await anyio.aclose_forcefully(stream)


async def with_timeout(
    seconds: float | None,
    do: Callable[[], Awaitable[T]],
    timed_out: type[httpx.TimeoutException],
    failed: type[httpx.NetworkError],
    failure: str,
    reason: Callable[[BaseException], str] = reason_for,
) -> T:
    """Do something with the network, and raise httpx's errors.

    Args:
        seconds: how long it may take; None: no limit.
        do: does it.
        timed_out: raised if it takes longer.
        failed: raised if the network fails.
        failure: what failed, for the message: ``"could not ..."``.
        reason: returns why.
    """
    scope = new_cancel_scope()
    if seconds is not None:
        scope.deadline = anyio.current_time() + seconds
    with scope:
        try:
            return await do()
        except NETWORK_ERRORS as error:
            forget_frames(error)
            raise failed(f"{failure}: {reason(error)}") from error
        except BaseException as error:
            forget_frames(error)
            raise
    await checkpoint_if_cancelled()  # anyio may have swallowed an outer cancellation as well
    raise timed_out(f"{failure} within {seconds:g} s")
