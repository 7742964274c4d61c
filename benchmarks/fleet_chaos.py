"""What becomes of requests through one throttle while processes and Redis are killed and paused at random.

Eight processes send requests to one server. Meanwhile, for a while, again and again one of them is killed, and another
one takes its place, or is paused; or Redis is paused, killed and started again with nothing in it, or emptied.

No request of a process that lives may fail.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from benchmarks._fleet_job import (
    PATIENCE,
    RedisServer,
    Servers,
    begin,
    bucket_server,
    end_of,
    redis_server,
    report,
    start_member,
    wait_until_ready,
)
from benchmarks._table import print_checked

_PROCESSES, _EACH, _RATE, _BURST = 8, 150, 50, 50
_SECONDS = 12.0
_JOB = "chaos"


class _Chaos:
    """The processes, and what happens to them.

    Args:
        servers: where the requests go.
        redis: a part of these.
        seed: of the random numbers.
    """

    def __init__(self, servers: Servers, redis: RedisServer, seed: int) -> None:
        self.happened: list[str] = []
        self._servers = servers
        self._redis = redis
        self._random = random.Random(seed)
        self._url = f"{servers.url}/{_JOB}/{_RATE}/{_BURST}"
        self._started = 0
        self._living = [self._start(_EACH) for _ in range(_PROCESSES)]
        self._timers: list[threading.Timer] = []

    def _start(self, requests: int) -> subprocess.Popen[str]:
        self._started += 1
        process = start_member(self._url, requests, self._servers.redis_socket, _JOB, number=self._started)
        wait_until_ready(process)
        return process

    def rage(self) -> None:
        """Let all begin, and let things happen for some seconds."""
        for process in self._living:
            begin(process)
        end = time.monotonic() + _SECONDS
        happenings = [self._kill, self._pause, self._pause, self._pause_redis, self._restart_redis, self._empty_redis]
        while time.monotonic() < end:
            time.sleep(self._random.uniform(0.1, 0.8))
            happening = self._random.choice(happenings)
            self.happened.append(happening.__name__.strip("_"))
            happening()
        for timer in self._timers:
            timer.join()

    def wait(self) -> list[tuple[float, float] | None]:
        """Wait until all that live have ended; return their times and failures, or None for one that does not end."""
        deadline = time.monotonic() + PATIENCE
        return [end_of(process, deadline) for process in self._living]

    def end(self) -> None:
        """Kill all."""
        for process in self._living:
            with process:
                process.kill()

    def _kill(self) -> None:
        process = self._living.pop(self._random.randrange(len(self._living)))
        with process:
            process.kill()
        self._living.append(self._start(_EACH // 2))
        begin(self._living[-1])

    def _pause(self) -> None:
        process = self._random.choice(self._living)
        process.send_signal(signal.SIGSTOP)  # does nothing to one that has ended
        self._timers.append(threading.Timer(self._random.uniform(0.1, 3.0), process.send_signal, [signal.SIGCONT]))
        self._timers[-1].start()

    def _pause_redis(self) -> None:
        os.kill(self._redis.process.pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(0.1, 2.0))
        os.kill(self._redis.process.pid, signal.SIGCONT)

    def _restart_redis(self) -> None:
        self._redis.kill()
        time.sleep(self._random.uniform(0.1, 2.0))
        self._redis.start()

    def _empty_redis(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self._servers.redis_socket)
            client.sendall(b"FLUSHALL\r\n")
            client.recv(100)


def run() -> None:
    """Do it once, in about 35 s."""
    with redis_server() as redis, bucket_server() as url:
        if redis is None or sys.platform == "win32":
            print("\nOne throttle for several processes, and chaos: left out, since there is no redis-server")
            return
        seed = random.randrange(1000)
        servers = Servers(url, str(redis.socket))
        chaos = _Chaos(servers, redis, seed)
        try:
            chaos.rage()
            ends = chaos.wait()
            received = report(servers, _JOB)
        finally:
            chaos.end()
    happened = ", ".join(f"{chaos.happened.count(name)} x {name}" for name in sorted(set(chaos.happened)))
    print(f"\nChaos, seed {seed}: {happened}")
    stuck, failed = ends.count(None), sum(end[1] for end in ends if end is not None)
    print_checked(f"{_PROCESSES} processes", f"{stuck} are stuck, {failed:.0f} requests failed", stuck + failed, 0)
    rejected = received["rejected"] / received["accepted"]
    ideal = (received["accepted"] - _BURST) / _RATE
    slowest = max(end[0] for end in ends if end is not None)
    print(f"  {rejected:.1%} rejected, {slowest / ideal:.2f} x ideal")


if __name__ == "__main__":
    run()
