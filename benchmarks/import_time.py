"""The time to import the package, compared with importing what it depends on, each in a new interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks._measure import ratio
from benchmarks._table import print_table

_BASE, _OURS = "import httpx, anyio", "import prefect_http"
_TARGETS = {_OURS: 1.3}
_ROUNDS = 15

# Timed inside the interpreter, without the time that it takes to start.
_PROGRAM = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"


def run() -> None:
    """Measure the two imports in turns."""
    seconds: dict[str, list[float]] = {_BASE: [], _OURS: []}
    for number in range(-1, _ROUNDS):  # the first round may have to compile
        for statement in seconds if number % 2 else reversed(seconds):
            took = _time_import(statement)
            if number >= 0:
                seconds[statement].append(took)
    print_table("Import", _BASE, {_OURS: ratio(seconds[_BASE], seconds[_OURS])}, _TARGETS)


def _time_import(statement: str) -> float:
    command = [sys.executable, "-c", _PROGRAM.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
