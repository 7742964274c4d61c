"""Counting what goes wrong in a download, so that it ends. Pure."""

from __future__ import annotations


class DownloadRetries:
    """How often a download has broken off without progress, and how often it has begun anew.

    Progress is to get further than ever before, in this version of the file. Otherwise a server that breaks off again
    and again, and cannot continue, would be asked without end.

    Args:
        size: what an earlier download has left. To drop that is not counted.
    """

    def __init__(self, size: int) -> None:
        self._furthest = size
        self._breaks = 0
        self._restarts = -1 if size else 0

    def note_break(self, size: int) -> int:
        """Return how often it has broken off in a row without progress, with so many bytes there now."""
        if size > self._furthest:
            self._furthest, self._breaks = size, 0
        else:
            self._breaks += 1
        return self._breaks

    def note_restart(self, *, is_other_version: bool) -> int:
        """Return how often it has begun anew."""
        if is_other_version:
            self._furthest = 0
        self._restarts += 1
        return self._restarts
