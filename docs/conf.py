"""Configuration of Sphinx: the pages are Markdown, and the reference is generated from the docstrings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prefect_http import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "prefect_http"
author = "the prefect_http developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written in the source: the value of `os.environ` must not be published
autodoc_type_aliases = {"ASGIApp": "ASGIApp"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
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

html_theme = "alabaster"
html_theme_options = {"description": "Retrying HTTP clients and in-process ASGI apps", "fixed_sidebar": True}
html_show_copyright = False
html_show_sourcelink = False
exclude_patterns = ["_build"]


def setup(app: Sphinx) -> None:
    """Register the event handler."""
    app.connect("autodoc-process-docstring", split_headings, priority=400)  # before napoleon


def split_headings(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Split "Raises, if so:" into a sentence and a plain heading, the only kind that napoleon recognises."""
    lines[:] = re.sub(r"(?m)^(\w+ raises), (.*):$", r"\1 \2.\n\n\1:", "\n".join(lines)).split("\n")
