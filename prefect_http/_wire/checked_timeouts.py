"""The timeouts of a request, checked. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import cast


def checked_timeouts(extension: object) -> Mapping[str, float | None]:
    """Return the ``timeout`` extension of a request, if it is valid: seconds or None, by name.

    Raises:
        TypeError, ValueError: it is not; the message says what is wrong.
    """
    if extension is None:
        return {}
    if type(extension) is not dict and not isinstance(extension, Mapping):
        raise TypeError(f'extensions["timeout"] must be a dictionary, as of httpx.Timeout.as_dict(), not {extension!r}')
    timeouts = cast("Mapping[str, float | None]", extension)
    try:
        are_valid = _are_seconds(*timeouts.values())
    except TypeError:  # one cannot be hashed
        are_valid = False
    if not are_valid:
        name, seconds = next(item for item in timeouts.items() if not _is_seconds(item[1]))
        raise ValueError(f'extensions["timeout"]["{name}"] must be a number of seconds or None, not {seconds!r}')
    return timeouts


@functools.lru_cache(64)
def _are_seconds(*values: object) -> bool:
    """Whether all are valid. Cached, since almost all requests have the same ones."""
    return all(map(_is_seconds, values))


def _is_seconds(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not math.isnan(value))
