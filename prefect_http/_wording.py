"""Numbers in messages. Pure."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """Return a number and what it counts: ``"1 byte"``, ``"2 bytes"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def are(number: float) -> str:
    """Return the verb for a number of things: ``"is"`` or ``"are"``."""
    return "is" if number == 1 else "are"
