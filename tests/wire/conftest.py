"""What the tests of the transport share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path for a Unix socket. On macOS it may have 103 characters, which pytest's own folders exceed there."""
    if sys.platform == "win32":
        pytest.skip("Python has no Unix sockets on Windows")
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder, "socket")
