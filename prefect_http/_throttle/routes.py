"""Routes that are rejected again and again while others are served. Pure."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable

# After this many rejections in a row, the next one may be the route's own problem.
_OWN_PROBLEM = 3
_MAX_ROUTES = 1000
_VARIABLE = re.compile(r"[0-9a-fA-F-]*[0-9][0-9a-fA-F-]*")
_LONG = 40


def route_of(method: str, path: str) -> str:
    """Return the method and the path, with ``*`` for each segment that looks like the identifier of one item."""
    return f"{method} " + "/".join(
        "*" if len(part) >= _LONG or _VARIABLE.fullmatch(part) else part for part in path.split("/")
    )


class RouteStreaks:
    """How often each route has been rejected in a row. The 1,000 routes that were rejected last are remembered.

    Attributes:
        streaks: by the route, the rejections in a row, and how many requests of all routes had been accepted at the
            first of them. While it is empty, there is nothing to do for a request that is accepted.
    """

    def __init__(self) -> None:
        self.streaks: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def served(self, route: Callable[[], str]) -> None:
        """Forget a route's rejections."""
        if self.streaks:
            self.streaks.pop(route(), None)

    def rejected(self, route: Callable[[], str], accepted: int) -> bool:
        """Count a rejection, and return whether it is a problem of the route alone.

        It is if the route was rejected more than three times in a row while other routes were served.

        Args:
            route: returns the route.
            accepted: how many requests of all routes have been accepted so far.
        """
        name = route()
        count, before = self.streaks.pop(name, (0, accepted))
        self.streaks[name] = count + 1, before
        if len(self.streaks) > _MAX_ROUTES:
            self.streaks.popitem(last=False)
        return count >= _OWN_PROBLEM and accepted > before
