"""Configuration of Sphinx: the pages are Markdown, and the reference is generated from the docstrings."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from prefect_http import __version__
from sphinx.domains.python import PyObject
from sphinx.errors import ExtensionError
from sphinx.search.en import SearchEnglish

if TYPE_CHECKING:
    from types import ModuleType

    from sphinx.application import Sphinx


def inventory(name: str) -> str:
    """Return the path of an inventory in the form that Sphinx reads: a head, and the lines of a text, compressed."""
    head, _, lines = (
        Path(__file__)
        .with_name("inventories")
        .joinpath(f"{name}.txt")
        .read_text("utf-8")
        .partition("\n\n")
    )
    path = Path(FOLDER.name, f"{name}.inv")
    path.write_bytes(head.encode() + b"\n" + zlib.compress(lines.encode()))
    return str(path)


project = "prefect_http"
author = "the prefect_http developers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "inventories"]

# What other projects document. httpx publishes no inventory, and the documentation is to be built without a network as
# well: so the few names that these pages need are in `inventories`, and the build gives the same result everywhere.
FOLDER = tempfile.TemporaryDirectory()
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", inventory("python")),
    "trio": ("https://trio.readthedocs.io/en/stable", inventory("trio")),
    "anyio": ("https://anyio.readthedocs.io/en/stable", inventory("anyio")),
    "httpx": ("https://www.python-httpx.org", inventory("httpx")),
}

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written in the source: the value of `os.environ` must not be published
autodoc_type_aliases = {"ASGIApp": "ASGIApp"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 70
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Sections in this project's docstrings that are not part of Google's style.
napoleon_custom_sections = [
    "Cancellation",
    ("Entering raises", "params_style"),
    ("Entering and iterating raise", "params_style"),
    ("Iterating raises", "params_style"),
    ("Leaving raises", "params_style"),
    ("Requests raise", "params_style"),
]

html_theme = "furo"
html_title = "prefect_http"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_selector = "div.highlight-python pre, div.highlight-console pre"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = False


# What people search for. The build fails if a search finds nothing.
SEARCHES = "429", "503", "timeout", "mock", "proxy", "retry POST"

# Made by the package, and not by its users: their arguments say nothing to them.
NOT_CONSTRUCTED = {
    "prefect_http.EventStream",
    "prefect_http.PrefectResponse",
    "prefect_http.progress.Bars",
    "prefect_http.testing.Fault",
    "prefect_http.testing.FakeConnection",
    "prefect_http.testing.Limit",
    "prefect_http.testing.ReceivedRequest",
}


def setup(app: Sphinx) -> None:
    """Register the event handlers, and the search."""
    app.add_search_language(SearchWithStatuses)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("build-finished", check_search)


def shorten_signature(
    _app: Sphinx,
    _what: str,
    name: str,
    obj: object,
    _options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """Leave out what has a meaning inside the package only: private names, and types of keyword arguments."""
    if signature is None:
        return None
    if name in NOT_CONSTRUCTED:
        return "", returned
    module = sys.modules[getattr(obj, "__module__", None) or "prefect_http"]
    signature = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature)
    signature = re.sub(r"(\*\*\w+): [\w.~]*Unpack\[[\w.~]*\]", r"\1", signature)
    return re.sub(
        r"= (_[A-Z]+)\b",
        lambda match: f"= {value_of(module, match[1])}",
        signature,
    ), returned


def value_of(module: ModuleType, constant: str) -> str:
    """Return the value of a private constant as a signature shows it."""
    value = repr(getattr(module, constant))
    return "..." if value.startswith("<") else value


class SearchWithStatuses(SearchEnglish):
    """The search in English, and for HTTP statuses: by itself, it finds no numbers."""

    # The search drops a word for which `match()` says that it is a number.
    js_splitter_code = r"""
function splitQuery(query) {
  return query
    .split(/[^\p{Letter}\p{Number}_]+/gu)
    .filter((term) => term)
    .map((term) =>
      /^[1-5]\d\d$/.test(term)
        ? Object.assign(new String(term), { match: () => null })
        : term,
    );
}
"""

    def word_filter(self, word: str) -> bool:
        """Return whether a word is in the index."""
        return bool(re.fullmatch(r"[1-5]\d\d", word)) or super().word_filter(
            word
        )


def check_search(app: Sphinx, exception: Exception | None) -> None:
    """Raise an error if a search would find nothing."""
    index = Path(app.outdir, "searchindex.js")
    if exception or not index.exists():
        return
    found = json.loads(
        index.read_text("utf-8")
        .removeprefix("Search.setIndex(")
        .removesuffix(")")
    )
    search = SearchWithStatuses({})
    for query in SEARCHES:
        pages = [
            found["terms"].get(search.stem(word), []) for word in query.split()
        ]
        sets = [
            set(numbers) if isinstance(numbers, list) else {numbers}
            for numbers in pages
        ]
        if not set.intersection(*sets):
            raise ExtensionError(f"a search for {query} finds nothing")
