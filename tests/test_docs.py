"""The README and the pages of the docs: each Python block runs by itself and prints what the page says."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(match["source"], match["output"], id=f"{page.name}-{number}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
]


@pytest.mark.parametrize(("source", "output"), BLOCKS)
def test_block_prints_what_the_page_says(source: str, output: str | None) -> None:
    """A Python block runs by itself, without a warning, and prints the text block that follows it."""
    command = [sys.executable, "-W", "error", "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert doctest.OutputChecker().check_output(output or "", done.stdout, doctest.ELLIPSIS), done.stdout
