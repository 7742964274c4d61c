"""What all tests share."""

from __future__ import annotations

import ast
import functools
import gc
import signal
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test, settings

# What can make a result depend on the version of Python or of a library.
_DEPENDENCIES = {"anyio", "asyncio", "httpx", "socket", "ssl", "support", "trio"}

# No test fails because the machine is busy. What could hang is under a fail_after.
settings.register_profile("prefect_http", deadline=None)
settings.load_profile("prefect_http")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run a test marked anyio on both backends."""
    return str(request.param)


def pytest_configure() -> None:
    """Let SIGINT raise KeyboardInterrupt, as some tests expect: a program started by nohup or ``&`` ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off the modules and the tests: many tests collect, and would search them each time."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that give the same result with every version of Python, httpx and the event loops as pure."""
    if is_hypothesis_test(getattr(item, "obj", None)) or not _imports(item.path) & _DEPENDENCIES:
        item.add_marker("pure")


@functools.cache
def _imports(file: Path) -> set[str]:
    nodes = ast.parse(file.read_text("utf-8")).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names}
