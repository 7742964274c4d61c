"""The project's chores. ``python -m nox -s tests`` is what a contributor needs; ``python -m nox -l`` lists the rest."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import nox

# Since this one, nox finds the Python that runs it, and those of pyenv, without any of them on the PATH.
nox.needs_version = ">=2026.8.10"

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = ["3.11", "3.12", "3.13"]
if sys.version_info >= (3, 14):
    PYTHONS.append(RUNNING)

# What the benchmarks measure the package beside, and draw with.
PEERS = [
    *("aiohttp", "asgi-lifespan", "httpx-retries", "httpx2", "matplotlib"),
    *("stamina", "starlette", "tenacity", "uvicorn"),
]


def _is_installed(python: str) -> bool:
    path = shutil.which(f"python{python}")
    # pyenv puts a program on the PATH for each Python that it knows, and many of them only complain.
    return path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


# A Python that is missing is skipped; but where none is left, nothing has been tested, and that is no success.
nox.options.error_on_missing_interpreters = RUNNING not in PYTHONS and not any(map(_is_installed, PYTHONS))
nox.options.download_python = "never"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "tests_lowest", "tests_httpx2", "coverage", "lint", "types", "docs", "demo"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel, on every Python that is there; the oldest measures their coverage."""
    install_wheel(session, extra="test")
    if session.python != PYTHONS[0] or session.posargs:
        session.run("pytest", *session.posargs)
        return
    # Not `-m pytest`, which would find the package in the current directory before the wheel.
    session.run("coverage", "run", str(Path(session.bin, "pytest")))
    session.run("coverage", "report")


@nox.session(python="3.11")
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the oldest Python and the oldest dependencies that are allowed."""
    install_wheel(session, "httpx==0.27.0", "anyio==4.16.0", "trio==0.32.0", extra="test")
    session.run("pytest", *session.posargs)


@nox.session
def tests_httpx2(session: nox.Session) -> None:
    """Run the tests on httpx2, in an application that has put it in the place of httpx."""
    install_wheel(session, "httpx2", extra="test")
    session.run("pytest", "-p", "support.use_httpx2", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the branch coverage of the tests, which must be whole."""
    session.install("-e", ".[test]")
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs)
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*pinned("ruff"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types twice, and that the public ones are complete."""
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
def bench(session: nox.Session) -> None:
    """Print what the package costs, in ratios."""
    install_wheel(session, *PEERS)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the examples."""
    install_wheel(session, "fastapi", "pytest", "pytest-trio", "starlette")
    for example in sorted(Path("examples").glob("*.py")):
        session.run("pytest" if example.stem.startswith("testing_") else "python", str(example))


def install_wheel(session: nox.Session, *others: str, extra: str = "") -> None:
    """Install the package as its users get it, with an extra, and with other requirements."""
    session.install(f"{_wheel(session)}[{extra}]" if extra else _wheel(session), *others)


_wheels: list[str] = []


def _wheel(session: nox.Session) -> str:
    """Build the wheel, once for all sessions."""
    if not _wheels:
        directory = Path(session.cache_dir, "wheel")
        shutil.rmtree(directory, ignore_errors=True)
        # What an earlier build has left behind would end up in the wheel.
        shutil.rmtree("build", ignore_errors=True)
        session.run("python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(directory), ".", silent=True)
        shutil.rmtree("build", ignore_errors=True)
        _wheels.extend(str(wheel) for wheel in directory.glob("*.whl"))
    return _wheels[0]


def pinned(*names: str) -> list[str]:
    """Give the requirements of these names as setup.cfg has them, so that each version is in one place."""
    config = configparser.ConfigParser()
    config.read("setup.cfg", "utf-8")
    requirements = config["options.extras_require"]["dev"].splitlines()
    return [requirement for requirement in requirements if requirement.startswith(names)]
