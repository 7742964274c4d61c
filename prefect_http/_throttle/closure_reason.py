"""ClosureReason: why a gate is closed, in words for errors and the log. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect_http._attempt import format_seconds

NONE_LEFT = "the server said that no requests are left"
IGNORED = ", which is ignored because it is more than a day"
OTHERS = "another process was rejected"
PROBE_FAILED = "a request failed on the network"
# In seconds. A gate that closes for longer is worth a line in the log.
_LONG = 10.0


class ClosureReason:
    """Why the gate of one key is closed at present, or was closed last.

    Attributes:
        text: the reason for the time at which it may open.
    """

    def __init__(self) -> None:
        self.text = ""
        self._began_at = 0.0
        self._is_announced = False

    def update(self, text: str, now: float, *, before: float | None, until: float | None) -> bool:
        """Record what may have closed the gate, or have kept it closed for longer.

        Args:
            text: what has happened.
            now: the time.
            before: until when the gate was closed before that; None if it was open.
            until: until when it is closed now.

        Returns:
            Whether the closure is to be announced: once, when it lasts longer than 10 s.
        """
        if until is None or until == before:
            return False
        self.text = text
        if before is None:
            self._began_at, self._is_announced = now, False
        if self._is_announced or until - self._began_at <= _LONG:
            return False
        self._is_announced = True
        return True


def rejection(status: int, retry_after: float | None, name: str = "Retry-After") -> str:
    """Return a rejection in words.

    Args:
        status: of the response.
        retry_after: for how many seconds the server wants no more requests; None if it does not say.
        name: by which name it said so.
    """
    if retry_after is None:
        return f"{status} without Retry-After"
    return f"{status} with {name}: {format_seconds(retry_after)}"


def no_requests_for(seconds: float, reason: str, wall_clock: float) -> str:
    """Return for how long no requests are accepted, until when, and why.

    Args:
        seconds: from now.
        reason: the reason.
        wall_clock: the time of the wall clock now, in seconds since the epoch.
    """
    number = f"{seconds:.1f}" if seconds < 1e15 else f"{seconds:g}"
    return f"the server accepts no requests for {number} s{until_text(seconds, wall_clock)} ({reason})"


def until_text(seconds: float, wall_clock: float) -> str:
    """Return ", until ...", with the time in so many seconds; nothing if that is beyond the year 9999."""
    try:
        at = datetime.fromtimestamp(wall_clock + seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return f", until {at:%Y-%m-%d %H:%M:%S} UTC"
