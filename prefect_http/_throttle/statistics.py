"""ThrottleStatistics and ThrottleEvent: what a Throttle reports about itself. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from prefect_http._throttle.limiter import Limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleStatistics:
    """The state of one key of a Throttle.

    Attributes:
        closed_until: until when all requests wait, after a rejection or because the server said that no requests are
            left, on the event loop's clock; None if they do not have to wait. It may be in the past, until another
            request is accepted.
        rate: how many requests are sent per second: the learned rate or the known one, whichever is lower; infinity if
            there is neither.
        limit: how many requests may be in flight.
        in_flight: how many requests have been sent, but not answered yet.
        waiting: how many requests are in the queue.
        accepted: how many requests have been answered with something other than a rejection.
        rejected: how many requests have been rejected.
    """

    closed_until: float | None
    rate: float
    limit: int
    in_flight: int
    waiting: int
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleEvent:
    """A change in the state of one key of a Throttle.

    Attributes:
        kind: "closed": all requests wait after a rejection, or because the server said that none are left; "opened":
            the first request that was sent afterwards has been accepted; "learned": there is a new rate; "alone": the
            state that is shared with other processes cannot be reached, so this process continues with its last share;
            "shared": it can be reached again.
        key: the key.
        time: the time of the change, in seconds on the event loop's clock.
        statistics: the state of the key afterwards.
    """

    kind: Literal["closed", "opened", "learned", "alone", "shared"]
    key: Hashable
    time: float
    statistics: ThrottleStatistics


def statistics_of(limiter: Limiter, *, waiting: int) -> ThrottleStatistics:
    """Return the statistics of a key with this limiter, and this many requests in its queue."""
    return ThrottleStatistics(
        closed_until=limiter.closed_until,
        rate=min(limiter.rate, limiter.known_rate),
        limit=limiter.limit,
        in_flight=limiter.in_flight,
        waiting=waiting,
        accepted=limiter.accepted,
        rejected=limiter.rejections,
    )
