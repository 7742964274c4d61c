"""Numbers in fields that are to hold seconds to wait, but cannot be that. Pure."""

from __future__ import annotations

# A number above these cannot be seconds to wait, for that would be decades. It is a time since the epoch, of September
# 2001 or later, in either unit.
_SECONDS = 10**9
_MILLISECONDS = 10**12
# A day, in seconds. A throttle takes a longer wait for a mistake, such as milliseconds in place of seconds.
LONGEST_WAIT = 86_400.0


def is_epoch(number: float) -> bool:
    """Return whether a number must be a time since the epoch."""
    return number > _SECONDS


def epoch_seconds(number: float) -> float:
    """Return a time since the epoch, in seconds or milliseconds, in seconds."""
    return number / 1000 if number > _MILLISECONDS else number
