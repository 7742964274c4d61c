"""Progress bars: what is on the terminal, and that nothing is anywhere else."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from support.file_server import CONTENT, FileServer
from support.rows import each_row
from support.virtual_time import virtual_time_backend

from prefect_http import PrefectHttpxClient, progress
from prefect_http.testing import FakeNetwork


class Output(io.StringIO):
    """A file that may be a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    @contextmanager
    def bars(self) -> Iterator[progress.Bars]:
        """Draw bars, with this file as stderr; while a fixture is set up, pytest has its own there."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", self)
            with progress.bars() as bars:
                yield bars

    def lines(self) -> list[str]:
        """Return what is there in the end: the bars as they were drawn for the last time, without colors."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\x00", self.getvalue())
        return [
            line.replace("\x00", "").strip() for line in re.split(r"\r", text)[-1].split("\n") if line.strip("\x00 ")
        ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Output:
    """Make stderr a terminal."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Output(is_terminal=True)


def has(line: str, *words: str) -> bool:
    """Whether a line begins with a name, and has words."""
    return line.startswith(words[0]) and all(word in line for word in words)


def test_bar(terminal: Output) -> None:
    """A bar shows the name, how much there is, how much there will be, and stays when it is done."""
    with terminal.bars() as bars:
        bar = bars.bar("flows.zip")
        bar(0, 5000)
        bar(5000, 5000)
    (line,) = terminal.lines()
    assert has(line, "flows.zip", "━", "5.0/5.0 kB", "0:00:00")


def test_names_are_plain(terminal: Output) -> None:
    """A name may have brackets, which rich would take for a style."""
    with terminal.bars() as bars:
        bars.bar("[bold]a[1].zip")(0, 5)
    assert terminal.lines()[0].startswith("[bold]a[1].zip ")


@each_row("length", [40, 60, 80, 500])
@pytest.mark.usefixtures("terminal")
def test_long_names(length: int) -> None:
    """A long name is shortened, so that there is room for the bars and the numbers in all rows."""
    output = Output(is_terminal=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        with output.bars() as bars:
            bars.bar("a.zip")(500_000_000, 999_900_000)
            bars.bar("x" * length)(500_000_000, 999_900_000)
    short, long = output.lines()
    assert re.fullmatch(r"a\.zip {10,30}[━╸╺]+ 500\.0/999\.9 MB \? -:--:--", short)
    assert re.fullmatch(r"x{20,30}… +[━╸╺]+ 500\.0/999\.9 MB \? -:--:--", long)


def test_many_at_once(terminal: Output) -> None:
    """Bars are below each other, in the order in which they were made."""
    with terminal.bars() as bars:
        first, second, third = map(bars.bar, "abc")
        second(2000, 4000)
        first(1000, 4000)
    assert third is not first
    a, b, c = terminal.lines()
    assert has(a, "a ", "1.0/4.0 kB")
    assert has(b, "b ", "2.0/4.0 kB")
    assert has(c, "c ", "0/? bytes")


def test_what_was_there_is_not_speed(terminal: Output) -> None:
    """A download that is resumed did not receive gigabytes within a moment."""
    with terminal.bars() as bars:
        bars.bar("a")(5_000_000_000, 10_000_000_000)
    assert re.search(r"5\.0/10\.0 GB +\? ", terminal.lines()[0])


def test_begun_anew(terminal: Output) -> None:
    """A bar goes back when a download does, and its end may be another one, or be unknown."""
    with terminal.bars() as bars:
        a, b = bars.bar("a"), bars.bar("b")
        for bar in (a, b):
            bar(0, 4000)
            bar(3000, 4000)
        a(1000, 2000)
        b(0, None)
        b(500, None)
    a_line, b_line = terminal.lines()
    assert re.search(r"1\.0/2\.0 kB +\? ", a_line)
    assert has(b_line, "b ", "500/? bytes")


def test_unknown_total(terminal: Output) -> None:
    """The end is known when it is there."""
    with terminal.bars() as bars:
        bar = bars.bar("a")
        bar(0, None)
        bar(700, None)
        bar(700, 700)
    assert has(terminal.lines()[0], "a ", "700/700 bytes")


@each_row("variable", ["", "FORCE_COLOR"])
def test_no_terminal(variable: str) -> None:
    """Where the output is not a terminal nothing is written, also where colors are forced upon it."""
    output = Output(is_terminal=False)
    with pytest.MonkeyPatch.context() as patch:
        if variable:
            patch.setenv(variable, "1")
        with output.bars() as bars:
            bar = bars.bar("a")
            bar(0, None)
            bar(5, 5)
            bar(0, None)
    assert output.getvalue() == ""


@each_row("is_terminal", [False, True])
def test_print(is_terminal: bool, terminal: Output) -> None:
    """What is printed goes above the bars, but stays out of them where stdout is a file or a pipe."""
    stdout = Output(is_terminal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with terminal.bars() as bars:
            bars.bar("a")(0, 5)
            sys.stdout.write("printed\n")
    assert (stdout.getvalue(), "printed" in terminal.getvalue()) == (
        ("", True) if is_terminal else ("printed\n", False)
    )


def test_error_ends_the_bars(terminal: Output) -> None:
    """An exception is raised as it is, and the terminal is left as it was."""
    with pytest.raises(ZeroDivisionError), terminal.bars() as bars:
        bars.bar("a")
        raise ZeroDivisionError
    assert "\x1b[?25h" in terminal.getvalue()  # shows the cursor


def test_rich_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"pip install 'prefect_http\[progress\]'"), progress.bars():
        pass


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_downloads(name: str, terminal: Output, tmp_path: Path) -> None:
    """Each of many downloads moves its bar."""

    async def main() -> None:
        network = FakeNetwork()
        network.serve("https://files.example.com").get("/{name}").call(FileServer())
        async with network.client(PrefectHttpxClient, base_url="https://files.example.com") as client:

            async def download(number: int) -> None:
                await client.download(f"/{number}", tmp_path / f"{number}", progress=bars.bar(f"file {number}"))

            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(download, number)

    backend, options = virtual_time_backend(name)
    with terminal.bars() as bars:
        anyio.run(main, backend=backend, backend_options=options)
    assert len(terminal.lines()) == 3
    assert all(
        has(line, "file ", f"{len(CONTENT) / 1000:.1f}/{len(CONTENT) / 1000:.1f} kB") for line in terminal.lines()
    )
