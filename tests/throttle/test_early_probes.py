"""Which closures get an early probe: tables."""

from __future__ import annotations

from collections.abc import Callable

from support.rows import each_row

from prefect_http._throttle.early_probes import EarlyProbes


def closures_with_early_probes(count: int, served: Callable[[int], bool]) -> list[int]:
    """Return which of ``count`` closures get an early probe, if those are answered for which ``served`` says so."""
    early_probes = EarlyProbes(is_allowed=True)
    found: list[int] = []
    for number in range(count):
        if early_probes.is_next(wait=60.0, backoff=0.1):
            found.append(number)
            early_probes.count(was_rejected=not served(number))
    return found


def test_early_probes_that_are_rejected_become_rare() -> None:
    """After one that was rejected the next closure has none, then the next three, then seven, then always fifteen."""
    assert closures_with_early_probes(64, lambda number: False) == [0, 2, 6, 14, 30, 46, 62]


def test_early_probes_that_are_answered_stay() -> None:
    """As long as early probes are answered, each closure has one; one answer makes up for all rejections."""
    assert closures_with_early_probes(20, lambda number: True) == list(range(20))
    assert closures_with_early_probes(16, lambda number: number == 6) == [0, 2, 6, 7, 9, 13]


@each_row(
    ("is_allowed", "wait", "expected"), [(True, 0.25, True), (True, 0.2, False), (True, 0.0, False), (False, 60, False)]
)
def test_when_it_is_worth_it(is_allowed: bool, wait: float, expected: bool) -> None:
    """An early probe must be allowed, and the wait must be longer than twice the backoff."""
    assert EarlyProbes(is_allowed=is_allowed).is_next(wait=wait, backoff=0.1) is expected


def test_a_closure_that_is_too_short_is_not_counted() -> None:
    """Only a closure that is long enough for an early probe counts as one that was skipped."""
    early_probes = EarlyProbes(is_allowed=True)
    early_probes.count(was_rejected=True)
    assert [early_probes.is_next(wait=wait, backoff=0.1) for wait in (0.1, 60.0, 60.0)] == [False, False, True]
