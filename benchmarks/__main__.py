"""Run the benchmarks and print their tables: all of them, or those named, as in ``python -m benchmarks wire tls``.

All take from nine to twenty-six minutes, depending on the machine.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import anyio

from benchmarks import (
    bodies,
    distinct_heads,
    downloads,
    flaky,
    fleet,
    fleet_chaos,
    http2,
    import_time,
    in_process,
    kinds,
    many_requests,
    nested_lifespan,
    proxy,
    resources,
    success,
    telemetry,
    testing,
    throttle,
    tls,
    tracing,
    waterfall,
    whole_lifespan,
    wire,
)
from benchmarks._pictures import DIRECTORY

_PEERS = (
    *("httpx", "anyio", "trio", "httpx-retries", "tenacity", "stamina", "asgi-lifespan", "starlette"),
    *("httpx2", "h2", "respx", "aiohttp", "coredis", "pyreqwest", "opentelemetry-instrumentation-httpx"),
)


def _on_both(run: Callable[[str], Awaitable[None]]) -> Callable[[], None]:
    def run_on_both() -> None:
        for backend in ("trio", "asyncio"):
            anyio.run(run, backend, backend=backend)

    return run_on_both


_BENCHMARKS: dict[str, Callable[[], None]] = {
    "success": _on_both(success.run),
    "kinds": _on_both(kinds.run),
    "in_process": _on_both(in_process.run),
    "nested_lifespan": _on_both(nested_lifespan.run),
    "whole_lifespan": _on_both(whole_lifespan.run),
    "throttle": _on_both(throttle.run),
    "import_time": import_time.run,
    "resources": resources.run,
    "crowds": throttle.run_crowds,
    "flaky": flaky.run,
    "fleet": fleet.run,
    "fleet_chaos": fleet_chaos.run,
    "wire": wire.run,
    "distinct_heads": distinct_heads.run,
    "tls": tls.run,
    "bodies": bodies.run,
    "downloads": downloads.run,
    "proxy": proxy.run,
    "http2": http2.run,
    "testing": _on_both(testing.run),
    "many_requests": many_requests.run,
    "telemetry": _on_both(telemetry.run),
    "tracing": _on_both(tracing.run),
    "waterfall": waterfall.run,
}


_DRAWN = ("crowds", "flaky", "wire", "http2", "waterfall")


def main() -> None:
    """Run all benchmarks, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run all benchmarks, or those named.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(_BENCHMARKS))
    drawing = f"draw the pictures of the documentation anew; runs {', '.join(_DRAWN)}, unless others are named"
    parser.add_argument("--draw", action="store_true", help=drawing)
    arguments = parser.parse_args()
    names = arguments.names or (_DRAWN if arguments.draw else _BENCHMARKS)
    if arguments.draw:
        DIRECTORY.set(Path(__file__).parent.parent / "docs" / "pictures")
    if unknown := set(names) - _BENCHMARKS.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
    versions = ", ".join(f"{name} {version(name)}" for name in _PEERS)
    print(f"{platform.python_implementation()} {platform.python_version()}; {versions}")
    print("Unless noted otherwise: ratios to the first row of each table, measured in turns with it;")
    print("medians of all rounds, and quartiles.")
    for name in names:
        _BENCHMARKS[name]()


if __name__ == "__main__":
    main()
