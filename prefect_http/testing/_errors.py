"""What a network raises."""

from __future__ import annotations


class UnexpectedRequest(AssertionError):
    """A request arrived that is not in the script. The message shows what arrived and what was expected."""
