"""The rate curve, and what is learned from a closure: tables."""

from __future__ import annotations

import math

import pytest
from support.rows import each_row

from prefect_http._throttle.curve import Curve, learn_curve


def test_rate() -> None:
    """The rate goes from the base to the ceiling, more and more slowly, and beyond it faster and faster."""
    curve = Curve(10.0, 20.0, 100.0)
    assert [curve.rate(done) for done in (0, 50, 100, 150, 200)] == [10.0, 18.75, 20.0, 21.25, 30.0]
    assert [curve.is_low(done) for done in (0, 49, 50, 100)] == [True, True, False, False]


@each_row(
    ("accepted", "busy", "whole", "closed_for", "last_rate", "base", "ceiling", "span"),
    [
        # The first time: the ceiling is accepted / busy, and the base the geometric mean of that and accepted / whole.
        (100, 10.0, 40.0, 1.0, math.inf, 5.0, 10.0, 100.0),
        (20, 4.0, 16.0, 1.0, math.inf, 2.5, 5.0, 50.0),
        # The base is at most nine tenths of the ceiling.
        (100, 10.0, 10.0, 1.0, math.inf, 9.0, 10.0, 180.0),
        # The climb takes twenty times the time that the gate was closed, but from 5 s to a minute.
        (100, 10.0, 40.0, 0.25, math.inf, 5.0, 10.0, 25.0),
        (100, 10.0, 40.0, 0.125, math.inf, 5.0, 10.0, 25.0),
        (100, 10.0, 40.0, 3.0, math.inf, 5.0, 10.0, 300.0),
        (100, 10.0, 40.0, 100.0, math.inf, 5.0, 10.0, 300.0),
        # It takes ten answers at least.
        (1, 4.0, 16.0, 1.0, math.inf, 0.125, 0.25, 10.0),
        # Nor is the rate below one request a minute.
        (1, 1000.0, 4000.0, 60.0, math.inf, 1 / 60, 1 / 54, 10.0),
        (1, 1000.0, 4000.0, 60.0, 1 / 54, 1 / 60, 1 / 54, 10.0),
        # Requests that were rejected at once: as if that had taken a millisecond.
        (1, 0.0, 0.1, 0.1, math.inf, 100.0, 1000.0, 500.0),
        # Later: the ceiling is a little below the rate that was rejected, however many were accepted.
        (100, 10.0, 40.0, 1.0, 20.0, math.sqrt(2.5 * 19.0), 19.0, 20 * math.sqrt(2.5 * 19.0)),
        (1000, 1.0, 40.0, 1.0, 20.0, 17.1, 19.0, 342.0),
    ],
)
def test_learned_curve(
    accepted: int,
    busy: float,
    whole: float,
    closed_for: float,
    last_rate: float,
    base: float,
    ceiling: float,
    span: float,
) -> None:
    """The rate starts between what was accepted per second of all the time, and of the time that the gate was open."""
    curve = learn_curve(accepted=accepted, busy=busy, whole=whole, closed_for=closed_for, last_rate=last_rate)
    assert (curve.base, curve.ceiling, curve.span) == pytest.approx((base, ceiling, span))


@each_row(
    ("accepted_share", "last_rate", "ceiling"),
    [(1.0, 20.0, 19.0), (0.96, 20.0, 19.0), (0.75, 20.0, 15.0), (0.1, 20.0, 2.5), (0.75, math.inf, 10.0)],
)
def test_the_ceiling_of_a_saturated_limit(accepted_share: float, last_rate: float, ceiling: float) -> None:
    """The ceiling is what was accepted of a known rate, but not below what was accepted per second in all."""
    curve = learn_curve(
        accepted=100, busy=10.0, whole=40.0, closed_for=1.0, last_rate=last_rate, accepted_share=accepted_share
    )
    assert curve.ceiling == pytest.approx(ceiling)
