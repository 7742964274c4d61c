"""How fast small requests go over TLS, by client, with 100 tasks. See wire.py for how it is measured."""

from __future__ import annotations

from benchmarks._http_clients import CLIENT, ON_TRANSPORT, Contestant
from benchmarks._loopback import running_server
from benchmarks._speed import Target, measure_in_turns, print_speeds

_TASKS, _EACH, _ROUNDS = 100, 20, 7
_AIOHTTP, _PYREQWEST = Contestant("aiohttp", "asyncio"), Contestant("pyreqwest", "asyncio")
_CONTESTANTS = [
    *(Contestant(CLIENT, backend) for backend in ("trio", "asyncio", "uvloop")),
    Contestant(ON_TRANSPORT, "trio"),
    *(_AIOHTTP, Contestant("aiohttp", "uvloop"), _PYREQWEST),
]
_TARGETS = [
    Target(Contestant(CLIENT, "trio"), _AIOHTTP, 1.0),
    Target(Contestant(CLIENT, "asyncio"), _AIOHTTP),
    Target(Contestant(CLIENT, "uvloop"), Contestant("aiohttp", "uvloop")),
    Target(Contestant(ON_TRANSPORT, "trio"), _AIOHTTP),
    Target(Contestant(CLIENT, "trio"), _PYREQWEST),
]


def run() -> None:
    """Measure all clients in turns, and print it."""
    with running_server(tls=True) as server:
        samples = measure_in_turns(_CONTESTANTS, server, _TASKS, _EACH, _ROUNDS)
    print_speeds(f"Small requests over TLS, {_TASKS} tasks", samples, _TARGETS)


if __name__ == "__main__":
    run()
