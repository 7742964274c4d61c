"""PartFile: what is on the disk at each moment."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from support.rows import each_row
from support.systems import needs_posix_files

from prefect_http._streams import part_file
from prefect_http._streams.download_plan import Kept
from prefect_http._streams.file_lock import open_locked
from prefect_http._streams.part_file import PartFile

ETAG = '"v1"'


def new_part(path: Path, source: str = "a", *, overwrite: bool = False, with_digest: bool = False) -> PartFile:
    """Return the part of a file."""
    return PartFile(path, source, overwrite=overwrite, with_digest=with_digest)


@contextmanager
def opened(path: Path, source: str = "a", *, overwrite: bool = False, with_digest: bool = False) -> Iterator[PartFile]:
    """Open the part of a file, and close it at the end."""
    part = new_part(path, source, overwrite=overwrite, with_digest=with_digest)
    assert part.open()
    yield part
    part.close()


def link_to_nowhere(path: Path) -> None:
    """Make a link that leads nowhere."""
    path.symlink_to("nowhere")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the file will be."""
    return tmp_path / "file"


def files(path: Path) -> set[str]:
    """Return the names of all files beside one."""
    return {each.name for each in path.parent.iterdir()}


def leave(path: Path, content: bytes = b"12345", total: int | None = 10) -> None:
    """Let a download leave something."""
    with opened(path) as part:
        part.begin(ETAG, total)
        part.write([content])


# --- From the first byte to the last


def test_whole_file(path: Path) -> None:
    """A file is moved to its place when it is whole, and nothing else is left."""
    with opened(path) as part:
        part.begin(ETAG, 10)
        part.write([b"123", b"45"])
        part.write([b"67890"])
        assert part.size == 10
        assert files(path) == {"file.part", "file.part.json"}
        part.finish()
    assert path.read_bytes() == b"1234567890"
    assert files(path) == {"file"}


@needs_posix_files
def test_mode_is_by_the_umask(path: Path) -> None:
    """Whoever may read other files that this user makes may read this one."""
    before = os.umask(0o027)
    try:
        with opened(path) as part:
            part.begin(None, None)
            part.finish()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_continued(path: Path) -> None:
    """The next one has what was there."""
    leave(path)
    with opened(path, with_digest=True) as part:
        assert part.kept == Kept(5, ETAG, 10)
        assert not part.hash_some()
        part.write([b"67890"])
        assert part.digest() == hashlib.sha256(b"1234567890").hexdigest()
        part.finish()
    assert path.read_bytes() == b"1234567890"


def test_hashed_in_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there is hashed in steps, between which a download can be cancelled."""
    monkeypatch.setattr(part_file, "_HASHED_AT_ONCE", 2)
    leave(path)
    with opened(path, with_digest=True) as part:
        assert [part.hash_some() for _ in range(4)] == [True, True, False, False]
        part.write([b"67"])
        assert part.digest() == hashlib.sha256(b"1234567").hexdigest()
        part.begin(ETAG, None)
        part.write([b"x"])
        assert part.digest() == hashlib.sha256(b"x").hexdigest()
    with opened(path, with_digest=True) as part:
        os.truncate(part.part, 0)
        with pytest.raises(OSError, match=r"truncated: '.*file\.part'$"):
            part.hash_some()


def test_nothing_is_hashed_without_need(path: Path) -> None:
    """Without a digest to compare, nothing is read."""
    leave(path)
    with opened(path) as part:
        assert not part.hash_some()


def test_begun_anew(path: Path) -> None:
    """Another version replaces what is there, in the record as well."""
    leave(path)
    with opened(path) as part:
        part.begin('"v2"', None)
        part.write([b"abc"])
    with opened(path) as part:
        assert part.kept == Kept(3, '"v2"', None)
        part.begin(None, None)
        part.write([b"x"])
        assert part.kept is None
    with opened(path) as part:
        assert (part.kept, part.size) == (None, 0)


def test_last_bytes(path: Path) -> None:
    """Closing writes what has not been written."""
    part = new_part(path)
    part.open()
    part.begin(ETAG, 10)
    part.close([b"12", b"3"])
    part.close([b"4"])
    with opened(path) as part:
        assert part.kept == Kept(3, ETAG, 10)


def test_nothing_was_received(path: Path) -> None:
    """A part without content is not left."""
    with opened(path):
        assert files(path) == {"file.part", "file.part.json"}
    assert files(path) == set()


def test_discarded(path: Path) -> None:
    """A part that is of no use is removed, with its record."""
    leave(path)
    with opened(path) as part:
        part.discard()
        assert files(path) == set()
        part.discard()


def test_nothing_is_done_after_closing(path: Path) -> None:
    """A thread that comes too late, because its task has been cancelled, changes nothing."""
    leave(path)
    part = new_part(path)
    part.open()
    part.close()
    part.begin(None, None)
    part.write([b"x"])
    part.finish()
    part.discard()
    assert not part.hash_some()
    assert not part.open()
    assert (path.parent / "file.part").read_bytes() == b"12345"


def test_short_writes(path: Path) -> None:
    """What a file takes only in part is written in several steps."""

    class Slow:
        content = b""

        def write(self, data: bytes | memoryview) -> int:
            self.content += bytes(data[:2])
            return min(len(data), 2)

        def close(self) -> None:
            pass

    slow = Slow()
    part_file._write(cast(BinaryIO, slow), b"12345")
    assert slow.content == b"12345"


# --- What is there is not trusted


@each_row(
    "record",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 10_000,
        b"{}",
        json.dumps({"url": "b", "validator": ETAG, "total": 10}).encode(),
        json.dumps({"url": "a", "validator": None, "total": 10}).encode(),
        json.dumps({"url": "a", "validator": 'W/"v1"', "total": 10}).encode(),
        json.dumps({"url": "a", "validator": '"a"\r\nX: y', "total": 10}).encode(),
        json.dumps({"url": "a", "validator": ETAG, "total": 4}).encode(),
        json.dumps({"url": "a", "validator": ETAG, "total": "10"}).encode(),
        json.dumps({"url": "a", "validator": ETAG, "total": True}).encode(),
        json.dumps({"url": "a", "validator": ETAG}).encode(),
        json.dumps({"url": "a", "validator": ETAG, "total": 10, "more": "x" * 70_000}).encode(),
    ],
)
def test_bad_record(record: bytes, tmp_path: Path) -> None:
    """With a record that is damaged, or is about something else, nothing can be continued."""
    path = tmp_path / "file"
    leave(path)
    (tmp_path / "file.part.json").write_bytes(record)
    with opened(path) as part:
        assert (part.kept, part.size) == (None, 0)
    assert (tmp_path / "file.part").read_bytes() == b"12345"  # until there is something better


@each_row("total, kept", [(5, Kept(5, ETAG, 5)), (None, Kept(5, ETAG, None))])
def test_good_record(total: int | None, kept: Kept, tmp_path: Path) -> None:
    """All of the file may be there already; its size may be unknown."""
    leave(tmp_path / "file", total=total)
    with opened(tmp_path / "file") as part:
        assert part.kept == kept


def test_missing_record(path: Path) -> None:
    """A part without a record is not continued."""
    leave(path)
    (path.parent / "file.part.json").unlink()
    with opened(path) as part:
        assert part.kept is None


def test_record_has_no_url(path: Path) -> None:
    """The record tells what the part is of by what it was given, which is a digest, and by nothing else."""
    with opened(path, "digest") as part:
        part.begin(ETAG, 5)
        assert json.loads((path.parent / "file.part.json").read_bytes()) == {
            "url": "digest",
            "validator": ETAG,
            "total": 5,
        }


# --- Others


def test_two_at_once(path: Path) -> None:
    """A part is for one download only."""
    with opened(path):
        other = new_part(path)
        assert not other.open()
        other.close()
        assert files(path) == {"file.part", "file.part.json"}


def test_file_exists(path: Path) -> None:
    """A file that is there is not replaced, and nothing is made beside it."""
    path.write_text("old")
    part = new_part(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        part.open()
    part.close()
    assert files(path) == {"file"}


@needs_posix_files
def test_broken_link_exists(path: Path) -> None:
    """Nor is a link that leads nowhere."""
    path.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        new_part(path).open()


def test_file_that_appears_while_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another download may finish just before this one gets the lock."""

    def appear(record: Path) -> object:
        path.write_text("theirs")
        return open_locked(record)

    monkeypatch.setattr(part_file, "open_locked", appear)
    part = new_part(path)
    with pytest.raises(FileExistsError):
        part.open()
    part.close()
    assert files(path) == {"file"}


def test_file_is_replaced(path: Path) -> None:
    """With overwrite, the old file stays until the new one is whole."""
    path.write_text("old")
    with opened(path, overwrite=True) as part:
        part.begin(ETAG, 3)
        part.write([b"new"])
        assert path.read_text() == "old"
        part.finish()
    assert path.read_text() == "new"
    assert files(path) == {"file"}


def test_file_that_appears_meanwhile(path: Path) -> None:
    """A file that somebody else has put there meanwhile is not replaced, and the part stays."""
    with opened(path) as part:
        part.begin(ETAG, 3)
        part.write([b"new"])
        path.write_text("theirs")
        with pytest.raises(FileExistsError, match=r"overwrite=True replaces it\): '.*file'$"):
            part.finish()
    assert path.read_text() == "theirs"
    with opened(path, overwrite=True) as part:
        assert part.kept == Kept(3, ETAG, 3)


def test_file_system_without_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no hard links, a file is moved if nothing is there."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with opened(path) as part:
        part.begin(ETAG, 3)
        path.write_text("theirs")
        with pytest.raises(FileExistsError):
            part.finish()
    path.unlink()
    with opened(path) as part:
        part.begin(ETAG, 3)
        part.write([b"new"])
        part.finish()
    assert path.read_text() == "new"
    assert files(path) == {"file"}


def test_killed_between_the_last_two_steps(path: Path) -> None:
    """A part that is the whole file as well, since a process was killed just then, is not written to."""
    leave(path, total=5)
    path.hardlink_to(path.parent / "file.part")
    with opened(path, overwrite=True) as part:
        assert part.kept is None
        part.begin(ETAG, 3)
        part.write([b"new"])
        assert path.read_bytes() == b"12345"
        part.finish()
    assert path.read_text() == "new"
    assert files(path) == {"file"}


@needs_posix_files
def test_folder(path: Path) -> None:
    """A folder is never replaced."""
    path.mkdir()
    for overwrite in (False, True):
        with pytest.raises(IsADirectoryError):
            new_part(path, overwrite=overwrite).open()
    assert files(path) == {"file"}


@needs_posix_files
def test_no_file_in_the_place_of_the_part(path: Path) -> None:
    """The error of the file system is raised; nothing is left locked, nothing is removed, and nothing is added."""
    for name in ("file.part", "file.part.json"):
        place = path.parent / name
        for make, remove in ((Path.mkdir, Path.rmdir), (os.mkfifo, Path.unlink), (link_to_nowhere, Path.unlink)):
            make(place)
            for _ in range(2):
                part = new_part(path)
                with pytest.raises(OSError, match=rf"{name}'$"):
                    part.open()
                part.close()
                assert files(path) == {name}
            remove(place)


@needs_posix_files
@each_row("overwrite", [False, True])
@each_row("replaced", [{"file.part"}, {"file.part.json"}, {"file.part", "file.part.json"}])
@each_row("content", [None, b"", b"theirs"])
def test_removed_or_replaced_meanwhile(
    content: bytes | None, replaced: set[str], overwrite: bool, tmp_path: Path
) -> None:
    """Neither a part that somebody has removed is taken for whole, nor another file in its place, which stays."""
    for end in (PartFile.finish, PartFile.discard, PartFile.close):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        part = new_part(folder / "file", overwrite=overwrite)
        assert part.open()
        part.begin(ETAG, 3)
        part.write([b"new"])
        for name in replaced:
            (folder / name).unlink()
            if content is not None:
                (folder / name).write_bytes(content)
        if end is PartFile.finish:
            with pytest.raises(FileNotFoundError, match=rf"Removed or replaced .*{min(replaced)}'$"):
                part.finish()
        else:
            end(part)
        part.close()
        assert not (folder / "file").exists()
        if replaced == {"file.part"}:
            assert not (folder / "file.part.json").exists(), "it would be taken for that of the file in its place"
        for name in replaced:
            assert (folder / name).exists() is (content is not None)
            assert content is None or (folder / name).read_bytes() == content


@needs_posix_files
def test_replaced_by_a_link(path: Path) -> None:
    """A link to the part is not the part: it would be moved, and the file would be elsewhere."""
    part = new_part(path)
    assert part.open()
    part.begin(ETAG, 3)
    part.write([b"new"])
    away = part.part.rename(path.with_name("away"))
    part.part.symlink_to(away)
    with pytest.raises(FileNotFoundError, match=r"Removed or replaced"):
        part.finish()
    part.close()
    assert not path.exists()
    assert away.read_bytes() == b"new"


def test_errors_name_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of an open file, such as that the disk is full, says which file it is."""

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with opened(path) as part:
        part.begin(ETAG, 1)
        part.write([b"1"])
        with pytest.raises(OSError, match=r"device: '.*file\.part'$"):
            part.finish()


def test_somebody_elses_part(path: Path) -> None:
    """A file that has the name of a part, without a record, stays as it is until there is something better."""
    (path.parent / "file.part").write_text("mine")
    with opened(path) as part:
        assert part.kept is None
    assert files(path) == {"file.part"}


@needs_posix_files
def test_device(path: Path) -> None:
    """A device or a pipe is never replaced, nor is a link to one."""
    os.mkfifo(path)
    link = path.parent / "link"
    link.symlink_to("file")
    for place in (path, link):
        for overwrite, error in ((True, "Not a regular file"), (False, "File exists")):
            part = new_part(place, overwrite=overwrite)
            with pytest.raises(OSError, match=rf"{error}.*{place}'$"):
                part.open()
            part.close()
    assert files(path) == {"file", "link"}


@needs_posix_files
def test_link_is_replaced(path: Path) -> None:
    """With overwrite, a link is replaced, and not what it leads to."""
    (path.parent / "target").write_text("old")
    path.symlink_to("target")
    with opened(path, overwrite=True) as part:
        part.begin(None, None)
        part.write([b"new"])
        part.finish()
    assert (path.is_symlink(), path.read_text()) == (False, "new")
    assert (path.parent / "target").read_text() == "old"


def test_missing_folder(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(FileNotFoundError, match=r"missing'$"):
        new_part(tmp_path / "missing" / "file").open()


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
def test_fstat_fails(failing: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record or a part that cannot be looked at is closed again."""
    fstat, calls = os.fstat, [0]

    def fail(number: int) -> os.stat_result:
        calls[0] += 1
        if calls[0] == failing:
            raise OSError("broken disk")
        return fstat(number)

    part = new_part(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(OSError, match="broken disk"):
            part.open()
    part.close()
    with opened(path):
        pass
