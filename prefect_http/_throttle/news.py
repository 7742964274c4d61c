"""News: what processes that share a throttle tell each other at once, and not at the next exchange. Pure.

News may be lost. All that they say is in the state as well, and found there a second later; but for the doubts, of
which each process then counts only its own.
"""

from __future__ import annotations

from typing import NamedTuple

from prefect_http._throttle.fleet_state import FleetState


class News(NamedTuple):
    """What other processes are told at once.

    Attributes:
        name: of the key.
        member: who tells it.
        cycle: in which it was.
        what: "closed"; "opened"; "doubts", if there were rejections that may be faults; "joined".
        value: until when the gate is closed; how many doubts there are; 0 for the others.
    """

    name: str
    member: str
    cycle: int
    what: str
    value: float

    def __str__(self) -> str:
        return f"{self.name} {self.member} {self.cycle} {self.what} {self.value!r}"

    @classmethod
    def parse(cls, text: str) -> News | None:
        """Return the news that a text stands for; None if it is of another version of the package."""
        try:
            name, member, cycle, what, value = text.split(" ")
            return cls(name, member, int(cycle), what, float(value))
        except ValueError:
            return None


def news_of(name: str, member: str, before: FleetState, after: FleetState, doubts: int) -> str:
    """Return what the others are to be told of a change; nothing for most changes.

    Args:
        name: of the key.
        member: who has made the change.
        before: the state before it.
        after: the state after it.
        doubts: how many rejections there were that may be faults.
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
    return str(News(name, member, after.cycle, what, value)) if what else ""
