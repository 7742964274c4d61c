"""How the results are printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks._measure import Ratio


def print_table(
    title: str, base: str, results: Mapping[str, Ratio], targets: Mapping[str, float] | None = None
) -> None:
    """Print ratios to the baseline, and the targets of those that have one."""
    print(f"\n{title}")
    print(f"  {'':34}{'ratio':>7}   {'quartiles':13}{'one call':>10}   target")
    base_seconds = statistics.median(ratio.base_seconds for ratio in results.values())
    print(f"  {base:34}{1:7.3f}   {'':13}{_duration(base_seconds):>10}")
    for name, ratio in results.items():
        spread = f"{ratio.low:.3f}-{ratio.high:.3f}"
        target = (targets or {}).get(name)
        beside = "" if target is None else _verdict(ratio.median, target)
        line = f"  {name:34}{ratio.median:7.3f}   {spread:13}{_duration(ratio.seconds):>10}   {beside}"
        print(line.rstrip(), flush=True)


def print_checked(name: str, result: str, checked: float = 0.0, target: float | None = None, unit: str = "") -> None:
    """Print a result, and whether the number ``checked`` is at most the target, if there is one."""
    beside = "" if target is None else _verdict(checked, target, unit)
    print(f"  {name:36}{result:31}   {beside}".rstrip(), flush=True)


def print_speedup_header() -> None:
    """Print the header for print_speedup()."""
    print(f"  {'times as fast, by':66}{'wall clock':22}{'processor time':22}target")


def print_speedup(name: str, elapsed: Ratio, processor: Ratio, target: float | None) -> None:
    """Print how many times as fast something is, and whether the target is met, if there is one."""
    beside = ""
    if target is not None:
        missed = {"wall clock": elapsed.median < target, "processor time": processor.median < target}
        words = " and ".join(by for by, is_missed in missed.items() if is_missed)
        beside = f">= {target:g} {f'MISSED by {words}' if words else 'ok'}"
    cells = "".join(f"{one.median:5.2f}   {f'{one.low:.2f}-{one.high:.2f}':14}" for one in (elapsed, processor))
    print(f"  {name:66}{cells}{beside}".rstrip(), flush=True)


def _verdict(result: float, target: float, unit: str = "") -> str:
    return f"{target:g}{unit} {'ok' if result <= target else 'MISSED'}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 0.01 else f"{seconds * 1e3:.1f} ms"
