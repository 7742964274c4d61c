"""What all tests share."""

from __future__ import annotations

import functools
import gc
import inspect
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import certifi
import pytest
from hypothesis import is_hypothesis_test, settings

# What can make a result depend on the version of Python or of a library.
_DEPENDENCIES = {"anyio", "asyncio", "httpx", "socket", "ssl", "support", "trio"}

# No test fails because the machine is busy. What could hang is under a fail_after.
settings.register_profile("prefect_http", deadline=None)
settings.load_profile("prefect_http")


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run a test marked anyio on both backends."""
    return str(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked anyio with ``trio.run()``.

    anyio's plugin has trio run as a guest, so that it can be interrupted for fixtures. Then each wait goes through a
    thread, which takes half as long again. Only tests with async fixtures need that.
    """
    backend = pyfuncitem.funcargs.get("anyio_backend")
    name, options = backend if isinstance(backend, tuple) else (backend, {})
    if name != "trio" or not inspect.iscoroutinefunction(pyfuncitem.obj) or _has_async_fixture(pyfuncitem):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        anyio.run(functools.partial(pyfuncitem.obj, **arguments), backend="trio", backend_options=options)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):
            raise KeyboardInterrupt from group  # pytest does not look into groups
        raise
    return True


def _has_async_fixture(test: pytest.Function) -> bool:
    functions = [
        fixture.func for name in test.fixturenames for fixture in test._fixtureinfo.name2fixturedefs.get(name, ())
    ]
    return any(inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function) for function in functions)


def pytest_configure() -> None:
    """Set up the process: let SIGINT raise KeyboardInterrupt, as some tests expect, and collect tests without garbage.

    A program started by nohup or ``&`` ignores SIGINT.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # until all is collected: there is nothing to find, and much to search


def pytest_collection_finish() -> None:
    """Let the garbage collector run again, but seldom, and keep it off what has been imported and collected.

    What tests leave is looked for behind each module, and by tests that collect themselves.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def set_aside() -> None:
    """Close what the tests before have dropped, and keep the garbage collector off what they have kept.

    So no test is blamed for another's garbage, and those that collect do not search everything each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have httpx's default SSL contexts load one public authority rather than all, which takes 20 ms each time."""
    file = tmp_path_factory.mktemp("certifi") / "one.pem"
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    file.write_text(first + end, "ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(file))
        patch.setenv("SSL_CERT_FILE", str(file))  # for the programs of tests/project, and where it is set already
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check that the ids of the tests are the same in every run, so that each can be run by its id."""
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    assert not unstable, f"an id contains an address; pass ids= to parametrize: {unstable[:3]}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that give the same result with every version of Python, httpx and the event loops as pure."""
    if is_hypothesis_test(getattr(item, "obj", None)) or not _imports(item.path) & _DEPENDENCIES:
        item.add_marker("pure")


@functools.cache
def _imports(file: Path) -> set[str]:
    imported = set(re.findall(r"^(?:from|import) ([\w.]+)", file.read_text("utf-8"), re.MULTILINE))
    return {name.partition(".")[0] for name in imported - {"support.rows"}}
