"""What is inside an exception group."""

from __future__ import annotations


def first_exception(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group, and of the groups in it."""
    first = group.exceptions[0]
    return first_exception(first) if isinstance(first, BaseExceptionGroup) else first
