"""How fast small requests go if the head of each response differs from all others, with 100 tasks.

In wire.py, the heads of responses change once a second. The transport remembers those that it has parsed, which is of
no use here, and must not do harm. See there for how it is measured.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks._http_clients import CLIENT, Contestant
from benchmarks._loopback import running_server
from benchmarks._speed import Target, measure_in_turns, print_speeds

_TASKS, _EACH, _ROUNDS = 100, 20, 7
_OURS = [Contestant(CLIENT, backend) for backend in ("trio", "asyncio", "uvloop")]
_THEIRS = [Contestant("aiohttp", backend) for backend in ("asyncio", "asyncio", "uvloop")]
_TARGETS = [Target(ours, theirs) for ours, theirs in zip(_OURS, _THEIRS, strict=True)]


def run() -> None:
    """Measure all clients in turns, and print it."""
    with running_server() as server:
        distinct = replace(server, url=f"{server.url}distinct")
        samples = measure_in_turns([*_OURS, *_THEIRS], distinct, _TASKS, _EACH, _ROUNDS)
    print_speeds(f"Small requests, each response with a head of its own, {_TASKS} tasks", samples, _TARGETS)


if __name__ == "__main__":
    run()
