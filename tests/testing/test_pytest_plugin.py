"""The pytest plugin: its fixture, under pytest-trio, anyio's plugin, pytest-asyncio, and without any of them."""

from __future__ import annotations

import ast
import configparser
import importlib.util

import pytest
from support.source import ROOT

import prefect_http.testing

pytest_plugins = ["pytester"]

PLUGINS = ["anyio.pytest_plugin", "pytest_trio.plugin", "pytest_asyncio.plugin", "prefect_http_pytest"]

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
MARKED = [ANY.format(mark=f"@pytest.mark.{kind}", define="async def", kind=kind) for kind in ("anyio", "trio")]
ASYNCIO = ANY.format(mark="@pytest.mark.asyncio", define="async def", kind="AsyncioStrict")
AUTO = ANY.format(mark="", define="async def", kind="AsyncioAuto")


class StandIn:
    """Fails its check if anything is left, as a FakeNetwork does."""

    left = ""

    def check(self) -> None:
        if self.left:
            raise AssertionError(self.left)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_fixture(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """The fixture checks its network as a part of a test that passes, and leaves one alone that does not."""
    monkeypatch.setattr(prefect_http.testing, "FakeNetwork", StandIn, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    arguments = ["-p", "no:cacheprovider", "--tb=native"]  # the other styles take longer
    for plugin in PLUGINS:
        if importlib.util.find_spec(plugin.partition(".")[0]):
            arguments += ["-p", plugin]
    tests = [AUTO] if mode == "auto" else [PLAIN, ANY.format(mark="", define="def", kind="Sync"), *MARKED]
    if "pytest_asyncio.plugin" in arguments:
        arguments += [f"--asyncio-mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function"]
        tests += [ASYNCIO]
    elif mode == "auto":
        pytest.skip("pytest-asyncio is not installed")
    pytester.makepyfile("\n".join(["import pytest", *tests]))

    recorded = pytester.inline_run(*arguments)
    reports = [report for report in recorded.getreports() if isinstance(report, pytest.TestReport)]
    called = {report.location[2]: report for report in reports if report.when == "call"}
    assert len(called) == "".join(tests).count("def test_") + ("anyio" in "".join(tests)) * 3  # on both backends
    for name, report in called.items():
        assert name.partition(".test_")[2].startswith(report.outcome), name
        if "failed_in_check" in name:
            assert report.longreprtext == "GET /flows is left"  # and no traceback
        elif "failed_by_itself" in name:
            assert "ValueError: this failed" in report.longreprtext
    assert all(report.passed for report in reports if report.when != "call")


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
