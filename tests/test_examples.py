"""The examples: run as a reader would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NAMES = [
    "anyio_library.py",
    "custom_policy.py",
    "in_process.py",
    "many_tasks.py",
    "polite_crowd.py",
    "quickstart.py",
    "shared_lifespan.py",
    "streaming.py",
    "testing_an_app.py",
]


def test_examples_are_complete() -> None:
    """Each example is there, and is run below."""
    assert {example.name for example in EXAMPLES} >= set(NAMES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_runs(example: Path) -> None:
    """An example prints something and ends well, in seconds, without complaint; pytest runs those that are tests."""
    # -P: the package that is installed is what is tested, and not what happens to lie in the current directory.
    runner = ["-P", "-m", "pytest"] if example.stem.startswith("testing_") else []
    result = subprocess.run(
        [sys.executable, "-W", "error", *runner, example], capture_output=True, text=True, timeout=30, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_is_short(example: Path) -> None:
    """An example can be read in one go: it has at most 60 lines, and says first what it shows."""
    source = example.read_text("utf-8")
    assert len(source.splitlines()) <= 60
    assert source.startswith('"""')
