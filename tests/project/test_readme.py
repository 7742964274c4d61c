"""The README is short, and its links and commands work. test_programs.py runs its example."""

from __future__ import annotations

import re

import pytest
from support.source import ROOT, assert_none

TEXT = (ROOT / "README.md").read_text("utf-8")
README = TEXT.splitlines()
COMMANDS = {
    "python -m pip install . && python examples/quickstart.py",
    "python -m pip install nox && python -m nox -s tests",
}
LINKS = set(re.findall(r"\]\((.+?)\)", TEXT))
# Where the README is also read, on a package index, there are no files beside it.
PLACES = {
    "https://prefect-http.readthedocs.io": "docs/index.md",
    "https://prefect-http.readthedocs.io/en/latest/(.+).html": r"docs/\1.md",
    "https://github.com/prefect-http/prefect_http/blob/main/(.+)": r"\1",
    "https://raw.githubusercontent.com/prefect-http/prefect_http/main/(.+)": r"\1",
}


def linked_file(link: str) -> str:
    """Return the file of the repository that a link leads to, or "" if the link leads nowhere."""
    for place, file in PLACES.items():
        if match := re.fullmatch(place, link):
            return match.expand(file)
    return ""


def test_readme_is_short() -> None:
    """The README has at most 90 lines."""
    assert 0 < len(README) <= 90


def test_commands_are_the_tested_ones() -> None:
    """The README has exactly the two set-up commands that CI runs."""
    assert {line.strip() for line in README if "python -m " in line} == COMMANDS


def test_first_screen() -> None:
    """What the package does, an example and how to install it come first."""
    first_screen = "\n".join(README[:45])
    for part in ("`httpx.AsyncClient` for Trio and asyncio", "```python\n", "```text\n", "`pip install prefect_http`"):
        assert part in first_screen


def test_links() -> None:
    """Links are absolute, so that they work on a package index as well, and lead to what there is."""
    assert LINKS
    assert_none(link for link in LINKS if not (ROOT / linked_file(link)).is_file())


@pytest.mark.parametrize("link", ["docs/index.md", "https://example.com", "https://prefect-http.readthedocs.io/x.html"])
def test_links_that_lead_nowhere(link: str) -> None:
    """A relative link, or one to a place that is not the project's, is not a link to a file."""
    assert not linked_file(link)
