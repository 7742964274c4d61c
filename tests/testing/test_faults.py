"""Faults of servers that have nothing to do with rate limits."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from support.rows import each_row

from prefect_http.testing._faults import Fault, Flaky, Restarts


def struck(fault: Fault, count: int = 10_000) -> list[int]:
    """Return the numbers of the requests that fail."""
    return [number for number in range(count) if fault.strikes(0.0)]


def test_share_of_requests_fails() -> None:
    """About the share that was asked for fails; the same requests with the same seed, and others with another."""
    assert struck(Flaky(0.0)) == []
    assert len(struck(Flaky(1.0))) == 10_000
    assert len(struck(Flaky(0.03))) == pytest.approx(300, rel=0.1)
    assert struck(Flaky(0.3), 100) == struck(Flaky(0.3), 100)
    assert struck(Flaky(0.3), 100) != struck(Flaky(0.3, seed=1), 100)
    assert struck(Flaky(0.3, seed="one"), 100) != struck(Flaky(0.3, seed="two"), 100)


def test_same_requests_fail_in_every_version() -> None:
    """Python promises that random() gives the same numbers for a seed, so that a test fails the same anywhere."""
    assert struck(Flaky(0.1), 50) == [35, 40]


@each_row(
    ("every", "down", "times"),
    [
        (10, 0.5, [9.5, 9.999, 19.5, 99.75]),
        (0.3, 0.1, [0.2, 0.29, 0.5, 0.8, 3.2]),
    ],
)
def test_server_is_down_at_the_end_of_each_period(every: float, down: float, times: list[float]) -> None:
    """A restart begins ``down`` before the end of each period, and ends with it; floats are rounded."""
    fault = Restarts(every, down)
    assert [fault.strikes(now) for now in times] == [True] * len(times)
    for number in range(100):
        assert not fault.strikes(number * every)
        assert not fault.strikes(number * every + every - down - 2e-9)
        assert fault.strikes(number * every + every - down)
        assert fault.strikes((number + 1) * every - 2e-9)


@each_row(
    ("fault", "status", "text"),
    [
        (Flaky(0.5), 503, "Flaky(0.5, 503)"),
        (Flaky(0.5, 429), 429, "Flaky(0.5, 429)"),
        (Restarts(60, 5), 503, "Restarts(60, 5, 503)"),
        (Restarts(60, 5, None), None, "Restarts(60, 5, None)"),
    ],
)
def test_status(fault: Fault, status: int | None, text: str) -> None:
    """A fault has the status of the responses; None for a server without connections."""
    assert fault.status == status
    assert repr(fault) == text


FLAKY: Any = Flaky
LENGTH = "must be a number of seconds from 1e-06 to"


@each_row(
    ("make", "message"),
    [
        (partial(Flaky, 1.1), "share must be a number from 0 to 1, not 1.1"),
        (partial(Flaky, -0.1), "share must be a number from 0 to 1, not -0.1"),
        (partial(Flaky, 0.1, 200), "status must be an integer from 400 to 999, not 200"),
        (partial(FLAKY, 0.1, "503"), "status must be an integer from 400 to 999, not '503'"),
        (partial(FLAKY, 0.1, None), "status must be an integer from 400 to 999, not None"),
        (partial(FLAKY, 0.1, seed=None), "seed must be an integer or a string, not None"),
        (partial(Restarts, 0, 0), f"every {LENGTH} 1e+09, not 0"),
        (partial(Restarts, 10, 0), f"down {LENGTH} 10, not 0"),
        (partial(Restarts, 10, 11), f"down {LENGTH} 10, not 11"),
        (partial(Restarts, 10, 10), "down must be less than every, 10, or the server is never up"),
        (partial(Restarts, 10, 1, 99), "status must be an integer from 400 to 999, not 99"),
    ],
)
def test_bad_arguments(make: partial[object], message: str) -> None:
    """An argument that is out of range raises a ValueError that names it."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()
