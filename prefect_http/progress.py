"""Progress bars for downloads, drawn by rich, which the extra ``progress`` installs.

A progress bar is a function that is passed to ``download()``::

    with bars() as progress:
        await client.download(url, "flows.zip", progress=progress.bar("flows.zip"))
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bars", "bars"]

_MISSING = "prefect_http.progress needs the package rich; install it with: pip install 'prefect_http[progress]'"


class Bars:
    """A group of progress bars, one below the other, created by ``bars()``.

    Args:
        new_bar: adds a bar with a name.
    """

    def __init__(self, new_bar: Callable[[str], Callable[[int, int | None], None]]) -> None:
        self._new_bar = new_bar

    def bar(self, name: str) -> Callable[[int, int | None], None]:
        """Add a bar, and return the function that moves it.

        The function is called with the bytes received and the total, or None if that is not known. What was received
        before its first call, by an earlier download, does not count for the speed. It may be called from any task and
        any thread.

        Args:
            name: the text before the bar, shortened to a third of the terminal's width.
        """
        return self._new_bar(name)


@contextlib.contextmanager
def bars() -> Generator[Bars]:
    """Draw any number of progress bars on stderr during the block. They stay visible when it ends.

    If stderr is not a terminal, nothing is written. If stdout is a terminal as well, printed text appears above the
    bars.

    Raises:
        ImportError: rich is not installed.
    """
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.table import Column
    except ImportError as error:
        raise ImportError(_MISSING) from error

    console = Console(stderr=True)
    # Where colors are forced upon programs, as by many a CI, rich takes any file for a terminal.
    is_terminal = console.is_interactive and console.file.isatty()
    # A longer name would leave no room for the bars and the numbers, in any of the rows.
    name = Column(no_wrap=True, max_width=max(1, console.width // 3))
    progress = Progress(
        TextColumn("{task.description}", markup=False, table_column=name),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not is_terminal,
        # What the program prints goes above the bars; but not if it is for a file or another program.
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    )
    with progress if is_terminal else contextlib.nullcontext():  # some versions end with an empty line in any case
        yield Bars(partial(_Bar, progress))


class _Bar:
    """A bar. It is drawn when something is known about it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._id: TaskID = progress.add_task(name, start=False, total=None)
        self._received: int | None = None

    def __call__(self, received: int, total: int | None) -> None:
        if self._received is None or received < self._received:
            # The speed is measured from here on: what was there has not been received, or is received once more.
            if total is None:
                self._forget_total()
            self._progress.reset(self._id, completed=received)
        self._progress.update(self._id, total=total, completed=received)
        self._received = received

    def _forget_total(self) -> None:
        for task in self._progress.tasks:
            if task.id == self._id:
                task.total = None
