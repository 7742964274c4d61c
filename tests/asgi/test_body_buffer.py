"""The queue of what an app has sent and nobody has read: its order, its bound, and who waits for room in it."""

from __future__ import annotations

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from prefect_http._asgi.body_buffer import BodyBuffer


def filled(*chunks: bytes, limit: int = 4) -> BodyBuffer:
    """Make a queue with something in it."""
    queue = BodyBuffer(limit)
    for chunk in chunks:
        queue.put(chunk)
    return queue


def test_new() -> None:
    """A new queue is empty and has room."""
    queue = BodyBuffer(4)
    assert not queue
    assert (queue.limit, queue.size, queue.is_full) == (4, 0, False)


def test_first_in_first_out() -> None:
    """BodyBuffer come out one by one, as they went in."""
    queue = filled(b"a", b"bc", b"a")
    assert queue
    assert [queue.take() for _ in range(3)] == [b"a", b"bc", b"a"]
    assert not queue
    assert queue.size == 0


@pytest.mark.parametrize(
    ("chunks", "is_full"),
    [([], False), ([b"1234"], False), ([b"12", b"34"], False), ([b"1234", b"5"], True), ([b"12345"], True)],
)
def test_is_full(chunks: list[bytes], is_full: bool) -> None:
    """A queue is full when it holds more than its limit, which one chunk may exceed."""
    queue = filled(*chunks)
    assert (queue.is_full, queue.size) == (is_full, len(b"".join(chunks)))


def test_limit_of_zero() -> None:
    """A queue with a limit of 0 is full as soon as anything is in it."""
    queue = filled(b"a", limit=0)
    assert queue.is_full
    queue.take()
    assert not queue.is_full


def test_limit_may_change() -> None:
    """Who raises the limit of a full queue makes room in it."""
    queue = filled(b"12345")
    queue.limit = 5
    assert not queue.is_full


@pytest.mark.parametrize(("chunks", "whole"), [([], b""), ([b"a"], b"a"), ([b"a", b"bc", b"d"], b"abcd")])
def test_take_all(chunks: list[bytes], whole: bytes) -> None:
    """All that is there comes out as one, and leaves the queue empty."""
    queue = filled(*chunks)
    assert queue.take_all() == whole
    assert not queue
    assert queue.size == 0


def test_clear() -> None:
    """What is thrown away is gone, and leaves room."""
    queue = filled(b"12345", b"6")
    queue.clear()
    assert not queue
    assert (queue.size, queue.is_full) == (0, False)


def test_take_from_an_empty_queue() -> None:
    """There is nothing to take from an empty queue."""
    with pytest.raises(IndexError):
        BodyBuffer(4).take()


@given(
    st.integers(0, 8),
    st.lists(st.binary(min_size=1, max_size=6) | st.sampled_from(["take", "take_all", "clear"]), max_size=20),
)
def test_like_a_list(limit: int, steps: list[bytes | str]) -> None:
    """Whatever is done to it, a queue holds what a list would, and knows how much that is."""
    queue, expected = BodyBuffer(limit), list[bytes]()
    for step in steps:
        match step:
            case bytes():
                queue.put(step)
                expected.append(step)
            case "take":
                if expected:
                    assert queue.take() == expected.pop(0)
            case "take_all":
                assert queue.take_all() == b"".join(expected)
                expected.clear()
            case _:
                queue.clear()
                expected.clear()
        size = len(b"".join(expected))
        assert (bool(queue), queue.size, queue.is_full) == (bool(expected), size, size > limit)


@pytest.mark.anyio
async def test_room_at_once() -> None:
    """Who asks for room where there is some goes on in the same turn of the event loop."""
    turns: list[int] = []

    async def count() -> None:
        turns.append(1)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await filled(b"1234").wait_for_room()
            assert not turns


@pytest.mark.trio
async def test_waits_until_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for room is woken by the chunk that makes some, and not by those before it."""
    queue, had_room = filled(b"12345", b"67", b"89"), trio.Event()

    async def wait() -> None:
        await queue.wait_for_room()
        had_room.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            assert not had_room.is_set()
            assert queue.take() == b"12345"
            await wait_all_tasks_blocked()
            assert had_room.is_set()
    assert queue.size == 4


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["take", "take_all", "clear"])
async def test_everyone_who_waits_is_woken(how: str) -> None:
    """Room is news for all who wait for it, however it came about."""
    queue, woken = filled(b"12345"), list[int]()

    async def wait(number: int) -> None:
        await queue.wait_for_room()
        woken.append(number)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert not woken
            getattr(queue, how)()
    assert sorted(woken) == [0, 1, 2]


@pytest.mark.anyio
async def test_room_that_is_gone_again() -> None:
    """Who is woken when the room has been taken meanwhile waits for the next."""
    queue, woken = filled(b"12345"), list[int]()

    async def wait() -> None:
        await queue.wait_for_room()
        woken.append(queue.size)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            queue.take()
            queue.put(b"67890")
            await anyio.wait_all_tasks_blocked()
            assert not woken
            queue.take()
    assert woken == [0]


@pytest.mark.anyio
async def test_cancelled_waiting() -> None:
    """Who gives up waiting leaves the others waiting, and the queue as it was."""
    queue, woken = filled(b"12345"), list[int]()

    async def wait() -> None:
        await queue.wait_for_room()
        woken.append(1)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await queue.wait_for_room()
            assert scope.cancelled_caught
            await checkpoint()
            assert (woken, queue.size) == ([], 5)
            queue.take()
    assert woken == [1]
