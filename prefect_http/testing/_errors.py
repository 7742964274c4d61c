"""What a network raises."""

from __future__ import annotations


class UnexpectedRequest(AssertionError):
    """A request has arrived that the script has no answer for. The message shows what came and what was expected."""
