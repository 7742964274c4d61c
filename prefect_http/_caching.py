"""Dictionaries that remember the last few things."""

from __future__ import annotations

import contextlib
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(cache: dict[K, V], key: K, value: V, size: int) -> None:
    """Add an entry, in place of the oldest one if there are so many."""
    if len(cache) >= size:
        with contextlib.suppress(RuntimeError, StopIteration):  # another thread changes it in the same moment
            cache.pop(next(iter(cache)), None)
    cache[key] = value
