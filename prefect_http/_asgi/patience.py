"""Patience: how long a caller waits for an app, by httpx's read and write timeouts.

Pure: state and clock readings in, deadlines out. Which timeout holds depends on how far a request has come:

    no head yet, the app has request content to take      write timeout
    no head yet, the caller has content to produce        none: the app waits for the caller
    no head yet, neither                                  read timeout
    head, but not the end of the body                     read timeout, whatever becomes of the request body
    the end of the body                                   none: the app may do its background work
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import httpx


class Progress(NamedTuple):
    """How far a request and its response have come.

    Attributes:
        has_head: whether the app has sent its status and headers.
        is_complete: whether the app has sent its whole response.
        waits_for_app: whether there is request content that the app has not taken.
        waits_for_caller: whether the caller has yet to produce the next part of the request body.
    """

    has_head: bool
    is_complete: bool
    waits_for_app: bool
    waits_for_caller: bool


class Patience:
    """How long a caller waits for an app.

    Args:
        timeouts: the request's timeouts in seconds, of which "read" and "write" count. One that is None or missing
            never expires.

    Attributes:
        limit: a time on the event loop's clock after which the caller does not wait for the rest of the response,
            whatever the timeouts; infinite unless it is set.
    """

    __slots__ = ("_timeouts", "limit")

    def __init__(self, timeouts: Mapping[str, float | None]) -> None:
        self._timeouts = timeouts
        self.limit = math.inf

    def deadline(self, progress: Progress, now: float) -> float:
        """Return the time at which the caller gives up if there is no further progress; infinity: never.

        Args:
            progress: how far the request has come.
            now: the time of the last progress, on the event loop's clock, as the result.
        """
        if progress.is_complete:
            return math.inf
        return min(now + self._timeout(progress), self.limit)

    def error(self, progress: Progress, now: float) -> httpx.TimeoutException:
        """Return the error for a wait that has reached its deadline.

        Args:
            progress: how far the request had come.
            now: the time at which the wait ended, on the event loop's clock.
        """
        if self.limit <= now:
            return httpx.ReadTimeout("the rest of the response did not arrive in time")
        seconds = f"{self._timeout(progress):g} s"
        if progress.has_head:
            return httpx.ReadTimeout(f"the app sent no more of its response within {seconds}")
        if progress.waits_for_app:
            return httpx.WriteTimeout(f"the app did not receive more of the request body within {seconds}")
        return httpx.ReadTimeout(f"the app did not start its response within {seconds}")

    def _timeout(self, progress: Progress) -> float:
        if progress.has_head:
            return self._seconds("read")
        if progress.waits_for_app:
            return self._seconds("write")
        return math.inf if progress.waits_for_caller else self._seconds("read")

    def _seconds(self, kind: str) -> float:
        timeout = self._timeouts.get(kind)
        return math.inf if timeout is None else timeout
