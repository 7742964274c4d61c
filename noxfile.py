"""The project's chores. ``python -m nox -s tests`` runs the tests; ``python -m nox -l`` lists the rest."""

from __future__ import annotations

import configparser
import fnmatch
import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

# The first version that finds the Python that runs it, and those that uv has installed, without the PATH.
nox.needs_version = ">=2026.8.10"


def _hidden_pythons() -> list[str]:
    """Return the ``bin`` folders of the Pythons that pyenv and uv have installed, newest first.

    pyenv's shims start only the versions that are active, and complain for all others. uv puts nothing on the PATH.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    found = {}
    for folder in (*pyenv.glob("versions/*/bin"), *uv.glob("cpython-*/bin")):
        # "3.13.0" or "cpython-3.13.0-linux-x86_64-gnu", but no virtual environment, alpha or free-threaded build.
        version = re.fullmatch(r"(?:cpython-)?3\.(\d+)\.(\d+)(?:-.*)?", folder.parent.name)
        if version and int(version[1]) >= 11:
            found[folder] = (int(version[1]), int(version[2]))
    return [str(folder) for folder in sorted(found, key=lambda folder: found[folder], reverse=True)]


# In front, so that nox comes to the interpreters before it comes to pyenv's shims for them.
os.environ["PATH"] = os.pathsep.join([*_hidden_pythons(), *os.get_exec_path()])


def _is_installed(version: str) -> bool:
    """Return whether a final release of this Python is there, by its name on the PATH; a broken shim does not count."""
    found = (shutil.which(f"python{version}", path=folder) for folder in os.get_exec_path())
    return version == RUNNING or any(program is not None and _is_final(program) for program in found)


def _is_final(program: str) -> bool:
    code = "import sys; sys.exit(sys.version_info.releaselevel != 'final')"
    try:
        return subprocess.run([program, "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
# Those that the package supports, and what newer ones there are.
PYTHONS = ["3.11", "3.12", "3.13", *filter(_is_installed, (f"3.{minor}" for minor in range(14, 20)))]

# What the benchmarks compare the package with, and draw with.
PEERS = [
    *("aiohttp", "asgi-lifespan", "coredis", "h2", "httpx-retries", "httpx2", "hypercorn", "matplotlib"),
    *("opentelemetry-instrumentation-httpx", "opentelemetry-sdk", "pyreqwest", "respx"),
    *("stamina", "starlette", "tenacity", "trustme", "uvloop; sys_platform != 'win32'"),
]

# Parts of the tests, for versions of Python, httpx, anyio and trio on which only some results can differ. Left out of
# all are tables, the tests that hypothesis feeds (tests/conftest.py marks both as pure), and those that take long to
# look for races and leaks, which are the same on all versions.
NOT_PURE = ["-m", "not pure"]
LONG = ["beside_httpx", "beside_real_servers", "cancelling", "content_encoding", "cycles", "leaks"]
LONG += ["real_apps", "real_limiters"]
WITHOUT_LONG = [f"--ignore-glob=tests/*test_{name}.py" for name in LONG]
# Between the oldest and the newest Python: what is close to the event loops.
BETWEEN = [*NOT_PURE, *WITHOUT_LONG, "tests/asgi", "tests/concurrency", "tests/lifespan", "tests/testing"]
# With the oldest dependencies: also what uses sockets, and httpx's objects.
LOWEST = [*NOT_PURE, *WITHOUT_LONG, "--ignore=tests/project"]
# On httpx2: what uses its objects.
ON_HTTPX2 = [*LOWEST, "--ignore=tests/concurrency", "--ignore=tests/lifespan"]

# Three parts of the tests that need about as much processor time; three processes keep two cores busy, since some tests
# wait, and the last to end keeps only one busy. Each collects and reports its own part: so they need a quarter less
# processor time than pytest-xdist.
TLS = ["tests/wire/test_https.py", "tests/wire/test_tls.py", "tests/wire/test_trace.py"]
SMALL = ["tests/concurrency", "tests/fields", "tests/retry"]
CLIENT = ["tests/client", "tests/throttle", "tests/wire/h1", *SMALL, *TLS]
FILES = [f"tests/wire/{file.name}" for file in Path(__file__).parent.glob("tests/wire/test_*.py")]
WIRE = ["tests/wire/proxy", "tests/wire/h2/test_cancelling_streams.py", *(file for file in FILES if file not in TLS)]
PARTS = {
    "others": ["tests", *(f"--ignore={path}" for path in (*CLIENT, *WIRE))],
    "client": CLIENT,
    "wire": WIRE,
}

# Many CI images set this. Then each process would compile all tests, for 6 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Skip a Python that is missing. If all of them are, nothing has been tested, and that is an error.
nox.options.error_on_missing_interpreters = not any(map(_is_installed, PYTHONS))
nox.options.download_python = "never"
nox.options.default_venv_backend = "uv|virtualenv"  # uv is much faster, if it is there
nox.options.sessions = ["tests", "tests_lowest", "tests_httpx2", "coverage", "lint", "types", "docs", "package", "demo"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Test the built wheel on every Python that is installed.

    The oldest and the newest run all tests, those between a part of them (see BETWEEN). The oldest that is supported
    measures the coverage, on Linux: elsewhere some tests are skipped.
    """
    install_wheel(session, extra="test")
    if session.posargs or session.python not in oldest_and_newest():
        session.run("pytest", *(session.posargs or BETWEEN))
    else:
        run_all_parts(session, with_coverage=session.python == PYTHONS[0] and sys.platform == "linux")


@functools.cache
def oldest_and_newest() -> tuple[str, str]:
    """Return the versions of the oldest and the newest Python that are installed."""
    installed = [python for python in PYTHONS if _is_installed(python)]
    return installed[0], installed[-1]


@nox.session(python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """Test what depends on versions, with the oldest Python and the oldest dependencies that are allowed."""
    install_wheel(session, "httpx==0.27.0", "anyio==4.16.0", "trio==0.32.0", "coredis==6.2.0", extra="test")
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        run_all_parts(session, *LOWEST)


@nox.session
def tests_httpx2(session: nox.Session) -> None:
    """Test what depends on versions, on httpx2, in an application that has put it in the place of httpx."""
    install_wheel(session, "httpx2", extra="test")
    session.env.update(PYTHONPATH="tests", PYTEST_ADDOPTS="-p support.use_httpx2")
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        run_all_parts(session, *ON_HTTPX2)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the branch coverage of the tests, which must be 100 %."""
    session.install("-e", ".[test]")
    if session.posargs:
        session.run("pytest", "--cov", *session.posargs)
    else:
        run_all_parts(session, with_coverage=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format, and the settings of the services against their schemas."""
    session.install(*pinned("ruff", "check-jsonschema"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    workflows = sorted(map(str, Path(".github/workflows").iterdir()))
    for schema, files in (
        ("github-workflows", workflows),
        ("dependabot", [".github/dependabot.yml"]),
        ("readthedocs", [".readthedocs.yaml"]),
    ):
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, and that every public name has a type."""
    install_wheel(session, "httpx2", *PEERS, *pinned("nox", "mypy", "pyright"), extra="test")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "prefect_http", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install_wheel(session, extra="docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def package(session: nox.Session) -> None:
    """Build what a release uploads into ``dist``, check it, and run the tests of the project from it.

    The wheel is built from the source distribution, which must have every file of the repository.
    """
    session.install(*pinned("build", "check-wheel-contents", "twine"), "readme_renderer[md]")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    (wheel,), (archive,) = Path("dist").glob("*.whl"), Path("dist").glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(archive))
    session.run("check-wheel-contents", str(wheel))

    source = Path(session.create_tmp()).resolve() / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(source, filter="data")
    (source,) = source.iterdir()
    if Path(".git").exists():
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        ours = set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines())
        built = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
        built = {path for path in built - {"PKG-INFO"} if not path.startswith("prefect_http.egg-info/")}
        if ours != built:
            session.error(f"the source distribution and the repository differ in {sorted(ours ^ built)}")

    session.install(f"{wheel}[test]")
    with session.chdir(source):
        session.run("pytest", "tests/project")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks, which print ratios to other packages; those that are named, as in ``-- wire tls``."""
    install_wheel(session, *PEERS)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the examples."""
    install_wheel(session, "coredis", "fastapi", "opentelemetry-sdk", "pytest", "pytest-trio", "starlette")
    for example in sorted(Path("examples").glob("*.py")):
        session.run("pytest" if example.stem.startswith("testing_") else "python", str(example))


def run_all_parts(session: nox.Session, *arguments: str, with_coverage: bool = False) -> None:
    """Run pytest on all parts of the tests at once, or with TEST_PROCESSES=1 on all of them in one process."""
    if os.environ.get("TEST_PROCESSES") == "1":
        session.run("pytest", *arguments, *["--cov"] * with_coverage)
        return
    data = {part: f".coverage.{part}" for part in PARTS}
    if with_coverage:
        arguments = (*arguments, "--cov", "--cov-report=", "--cov-fail-under=0")

    def run(part: str) -> object:
        # The output of one of them is shown meanwhile, and that of the others at the end, so as not to be mixed up.
        is_silent = part != "others"
        paths = [path for path in PARTS[part] if not _is_left_out(path, arguments)]
        return session.run("pytest", *paths, *arguments, env={"COVERAGE_FILE": data[part]}, silent=is_silent)

    with ThreadPoolExecutor(len(PARTS)) as pool:
        outputs = dict(zip(PARTS, pool.map(run, PARTS), strict=True))
    for part in PARTS:
        if part != "others":
            session.log(outputs[part])
    if with_coverage:
        session.run("coverage", "combine", *data.values())
        session.run("coverage", "report")


def _is_left_out(path: str, arguments: Iterable[str]) -> bool:
    """Return whether arguments leave out this path: pytest ignores no path that it is given by name."""
    patterns = [argument.partition("=")[2] for argument in arguments if argument.startswith("--ignore")]
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def install_wheel(session: nox.Session, *others: str, extra: str = "") -> None:
    """Install the package as its users get it, with an extra and with other requirements."""
    session.install(f"{_wheel(session)}[{extra}]" if extra else _wheel(session), *others)


_wheels: list[str] = []


def _wheel(session: nox.Session) -> str:
    """Build the wheel, once for all sessions."""
    if not _wheels:
        directory = Path(session.cache_dir, "wheel")
        shutil.rmtree(directory, ignore_errors=True)
        # Modules that are gone, left behind by an earlier build, would end up in the wheel.
        shutil.rmtree("build", ignore_errors=True)
        # With the Python that runs nox, since an environment made by uv has no pip.
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), "."]
        session.run(*wheel, silent=True, external=True)
        shutil.rmtree("build", ignore_errors=True)
        _wheels.extend(str(wheel) for wheel in directory.glob("*.whl"))
    return _wheels[0]


def pinned(*names: str) -> list[str]:
    """Return these requirements as setup.cfg has them, so that each version stands in one place."""
    config = configparser.ConfigParser()
    config.read("setup.cfg", "utf-8")
    requirements = config["options.extras_require"]["dev"].splitlines()
    return [requirement for requirement in requirements if requirement.startswith(names)]
