"""What the protocols of servers in memory report, to compare it with what was sent."""

from __future__ import annotations

from collections.abc import Callable

from prefect_http.testing._events import BodyReceived, Event
from support.responses import bytewise


def joined(events: list[Event]) -> list[Event]:
    """Return the events, with parts of a body that follow each other as one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, BodyReceived) and isinstance(last, BodyReceived) and last.stream == event.stream:
            found[-1] = BodyReceived(event.stream, last.data + event.data)
        else:
            found.append(event)
    return found


def received_in_any_pieces(new: Callable[[], Callable[[bytes], list[Event]]], data: bytes) -> list[Event]:
    """Return what a server reports, after a check that it is the same for single bytes.

    Args:
        new: returns the ``receive()`` of a new server.
        data: what it receives.
    """
    whole = joined(new()(data))
    receive = new()
    assert joined([event for byte in bytewise(data) for event in receive(byte)]) == whole
    return whole
