"""EarlyWriteback: of what the system is told, and when."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from prefect_http._streams import early_writeback
from prefect_http._streams.early_writeback import EarlyWriteback
from prefect_http._streams.part_file import PartFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes this advice")
ETAG = '"v1"'


@pytest.fixture
def advice(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list of the ranges that are to be written, with a step of 10 bytes."""
    ranges: list[tuple[int, int]] = []

    def advise(_: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        ranges.append((start, start + length))

    monkeypatch.setattr(early_writeback, "_STEP", 10)
    monkeypatch.setattr(os, "posix_fadvise", advise)
    return ranges


def test_steps(tmp_path: Path, advice: list[tuple[int, int]]) -> None:
    """Each byte is handed over once, and not before there are enough of them."""
    writeback = EarlyWriteback(3)
    with (tmp_path / "f").open("wb") as file:
        for size in (3, 12, 13, 14, 22, 40, 41):
            writeback.note_size(file, size)
    assert advice == [(3, 13), (13, 40)]


def test_part_of_a_file(tmp_path: Path, advice: list[tuple[int, int]]) -> None:
    """A part hands over what is added to it, also when it is continued, or begins anew."""
    part = PartFile(tmp_path / "f", "a", overwrite=False, with_digest=False)
    assert part.open()
    part.begin(ETAG, 100)
    for _ in range(3):
        part.write([b"12345", b"678"])
    part.close()
    assert advice == [(0, 16)]
    part = PartFile(tmp_path / "f", "a", overwrite=False, with_digest=False)
    assert part.open()
    part.write([b"1234567890"])
    part.begin(ETAG, 100)
    part.write([b"12345678901"])
    part.close()
    assert advice[1:] == [(24, 34), (0, 11)]


def test_it_is_only_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not take it gets the file all the same."""

    def refuse(*_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(early_writeback, "_STEP", 1)
    monkeypatch.setattr(os, "posix_fadvise", refuse)
    part = PartFile(tmp_path / "f", "a", overwrite=False, with_digest=False)
    assert part.open()
    part.begin(ETAG, 10)
    part.write([b"1234567890"])
    part.finish()
    part.close()
    assert (tmp_path / "f").read_bytes() == b"1234567890"
