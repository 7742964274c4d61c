"""The shapes of paths, and routes that are rejected while others are served."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import each_row

from prefect_http._throttle.routes import RouteStreaks, route_of

MAX_ROUTES = 1000


def named(name: str) -> Callable[[], str]:
    """Return a function that returns the route."""
    return lambda: name


def unasked() -> str:
    """Stand for a route that is not needed."""
    raise AssertionError("asked for the route")


# --- The shape of a path


@each_row(
    ("path", "shape"),
    [
        ("", ""),
        ("/", "/"),
        ("/items", "/items"),
        ("/items/", "/items/"),
        ("/items/1", "/items/*"),
        ("/items/1/parts/22", "/items/*/parts/*"),
        ("//1//", "//*//"),
        ("/items/0xff", "/items/0xff"),
        ("/items/c0ffee", "/items/*"),
        ("/items/C0FFEE", "/items/*"),
        ("/cafe/decade", "/cafe/decade"),
        ("/items/-", "/items/-"),
        ("/items/-1", "/items/*"),
        ("/days/2026-11-22", "/days/*"),
        ("/runs/0b9f1c54-8f0e-4d1c-9d0e-2f6f7c9a1b3d", "/runs/*"),
        ("/v1/items", "/v1/items"),
        ("/items/item7", "/items/item7"),
        ("/items/\u0663", "/items/\u0663"),
        ("/items/1 ", "/items/1 "),
        ("/" + "x" * 39, "/" + "x" * 39),
        ("/" + "x" * 40, "/*"),
        ("/" + "x" * 20 + "\n" + "x" * 20, "/*"),
        ("/" + "x" * 20 + "/" + "x" * 20, "/" + "x" * 20 + "/" + "x" * 20),
    ],
)
def test_shape(path: str, shape: str) -> None:
    """Segments that are numbers, hexadecimal or long stand for items; words do not."""
    assert route_of("GET", path) == f"GET {shape}"


def test_methods_are_distinguished() -> None:
    """Reading and writing the same path are two routes."""
    assert route_of("GET", "/items/1") != route_of("PUT", "/items/1")


@settings(max_examples=25)
@given(st.text())
def test_a_shape_has_as_many_segments_as_its_path(path: str) -> None:
    """Segments are replaced, never added or removed, and the shape of a shape is the same."""
    route = route_of("GET", path)
    assert route.count("/") == path.count("/")
    assert route_of("GET", route.removeprefix("GET ")) == route


# --- Rejections in a row


@each_row(
    ("accepted", "own"),
    [
        ([0, 0, 0, 0, 0], [False] * 5),
        ([5, 5, 5, 5, 5], [False] * 5),
        ([0, 1, 2, 3, 4], [False, False, False, True, True]),
        ([5, 5, 5, 6, 6], [False, False, False, True, True]),
        ([5, 6, 6, 6, 6], [False, False, False, True, True]),
        ([5, 5, 5, 5, 6], [False, False, False, False, True]),
    ],
)
def test_own_problem(accepted: list[int], own: list[bool]) -> None:
    """From the fourth rejection in a row on, it is the route's own problem, if others were accepted since the first."""
    streaks = RouteStreaks()
    assert [streaks.rejected(named("a"), count) for count in accepted] == own


def test_a_served_route_starts_again() -> None:
    """A route that is served once must be rejected as often again."""
    streaks = RouteStreaks()
    assert [streaks.rejected(named("a"), count) for count in range(4)] == [False, False, False, True]
    streaks.served(named("a"))
    assert [streaks.rejected(named("a"), count) for count in range(4)] == [False, False, False, True]


def test_routes_are_counted_apart() -> None:
    """The rejections of one route, and its success, do not count for another."""
    streaks = RouteStreaks()
    for count in range(3):
        assert not streaks.rejected(named("a"), count)
        assert not streaks.rejected(named("b"), count)
    streaks.served(named("b"))
    assert streaks.rejected(named("a"), 3)
    assert not streaks.rejected(named("b"), 3)


def test_the_route_is_only_computed_if_needed() -> None:
    """While no route has been rejected, it does not matter which one is served."""
    streaks = RouteStreaks()
    streaks.served(unasked)
    streaks.rejected(named("a"), 0)
    streaks.served(named("a"))
    streaks.served(unasked)


@pytest.mark.parametrize(("others", "is_remembered"), [(MAX_ROUTES - 1, True), (MAX_ROUTES, False)])
def test_a_thousand_routes_are_remembered(others: int, is_remembered: bool) -> None:
    """The thousand routes that were rejected last are remembered, and no more."""
    streaks = RouteStreaks()
    for count in range(3):
        streaks.rejected(named("a"), count)
    for number in range(others):
        streaks.rejected(named(f"other {number}"), 3)
    assert streaks.rejected(named("a"), 4) is is_remembered


def test_the_oldest_rejection_is_forgotten() -> None:
    """The route that is forgotten is the one whose last rejection is the longest ago."""
    streaks = RouteStreaks()
    streaks.rejected(named("a"), 0)
    streaks.rejected(named("b"), 0)
    for count in (1, 2):
        streaks.rejected(named("b"), count)
        streaks.rejected(named("a"), count)
    for number in range(MAX_ROUTES - 1):
        streaks.rejected(named(f"other {number}"), 3)
    assert streaks.rejected(named("a"), 4)
    assert not streaks.rejected(named("b"), 4)
