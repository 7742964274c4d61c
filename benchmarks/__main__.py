"""Run all benchmarks and print their tables. Takes about twelve minutes."""

from __future__ import annotations

import platform
from importlib.metadata import version

import anyio

from benchmarks import flaky, import_time, in_process, nested_lifespan, success, throttle, whole_lifespan, wire

_PEERS = (
    *("httpx", "anyio", "trio", "httpx-retries", "tenacity", "stamina", "asgi-lifespan", "starlette"),
    *("httptools", "httpx2", "aiohttp", "pyreqwest"),
)


def main() -> None:
    """Run all benchmarks."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PEERS)
    print(f"{platform.python_implementation()} {platform.python_version()}; {versions}")
    print("Ratios to the first row of each table, measured in turns with it: medians of all rounds, and quartiles.")
    for benchmark in (success, in_process, nested_lifespan, whole_lifespan, throttle):
        for backend in ("trio", "asyncio"):
            anyio.run(benchmark.run, backend, backend=backend)
    import_time.run()
    throttle.run_crowds()
    flaky.run()
    wire.run()


if __name__ == "__main__":
    main()
