"""A file that only one may have open: not two processes, and not two tasks of one process."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, cast

# Not on Windows; there, files are text unless they are opened with O_BINARY. A symbolic link could lead anywhere.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

if sys.platform == "win32":
    import msvcrt

    _BEHIND_THE_END = 1 << 30

    def _try_to_lock(file: BinaryIO) -> bool:
        file.seek(_BEHIND_THE_END)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True

    def close_locked(file: BinaryIO) -> None:
        """Close a file, which ends its lock."""
        file.close()

    def remove_locked(file: BinaryIO, path: Path) -> None:
        """Close a file, which ends its lock, and remove it; Windows does not remove what is open."""
        file.close()
        with contextlib.suppress(OSError):  # another one may have opened it just now
            path.unlink(missing_ok=True)

else:
    import fcntl

    def _try_to_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
            # This file system has no locks, as some for clusters; a download is better than none.
        return True

    def close_locked(file: BinaryIO) -> None:
        """End the lock of a file, and close it."""
        # A process that was forked meanwhile has the file open as well, so closing it here would not end the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()

    def remove_locked(file: BinaryIO, path: Path) -> None:
        """Remove a file and close it, which ends its lock. Another one may make it anew as soon as it is removed."""
        path.unlink(missing_ok=True)
        file.close()


def open_file(path: Path) -> BinaryIO:
    """Open a file to read and write, or make it; without a buffer, so that what is written survives this process.

    Raises:
        OSError: that fails, or it is no regular file: to read from a pipe could take for ever.
    """
    file = cast(BinaryIO, os.fdopen(os.open(path, _FLAGS, 0o666), "r+b", buffering=0))
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise not_a_file(path)
    except BaseException:
        file.close()
        raise
    return file


def not_a_file(path: Path) -> OSError:
    """Return the error for a device, a pipe or the like."""
    return OSError(errno.EINVAL, "Not a regular file", str(path))


def is_at(opened: os.stat_result, path: Path) -> bool:
    """Whether a file is at a path still: it may have been removed since it was opened, or replaced, if only by a link.

    Args:
        opened: what ``os.fstat()`` says of the file. Once that is closed, its number may be used again.
        path: where it was opened.
    """
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(opened, path.lstat())
    return False


def open_locked(path: Path) -> BinaryIO | None:
    """Open a file, or make it, and lock it until it is closed, or until this process ends.

    Returns:
        The file, without a buffer; None if another one has locked it.

    Raises:
        OSError: that fails.
    """
    while True:
        file = open_file(path)
        try:
            if not _try_to_lock(file):
                file.close()
                return None
            with contextlib.suppress(FileNotFoundError):
                # Not lstat(): on Windows, a link is opened, and would never be the same.
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # the one that had locked it has removed it meanwhile
