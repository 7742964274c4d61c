"""WriteBuffer: what it holds, and for how long."""

from __future__ import annotations

from prefect_http._streams.write_buffer import WriteBuffer


def test_fills_up() -> None:
    """Data is held in its order, up to the last byte that there is room for."""
    buffer = WriteBuffer(5)
    assert [buffer.add(data) for data in (b"12", b"", b"345", b"", b"6")] == [True, True, True, True, False]
    assert bytes(buffer.take()) == b"12345"


def test_data_without_room() -> None:
    """Of data that does not fit, nothing is held, and what is there stays."""
    buffer = WriteBuffer(5)
    assert not buffer.add(b"123456")
    assert bytes(buffer.take()) == b""
    assert buffer.add(b"123")
    assert not buffer.add(b"456")
    assert bytes(buffer.take()) == b"123"


def test_begins_anew() -> None:
    """What has been taken is no longer there, and its memory is used again."""
    buffer = WriteBuffer(5)
    assert bytes(buffer.take()) == b""
    assert buffer.add(b"12345")
    first = buffer.take()
    assert bytes(buffer.take()) == b""
    assert bytes(first) == b"12345"
    assert buffer.add(b"678")
    assert bytes(buffer.take()) == b"678"
    assert bytes(first) == b"67845"
