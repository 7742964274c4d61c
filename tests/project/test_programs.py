"""The examples, and the Python blocks of the README and the docs: they run, and print what the page says."""

from __future__ import annotations

import doctest
import importlib.metadata
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.programs import Done, run_programs
from support.rows import each_row
from support.source import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NAMES = {
    "anyio_library",
    "custom_policy",
    "events",
    "fleet",
    "in_process",
    "many_tasks",
    "mirror",
    "polite_crowd",
    "quickstart",
    "shared_lifespan",
    "streaming",
    "testing_a_client",
    "testing_an_app",
    "thousand_requests",
    "tracing",
}
# Without the warning that pytest cannot rewrite the assertions of plugins that have been imported before it, and
# without pytest-asyncio, which warns if it is not configured.
WITH_PYTEST = ["-m", "pytest", "-W", "ignore:Module already imported", "-p", "no:asyncio"]
if not importlib.metadata.entry_points(group="pytest11", name="prefect_http"):  # the package is not installed
    WITH_PYTEST += ["-p", "prefect_http_pytest"]

BLOCK = re.compile(r"^```python\n(?P<source>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text("utf-8") for page in sorted(DOCS.rglob("*.md"))}
BLOCKS = {
    f"{page}-{number}": (match["source"], match["output"])
    for page, text in {"README.md": (ROOT / "README.md").read_text("utf-8"), **PAGES}.items()
    for number, match in enumerate(BLOCK.finditer(text), 1)
}
TESTS = {name for name, (source, _) in BLOCKS.items() if re.search(r"^(async )?def test_", source, re.MULTILINE)}
WIDEST = 80


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Done]:
    """Run all of them; the examples and the blocks that are tests, with pytest."""
    programs: dict[str, Sequence[str | os.PathLike[str]]] = {
        path.stem: [*WITH_PYTEST * path.stem.startswith("testing_"), path] for path in EXAMPLES
    }
    programs |= {name: ["-c", source] for name, (source, _) in BLOCKS.items() if name not in TESTS}
    for name in TESTS:
        path = tmp_path_factory.mktemp("block") / "test_block.py"
        path.write_text(BLOCKS[name][0], "utf-8")
        programs[name] = [*WITH_PYTEST, "-p", "no:cacheprovider", path]
    return run_programs(programs)


@each_row("name", [path.stem for path in EXAMPLES])
def test_example(name: str, runs: Mapping[str, Done]) -> None:
    """An example ends well, without a warning, and prints something."""
    assert (runs[name].returncode, runs[name].stderr) == (0, "")
    assert runs[name].stdout.strip()


@each_row("name", BLOCKS)
def test_block(name: str, runs: Mapping[str, Done]) -> None:
    """A Python block runs by itself, without a warning, and prints the text block that follows it, or is a test."""
    assert (runs[name].returncode, runs[name].stderr) == (0, ""), runs[name].stdout
    if name in TESTS:
        return
    expected, printed = BLOCKS[name][1] or "", runs[name].stdout
    assert doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), printed


def test_examples_are_complete() -> None:
    """Every example that the documentation names is there, and has been run above."""
    assert {path.stem for path in EXAMPLES} >= NAMES


@each_row("path", EXAMPLES)
def test_example_is_short(path: Path) -> None:
    """An example has at most 60 lines, and starts with what it shows."""
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 60
    assert source.startswith('"""')


@each_row("page", PAGES)
def test_code_fits(page: str) -> None:
    """No line of code is wider than the column of a page, where it would have to be scrolled."""
    language = None
    for line in PAGES[page].splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language not in (None, "text", "{eval-rst}"):  # output is wrapped
            assert len(line) <= WIDEST, line


def test_readme_has_an_example() -> None:
    """The README has an example in Python."""
    assert "README.md-1" in BLOCKS
