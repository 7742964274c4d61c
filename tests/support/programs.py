"""Programs that are run as a user would run them, side by side, for most of their time goes into starting up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

Done = subprocess.CompletedProcess[str]


@contextmanager
def running(programs: Mapping[str, Iterable[str | os.PathLike[str]]]) -> Iterator[dict[str, Future[Done]]]:
    """Start all of them, two at a time, without a warning; those that have not begun at the end are left out.

    Args:
        programs: by name, what stands behind ``python``.
    """
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(_run, *arguments) for name, arguments in programs.items()}
        pool.shutdown(cancel_futures=True)


def _run(*arguments: str | os.PathLike[str]) -> Done:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
