"""The timeouts of a request, checked. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import cast

_NO_TIMEOUTS: Mapping[str, float | None] = {}


def checked_timeouts(extension: object) -> Mapping[str, float | None]:
    """Return the timeouts that a request's ``timeout`` extension holds.

    Args:
        extension: the extension; None: there is none.

    Returns:
        Seconds by name; those that are absent or None are not limited.

    Raises:
        TypeError, ValueError: the extension is not valid; the message says what is wrong.
    """
    if not extension:
        return _NO_TIMEOUTS
    timeouts = cast("Mapping[str, float | None]", extension)
    try:
        are_valid = _are_seconds(*timeouts.values())
    except (AttributeError, TypeError):
        are_valid = False
    if not are_valid:
        raise _error(extension)
    return timeouts


@functools.lru_cache(64, typed=True)  # Decimal(7) is no timeout, although it equals 7
def _are_seconds(*values: object) -> bool:
    """Return whether all values are timeouts: numbers, 0 or more, or None. Cached: almost all requests have the same.

    Raises:
        TypeError: one of them cannot be hashed.
    """
    return all(map(_is_seconds, values))


def _error(extension: object) -> Exception:
    if not isinstance(extension, Mapping):
        message = f'extensions["timeout"] must be a dictionary, as of httpx.Timeout.as_dict(), not {extension!r}'
        return TypeError(message)
    timeouts = cast("Mapping[object, object]", extension)
    name, seconds = next(item for item in timeouts.items() if not _is_seconds(item[1]))
    return ValueError(
        f"the {name} timeout must be a number of seconds, 0 or more, or None for no limit, not {seconds!r}; "
        'it is set by timeout= or extensions["timeout"]'
    )


def _is_seconds(value: object) -> bool:
    try:
        return value is None or (isinstance(value, int | float) and float(value) >= 0)  # which is false for NaN
    except OverflowError:  # an integer beyond all floats
        return False
