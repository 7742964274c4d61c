"""The README and the pages of the docs: each Python block runs by itself and prints what the page says."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.programs import Done, running

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
BLOCKS = {
    f"{page.name}-{number}": (match["source"], match["output"])
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")), 1)
}


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[Done]]]:
    """Run them all."""
    with running({name: ["-c", source] for name, (source, _) in BLOCKS.items()}) as runs:
        yield runs


@pytest.mark.parametrize("name", BLOCKS)
def test_block_prints_what_the_page_says(name: str, runs: Mapping[str, Future[Done]]) -> None:
    """A Python block runs by itself, without a warning, and prints the text block that follows it."""
    done, (_, output) = runs[name].result(), BLOCKS[name]
    assert (done.returncode, done.stderr) == (0, "")
    assert doctest.OutputChecker().check_output(output or "", done.stdout, doctest.ELLIPSIS), done.stdout
