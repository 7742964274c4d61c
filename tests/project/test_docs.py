"""The Python blocks in the README and the docs run, each by itself, and print what the page says."""

from __future__ import annotations

import doctest
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.programs import Done, run_programs

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
BLOCKS = {
    f"{page.name}-{number}": (match["source"], match["output"])
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
}


@pytest.fixture(scope="module")
def runs() -> Mapping[str, Done]:
    """Run all blocks."""
    return run_programs({name: ["-c", source] for name, (source, _) in BLOCKS.items()})


@pytest.mark.parametrize("name", BLOCKS)
def test_block_prints_what_the_page_says(name: str, runs: Mapping[str, Done]) -> None:
    """A Python block runs by itself, without a warning, and prints the text block that follows it."""
    _, output = BLOCKS[name]
    assert (runs[name].returncode, runs[name].stderr) == (0, "")
    printed = runs[name].stdout
    assert doctest.OutputChecker().check_output(output or "", printed, doctest.ELLIPSIS), printed
