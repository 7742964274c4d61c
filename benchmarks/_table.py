"""How the results are printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from benchmarks._measure import Ratio


def print_table(
    title: str, base: str, results: Mapping[str, Ratio], targets: Mapping[str, float] | None = None
) -> None:
    """Print ratios to the baseline, with the target beside where there is one."""
    print(f"\n{title}")
    print(f"  {'':34}{'ratio':>7}   {'quartiles':13}{'one call':>10}   target")
    base_seconds = statistics.median(ratio.base_seconds for ratio in results.values())
    print(f"  {base:34}{1:7.3f}   {'':13}{_duration(base_seconds):>10}")
    for name, ratio in results.items():
        spread = f"{ratio.low:.3f}-{ratio.high:.3f}"
        target = (targets or {}).get(name)
        beside = "" if target is None else f"{target:g} {'ok' if ratio.median <= target else 'MISSED'}"
        line = f"  {name:34}{ratio.median:7.3f}   {spread:13}{_duration(ratio.seconds):>10}   {beside}"
        print(line.rstrip(), flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 0.01 else f"{seconds * 1e3:.1f} ms"
