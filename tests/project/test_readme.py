"""The README is short, and its commands are the ones that CI runs. test_programs.py runs its example."""

from __future__ import annotations

from support.source import ROOT

README = (ROOT / "README.md").read_text("utf-8").splitlines()
COMMANDS = {
    "python -m pip install . && python examples/quickstart.py",
    "python -m pip install nox && python -m nox -s tests",
}


def test_readme_is_short() -> None:
    """The README has at most 90 lines."""
    assert 0 < len(README) <= 90


def test_commands_are_the_tested_ones() -> None:
    """The README has exactly the two set-up commands that CI runs."""
    assert {line.strip() for line in README if "python -m " in line} == COMMANDS
