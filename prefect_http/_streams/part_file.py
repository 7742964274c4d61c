"""PartFile: the file of a download until it is whole, and the record beside it that says what it is a part of.

    flows.zip.part        what there is of flows.zip; its size is how much that is
    flows.zip.part.json   of which version of which URL, so that a later download can continue it; locked while in use

Whenever the process is killed, both are there as of the last write: the part is emptied before the record says that it
is of another version. All methods block.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import BinaryIO

from prefect_http._streams.download_plan import Kept, is_validator
from prefect_http._streams.early_writeback import EarlyWriteback
from prefect_http._streams.file_lock import close_locked, is_at, not_a_file, open_file, open_locked, remove_locked

Block = bytes | memoryview

_MAX_RECORD = 64 * 1024
_HASHED_AT_ONCE = 16 * 1024 * 1024
_READ_AT_ONCE = 1024 * 1024
_REMOVED = "Removed or replaced by another program during the download; download it again"


class PartFile:
    """What there is of a file.

    The methods may be called in any threads; each waits for the one before it. After ``close()``, none does anything.

    Args:
        path: where the file will be.
        source: tells the URL from others.
        overwrite: whether the file replaces another one.
        with_digest: whether to compute the digest.

    Attributes:
        part: where it is until then.
        size: in bytes.
        total: the size of the whole file; None if it is not known.
    """

    def __init__(self, path: Path, source: str, *, overwrite: bool, with_digest: bool) -> None:
        self.path = path
        self.part = path.parent / f"{path.name}.part"
        self.size = 0
        self.total: int | None = None
        self._validator: str | None = None
        self._record_path = path.parent / f"{path.name}.part.json"
        self._source = source
        self._overwrite = overwrite
        self._hash = hashlib.sha256() if with_digest else None
        self._hashed = 0
        self._writeback = EarlyWriteback(0)
        self._record: BinaryIO | None = None
        self._file: BinaryIO | None = None
        self._opened: os.stat_result | None = None  # tells the part that was opened from another one at its path
        self._mutex = threading.Lock()
        self._is_closed = False

    @property
    def kept(self) -> Kept | None:
        """What can be continued; None if nothing can."""
        if self.size == 0 or self._validator is None:
            return None
        return Kept(self.size, self._validator, self.total)

    def open(self) -> bool:
        """Lock the part, and find out what is there. Return False if another one has locked it.

        Raises:
            FileExistsError: there is a file already, and ``overwrite`` is False.
            IsADirectoryError: there is a folder.
            OSError: there is something else that is no file, such as a device, or the part cannot be opened.
        """
        with self._mutex:
            if self._is_closed:
                return False
            # Before anything is made here, and again when no other download can finish meanwhile.
            self._check_path()
            self._record = open_locked(self._record_path)
            if self._record is None:
                return False
            self._check_path()
            self._file = self._open_part()
            self._opened = os.fstat(self._file.fileno())
            self._read_record(self._record)
            if self.kept is None:
                self.size = 0
            self._writeback = EarlyWriteback(self.size)
            return True

    def _check_path(self) -> None:
        self.path.parent.stat()
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if not self._overwrite and os.path.lexists(self.path):
            raise self._file_exists()
        if self.path.exists() and not self.path.is_file():  # such as /dev/null, which root could replace
            raise not_a_file(self.path)

    def _file_exists(self) -> FileExistsError:
        return FileExistsError(errno.EEXIST, "File exists (overwrite=True replaces it)", str(self.path))

    def _open_part(self) -> BinaryIO:
        file = open_file(self.part)
        try:
            found = os.fstat(file.fileno())
            self.size = found.st_size
            if found.st_nlink < 2:
                file.seek(self.size)
                return file
        except BaseException:
            file.close()
            raise
        # A process was killed between the two steps of _publish(). What is written now must not change the whole file.
        file.close()
        self.part.unlink()
        self.size = 0
        return open_file(self.part)

    def _read_record(self, record: BinaryIO) -> None:
        """Take what the record says, if that can be true."""
        try:
            found = json.loads(record.read(_MAX_RECORD))
            source, validator, total = found["url"], found["validator"], found["total"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if source != self._source or not isinstance(validator, str) or not is_validator(validator):
            return
        if total is None or (type(total) is int and self.size <= total):
            self._validator, self.total = validator, total

    def hash_some(self) -> bool:
        """Hash the next few MiB of what was there before, and return whether there is more."""
        with self._mutex, _naming(self.part):
            if self._file is None or self._hash is None or self._hashed == self.size:
                return False
            self._file.seek(self._hashed)
            end = min(self._hashed + _HASHED_AT_ONCE, self.size)
            while self._hashed < end:
                block = self._file.read(min(_READ_AT_ONCE, end - self._hashed))
                if not block:
                    raise OSError(errno.EIO, "The file has been truncated")
                self._hash.update(block)
                self._hashed += len(block)
            self._file.seek(self.size)
            return self._hashed < self.size

    def begin(self, validator: str | None, total: int | None) -> None:
        """Drop what is there, and begin with a version of the file.

        Args:
            validator: of the version; None if it has none, so that it cannot be continued.
            total: its size; None if that is not known.
        """
        with self._mutex, _naming(self.part):
            if self._file is None or self._record is None:
                return
            self._file.seek(0)
            self._file.truncate()
            self.size = self._hashed = 0
            self._writeback = EarlyWriteback(0)
            if self._hash is not None:
                self._hash = hashlib.sha256()
            self._validator, self.total = validator, total
            self._record.seek(0)
            self._record.truncate()
            if validator is not None:
                record = {"url": self._source, "validator": validator, "total": total}
                _write(self._record, json.dumps(record).encode())

    def write(self, blocks: Iterable[Block]) -> None:
        """Append to what is there."""
        with self._mutex, _naming(self.part):
            self._write(blocks)

    def _write(self, blocks: Iterable[Block]) -> None:
        if self._file is None:
            return
        for block in blocks:
            _write(self._file, block)
            self.size += len(block)
            if self._hash is not None:
                self._hash.update(block)
                self._hashed = self.size
        self._writeback.note_size(self._file, self.size)

    def digest(self) -> str:
        """Return the SHA-256 of what is there, in hexadecimal."""
        assert self._hash is not None
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Move the file, which is whole, to its place, and close it.

        Raises:
            FileExistsError: there is a file meanwhile, and ``overwrite`` is False. The part stays.
            FileNotFoundError: somebody has removed or replaced the part or its record.
            OSError: writing it to the disk, or moving it, fails. The part stays.
        """
        with self._mutex, _naming(self.part):
            if self._file is None or self._record is None:
                return
            os.fsync(self._file.fileno())
            # Otherwise it would be another download's part, which need not be whole, that is moved.
            for path, is_there in ((self.part, self._has_part()), (self._record_path, self._has_record(self._record))):
                if not is_there:
                    raise FileNotFoundError(errno.ENOENT, _REMOVED, str(path))
            file, self._file = self._file, None
            file.close()
            self._publish()
            self._remove_record(self._record)

    def _publish(self) -> None:
        if self._overwrite:
            self.part.replace(self.path)
            return
        try:
            self.path.hardlink_to(self.part)  # unlike rename(), it never replaces a file
        except FileExistsError:
            raise self._file_exists() from None
        except OSError:  # not every file system has links
            self._check_path()
            self.part.rename(self.path)
        else:
            self.part.unlink()

    def discard(self) -> None:
        """Close the part, and remove it."""
        with self._mutex:
            if self._file is not None and self._record is not None:
                has_part = self._has_part()
                self._file.close()
                self._file = None
                if has_part:
                    self.part.unlink(missing_ok=True)
                self._remove_record(self._record)

    def close(self, last: Iterable[Block] = ()) -> None:
        """Append to what is there, as far as that is possible, and close it. What is empty is removed."""
        with self._mutex:
            self._is_closed = True
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._write(last)
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None
            if self._record is not None:
                with contextlib.suppress(OSError):
                    self._remove_what_is_empty(self._record)
            if self._record is not None:
                close_locked(self._record)
                self._record = None

    def _remove_what_is_empty(self, record: BinaryIO) -> None:
        # What could not be opened as a part is somebody else's.
        if self._has_part() and self.part.stat().st_size == 0:
            self.part.unlink()
        # The record of a part that is not there would be taken for that of whatever file comes to its path next.
        if os.fstat(record.fileno()).st_size == 0 or not os.path.lexists(self.part) or self._has_lost_part():
            self._remove_record(record)

    def _has_lost_part(self) -> bool:
        return self._opened is not None and not self._has_part()

    def _remove_record(self, record: BinaryIO) -> None:
        if self._has_record(record):
            self._record = None
            remove_locked(record, self._record_path)

    def _has_part(self) -> bool:
        """Whether the part is the one that was opened."""
        return self._opened is not None and is_at(self._opened, self.part)

    def _has_record(self, record: BinaryIO) -> bool:
        """Whether the record is the one that was opened."""
        return is_at(os.fstat(record.fileno()), self._record_path)


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Let the errors of an open file say which file it is."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _write(file: BinaryIO, block: Block) -> None:
    written = file.write(block)
    if written < len(block):  # as when the disk is nearly full
        view = memoryview(block)
        while written < len(block):
            written += file.write(view[written:])
