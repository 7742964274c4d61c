"""The examples run, and are short."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from support.programs import Done, run_programs

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
    """Every example that the documentation names is there."""
    assert {example.name for example in EXAMPLES} >= set(NAMES)


# Without the warning that pytest cannot rewrite the assertions of plugins that have been imported before it.
WITH_PYTEST = ["-m", "pytest", "-W", "ignore:Module already imported"]


@pytest.fixture(scope="module")
def runs() -> Mapping[str, Done]:
    """Run all examples; those that are tests, with pytest."""
    return run_programs({each.stem: [*WITH_PYTEST * each.stem.startswith("testing_"), each] for each in EXAMPLES})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_runs(example: Path, runs: Mapping[str, Done]) -> None:
    """An example prints something and ends well, without a warning."""
    done = runs[example.stem]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_example_is_short(example: Path) -> None:
    """An example has at most 60 lines, and starts with what it shows."""
    source = example.read_text("utf-8")
    assert len(source.splitlines()) <= 60
    assert source.startswith('"""')
