"""How fast small requests go through a CONNECT proxy, over TLS, with 100 tasks. See wire.py for how it is measured.

The proxy shares the server's core, so by wall clock all that go through it are slowed down by its work as well.
"""

from __future__ import annotations

import dataclasses

from benchmarks._http_clients import CLIENT, Contestant
from benchmarks._loopback import running_server
from benchmarks._speed import Sample, Target, own_processes, print_speeds

_TASKS = 100
# How many rounds there are, and how many requests each task makes in a round; fewer with the client that slows down.
_ROUNDS, _EACH = 7, 20
_ROUNDS_OF_SLOW, _EACH_OF_SLOW = 3, 2
_SLOW = "httpx"
_THROUGH, _DIRECT = ", proxy", ", direct"
_BACKENDS = "trio", "asyncio"
_CONTESTANTS = [
    *(Contestant(CLIENT, backend, way) for backend in _BACKENDS for way in (_THROUGH, _DIRECT)),
    *(Contestant(_SLOW, backend, _THROUGH) for backend in _BACKENDS),
]
_TARGETS = [
    *(Target(Contestant(CLIENT, one, _THROUGH), Contestant(_SLOW, one, _THROUGH), 5.0) for one in _BACKENDS),
    *(Target(Contestant(CLIENT, one, _THROUGH), Contestant(CLIENT, one, _DIRECT), 0.7) for one in _BACKENDS),
]


def run() -> None:
    """Measure all clients in turns, and print it."""
    samples: dict[Contestant, list[Sample]] = {one: [] for one in _CONTESTANTS}
    with running_server(tls=True, proxy=True) as server, own_processes() as measure:
        servers = {_THROUGH: server, _DIRECT: dataclasses.replace(server, proxy=None)}
        for number in range(_ROUNDS):
            for contestant in _CONTESTANTS if number % 2 else reversed(_CONTESTANTS):
                rounds, each = (_ROUNDS_OF_SLOW, _EACH_OF_SLOW) if contestant.client == _SLOW else (_ROUNDS, _EACH)
                if number < rounds:
                    samples[contestant].append(measure(contestant, servers[contestant.way], _TASKS, each))
    print_speeds(f"Small requests over TLS, {_TASKS} tasks, through a CONNECT proxy", samples, _TARGETS)


if __name__ == "__main__":
    run()
