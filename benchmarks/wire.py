"""How fast small requests go over the wire, by client and by the number of tasks.

A server in a process of its own, on another core, answers with a few bytes. It takes less time for a request than any
client (see _loopback_server.py; the table shows how much), so what is measured is the client. Each contestant first
opens its connections, one for each task. With one task, everybody waits for the server and the system most of the time:
a bare socket shows for how long.

While the package is being worked on, ``python -m benchmarks.wire --quick`` gives the main ratios in about 20 seconds.
On a busy machine, look at those of processor time.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from benchmarks._http_clients import ALONE, CLIENT, ON_TRANSPORT, SOCKET, Contestant
from benchmarks._loopback import running_server
from benchmarks._pictures import draw_wire
from benchmarks._speed import Sample, Target, own_processes, print_faster, print_speeds
from benchmarks._table import print_speedup_header

_OURS = CLIENT, ON_TRANSPORT
_BOTH = "trio", "asyncio"
_AIOHTTP, _PYREQWEST = Contestant("aiohttp", "asyncio"), Contestant("pyreqwest", "asyncio")
# With any number of tasks; these are drawn.
_CONTESTANTS = [
    *(Contestant(client, backend) for client in (*_OURS, "httpx", "httpx2") for backend in _BOTH),
    _AIOHTTP,
    _PYREQWEST,
]
_BARE = Contestant(SOCKET, "trio")
# With 100 tasks only.
_FURTHER = [
    *(Contestant(client, "uvloop") for client in (CLIENT, "aiohttp")),
    *(Contestant(ALONE, backend) for backend in _BOTH),
]
_TASKS_OF_FURTHER = 100

# By the number of tasks: how many requests each of them makes in a round, so that it takes a second or less, and fewer
# with those that slow down; and how many rounds there are. Starting a task takes up to half as long as a request.
_EACH = {1: 800, 10: 150, 100: 20, 1_000: 15}
_EACH_OF_SLOW = {1: 400, 10: 30, 100: 4, 1_000: 1}
_SLOW = "httpx", "httpx2"
_ROUNDS = {1: 9, 10: 7, 100: 9, 1_000: 5}
_ROUNDS_OF_SLOW = {1: 9, 10: 3, 100: 5, 1_000: 2}


def _to(theirs: Contestant, at_least: float | None, clients: Iterable[str], *backends: str) -> list[Target]:
    return [Target(Contestant(client, backend), theirs, at_least) for client in clients for backend in backends]


def _to_each(theirs: str, at_least: float, clients: Iterable[str], *backends: str) -> list[Target]:
    """Return targets relative to another client on the same backend."""
    return [target for one in backends for target in _to(Contestant(theirs, one), at_least, clients, one)]


# By the number of tasks.
_TARGETS: dict[int, list[Target]] = {
    1: [
        *_to_each("httpx", 4.0, [CLIENT], *_BOTH),
        *_to_each("httpx", 1.6, [ON_TRANSPORT], *_BOTH),
        *_to(_PYREQWEST, None, [CLIENT], "trio"),
    ],
    100: [
        *_to(_AIOHTTP, 1.0, [CLIENT], "trio"),  # the aim is 1.3
        *_to(_AIOHTTP, 0.85, [CLIENT], "asyncio"),
        *_to_each("aiohttp", 1.0, [CLIENT], "uvloop"),
        *_to(_AIOHTTP, 0.5, [ON_TRANSPORT], *_BOTH),
        *_to(_AIOHTTP, None, [ALONE], *_BOTH),
        *_to(_PYREQWEST, 0.5, [CLIENT], "trio"),
        *_to_each("httpx", 5.0, _OURS, "trio"),
        *_to_each("httpx", 4.0, _OURS, "asyncio"),
        *_to_each("httpx2", 2.5, _OURS, "trio"),
    ],
    1_000: _to_each("httpx", 5.0, _OURS, *_BOTH),
}
_FEW, _MANY, _MIN_KEPT = 10, 1_000, 0.85

# For --quick: shorter rounds, which do as well for ratios. httpx is there for 1 task only.
_QUICK_EACH = {1: 200, 100: 6}
_QUICK_ROUNDS = {1: 6, 100: 6}
_QUICK = [
    *(Contestant(CLIENT, backend) for backend in (*_BOTH, "uvloop")),
    *(Contestant(client, "trio") for client in (ON_TRANSPORT, "httpx")),
    *(Contestant(ALONE, backend) for backend in _BOTH),
    *(_AIOHTTP, Contestant("aiohttp", "uvloop"), _PYREQWEST),
]


class _Plan(NamedTuple):
    """What is measured of a contestant, by the number of tasks.

    Attributes:
        each: how many requests each task makes in a round.
        rounds: how many rounds there are.
    """

    each: dict[int, int]
    rounds: dict[int, int]


_Samples = Mapping[int, Mapping[Contestant, Sequence[Sample]]]


def run() -> None:
    """Measure everything, print it, and draw it."""
    plans = {contestant: _plan(contestant) for contestant in (*_CONTESTANTS, _BARE, *_FURTHER)}
    samples = _measure(plans)
    _print(samples)
    print("\nWith 1,000 tasks, relative to 10")
    print_speedup_header()
    for contestant in (*_CONTESTANTS, _BARE):
        target = _MIN_KEPT if contestant.client in _OURS else None
        print_faster(str(contestant), samples[_MANY][contestant], samples[_FEW][contestant], target)
    rates = {
        str(contestant): {
            tasks: 1 / statistics.median(one.elapsed for one in samples[tasks][contestant]) for tasks in _ROUNDS
        }
        for contestant in _CONTESTANTS
    }
    draw_wire(rates)


def run_quick() -> None:
    """Measure a few contestants with 1 task and with 100, and print the ratios."""
    plans = {contestant: _Plan(_QUICK_EACH, dict(_QUICK_ROUNDS)) for contestant in _QUICK}
    del plans[Contestant("httpx", "trio")].rounds[100]
    _print(_measure(plans))


def _plan(contestant: Contestant) -> _Plan:
    if contestant in _FURTHER:
        return _Plan(_EACH, {_TASKS_OF_FURTHER: _ROUNDS[_TASKS_OF_FURTHER]})
    return _Plan(_EACH_OF_SLOW, _ROUNDS_OF_SLOW) if contestant.client in _SLOW else _Plan(_EACH, _ROUNDS)


def _measure(plans: Mapping[Contestant, _Plan]) -> _Samples:
    """Measure all contestants in turns, and the numbers of tasks too, since they are compared with each other."""
    contestants = [contestant for contestant in plans if contestant.is_available]
    numbers = sorted({tasks for plan in plans.values() for tasks in plan.rounds})
    samples: dict[int, dict[Contestant, list[Sample]]] = {
        tasks: {contestant: [] for contestant in contestants if tasks in plans[contestant].rounds} for tasks in numbers
    }
    with running_server() as server, own_processes() as measure:
        for number in range(max(max(plan.rounds.values()) for plan in plans.values())):
            for tasks, by_contestant in samples.items():
                for contestant in list(by_contestant) if number % 2 else reversed(by_contestant):
                    each, rounds = plans[contestant]
                    if number < rounds[tasks]:
                        by_contestant[contestant].append(measure(contestant, server, tasks, each[tasks]))
    return samples


def _print(samples: _Samples) -> None:
    for tasks, by_contestant in samples.items():
        title = f"Small requests over loopback, {tasks:,} {'task' if tasks == 1 else 'tasks'}"
        print_speeds(title, by_contestant, _TARGETS.get(tasks, []))


if __name__ == "__main__":
    run_quick() if "--quick" in sys.argv[1:] else run()
