"""The source of the package, parsed: its modules, and what each of them imports and defines."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import prefect_http

ROOT = Path(__file__).parents[2]
PACKAGE = Path(prefect_http.__file__).parent


def _parse() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        source = path.read_text("utf-8")
        if parts[-1] != "__init__" or len(parts) == 1:
            yield ".".join(parts), ast.parse(source)
        elif source:
            yield ".".join(parts[:-1]), ast.parse(source)


# By name, "__init__", "testing" or "_wire.h1.upload": all but the empty files that make folders importable.
MODULES = dict(_parse())


@functools.cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    """Return the nodes of a tree; the tests ask for them a dozen times, and to walk the trees takes 0.15 s."""
    return list(ast.walk(tree))


@functools.cache
def imported_names(tree: ast.Module) -> frozenset[str]:
    """Return the full names of what a file imports, anywhere in it: modules, and names from modules."""
    found = set[str]()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or ".")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def late_imports(tree: ast.Module) -> set[str]:
    """Return the names of the modules that the functions of a file import, when they are called."""
    functions = (node for node in nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for function in functions for node in ast.walk(function) for name in _modules_named_by(node)}


def _modules_named_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case _:
            return []


def imported_packages(tree: ast.Module) -> set[str]:
    """Return the packages that a file imports from, such as "anyio" for "anyio.abc"."""
    return {name.split(".")[0] for name in imported_names(tree)}


def imported_modules(module: str) -> set[str]:
    """Return the modules of the package that one of them imports."""
    names = (name for name in imported_names(MODULES[module]) if name.startswith("prefect_http."))
    return {name.removeprefix("prefect_http.") for name in names} & MODULES.keys()


def defined_names(tree: ast.Module) -> set[str]:
    """Return the names of the functions, classes and variables of a file, and of the attributes that it sets."""
    found = set[str]()
    for node in nodes(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(ast.Name("self"), attr=name, ctx=ast.Store()):
                found.add(name)
            case _:
                pass
    return found


def is_private(name: str) -> bool:
    """Return whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def assert_none(offenders: Iterable[str]) -> None:
    """Fail if there are any offenders, and list them."""
    found = sorted(set(offenders))
    assert not found, "\n".join(["", *found])
