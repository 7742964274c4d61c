"""Functions passed in by users."""

from __future__ import annotations

import inspect
from collections.abc import Callable


def is_async(function: Callable[..., object]) -> bool:
    """Whether a function, or an object that is called like one, is async."""
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
