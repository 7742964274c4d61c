"""The rules of the layout, read off the source: who may import what, and what is public."""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import prefect_http

ROOT = Path(__file__).parents[2]
PACKAGE = Path(prefect_http.__file__).parent


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__" or len(parts) == 1:
            yield ".".join(parts), ast.parse(path.read_text("utf-8"))


MODULES = dict(_modules())

# From the bottom up. A file imports from its own folder and from the layers below it.
LAYERS = (
    {
        "_app",
        "_attempt",
        "_callbacks",
        "_errors",
        "_foreign_errors",
        "_httpx_details",
        "_ports",
        "_redact",
        "_types",
        "_version",
    },
    {"_concurrency", "_fields"},
    {"_error_limits", "_response", "_retry"},
    {"_lifespan", "_throttle", "_wire"},
    {"_asgi"},
    {"_client"},
    {"__init__"},
)

# Where one part of the package imports another of the same layer, file by file.
DOORS = {
    ("_app", "_types"),
    ("_attempt", "_redact"),
    ("_errors", "_attempt"),
    ("_httpx_details", "_types"),
}

# Decide, and do no I/O: clock readings and random numbers come in as arguments.
PURE = {
    "_attempt",
    "_errors",
    "_ports",
    "_redact",
    "_asgi.http_protocol",
    "_asgi.patience",
    "_fields.http_date",
    "_fields.methods",
    "_fields.rate_limit",
    "_fields.rate_limit_draft",
    "_fields.rate_limit_github",
    "_fields.rate_limit_legacy",
    "_fields.rate_limit_parser",
    "_fields.retry_after",
    "_fields.structured_fields",
    "_lifespan.outcome",
    "_lifespan.protocol",
    "_retry.decision",
    "_retry.policy",
    "_throttle.closure",
    "_throttle.curve",
    "_throttle.early_probes",
    "_throttle.limiter",
    "_throttle.quota",
    "_throttle.routes",
    "_throttle.statistics",
    "_throttle.ticket",
    "_wire.h1.request_head",
    "_wire.h1.response_head",
    "_wire.h1.response_parser",
    "_wire.pool",
}
PUBLIC_MODULES = {"__init__"}


def imports(module: str) -> set[str]:
    """Return the full names of what a module imports, anywhere in it."""
    found = set[str]()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or ".")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own_imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    return {name.removeprefix("prefect_http.") for name in imports(module)} & MODULES.keys()


def packages(module: str) -> set[str]:
    """Return the packages that a module imports from."""
    return {name.split(".")[0] for name in imports(module)}


def part_of(module: str) -> str:
    """Return the folder that a module is in, or the module itself where it is in none."""
    return module.split(".")[0]


def layer_of(module: str) -> int:
    """Return the number of the layer that a module is in."""
    return next(number for number, parts in enumerate(LAYERS) if part_of(module) in parts)


def test_imports_point_one_way() -> None:
    """No module imports itself by a detour, not even for its types."""
    graphlib.TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_layers(module: str) -> None:
    """A file imports from its own folder, from lower layers, and through the doors that are listed here."""
    for other in own_imports(module):
        assert part_of(other) == part_of(module) or layer_of(other) < layer_of(module) or (module, other) in DOORS, (
            f"{module} imports {other}"
        )


def test_every_door_is_used() -> None:
    """The list of doors names no import that is gone."""
    assert {(module, other) for module, other in DOORS if other in own_imports(module)} == DOORS


def test_every_layer_exists() -> None:
    """Each part of the package is in one layer, and each layer names parts that exist."""
    parts = [part for layer in LAYERS for part in layer]
    assert sorted(parts) == sorted({part_of(module) for module in MODULES})


@pytest.mark.parametrize("module", sorted(MODULES))
def test_private_names_stay_in_their_file(module: str) -> None:
    """No file imports a private name from another, nor reaches for one through an imported module."""
    private = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefect_http")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert private == []


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_file_is_pure(module: str) -> None:
    """A pure file imports no event loop, no clock and no random numbers, and nothing of the package that does."""
    assert not packages(module) & {"anyio", "asyncio", "random", "secrets", "sniffio", "threading", "time", "trio"}
    assert own_imports(module) <= PURE


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"_concurrency.backend"}))
def test_backends_meet_in_one_file(module: str) -> None:
    """Only the seam between trio and asyncio names either."""
    assert not packages(module) & {"asyncio", "sniffio", "trio"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_httpx_is_used_through_its_public_names(module: str) -> None:
    """No private name of httpx is used, and httpcore not at all, so that httpx2 can take its place."""
    private = [
        f"httpx.{node.attr}"
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "httpx"
        if node.attr.startswith("_") and node.attr != "__version__"
    ]
    assert private == []
    assert not any(name.startswith(("httpx.", "httpx2", "httpcore")) for name in imports(module))


def test_every_module_has_its_place() -> None:
    """The package is what its entry point reaches, private but for the public modules, and its type marker."""
    reached, found = set[str](), {"__init__"}
    while found:
        reached |= found
        found = {name for module in found for name in own_imports(module)} - reached
    assert reached | PUBLIC_MODULES == MODULES.keys()
    assert {part_of(module) for module in MODULES if not part_of(module).startswith("_")} == PUBLIC_MODULES - {
        "__init__"
    }
    others = {path.name for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == {"py.typed"}


def test_folders_export_nothing() -> None:
    """A private folder's ``__init__.py`` is empty: a name has one home."""
    assert all(path.read_text("utf-8") == "" for path in PACKAGE.glob("_*/**/__init__.py"))


def test_exports_are_sorted_and_whole() -> None:
    """``__all__`` is sorted, and names exactly what the package offers."""
    offered = {name for name in vars(prefect_http) if not name.startswith("_")} | {"__version__"}
    assert prefect_http.__all__ == sorted(offered)


def _documented() -> Iterator[tuple[str, object]]:
    for name, module in MODULES.items():
        yield f"module {name}", ast.get_docstring(module)
    for name in prefect_http.__all__:
        item = getattr(prefect_http, name)
        if not (inspect.isclass(item) or inspect.isfunction(item)):
            continue  # type aliases and the version are described in docs/reference.md
        yield name, vars(item).get("__doc__") if inspect.isclass(item) else item.__doc__
        for attribute, value in vars(item).items() if inspect.isclass(item) else ():
            if not attribute.startswith("_") and callable(getattr(item, attribute)):
                yield f"{name}.{attribute}", getattr(value, "__doc__", None)


@pytest.mark.parametrize(("name", "docstring"), [pytest.param(*found, id=found[0]) for found in _documented()])
def test_public_name_has_a_docstring(name: str, docstring: object) -> None:
    """Every module, every public name and every public method of one has a docstring, written by hand."""
    assert isinstance(docstring, str)
    assert not docstring.startswith(f"{name}("), "the docstring that a dataclass makes up"


def test_asyncio_user_imports_no_trio() -> None:
    """Neither the import nor the use of the package under asyncio imports trio, unless httpx does."""
    program = """
import asyncio, sys
import anyio, httpx
known = "trio" in sys.modules
import prefect_http

async def app(scope, receive, send):
    for stage in "startup", "shutdown":
        await receive()
        await send({"type": f"lifespan.{stage}.complete"})

async def main():
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with prefect_http.app_lifespan_context(app):
        async with prefect_http.PrefectHttpxClient(transport=transport, trust_env=False) as client:
            await client.get("http://localhost")

asyncio.run(main())
sys.exit(known != ("trio" in sys.modules))
"""
    assert subprocess.run([sys.executable, "-P", "-c", program], timeout=60, check=False).returncode == 0


def test_version_is_the_distributions() -> None:
    """The version is in one place, from which the distribution has it, and it is the changelog's latest."""
    assert importlib.metadata.version("prefect_http") == prefect_http.__version__
    latest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert latest is not None
    assert latest[1] == prefect_http.__version__
