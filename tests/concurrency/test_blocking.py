"""run_blocking(): in a thread, but not in virtual time."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from support.cancelled_groups import run_in_cancelled_group
from support.virtual_time import virtual_time_backend
from trio.testing import MockClock

from prefect_http._concurrency.blocking import run_blocking


async def _thread() -> int:
    return await run_blocking(threading.get_ident)


@pytest.mark.anyio
async def test_runs_in_a_thread() -> None:
    """What blocks does not block the event loop."""
    assert await _thread() != threading.get_ident()
    assert await _thread() != threading.get_ident()  # with the same limiter


@pytest.mark.anyio
async def test_where_anyio_sends_no_cancellation() -> None:
    """The task is cancelled all the same, and does not wait for that in a busy loop."""
    assert await run_in_cancelled_group(_thread)


def test_runs_in_place_in_virtual_time() -> None:
    """A clock that jumps would not wait for a thread."""
    for name in ("asyncio", "trio"):
        backend, options = virtual_time_backend(name)
        assert anyio.run(_thread, backend=backend, backend_options=options) == threading.get_ident()


def test_runs_in_a_thread_under_a_clock_that_does_not_jump() -> None:
    """A MockClock without a threshold is moved by hand."""
    assert trio.run(_thread, clock=MockClock(rate=1)) != threading.get_ident()


@pytest.mark.anyio
async def test_cancelled_before() -> None:
    """A function is not called if that is cancelled before."""
    calls: list[None] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_blocking(lambda: calls.append(None))
    assert scope.cancelled_caught
    assert not calls


@pytest.mark.anyio
async def test_does_not_wait_for_other_threads() -> None:
    """All threads that anyio lends may wait for what needs one."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, 1
    try:
        with anyio.fail_after(5):
            thread = await anyio.to_thread.run_sync(anyio.from_thread.run, _thread)
    finally:
        limiter.total_tokens = before
    assert thread != threading.get_ident()
