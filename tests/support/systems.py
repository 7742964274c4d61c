"""Marks for tests of what not every operating system has."""

from __future__ import annotations

import sys

import pytest

needs_local_addresses = pytest.mark.skipif(
    sys.platform == "darwin", reason="on macOS, 127.0.0.1 is the only local address until others are set up"
)
needs_unix_sockets = pytest.mark.skipif(sys.platform == "win32", reason="Python has no Unix sockets on Windows")
needs_posix_files = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has other permissions, locks and errors for files"
)
