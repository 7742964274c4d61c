"""The timeouts of a request, checked. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import cast


@functools.lru_cache(64)
def are_seconds(*values: object) -> bool:
    """Return whether all values are timeouts: numbers, or None. Cached, since almost all requests have the same ones.

    Raises:
        TypeError: one of them cannot be hashed.
    """
    return all(map(_is_seconds, values))


def timeout_error(extension: object) -> Exception:
    """Return the error for a ``timeout`` extension that is not valid; it says what is wrong."""
    if not isinstance(extension, Mapping):
        message = f'extensions["timeout"] must be a dictionary, as of httpx.Timeout.as_dict(), not {extension!r}'
        return TypeError(message)
    timeouts = cast("Mapping[object, object]", extension)
    name, seconds = next(item for item in timeouts.items() if not _is_seconds(item[1]))
    return ValueError(f'extensions["timeout"]["{name}"] must be a number of seconds or None, not {seconds!r}')


def _is_seconds(value: object) -> bool:
    try:
        return value is None or (isinstance(value, int | float) and not math.isnan(value))
    except OverflowError:  # an integer beyond all floats
        return False
