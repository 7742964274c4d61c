"""What a server says about its limits: tables."""

from __future__ import annotations

import math

import pytest

from prefect_http._throttle.quota import Quota


def update(quota: Quota, now: float, remaining: int | None = None, reset: float | None = None) -> float | None:
    """Let the server say how many requests are left, and until when."""
    return quota.update(now, remaining=remaining, reset=reset, concurrency=None)


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ((5, 10.0), (3, 9.5), 3),  # less in the same window
        ((3, 10.0), (5, 9.5), 3),  # more in the same window: an answer that was overtaken
        ((3, 10.0), (5, 11.0), 3),  # reset moved by 1.5 s
        ((3, 10.0), (5, 11.0625), 5),  # by more
        ((3, 10.0), (5, 8.0), 3),  # by 1.5 s the other way
        ((3, 10.0), (5, 7.9375), 5),  # by more
        ((3, 0.25), (5, 0.25), 5),  # the first window has passed
        ((3, 0.5), (5, 1.0), 5),  # just now
        ((3, None), (5, None), 5),  # until an unknown time
        ((3, None), (5, 10.0), 5),
        ((3, 10.0), (5, None), 5),
        ((3, 10.0), (None, 9.5), 3),
        ((3, 10.0), (None, None), 3),
    ],
)
def test_what_is_left_in_a_window(
    first: tuple[int | None, float | None], second: tuple[int | None, float | None], left: int
) -> None:
    """Answers overtake one another: within one window, the smallest number holds."""
    quota = Quota()
    update(quota, 0.0, *first)
    update(quota, 0.5, *second)
    assert quota.next_room_at(left - 1, 0.5) == -math.inf
    assert quota.next_room_at(left, 0.5) > 0.5


def test_room() -> None:
    """There is room again when requests have ended, or the window has passed."""
    quota = Quota()
    assert quota.next_room_at(1000, 0.0) == -math.inf
    update(quota, 0.0, remaining=3, reset=10.0)
    assert [quota.next_room_at(in_flight, 0.0) for in_flight in (2, 3, 4)] == [-math.inf, 10.0, 10.0]
    assert [quota.next_room_at(3, now) for now in (9.5, 10.0)] == [10.0, -math.inf]


@pytest.mark.parametrize(
    ("remaining", "reset", "until"),
    [
        (0, 5.0, 7.0),
        (0, 0.0, 2.0),
        (1, 5.0, None),
        (None, 5.0, None),
        (0, None, None),  # for an unknown time
        (0, 86_400.0, 86_402.0),
        (0, 86_401.0, None),  # more than a day: a Unix time that is taken for seconds
        (0, 1e9, None),
    ],
)
def test_nothing_left(remaining: int | None, reset: float | None, until: float | None) -> None:
    """If nothing is left, and the server says until when within a day, that time is returned."""
    assert update(Quota(), 2.0, remaining, reset) == until


def test_concurrency() -> None:
    """The last number of requests at a time holds, and an answer without one changes nothing."""
    quota = Quota()
    assert quota.concurrency == math.inf
    for concurrency, expected in ((2, 2), (None, 2), (7, 7)):
        quota.update(0.0, remaining=None, reset=None, concurrency=concurrency)
        assert quota.concurrency == expected
