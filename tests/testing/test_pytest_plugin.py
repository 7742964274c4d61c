"""The pytest plugin: its fixture, under pytest-trio, anyio's plugin, pytest-asyncio, and without any of them."""

from __future__ import annotations

import ast
import configparser
import importlib.util

import pytest
from support.source import ROOT

import prefect_http.testing

pytest_plugins = ["pytester"]

NO_WARNING = ["-o", "asyncio_default_fixture_loop_scope=function"]  # of pytest-asyncio, if it is not set

# Tests for pytest to run; what becomes of each follows from its name.
PLAIN = """
import pytest

@pytest.fixture
def of_the_user(fake_network):
    return fake_network

class TestPlain:
    def test_passed_without_the_fixture(self):
        pass

    @pytest.mark.usefixtures("fake_network")
    def test_passed_without_an_argument(self):
        pass

    def test_failed_in_check_without_an_argument(self, request):
        request.getfixturevalue("fake_network").left = "GET /flows is left"

    def test_failed_in_check_through_a_fixture(self, of_the_user):
        of_the_user.left = "GET /flows is left"

    def test_skipped(self, fake_network):
        fake_network.left = "GET /flows is left"
        pytest.skip("not now")

    @pytest.mark.xfail(strict=True)
    def test_skipped_as_an_expected_failure(self, fake_network):
        fake_network.left = "GET /flows is left"
"""
ANY = """
{mark}
class Test{kind}:
    {define} test_passed(self, fake_network):
        assert fake_network.left == ""

    {define} test_failed_in_check(self, fake_network):
        fake_network.left = "GET /flows is left"

    {define} test_failed_by_itself(self, fake_network):
        fake_network.left = "GET /flows is left"
        raise ValueError("this failed")
"""
SYNC = ANY.format(mark="", define="def", kind="Sync")
TRIO, ANYIO, ASYNCIO = (
    ANY.format(mark=f"@pytest.mark.{name}", define="async def", kind=name) for name in ("trio", "anyio", "asyncio")
)
ON_BOTH_BACKENDS = """
@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
"""
ASYNCIO_AUTO = ANY.format(mark="", define="async def", kind="auto")
IN_VIRTUAL_TIME = """
async def test_passed_after_an_hour():
    import asyncio
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600
"""
VIRTUAL_TIME = """
from prefect_http.testing._virtual_time import virtual_time_loop

def pytest_asyncio_loop_factories(config, item):
    return {"virtual time": virtual_time_loop}
"""


class StandIn:
    """Fails its check if anything is left, as a FakeNetwork does."""

    left = ""

    def check(self) -> None:
        if self.left:
            raise AssertionError(self.left)


@pytest.fixture(autouse=True)
def replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace FakeNetwork, and let pytest load only the plugins that it is told to load."""
    monkeypatch.setattr(prefect_http.testing, "FakeNetwork", StandIn)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, tests: list[str], plugins: list[str], *options: str) -> int:
    """Run tests with the plugins, check what becomes of each, and return how many they were."""
    pytester.makepyfile("\n".join(["import pytest", *tests]))
    arguments = [argument for plugin in [*plugins, "prefect_http_pytest"] for argument in ("-p", plugin)]
    # The other styles of tracebacks take longer.
    recorded = pytester.inline_run(*arguments, "-p", "no:cacheprovider", "--tb=native", *options)
    reports = [report for report in recorded.getreports() if isinstance(report, pytest.TestReport)]
    called = [report for report in reports if report.when == "call"]
    for report in called:
        name = report.location[2]
        assert name.partition("test_")[2].startswith(report.outcome), name
        if "failed_in_check" in name:
            assert report.longreprtext == "GET /flows is left"  # and no traceback
        elif "failed_by_itself" in name:
            assert "ValueError: this failed" in report.longreprtext
    assert all(report.passed for report in reports if report.when != "call")
    return len(called)


def test_fixture(pytester: pytest.Pytester) -> None:
    """The fixture checks its network as a part of a test that passes, and leaves one alone that does not."""
    assert run(pytester, [PLAIN, SYNC], []) == 6 + 3


def test_fixture_in_async_tests(pytester: pytest.Pytester) -> None:
    """It does so whatever runs the test."""
    tests, plugins = [ON_BOTH_BACKENDS, ANYIO, TRIO], ["anyio.pytest_plugin", "pytest_trio.plugin"]
    options = []
    if has_pytest_asyncio():
        tests, plugins, options = [*tests, ASYNCIO], [*plugins, "pytest_asyncio.plugin"], NO_WARNING
    assert run(pytester, tests, plugins, *options) == 3 * (2 + len(tests[2:]))


def test_fixture_in_the_auto_mode_of_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """It works in pytest-asyncio's auto mode, and so does virtual time."""
    if not has_pytest_asyncio():
        pytest.skip("pytest-asyncio is not installed")
    pytester.makeconftest(VIRTUAL_TIME)
    options = ["--asyncio-mode=auto", *NO_WARNING]
    assert run(pytester, [ASYNCIO_AUTO, IN_VIRTUAL_TIME], ["pytest_asyncio.plugin"], *options) == 3 + 1


def has_pytest_asyncio() -> bool:
    """Return whether pytest-asyncio is installed."""
    return importlib.util.find_spec("pytest_asyncio") is not None


def test_plugin_is_light() -> None:
    """Whoever does not use the fixture pays for the import of one small file, and for nothing of the package."""
    tree = ast.parse((ROOT / "prefect_http_pytest.py").read_text("utf-8"))
    imports = {ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert imports == {"from __future__ import annotations", "from typing import TYPE_CHECKING", "import pytest"}


def test_plugin_is_installed() -> None:
    """The distribution has the module of the plugin, and tells pytest about it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    assert config["options"]["py_modules"] == "prefect_http_pytest"
    assert config["options.entry_points"]["pytest11"].split() == ["prefect_http", "=", "prefect_http_pytest"]
