"""The examples: run as a reader would run them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.programs import Done, running

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
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


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[Done]]]:
    """Run them all."""
    # -P: the package that is installed is what is tested, and not what happens to lie in the current directory.
    runners = {True: ["-P", "-m", "pytest"], False: []}
    with running({each.stem: [*runners[each.stem.startswith("testing_")], each] for each in EXAMPLES}) as runs:
        yield runs


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_runs(example: Path, runs: Mapping[str, Future[Done]]) -> None:
    """An example prints something and ends well, in seconds, without complaint; pytest runs those that are tests."""
    result = runs[example.stem].result()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_is_short(example: Path) -> None:
    """An example can be read in one go: it has at most 60 lines, and says first what it shows."""
    source = example.read_text("utf-8")
    assert len(source.splitlines()) <= 60
    assert source.startswith('"""')
