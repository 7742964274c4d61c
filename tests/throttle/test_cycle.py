"""What counts of a cycle: tables."""

from __future__ import annotations

import math

from support.rows import each_row

from prefect_http._throttle.cycle import Cycle


def test_a_new_cycle() -> None:
    """The first cycle begins with its first request, each later one with a probe, which has been accepted."""
    cycle = Cycle()
    assert (cycle.number, cycle.accepted, cycle.began_at) == (0, 0, -math.inf)
    cycle.sent(1.0)
    cycle.sent(2.0)
    assert cycle.began_at == 1.0
    cycle.begin(5.0)
    cycle.sent(6.0)
    assert (cycle.number, cycle.accepted, cycle.began_at) == (1, 1, 5.0)


@each_row(
    ("before", "resumed_at", "after", "hit_at", "expected"),
    [
        (60, 3600.0, 100, 3605.0, (3600.0, 100)),
        (60, 3600.0, 0, 3605.0, (0.0, 60)),  # nothing was accepted since then
        (9000, 3600.0, 10, 3605.0, (0.0, 9010)),  # fewer per second
        (60, 3600.0, 100, 3599.0, (0.0, 160)),  # what was rejected had been sent before
    ],
)
def test_busiest_part(before: int, resumed_at: float, after: int, hit_at: float, expected: tuple[float, int]) -> None:
    """What came after the last pause counts alone if more was accepted per second."""
    cycle = Cycle()
    cycle.sent(0.0)
    cycle.accepted += before
    cycle.resumed(resumed_at)
    cycle.accepted += after
    assert cycle.busiest_part(hit_at, 3606.0) == expected


def test_a_pause_in_the_cycle_before() -> None:
    """A pause in an earlier cycle has no part in this one."""
    cycle = Cycle()
    cycle.sent(0.0)
    cycle.accepted += 50
    cycle.resumed(10.0)
    cycle.begin(20.0)
    cycle.accepted += 4
    assert cycle.busiest_part(25.0, 30.0) == (20.0, 5)


def test_a_pause_that_ends_with_the_cycle() -> None:
    """A part without any duration teaches nothing."""
    cycle = Cycle()
    cycle.sent(0.0)
    cycle.accepted += 50
    cycle.resumed(10.0)
    assert cycle.busiest_part(10.0, 10.0) == (0.0, 50)
