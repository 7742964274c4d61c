"""Repeats: requests that are sent again on the wire, which costs no retry of the client. Pure.

A server may say that it has not processed a request: by RST_STREAM with REFUSED_STREAM, or by GOAWAY. The first time,
it usually just ends the connection. If it goes on, it may be overloaded.
"""

from __future__ import annotations

MAX_REPEATS = 8
_FIRST_DELAY = 0.1
_MAX_DELAY = 1.0


class SendAgain(Exception):
    """A request can be sent again, and should be.

    Args:
        delay: after how many seconds.
    """

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


def delay_before(repeats: int) -> float:
    """Return how many seconds to wait before a request is repeated that has been repeated so many times."""
    return min(_FIRST_DELAY * 2.0 ** (repeats - 1), _MAX_DELAY) if repeats else 0.0
