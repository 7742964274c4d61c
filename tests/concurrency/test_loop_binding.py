"""An object is bound to one event loop, and knows its clock."""

from __future__ import annotations

import asyncio

import pytest
import trio
from trio.testing import MockClock

from prefect_http._concurrency.loop_binding import LoopBinding


async def bind() -> LoopBinding:
    """Return a binding to the running event loop."""
    binding = LoopBinding()
    assert binding.is_current()
    return binding


async def ask(binding: LoopBinding) -> bool:
    """Return whether the event loop is that of a binding."""
    return binding.is_current()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_it_is_current_in_its_own_loop_only(backend: str) -> None:
    """Not in another one of the same backend, not under the other backend, and not without any."""
    binding = trio.run(bind) if backend == "trio" else asyncio.run(bind())
    assert not binding.is_current()
    assert not trio.run(ask, binding)
    assert not asyncio.run(ask(binding))


def test_the_clock_is_that_of_the_loop() -> None:
    """Under trio, a virtual clock is followed."""
    clock = MockClock()

    async def main() -> float:
        binding = LoopBinding()
        start = binding.now()
        clock.jump(3600)
        return binding.now() - start

    assert trio.run(main, clock=clock) == 3600
