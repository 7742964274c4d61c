"""Ticket: one request that has been sent. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Ticket:
    """A request that has been sent. Limiter.send() sets the attributes: an ``__init__()`` would be another call.

    Attributes:
        route: returns the request's route within its key; called only when needed.
        sent_at: when it was sent.
        has_waited: whether it had to queue.
        cycle: the number of the cycle in which it was sent.
        is_probe: whether it was sent while the gate was closed, to see whether that may open.
        is_out: whether it is still in flight.
    """

    __slots__ = ("cycle", "has_waited", "is_out", "is_probe", "route", "sent_at")

    route: Callable[[], str]
    sent_at: float
    has_waited: bool
    cycle: int
    is_probe: bool
    is_out: bool
