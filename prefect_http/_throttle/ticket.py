"""Ticket: one request that a limiter has let out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Ticket:
    """A request that has been let out.

    Attributes:
        route: returns the request's route within its key; called only when needed.
        sent_at: when it was let out.
        has_waited: whether it had to queue.
        cycle: the number of the cycle in which it was let out.
        is_probe: whether it was let out through a closed gate, to see whether that may open.
        is_out: whether it is still under way.
    """

    route: Callable[[], str]
    sent_at: float
    has_waited: bool
    cycle: int
    is_probe: bool
    is_out: bool = True
