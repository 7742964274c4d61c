"""Ending iterations early leaves no generator to the garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
from support.rows import each_row

from prefect_http._concurrency.iteration import end_iteration

pytestmark = pytest.mark.anyio


@contextmanager
def nothing_is_left() -> Iterator[None]:
    """Fail if the garbage collector finds a generator that has not ended."""
    left: list[str] = []
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(hooks.firstiter, lambda generator: left.append(repr(generator)))
    try:
        yield
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert left == []


async def ready(ended: list[str]) -> AsyncGenerator[bytes]:
    """Yield chunks for ever, without waiting."""
    try:
        while True:
            yield b"chunk"
    finally:
        ended.append("ready")


async def waiting(ended: list[str]) -> AsyncGenerator[bytes]:
    """Yield a chunk, and wait for ever."""
    try:
        yield b"chunk"
        await anyio.sleep_forever()
    finally:
        ended.append("waiting")


async def passed_on(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield what another iterator yields."""
    async for chunk in chunks:
        yield chunk


async def failing(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Pass chunks on, and raise an exception when that is ended."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        raise ValueError


async def lingering(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Pass chunks on, and wait when that is ended."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        await anyio.sleep(1)


class Stream:
    """An iterable around another one, as the streams of httpx are."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async for chunk in self._chunks:
            yield chunk


def in_streams(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Return an iterator over a stream of a stream."""
    return aiter(Stream(aiter(Stream(chunks))))


@each_row("read", [1, 3])
@each_row("around", [passed_on, failing, lingering, in_streams, lambda chunks: passed_on(passed_on(passed_on(chunks)))])
@each_row("source", [ready, waiting])
async def test_all_generators_are_ended(
    source: Callable[[list[str]], AsyncGenerator[bytes]],
    around: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]],
    read: int,
) -> None:
    """Generators within generators are ended, whether they ever wait or not, and whatever they do at their end."""
    ended: list[str] = []
    with nothing_is_left(), anyio.fail_after(1):
        chunks = around(source(ended))
        for _ in range(read if source is ready else 1):
            assert await anext(chunks) == b"chunk"
        await end_iteration(chunks)
        assert ended == [source.__name__]
        del chunks


async def test_what_another_task_reads_is_left_alone() -> None:
    """A generator that is only known to the one that is ended, while a task is reading from it, is not ended."""

    async def beside(other: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        while True:
            yield repr(other).encode()

    ended: list[str] = []
    with anyio.fail_after(1):
        other = waiting(ended)
        await anext(other)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, other)
            await anyio.wait_all_tasks_blocked()
            chunks = beside(other)
            await anext(chunks)
            await end_iteration(chunks)
            assert ended == []
            tasks.cancel_scope.cancel()
    assert ended == ["waiting"]
