"""The README is short, and its commands are the ones that CI runs. test_docs.py runs its example."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = {
    "python -m pip install . && python examples/quickstart.py",
    "python -m pip install nox && python -m nox -s tests",
}


def test_readme_is_short() -> None:
    """The README has at most 90 lines."""
    assert 0 < len(README.splitlines()) <= 90


def test_commands_are_the_tested_ones() -> None:
    """The README has exactly the two set-up commands that CI runs."""
    assert {line.strip() for line in README.splitlines() if "python -m " in line} == COMMANDS


def test_there_is_an_example() -> None:
    """The README has an example in Python."""
    assert PROGRAMS
