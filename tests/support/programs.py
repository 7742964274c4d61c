"""Run programs as a user would, each in a process of its own, but import the libraries only once for all.

A short program spends most of its time on importing httpx, trio and the like, and on taking them apart at its end. So
one process imports them and forks for each program. The program is ``__main__`` as usual, and what it leaves behind is
found as the shutdown of an interpreter would find it: its threads end, its exit functions run, its objects are dropped.

That is so on Linux. Windows cannot fork, and macOS not safely once system libraries have been used: there, each program
has an interpreter of its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

Done = subprocess.CompletedProcess[str]

_IMPORTED = [
    *("anyio._backends._asyncio", "anyio._backends._trio", "anyio.streams.tls", "certifi", "fastapi"),
    *("httpcore", "httpx", "hypothesis", "prefect_http", "pytest"),
    *("starlette.applications", "starlette.responses", "trio.testing"),
]
# Programs that run at the same time: most of them wait most of the time.
_AT_ONCE = 6


def run_programs(programs: Mapping[str, Sequence[str | os.PathLike[str]]]) -> dict[str, Done]:
    """Run programs side by side, with warnings as errors.

    Args:
        programs: by name, the arguments for ``python``: ``-c`` and source code, or ``-m`` and a module or the path of a
            file, followed by its own arguments.

    Returns:
        The exit code and the output of each, by name.
    """
    commands = [[os.fspath(argument) for argument in arguments] for arguments in programs.values()]
    # -P: test what is installed, and not what happens to be in the current directory.
    python = [sys.executable, "-P", "-X", "utf8", "-W", "error"]
    if sys.platform != "linux":

        def run(command: list[str]) -> Done:
            return subprocess.run([*python, *command], capture_output=True, encoding="utf-8", timeout=60, check=False)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(programs, pool.map(run, commands), strict=True))
    with TemporaryDirectory() as folder:
        served = subprocess.run(
            [*python, __file__, folder],
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
        done = [
            Done(command, code, *(Path(folder, f"{number}.{end}").read_text("utf-8") for end in ("out", "err")))
            for number, (command, code) in enumerate(zip(commands, json.loads(served.stdout), strict=True))
        ]
    return dict(zip(programs, done, strict=True))


def _serve(folder: Path) -> None:
    for module in _IMPORTED:
        importlib.import_module(module)
    for _, module, _ in pkgutil.walk_packages(sys.modules["prefect_http"].__path__, "prefect_http."):
        if "._" in module:
            importlib.import_module(module)
    gc.freeze()  # the collection at each program's exit would search all that was imported, for 0.3 s
    programs = list(enumerate(json.load(sys.stdin)))
    codes = [0] * len(programs)
    running: dict[int, int] = {}
    while programs or running:
        while programs and len(running) < _AT_ONCE:
            number, arguments = programs.pop(0)
            pid = os.fork()
            if not pid:
                _become(arguments, folder / f"{number}")
            running[pid] = number
        pid, status = os.wait()
        codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
    json.dump(codes, sys.stdout)


def _become(arguments: Sequence[str], output: Path) -> NoReturn:
    """Run a program in this process, with its output in two files, and exit."""
    for descriptor, name in (0, os.devnull), (1, f"{output}.out"), (2, f"{output}.err"):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
    code = 0
    try:
        _run(arguments)
    except SystemExit as error:
        code = (error.code or 0) if isinstance(error.code, int | None) else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201, as the interpreter does
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if arguments[0] == "-c":  # runpy drops what it ran
        vars(sys.modules["__main__"]).clear()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str]) -> None:
    match arguments:
        case ["-c", source]:
            sys.argv = ["-c"]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(compile(source, "<string>", "exec"), vars(main))
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case _:
            sys.argv = [*arguments]
            runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
