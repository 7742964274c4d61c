"""How much memory this process takes up; only Linux tells.

getrusage() is no substitute for the peak: it returns that of the parent, if that is higher.
"""

from __future__ import annotations

import math
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mib() -> float:
    """Return the resident memory of this process, in MiB; NaN where it is unknown."""
    return _read("VmRSS:")


def peak_mib() -> float:
    """Return its peak."""
    return _read("VmHWM:")


def _read(name: str) -> float:
    if not _STATUS.exists():
        return math.nan
    lines = _STATUS.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
