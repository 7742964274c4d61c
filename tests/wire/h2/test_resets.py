"""Resets: reset streams count until a PING is answered."""

from __future__ import annotations

from prefect_http._wire.h2.resets import MAX_RESETS, Resets, ping_answer


def test_one_ping_at_a_time() -> None:
    """A reset sends a PING; those that come before its answer wait for the next one."""
    resets = Resets()
    first = resets.add()
    assert (first[:9].hex(), resets.is_ping_pending) == ("000008060000000000", True)
    assert (resets.add(), resets.add(), resets.ping()) == (b"", b"", b"")
    assert resets.unconfirmed == 3
    second = resets.acknowledged(first[9:])
    assert (len(second), resets.unconfirmed) == (17, 2)
    assert resets.acknowledged(second[9:]) == b""
    assert (resets.unconfirmed, resets.is_ping_pending) == (0, False)


def test_foreign_answers() -> None:
    """6.7: an answer to no PING, or to another, means nothing."""
    resets = Resets()
    assert resets.acknowledged(bytes(8)) == b""
    ping = resets.ping()
    assert resets.acknowledged(b"\xff" * 8) == b""
    assert resets.is_ping_pending
    assert resets.acknowledged(ping[9:]) == b""
    assert not resets.is_ping_pending
    assert resets.acknowledged(ping[9:]) == b""
    assert resets.ping()[9:] != ping[9:]


def test_too_many() -> None:
    """After so many resets the connection should take no new streams."""
    resets = Resets()
    for _ in range(MAX_RESETS - 1):
        resets.add()
    assert not resets.are_too_many
    resets.add()
    assert resets.are_too_many


def test_answer() -> None:
    """6.7: a PING is answered with its own payload."""
    assert ping_answer(b"12345678") == bytes.fromhex("000008060100000000") + b"12345678"
