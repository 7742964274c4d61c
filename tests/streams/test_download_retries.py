"""Counting breaks and restarts."""

from __future__ import annotations

from prefect_http._streams.download_retries import DownloadRetries


def test_breaks_without_progress() -> None:
    """Only breaks in a row without progress are counted."""
    retries = DownloadRetries(0)
    assert [retries.note_break(size) for size in (0, 0, 10, 10, 10, 11, 11)] == [1, 2, 0, 1, 2, 0, 1]


def test_getting_no_further_is_no_progress() -> None:
    """A server that cannot continue, and breaks off again and again, makes no progress."""
    retries = DownloadRetries(0)
    assert retries.note_break(10) == 0
    assert retries.note_restart(is_other_version=False) == 1
    assert [retries.note_break(size) for size in (5, 10, 12)] == [1, 2, 0]


def test_another_version() -> None:
    """How far it got in an earlier version of the file does not count."""
    retries = DownloadRetries(0)
    retries.note_break(10)
    retries.note_restart(is_other_version=True)
    assert retries.note_break(5) == 0


def test_what_an_earlier_download_left() -> None:
    """It has to get further than that, and to drop it is free."""
    retries = DownloadRetries(10)
    assert [retries.note_break(size) for size in (10, 11)] == [1, 0]
    assert [retries.note_restart(is_other_version=True) for _ in range(3)] == [0, 1, 2]
