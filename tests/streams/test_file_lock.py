"""A file that only one may have open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from prefect_http._streams.file_lock import close_locked, open_locked, remove_locked

fcntl = pytest.importorskip("fcntl", reason="Windows locks files in another way")


def test_second_one_is_refused(tmp_path: Path) -> None:
    """A file is for one only, until that closes it."""
    path = tmp_path / "lock"
    file = open_locked(path)
    assert file is not None
    assert open_locked(path) is None
    file.close()
    again = open_locked(path)
    assert again is not None
    again.close()


def test_removed_while_another_one_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is removed after it has been opened, but before it is locked, is made anew."""
    path, lock = tmp_path / "lock", fcntl.flock
    first = open_locked(path)
    assert first is not None

    def lock_late(file: int, operation: int) -> None:
        monkeypatch.undo()
        remove_locked(first, path)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    second = open_locked(path)
    assert second is not None
    assert path.exists()
    assert open_locked(path) is None
    second.close()


@pytest.mark.parametrize(("number", "is_opened"), [(errno.ENOTSUP, True), (errno.EIO, False)])
def test_file_system_without_locks(
    number: int, is_opened: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no locks, a file is opened without one; other errors are raised."""

    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(fcntl, "flock", refuse)
    if is_opened:
        file = open_locked(tmp_path / "lock")
        assert file is not None
        file.close()
    else:
        with pytest.raises(OSError, match="no"):
            open_locked(tmp_path / "lock")


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    """A link that somebody has put there does not lead to another file."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError, match=r"lock"):
        open_locked(tmp_path / "lock")
    assert (tmp_path / "precious").read_text() == "mine"


def test_folder_is_missing(tmp_path: Path) -> None:
    """The error of the file system is raised."""
    with pytest.raises(FileNotFoundError):
        open_locked(tmp_path / "missing" / "lock")


def test_process_that_is_forked(tmp_path: Path) -> None:
    """A process that is forked meanwhile has the file open as well, and does not keep it locked."""
    path = tmp_path / "lock"
    file = open_locked(path)
    assert file is not None
    its_copy = os.dup(file.fileno())
    close_locked(file)
    again = open_locked(path)
    assert again is not None
    close_locked(again)
    os.close(its_copy)
