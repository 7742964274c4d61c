"""The layout of the package and of its tests, and who may import what."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from support.source import (
    MODULES,
    PACKAGE,
    ROOT,
    assert_none,
    defined_names,
    imported_modules,
    imported_names,
    imported_packages,
    is_private,
    late_imports,
    nodes,
)

# From the bottom up. A file imports from its own folder and from the layers below it.
LAYERS = (
    {
        "_app",
        "_attempt",
        "_body_splitters",
        "_caching",
        "_callbacks",
        "_content_encoding",
        "_errors",
        "_foreign_errors",
        "_httpx_details",
        "_httpx_requests",
        "_internal_errors",
        "_ports",
        "_redact",
        "_request_timeouts",
        "_telemetry",
        "_types",
        "_version",
        "_wording",
    },
    {"_concurrency", "_fields"},
    {"_body_iterator", "_bounded_body", "_error_limits", "_otel", "_response", "_retry"},
    {"_lifespan", "_throttle", "_wire"},
    {"_asgi", "_streams"},
    {"_client"},
    {"__init__", "httpx2", "otel", "progress", "redis"},
    {"testing"},
)

# Where one part of the package imports another of the same layer, file by file.
DOORS = {
    ("_app", "_types"),
    ("_attempt", "_redact"),
    ("_attempt", "_wording"),
    ("_errors", "_attempt"),
    ("_redact", "_internal_errors"),
    ("_response", "_body_iterator"),
    ("_response", "_bounded_body"),
}

# What is imported by a function, when it is called, because many programs do without it; see test_import_is_quick().
LATE_IMPORTS = {
    ("_client.client", "_asgi.lifespan_transport"),
    ("_client.client", "_throttle.throttle"),
    ("_client.client", "_throttle.transport"),
    ("_client.routing", "_throttle.transport"),
    ("_client.routing", "_wire.transport"),
    ("_client.streams", "_streams.sse"),
    ("_client.streams", "_streams.download"),
    ("_client.streams", "_streams.send_many"),
    ("_concurrency.connecting", "_concurrency.asyncio_stream"),
    ("_concurrency.connecting", "_concurrency.trio_stream"),
    ("_concurrency.backend", "asyncio"),
    ("_response", "_fields.rate_limit_parser"),
    ("_response", "_fields.retry_after"),
    ("progress", "rich.console"),
    ("progress", "rich.progress"),
    ("progress", "rich.table"),
    ("testing._network", "httpx2"),
}

# The files of the folders that are imported late which every client needs.
LIGHT = {"_asgi.read_whole", "_throttle.closure_reason", "_wire.replaced"}

# Decide, and do no I/O: clock readings and random numbers come in as arguments.
PURE = {
    "_attempt",
    "_body_splitters",
    "_caching",
    "_content_encoding",
    "_errors",
    "_internal_errors",
    "_ports",
    "_redact",
    "_request_timeouts",
    "_wording",
    "_asgi.http_protocol",
    "_asgi.patience",
    "_client.authentication",
    "_client.cookies",
    "_client.redirects",
    "_client.routes",
    "_concurrency.exception_groups",
    "_fields.epoch",
    "_fields.http_date",
    "_fields.methods",
    "_fields.rate_limit",
    "_fields.rate_limit_draft",
    "_fields.rate_limit_families",
    "_fields.rate_limit_github",
    "_fields.rate_limit_legacy",
    "_fields.rate_limit_parser",
    "_fields.request_rules",
    "_fields.reset_time",
    "_fields.retry_after",
    "_fields.should_retry",
    "_fields.structured_fields",
    "_lifespan.outcome",
    "_lifespan.protocol",
    "_otel.conventions",
    "_retry.decision",
    "_retry.policy",
    "_streams.sse_parser",
    "_streams.content_range",
    "_streams.download_plan",
    "_streams.download_retries",
    "_streams.outcome_queue",
    "_throttle.closure",
    "_throttle.closure_reason",
    "_throttle.curve",
    "_throttle.cycle",
    "_throttle.diagnosis",
    "_throttle.early_probes",
    "_throttle.fleet_state",
    "_throttle.share",
    "_throttle.store",
    "_throttle.evidence",
    "_throttle.known_limit",
    "_throttle.news",
    "_throttle.limiter",
    "_throttle.quota",
    "_throttle.routes",
    "_throttle.statistics",
    "_throttle.ticket",
    "_throttle.trial",
    "_wire.close_reasons",
    "_wire.h1.chunk_decoder",
    "_wire.h1.lenient_head",
    "_wire.h1.plain_head",
    "_wire.h1.remembered_heads",
    "_wire.h1.request_head",
    "_wire.h1.response_head",
    "_wire.h1.response_parser",
    "_wire.h2.body_queue",
    "_wire.h2.connection",
    "_wire.h2.control_frames",
    "_wire.h2.errors",
    "_wire.h2.flood_guard",
    "_wire.h2.frames",
    "_wire.h2.open_streams",
    "_wire.h2.receive_window",
    "_wire.h2.request_fields",
    "_wire.h2.resets",
    "_wire.h2.response",
    "_wire.h2.response_fields",
    "_wire.h2.settings",
    "_wire.h2.stream",
    "_wire.h2.hpack.decoder",
    "_wire.h2.hpack.encoder",
    "_wire.h2.hpack.errors",
    "_wire.h2.hpack.field_table",
    "_wire.h2.hpack.huffman",
    "_wire.h2.hpack.integers",
    "_wire.h2.hpack.static_table",
    "_wire.h2.repeats",
    "_wire.opening_times",
    "_wire.origin",
    "_wire.pool",
    "_wire.pool_request",
    "_wire.protocols",
    "_wire.proxy.http_tunnel",
    "_wire.proxy.proxy_headers",
    "_wire.proxy.socks5",
    "testing._arguments",
    "testing._limits",
    "testing._rate_limit_headers",
    "testing._events",
    "testing._h1_request_head",
    "testing._h1_response_head",
    "testing._h1_server",
    "testing._h2_request_head",
    "testing._h2_server",
    "testing._operations",
    "testing._received",
    "testing._reply",
    "testing._request_fields",
    "testing._rule",
    "testing._steps",
    "testing._verdicts",
}
PUBLIC_MODULES = {"__init__", "httpx2", "otel", "progress", "redis", "testing"}

# What knows trio and asyncio: one file for all, what asyncio alone needs, the streams of each of them, and an event
# loop for tests.
SEAM = {
    "_concurrency.asyncio_stream",
    "_concurrency.backend",
    "_concurrency.borrowed_task",
    "_concurrency.trio_stream",
    "testing._virtual_time",
}
EVENT_LOOPS = {"asyncio", "sniffio", "trio"}
IMPURE = {"anyio", "random", "secrets", "socket", "ssl", "threading", "time"} | EVENT_LOOPS


def part_of(module: str) -> str:
    """Return the folder that a module is in, or the module itself where it is in none."""
    return module.split(".")[0]


def layer_of(module: str) -> int:
    """Return the number of the layer that a module is in."""
    return next(number for number, parts in enumerate(LAYERS) if part_of(module) in parts)


class Modules(NamedTuple):
    """The modules that a program has loaded at some points.

    Attributes:
        known: with httpx and anyio.
        imported: those that came with ``import prefect_http``.
        used: in the end.
    """

    known: set[str]
    imported: set[str]
    used: set[str]


@functools.cache
def asyncio_program() -> Modules:
    """Run a program that imports the package and uses it under asyncio."""
    program = """
import sys
import anyio, httpx
known = set(sys.modules)
import prefect_http
imported = sys.modules.keys() - known
import asyncio

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
for modules in known, imported, sys.modules:
    print(*modules)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], timeout=60, check=True, capture_output=True, text=True)
    return Modules(*(set(line.split()) for line in done.stdout.splitlines()))


# --- Layers


def test_every_part_is_in_one_layer() -> None:
    """Each file and folder of the package is in exactly one layer, and each layer names what exists."""
    parts = [part for layer in LAYERS for part in layer]
    assert sorted(parts) == sorted({part_of(module) for module in MODULES})


def test_layers() -> None:
    """A file imports from its own folder, from lower layers, and through the doors that are listed here."""
    assert_none(
        f"{module} imports {other}, which is not in a lower layer"
        for module in MODULES
        for other in imported_modules(module)
        if part_of(other) != part_of(module) and layer_of(other) >= layer_of(module) and (module, other) not in DOORS
    )


def test_every_door_is_used() -> None:
    """The list of doors names no import that is gone."""
    assert_none(f"{one} does not import {other}" for one, other in DOORS if other not in imported_modules(one))


def test_imports_have_no_cycle() -> None:
    """No module imports itself through others, not even for its types."""
    graphlib.TopologicalSorter({module: imported_modules(module) for module in MODULES}).prepare()


def test_every_module_is_used() -> None:
    """The entry point and the public modules reach every other module."""
    reached, found = set[str](), PUBLIC_MODULES
    while found:
        reached |= found
        found = {name for module in found for name in imported_modules(module)} - reached
    assert_none(f"{module} is not imported" for module in MODULES.keys() - reached)


def test_late_imports() -> None:
    """Files import at their top, but for what is listed here."""
    late = {
        (module, name.removeprefix("prefect_http.")) for module, tree in MODULES.items() for name in late_imports(tree)
    }
    assert late == LATE_IMPORTS


def test_import_is_quick() -> None:
    """The import leaves out what connects to networks, the throttle, the apps' side, and asyncio."""
    imported = asyncio_program().imported
    assert "prefect_http._client.client" in imported
    assert_none(
        name for name in imported if name.split(".")[0] in {"asyncio", "decimal", "http_sf", "opentelemetry", "trio"}
    )
    assert_none(
        name
        for name in imported
        if name.startswith(
            (
                "prefect_http._asgi.",
                "prefect_http._lifespan",
                "prefect_http._streams.",
                "prefect_http._throttle.",
                "prefect_http._wire.",
            )
        )
        and name.removeprefix("prefect_http.") not in LIGHT
    )


def test_public_modules() -> None:
    """The only modules without an underscore are the ones that are listed here."""
    assert {part for part in map(part_of, MODULES) if not is_private(part)} == PUBLIC_MODULES


def test_folders_export_nothing() -> None:
    """The ``__init__.py`` of a private folder is there and empty: a name has one home."""
    folders = {path.parent for path in PACKAGE.glob("_*/**/*.py")}
    assert_none(str(folder) for folder in folders if (folder / "__init__.py").read_text("utf-8"))


def test_other_files() -> None:
    """The only file without code is the marker for type checkers."""
    others = {path.name for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert others == {"py.typed"}


# --- What a file may use


def test_pure_files() -> None:
    """A pure file imports no event loop, clock or random numbers, and nothing of the package that does."""
    assert_none(f"{module} does not exist" for module in PURE - MODULES.keys())
    assert_none(
        f"{module} imports {name}"
        for module in PURE
        for name in (imported_packages(MODULES[module]) & IMPURE) | (imported_modules(module) - PURE)
    )


def test_backends_meet_in_one_place() -> None:
    """Only the seam between trio and asyncio names either."""
    assert_none(f"{module} does not exist" for module in SEAM - MODULES.keys())
    named = {module: imported_packages(tree) & EVENT_LOOPS for module, tree in MODULES.items()}
    assert_none(f"{module} imports {packages}" for module, packages in named.items() if packages and module not in SEAM)


def test_httpx_is_used_through_its_public_names() -> None:
    """No submodule or private name of httpx is used, and httpcore not at all, so that httpx2 can take its place.

    Only the transports for httpx2 import that, and httpcore2, whose exceptions its network streams raise.
    """
    assert_none(
        f"{module} imports {name}"
        for module, tree in MODULES.items()
        for name in imported_names(tree)
        if name.startswith(("httpx.", "httpx2", "httpcore"))
        and not (module == "httpx2" and name in {"httpx2", "httpcore2"})
    )
    assert_none(
        f"{module} uses {value}.{attribute}"
        for module, tree in MODULES.items()
        for value, attribute in _private_attributes(tree)
        if value == "httpx"
    )


def _private_imports(tree: ast.Module) -> Iterator[str]:
    for node in nodes(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name))


def _private_attributes(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in nodes(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield ast.unparse(node.value), node.attr


def test_private_names_stay_in_their_file() -> None:
    """No file imports a private name of another."""
    assert_none(f"{module} imports {name}" for module, tree in MODULES.items() for name in _private_imports(tree))


def test_private_attributes_stay_in_their_file() -> None:
    """A private attribute is used in the file that defines it; on ``self``, also by subclasses in the same folder."""
    defined = {module: defined_names(tree) for module, tree in MODULES.items()}
    in_folder: defaultdict[str, set[str]] = defaultdict(set)
    for module, names in defined.items():
        in_folder[part_of(module)] |= names
    assert_none(
        f"{module} uses {value}.{attribute}"
        for module, tree in MODULES.items()
        for value, attribute in _private_attributes(tree)
        if attribute not in (in_folder[part_of(module)] if value in {"self", "super()"} else defined[module])
    )


def _classes() -> Iterator[type]:
    for name in MODULES:
        module = importlib.import_module("prefect_http" if name == "__init__" else f"prefect_http.{name}")
        yield from (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)


def test_private_methods_are_not_overridden() -> None:
    """No class overrides a private method of a class in another file."""
    assert_none(
        f"{cls.__module__}.{cls.__name__} overrides {base.__module__}.{base.__name__}.{name}"
        for cls in _classes()
        for base in cls.__mro__[1:]
        if base.__module__.startswith("prefect_http") and base.__module__ != cls.__module__
        for name in vars(cls).keys() & vars(base).keys()
        if is_private(name) and inspect.isfunction(vars(base)[name])
    )


def test_asyncio_user_imports_no_trio() -> None:
    """Neither the import nor the use of the package under asyncio imports trio, unless httpx does."""
    program = asyncio_program()
    assert ("trio" in program.used) == ("trio" in program.known)


# --- The tests

TESTS = ROOT / "tests"
TEST_FILES = {path.relative_to(TESTS): path for path in TESTS.rglob("test_*.py")}


def test_tests_mirror_the_package() -> None:
    """A folder of tests has the name of a folder of the package, and a file beside them that of a file.

    The tests beside httpx have a folder of their own within that of the client.
    """
    folders = {path.relative_to(PACKAGE).as_posix().replace("_", "") for path in PACKAGE.rglob("*") if path.is_dir()}
    folders |= {".", "project", "client/beside_httpx"}
    assert_none(f"tests/{path}" for path in TEST_FILES if path.parent.as_posix() not in folders)
    files = {f"test_{module.removeprefix('_')}.py" for module in MODULES if "." not in module}
    assert_none(f"tests/{path}" for path in TEST_FILES if path.parent.name == "" and path.name not in files)


def test_every_folder_is_tested() -> None:
    """Each folder of the package has its folder of tests."""
    tested = {path.parts[0] for path in TEST_FILES}
    assert_none(
        part for part in map(part_of, MODULES) if (PACKAGE / part).is_dir() and part.removeprefix("_") not in tested
    )
    assert_none(part for part in map(part_of, MODULES) if (PACKAGE / part).is_dir() and part.lstrip("_") not in tested)


def test_tests_share_through_support() -> None:
    """No test file imports from another; what several need is in tests/support/."""
    others = {path.stem for path in TEST_FILES} | {path.parts[0] for path in TEST_FILES} | {"conftest", "tests"}
    assert_none(
        f"{name} imports {imported}"
        for name, path in TEST_FILES.items()
        for imported in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text("utf-8"), re.MULTILINE)
        if imported in others
    )
