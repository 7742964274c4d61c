"""An object is bound to one event loop at a time."""

import asyncio

import pytest
import trio
from trio.testing import MockClock

from prefect_http._concurrency.loop_binding import LoopBinding


async def _bind(binding: LoopBinding) -> None:
    assert not binding.is_current()
    binding.bind()
    assert binding.is_current()


@pytest.mark.parametrize("order", ["trio, asyncio", "asyncio, trio"])
def test_a_binding_knows_the_loops_of_both_backends_apart(order: str) -> None:
    """Under the other backend, and without any, it is not current; and it can be bound again."""
    binding = LoopBinding()
    assert binding.loop is None
    for backend in order.split(", "):
        if backend == "trio":
            trio.run(_bind, binding)
        else:
            asyncio.run(_bind(binding))
        assert not binding.is_current()


def test_the_clock_is_that_of_the_loop() -> None:
    """Under trio, a virtual clock is followed."""
    clock = MockClock()
    binding = LoopBinding()

    async def main() -> tuple[float, float]:
        binding.bind()
        start = binding.now()
        clock.jump(3600)
        return start, binding.now()

    start, end = trio.run(main, clock=clock)
    assert end - start == 3600
