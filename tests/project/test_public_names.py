"""What the package offers: its names, their documentation and their types, and its version."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pydoc
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator

import pytest
from support.source import MODULES, ROOT, assert_none

import prefect_http
import prefect_http.httpx2
import prefect_http.otel
import prefect_http.progress
import prefect_http.testing

PUBLIC = {name: getattr(prefect_http, name) for name in prefect_http.__all__}
PUBLIC |= {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (prefect_http.httpx2, prefect_http.otel, prefect_http.progress, prefect_http.testing)
    for name in module.__all__
}
CLASSES = {name: item for name, item in PUBLIC.items() if inspect.isclass(item)}
FUNCTIONS = {name: item for name, item in PUBLIC.items() if inspect.isfunction(item)}


def public_methods(cls: type) -> Iterator[tuple[str, Callable[..., object]]]:
    """Return the public methods and properties of a class and of its bases in the package, and the constructor."""
    for base in cls.__mro__:
        if base.__module__.startswith("prefect_http"):
            for name, item in vars(base).items():
                function = getattr(item, "fget", None) or getattr(item, "__func__", item)
                if (name == "__init__" or not name.startswith("_")) and inspect.isfunction(function):
                    yield f"{cls.__name__}.{name}", function


def classes_in(hint: object) -> Iterator[type]:
    """Return the classes that a type is made of."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    arguments = hint if isinstance(hint, list) else typing.get_args(hint)
    for argument in (typing.get_origin(hint), *arguments):
        if argument is not None:
            yield from classes_in(argument)


def private_types(hints: dict[str, object]) -> set[str]:
    """Return the classes of the package that types are made of, and that nobody can import from it.

    A TypedDict may be private: it stands for keyword arguments.
    """
    ours = {cls for hint in hints.values() for cls in classes_in(hint) if cls.__module__.startswith("prefect_http")}
    return {cls.__name__ for cls in ours - set(CLASSES.values()) if not typing.is_typeddict(cls)}


def test_exports_are_sorted_and_complete() -> None:
    """``__all__`` is sorted, and names exactly what the package offers."""
    items = vars(prefect_http).items()
    offered = {name for name, item in items if not name.startswith("_") and not inspect.ismodule(item)}
    offered.add("__version__")
    assert prefect_http.__all__ == sorted(offered)


def test_names_that_are_loaded_when_needed() -> None:
    """A name that is loaded when it is needed comes from where type checkers find it, and ``dir()`` lists it before."""
    for_type_checkers = {
        alias.name: node.module
        for block in MODULES["__init__"].body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    program = """
import sys
import prefect_http
listed = dir(prefect_http)
assert listed == sorted(listed) and set(prefect_http.__all__) <= set(listed)
for line in sys.stdin:
    name, module = line.split()
    assert name not in vars(prefect_http)
    found = getattr(prefect_http, name)
    assert found is vars(prefect_http)[name] is getattr(sys.modules[module], name)
assert all(name in vars(prefect_http) for name in prefect_http.__all__)
"""
    lines = "\n".join(f"{name} {module}" for name, module in for_type_checkers.items())
    subprocess.run([sys.executable, "-P", "-c", program], input=lines, text=True, timeout=60, check=True)
    assert set(prefect_http.__all__) <= set(dir(prefect_http))


def test_unknown_names() -> None:
    """A name that the package does not have raises an AttributeError, as for any module."""
    name = "Unknown"
    with pytest.raises(AttributeError, match=r"^module 'prefect_http' has no attribute 'Unknown'$"):
        getattr(prefect_http, name)
    assert not hasattr(prefect_http, name)


def test_every_module_has_a_docstring() -> None:
    """Every module says what it holds."""
    assert_none(name for name, tree in MODULES.items() if not ast.get_docstring(tree))


def test_every_public_name_has_a_docstring() -> None:
    """Every public class, function and method has a docstring, and not the one that a dataclass makes up."""
    own = {name: str(vars(cls).get("__doc__") or "") for name, cls in CLASSES.items()}
    assert_none(name for name, docstring in own.items() if not docstring or docstring.startswith(f"{name}("))
    functions = [*FUNCTIONS.items(), *(found for cls in CLASSES.values() for found in public_methods(cls))]
    assert_none(name for name, function in functions if not name.endswith("__init__") and not function.__doc__)


def test_help_shows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What help() shows has no part of the environment, which a default value could hold."""
    monkeypatch.setenv("PREFECT_HTTP_SECRET", "hunter2")
    documented = [*CLASSES.items(), *FUNCTIONS.items()]
    assert_none(name for name, item in documented if "hunter2" in pydoc.render_doc(item))


def test_every_public_name_is_in_the_reference() -> None:
    """The reference describes every public name, and its index lists them."""
    index = ROOT / "docs" / "reference.md"
    pages = "\n".join(page.read_text("utf-8") for page in index.parent.glob("reference/*.md"))
    for text in index.read_text("utf-8"), pages:
        assert_none(name for name in PUBLIC if not re.search(rf"\b{name}\b", text))


def test_public_types_are_public() -> None:
    """What a public function, method or attribute takes and returns can be imported from the package."""
    functions = [*FUNCTIONS.items(), *(found for cls in CLASSES.values() for found in public_methods(cls))]
    assert_none(
        f"{name} has the private type {found}"
        for name, function in functions
        for found in private_types(typing.get_type_hints(function))
    )
    assert_none(
        f"{name}.{attribute} has the private type {found}"
        for name, cls in CLASSES.items()
        for attribute, hint in typing.get_type_hints(cls).items()
        if not attribute.startswith("_")
        for found in private_types({attribute: hint})
    )


def test_version_is_the_distributions() -> None:
    """The version is in one place, from which the distribution has it, and it is the changelog's latest."""
    assert importlib.metadata.version("prefect_http") == prefect_http.__version__
    latest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert latest is not None
    assert latest[1] == prefect_http.__version__
