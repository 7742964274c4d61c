"""What a throttle does where a server fails now and then, with a limit and without; in virtual time."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor

from benchmarks._limited_servers import FLAKY, FLAKY_AND_LIMITED, FLAKY_SHARE
from benchmarks._pictures import draw_flaky
from benchmarks._simulation import FEW_WORKERS, LOADS, PATIENT, PATIENT_UNTHROTTLED, STRICT, Outcome, simulate

_REQUESTS, _SEEDS = 5_000, 3
_MAX_SLOWDOWN = 1.25
_DRAWN = "503s, 10 %", "one of five backends", "restarts, 0.5 of 10 s"

_LIMITED_REQUESTS, _LIMITED_SEEDS = 1_000, 6
_MAX_RATIO, _MAX_RATIO_OF_ONE = 1.35, 1.45

_Runs = Sequence[Future[Outcome]]


def run() -> None:
    """Simulate the servers, print the results and draw some of them."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:

        def start(server: str, client: str, load: str, requests: int, seeds: int) -> _Runs:
            return [pool.submit(simulate, server, client, load, requests, seed) for seed in range(seeds)]

        flaky = {
            server: [start(server, client, FEW_WORKERS, _REQUESTS, _SEEDS) for client in (PATIENT, PATIENT_UNTHROTTLED)]
            for server in FLAKY
        }
        limited = {
            (load, server): start(server, STRICT, load, _LIMITED_REQUESTS, _LIMITED_SEEDS)
            for load in LOADS
            if load != FEW_WORKERS
            for server in FLAKY_AND_LIMITED
        }
        print(f"\nServers that fail now and then, {_REQUESTS:,} requests, {FEW_WORKERS}: time over that of no throttle")
        for server, (throttled, unthrottled) in flaky.items():
            _print_flaky(server, throttled, unthrottled)
        print(f"\nServers that fail and have a limit, {_LIMITED_REQUESTS:,} requests: time over ideal / 0.97")
        for (load, server), runs in limited.items():
            _print_limited(f"{server}, {load}", runs)
    draw_flaky({server: (flaky[server][0][0].result(), flaky[server][1][0].result()) for server in _DRAWN})


def _print_flaky(server: str, throttled: _Runs, unthrottled: _Runs) -> None:
    pairs = [(one.result(), other.result()) for one, other in zip(throttled, unthrottled, strict=True)]
    ratios = [one.seconds / other.seconds for one, other in pairs]
    failed = sum(one.failed for one, _ in pairs), sum(other.failed for _, other in pairs)
    is_met = statistics.fmean(ratios) <= _MAX_SLOWDOWN and failed[0] <= failed[1]
    _print_row(server, ratios, f"failed {failed[0]}, without a throttle {failed[1]}", f"{_MAX_SLOWDOWN}", is_met)


def _print_limited(title: str, runs: _Runs) -> None:
    outcomes = [run.result() for run in runs]
    ratios = [outcome.ratio * (1 - FLAKY_SHARE) for outcome in outcomes]
    failed = sum(outcome.failed for outcome in outcomes)
    rejected = statistics.fmean(outcome.rejected for outcome in outcomes)
    is_met = statistics.fmean(ratios) <= _MAX_RATIO and max(ratios) <= _MAX_RATIO_OF_ONE and not failed
    others = f"failed {failed}, rejected or failed attempts {rejected:.1%}"
    _print_row(title, ratios, others, f"{_MAX_RATIO}, of one seed {_MAX_RATIO_OF_ONE}", is_met)


def _print_row(title: str, ratios: Sequence[float], others: str, target: str, is_met: bool) -> None:
    verdict = "ok" if is_met else "MISSED"
    print(f"  {title:44} {statistics.fmean(ratios):.2f} (to {max(ratios):.2f})  {others}   {target} {verdict}")


if __name__ == "__main__":
    run()
