"""The shapes of paths, and routes that are rejected while others are served."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_http._throttle.routes import RouteStreaks, route_of

MAX_ROUTES = 1000


def named(name: str) -> Callable[[], str]:
    """Give what tells a route."""
    return lambda: name


def unasked() -> str:
    """Stand for a route that nobody needs to know."""
    raise AssertionError("asked for the route")


# --- The shape of a path


@pytest.mark.parametrize(
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
    """Numbers, hexadecimal names and long names are items; words are not."""
    assert route_of("GET", path) == f"GET {shape}"


def test_methods_are_told_apart() -> None:
    """Reading and writing one path are two routes."""
    assert route_of("GET", "/items/1") != route_of("PUT", "/items/1")


@given(st.text())
def test_a_shape_has_as_many_segments_as_its_path(path: str) -> None:
    """Only segments are replaced, and a shape is its own shape."""
    route = route_of("GET", path)
    assert route.count("/") == path.count("/")
    assert route_of("GET", route.removeprefix("GET ")) == route


# --- Rejections in a row


@pytest.mark.parametrize(
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
    """From the fourth rejection in a row on, it is the route's own, if others were accepted since the first."""
    streaks = RouteStreaks()
    assert [streaks.rejected(named("a"), count) for count in accepted] == own


def test_a_served_route_begins_anew() -> None:
    """What is served once has no problem of its own, until it is rejected as often again."""
    streaks = RouteStreaks()
    assert [streaks.rejected(named("a"), count) for count in range(4)] == [False, False, False, True]
    streaks.served(named("a"))
    assert [streaks.rejected(named("a"), count) for count in range(4)] == [False, False, False, True]


def test_routes_are_counted_apart() -> None:
    """One route's rejections are no other's, and neither is its success."""
    streaks = RouteStreaks()
    for count in range(3):
        assert not streaks.rejected(named("a"), count)
        assert not streaks.rejected(named("b"), count)
    streaks.served(named("b"))
    assert streaks.rejected(named("a"), 3)
    assert not streaks.rejected(named("b"), 3)


def test_nobody_asks_for_a_route_in_vain() -> None:
    """While no route has been rejected, it does not matter which one is served."""
    streaks = RouteStreaks()
    streaks.served(unasked)
    streaks.rejected(named("a"), 0)
    streaks.served(named("a"))
    streaks.served(unasked)


@pytest.mark.parametrize(("others", "is_known"), [(MAX_ROUTES - 1, True), (MAX_ROUTES, False)])
def test_as_many_routes_are_known(others: int, is_known: bool) -> None:
    """The thousand routes that were rejected last are known, and no more."""
    streaks = RouteStreaks()
    for count in range(3):
        streaks.rejected(named("a"), count)
    for number in range(others):
        streaks.rejected(named(f"other {number}"), 3)
    assert streaks.rejected(named("a"), 4) is is_known


def test_a_rejection_keeps_a_route_known() -> None:
    """The route that is forgotten is the one that was rejected the longest ago, not the first that was."""
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
