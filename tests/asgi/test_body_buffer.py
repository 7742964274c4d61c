"""BodyBuffer: its order, its bound, and the tasks that wait for room."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._asgi.body_buffer import BodyBuffer


def filled(*chunks: bytes, limit: int = 4) -> BodyBuffer:
    """Return a buffer that holds some chunks."""
    buffer = BodyBuffer(limit)
    for chunk in chunks:
        buffer.put(chunk)
    return buffer


def test_first_in_first_out() -> None:
    """Chunks are taken one by one, in the order in which they were put; an empty buffer is false."""
    buffer = filled(b"a", b"bc", b"a")
    assert buffer
    assert [buffer.take() for _ in range(3)] == [b"a", b"bc", b"a"]
    assert not buffer
    assert buffer.size == 0
    with pytest.raises(IndexError):
        buffer.take()


@each_row(
    ("limit", "chunks", "is_full"),
    [
        (4, [], False),
        (4, [b"1234"], False),
        (4, [b"12", b"34"], False),
        (4, [b"1234", b"5"], True),
        (4, [b"12345"], True),
        (0, [], False),
        (0, [b"1"], True),
    ],
)
def test_is_full(limit: int, chunks: list[bytes], is_full: bool) -> None:
    """A buffer is full when it holds more than its limit, which one chunk may exceed."""
    buffer = filled(*chunks, limit=limit)
    assert (buffer.is_full, buffer.size) == (is_full, len(b"".join(chunks)))
    if chunks:
        buffer.take()
    assert buffer.is_full is False


@settings(max_examples=60)
@given(
    st.integers(0, 8),
    st.lists(st.binary(min_size=1, max_size=6) | st.sampled_from(["take", "clear"]), max_size=20),
)
def test_like_a_list(limit: int, steps: list[bytes | str]) -> None:
    """Whatever is done to it, a buffer holds what a list would, and knows its size."""
    buffer, expected = BodyBuffer(limit), list[bytes]()
    for step in steps:
        if isinstance(step, bytes):
            buffer.put(step)
            expected.append(step)
        elif step == "clear":
            buffer.clear()
            expected.clear()
        elif expected:
            assert buffer.take() == expected.pop(0)
        size = len(b"".join(expected))
        assert (bool(buffer), buffer.size, buffer.is_full) == (bool(expected), size, size > limit)


@pytest.mark.anyio
async def test_room_at_once() -> None:
    """A task that asks for room in a buffer that is not full goes on without letting other tasks run."""
    turns: list[int] = []

    async def count() -> None:
        turns.append(1)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await filled(b"1234").wait_for_room()
            assert not turns


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["take", "clear"])
async def test_all_waiting_tasks_are_woken(how: str) -> None:
    """As soon as a buffer is not full any more, all tasks that wait for room go on."""
    buffer, woken = filled(b"12345", b"67", b"89"), list[int]()

    async def wait(number: int) -> None:
        await buffer.wait_for_room()
        woken.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert not woken
            getattr(buffer, how)()
    assert sorted(woken) == [0, 1, 2]


@pytest.mark.anyio
async def test_waits_on_while_the_buffer_is_full() -> None:
    """A task waits on through chunks that make too little room, and if the room is gone when it wakes up."""
    buffer, woken = filled(b"12", b"34", b"567"), list[int]()

    async def wait() -> None:
        await buffer.wait_for_room()
        woken.append(buffer.size)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            buffer.take()
            assert buffer.is_full
            await anyio.wait_all_tasks_blocked()
            assert not woken
            buffer.take()
            assert not buffer.is_full
            buffer.put(b"89")
            await anyio.wait_all_tasks_blocked()
            assert not woken
            buffer.take()
    assert woken == [2]


@pytest.mark.anyio
async def test_cancelled_wait() -> None:
    """A cancelled wait leaves the other tasks waiting, and the buffer as it was."""
    buffer, woken = filled(b"12345"), list[int]()

    async def wait() -> None:
        await buffer.wait_for_room()
        woken.append(1)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await buffer.wait_for_room()
            assert scope.cancelled_caught
            await checkpoint()
            assert (woken, buffer.size) == ([], 5)
            buffer.take()
    assert woken == [1]
