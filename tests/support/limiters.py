"""Limiters, and requests that they let out; no clock and no event loop."""

from __future__ import annotations

import math

from prefect_http._fields.rate_limit import RateLimit
from prefect_http._throttle.limiter import Change, Limiter
from prefect_http._throttle.ticket import Ticket

INF = math.inf
LATENCY = 0.125
MAX = 100


def make(
    *,
    max_in_flight: int = MAX,
    slow_start: bool = True,
    early_probe: bool = False,
    changes: list[Change] | None = None,
) -> Limiter:
    """Return a Limiter that appends its changes to a list."""
    on_change = ([] if changes is None else changes).append
    return Limiter(max_in_flight=max_in_flight, slow_start=slow_start, early_probe=early_probe, on_change=on_change)


def may_leave(limiter: Limiter, now: float) -> bool:
    """Return whether the next request may leave by now."""
    return limiter.next_send(now) <= now


def let_out(limiter: Limiter, now: float, count: int = 1, *, route: str = "", has_waited: bool = True) -> list[Ticket]:
    """Let requests out, each of which must be allowed to leave."""
    tickets: list[Ticket] = []
    for _ in range(count):
        assert may_leave(limiter, now), limiter.next_send(now)
        tickets.append(limiter.send(now, lambda: route, has_waited=has_waited))
    return tickets


def let_one_out(limiter: Limiter, now: float, *, route: str = "", has_waited: bool = True) -> Ticket:
    """Let a request out, which must be allowed to leave."""
    return let_out(limiter, now, route=route, has_waited=has_waited)[0]


def fill(limiter: Limiter, now: float) -> list[Ticket]:
    """Let out all requests that may leave."""
    tickets: list[Ticket] = []
    while may_leave(limiter, now):
        tickets.append(let_one_out(limiter, now))
    return tickets


def answer(limiter: Limiter, tickets: list[Ticket], now: float) -> None:
    """Answer requests."""
    for ticket in tickets:
        limiter.answered(ticket, now)


def serve(limiter: Limiter, now: float, count: int = 1, *, latency: float = LATENCY, route: str = "") -> float:
    """Serve requests one after the other, each as soon as it may leave; return the time."""
    for _ in range(count):
        now = max(now, limiter.next_send(now))
        ticket = let_one_out(limiter, now, route=route)
        now += latency
        limiter.answered(ticket, now)
    return now


def new_ticket(sent_at: float, *, has_waited: bool = False, is_probe: bool = False) -> Ticket:
    """Return the ticket of a request of the first cycle."""
    ticket = Ticket()
    ticket.route, ticket.sent_at, ticket.has_waited = str, sent_at, has_waited
    ticket.cycle, ticket.is_probe, ticket.is_out = 0, is_probe, True
    return ticket


def advertise(
    limiter: Limiter,
    now: float,
    remaining: int | None = None,
    reset: float | None = None,
    concurrency: int | None = None,
) -> None:
    """Let the server say something about its limits, in the response to a request that was sent just now."""
    ticket = new_ticket(now)
    limiter.advertised(ticket, now, RateLimit(remaining=remaining, reset=reset, concurrency=concurrency))
