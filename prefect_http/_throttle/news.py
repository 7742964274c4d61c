"""News: what processes that share a throttle tell each other at once, and not at the next exchange. Pure.

As long as there are few processes, each change of the state is news, together with the state. So a process knows it
already when it is going to change it as well. Without this, half of all calls only found out that it had changed.

News may be lost. All that they say is in the state as well, and found there a second later; but for the doubts, of
which each process then counts only its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from prefect_http._throttle.fleet_state import FleetState

# So many processes get the whole state with the news. With more of them, to read all that would take them more time
# than it saves, unless the store is slow.
_FEW, _FEW_IF_SLOW = 16, 64


class News(NamedTuple):
    """What other processes are told at once.

    Attributes:
        name: of the key.
        member: who tells it.
        cycle: in which it was.
        what: "closed"; "opened"; "doubts", if there were rejections that may be faults; "joined"; "changed", for
            anything else.
        value: until when the gate is closed; how many doubts there are; 0 for the others.
        at: when they were told, on the store's clock.
        text: the state; empty if there are many processes.
    """

    name: str
    member: str
    cycle: int
    what: str
    value: float
    at: float
    text: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.member} {self.cycle} {self.what} {self.value!r} {self.at!r} {self.text}"

    @classmethod
    def parse(cls, text: str) -> News | None:
        """Return the news that a text stands for; None if it does not stand for any, as that of another version may."""
        try:
            name, member, cycle, what, value, at, state = text.split(" ", 6)
            news = cls(name, member, int(cycle), what, float(value), float(at), state)
        except ValueError:
            return None
        return news if math.isfinite(news.value) and math.isfinite(news.at) else None


def news_of(
    name: str, member: str, before: FleetState, after: FleetState, text: str, doubts: int, *, is_slow: bool
) -> str:
    """Return what the others are to be told of a change; empty: nothing.

    Args:
        name: of the key.
        member: who has made the change.
        before: the state before it.
        after: the state after it.
        text: that as a text.
        doubts: how many rejections there were that may be faults.
        is_slow: whether the store is slow.
    """
    what, value = "", 0.0
    if after.closed_until is not None and after.closed_until != before.closed_until:
        what, value = "closed", after.closed_until
    elif after.cycle != before.cycle:
        what = "opened"
    elif doubts:
        what, value = "doubts", doubts
    elif len(after.members) > len(before.members) and len(after.members).bit_count() == 1:
        what = "joined"  # each time that they have become twice as many
    is_whole = len(after.members) <= (_FEW_IF_SLOW if is_slow else _FEW) and len(after.members | before.members) > 1
    if not (what or is_whole):
        return ""
    return str(News(name, member, after.cycle, what or "changed", value, after.at, text if is_whole else ""))
