"""BodyQueue: windows, frame sizes, and turns."""

from __future__ import annotations

import pytest
from support.h2_frames import DATA, END_STREAM, frames_in

from prefect_http._wire.h2.body_queue import BodyQueue
from prefect_http._wire.h2.stream import Stream


def upload(number: int, window: int = 100) -> Stream:
    """Return a stream that can send so many bytes."""
    return Stream(number, b"POST", window, 0, lambda: None)


def framed(queue: BodyQueue, max_body: int = 10_000) -> list[tuple[int, int, bool]]:
    """Frame what can be framed; return streams, sizes, and whether they end."""
    out = bytearray()
    queue.frame_into(out, max_body)
    frames = frames_in(bytes(out))
    assert {frame.kind for frame in frames} <= {DATA}
    return [(frame.stream_id, len(frame.payload), frame.flags == END_STREAM) for frame in frames]


@pytest.fixture
def queue() -> BodyQueue:
    """Return a queue with small frames."""
    queue = BodyQueue()
    queue.window, queue.max_frame = 1000, 10
    return queue


def test_turns(queue: BodyQueue) -> None:
    """Streams take turns, a frame at a time, and a stream that is queued later gets its turn at once."""
    queue.add(upload(1), bytes(35))
    queue.add(upload(3), bytes(15))
    assert framed(queue, 30) == [(1, 10, False), (3, 10, False), (1, 10, False)]
    queue.add(upload(5), bytes(1))
    assert framed(queue) == [(3, 5, False), (1, 10, False), (5, 1, False), (1, 5, False)]
    assert not queue


def test_stream_window(queue: BodyQueue) -> None:
    """6.9: a stream whose window is used up holds up no other, and goes on when it is given more."""
    stuck, free = upload(1, 15), upload(3)
    queue.add(stuck, bytes(20))
    queue.add(free, bytes(30))
    assert framed(queue) == [(1, 10, False), (3, 10, False), (1, 5, False), (3, 10, False), (3, 10, False)]
    assert (stuck.unsent, stuck.send_window, bool(queue)) == (5, 0, False)
    stuck.send_window += 100
    queue.update(stuck)
    queue.update(stuck)
    assert framed(queue) == [(1, 5, False)]


def test_connection_window(queue: BodyQueue) -> None:
    """6.9: nothing goes beyond the connection's window."""
    queue.window = 25
    queue.add(upload(1), bytes(20))
    queue.add(upload(3), bytes(20))
    assert framed(queue) == [(1, 10, False), (3, 10, False), (1, 5, False)]
    assert (queue.window, bool(queue)) == (0, False)
    queue.window += 100
    assert framed(queue) == [(3, 10, False), (1, 5, False)]


def test_negative_window(queue: BodyQueue) -> None:
    """6.9.2: nothing is sent while a window is negative, whether the stream was queued before or after."""
    first, second = upload(1), upload(3, -5)
    queue.add(first, bytes(5))
    queue.add(second, bytes(5))
    first.send_window = -10
    queue.update_all([first, second])
    assert not queue
    assert framed(queue) == []
    first.send_window = second.send_window = 5
    queue.update_all([first, second])
    assert framed(queue) == [(1, 5, False), (3, 5, False)]


def test_update_all_keeps_turns(queue: BodyQueue) -> None:
    """Streams that can still send keep their turns when all windows change."""
    streams = [upload(1), upload(3), upload(5)]
    for stream in streams:
        queue.add(stream, bytes(15))
    assert framed(queue, 10) == [(1, 10, False)]
    streams[2].send_window = 0
    queue.update_all(streams)
    assert framed(queue) == [(3, 10, False), (1, 5, False), (3, 5, False)]


def test_end(queue: BodyQueue) -> None:
    """6.1: the last frame of a body ends the stream, and no frame before it does."""
    stream = upload(1)
    stream.ends_request = True
    queue.add(stream, bytes(20))
    out = bytearray()
    assert queue.frame_into(out, 10) == []
    assert queue.frame_into(out, 10) == [stream]
    assert [frame.flags for frame in frames_in(bytes(out))] == [0, END_STREAM]


def test_add_twice(queue: BodyQueue) -> None:
    """What is added to a part that has not been sent follows it."""
    stream = upload(1)
    queue.add(stream, b"abcdefghijklmno")
    out = bytearray()
    queue.frame_into(out, 10)
    queue.add(stream, b"pqr")
    queue.frame_into(out, 10)
    assert [frame.payload for frame in frames_in(bytes(out))] == [b"abcdefghij", b"klmnopqr"]


def test_drop(queue: BodyQueue) -> None:
    """A body that is dropped is not sent, and leaves nothing."""
    stream, other = upload(1), upload(3)
    queue.add(stream, bytes(5))
    queue.add(other, bytes(5))
    queue.drop(stream)
    queue.drop(stream)
    assert framed(queue) == [(3, 5, False)]
    assert (stream.unsent, bytes(stream.outgoing)) == (0, b"")
