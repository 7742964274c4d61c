"""What a request costs that nobody is told of, beside the same without the places where a telemetry would be told.

The second is this package with each ``if ... telemetry is not None:`` and the like taken out of the functions that a
request goes through. Both are the same functions, whose code is exchanged between the blocks that are compared.

A difference of half a percent is less than what a busy machine does to processor time. So what has a target is the
number of instructions of Python: it is the same each time, and overstates the difference, because a comparison is one
of the fastest. What is left out: an attribute more of each request's `PoolRequest`, and an argument of ``release()``.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import prefect_http.testing
from benchmarks._measure import Call, compare
from benchmarks._table import print_checked, print_table
from prefect_http import PrefectHttpxClient, Telemetry
from prefect_http._client import send
from prefect_http._wire import http1, http2, wire
from prefect_http.testing import FakeNetwork

_URL = "https://api.example.com/"
_TARGET = 1.005
_MODULES = send, wire, http1, http2
_SERVER = str(Path(prefect_http.testing.__file__).parent)
# What is compared with None in the places where a telemetry would be told.
_TOLD = {"telemetry", "_observed", "observed", "on_released"}


async def run(backend: str) -> None:
    """Measure a small GET from a server in memory, over both protocols."""
    for is_http2 in False, True:
        protocol = "HTTP/2" if is_http2 else "HTTP/1.1"
        async with AsyncExitStack() as stack:

            async def enter(telemetry: Telemetry | None, stack: AsyncExitStack = stack) -> Call:
                network = FakeNetwork()
                network.serve(_URL).get("/").reply(content=b"fine", times=None)
                client = network.client(PrefectHttpxClient, telemetry=telemetry, http2=is_http2)  # noqa: B023
                await stack.enter_async_context(client)
                return lambda: client.get(_URL)

            unobserved, observed = await enter(None), await enter(Telemetry())
            codes = _Codes()
            with_checks, without = codes.choosing(unobserved, checked=True), codes.choosing(unobserved, checked=False)
            counts = [await _instructions(call) for call in (without, with_checks)]
            print(f"\nGET from a server in memory, {protocol}, {backend}")
            print_checked(
                "telemetry: none / no checks",
                f"{counts[1] / counts[0]:.4f} = {counts[1]:,} / {counts[0]:,} instructions",
                counts[1] / counts[0],
                _TARGET,
            )
            try:
                results = await compare(
                    without,
                    {
                        "telemetry: none": with_checks,
                        "a telemetry that does nothing": codes.choosing(observed, checked=True),
                    },
                    rounds=80,
                    calls=50,
                )
            finally:
                codes.use(checked=True)
            print_table(f"the same, processor time, {protocol}, {backend}", "no checks", results)


class _Codes:
    """The functions with checks, with their code, and the code without."""

    def __init__(self) -> None:
        self._found = [found for module in _MODULES for found in _functions(module)]
        self._checked = True

    def use(self, *, checked: bool) -> None:
        """Let the functions check whether there is a telemetry, or not."""
        if self._checked is not checked:
            self._checked = checked
            for function, with_checks, without in self._found:
                function.__code__ = with_checks if checked else without

    def choosing(self, call: Call, *, checked: bool) -> Call:
        """Return a call that first sees to that."""

        def choose() -> Awaitable[object]:
            self.use(checked=checked)
            return call()

        return choose


def _functions(module: ModuleType) -> Iterator[tuple[FunctionType, CodeType, CodeType]]:
    """Find the functions of a module that have checks, with their code, and the code without."""
    tree = ast.parse(inspect.getsource(module))
    without = compile(_Remover().visit(tree), str(module.__file__), "exec")
    for code in _code_objects(without):
        found: Any = module
        for name in code.co_qualname.split("."):
            found = getattr(found, name, None)
        if isinstance(found, FunctionType) and _size(found.__code__) != _size(code):
            yield found, found.__code__, code


def _code_objects(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _code_objects(each)


def _size(code: CodeType) -> int:
    """Return the size of a function, those within it included."""
    return len(code.co_code) + sum(len(each.co_code) for each in _code_objects(code))


class _Remover(ast.NodeTransformer):
    """Removes the checks whether there is something that is to be told."""

    def visit_If(self, node: ast.If) -> ast.stmt:
        self.generic_visit(node)
        match node.test:
            case ast.Compare(left=ast.Attribute(attr=name), ops=[ast.IsNot()]) if name in _TOLD and not node.orelse:
                return ast.copy_location(ast.Pass(), node)
            case _:
                return node


async def _instructions(call: Callable[[], Awaitable[object]]) -> int:
    """Return how many instructions of Python a warm call takes, of whatever package, but for those of the server."""
    for _ in range(20):
        await call()
    counts = list[int]()
    for _ in range(5):  # a task of the client's may do something in between
        count = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal count
            if frame.f_code.co_filename.startswith(_SERVER):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            count += event == "opcode"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            await call()
        finally:
            sys.settrace(before)
        counts.append(count)
    return min(counts)
