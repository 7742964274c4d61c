"""Checks of arguments. Pure."""

from __future__ import annotations

# The range of numbers with a unit. Above a microsecond, the rounding of times makes no difference; see _limits.py.
LEAST, MOST = 1e-6, 1e9


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Raise a ValueError unless a value is an integer that is large enough."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")


def check_number(name: str, value: object, kind: str, *, least: float = LEAST, most: float = MOST) -> None:
    """Raise a ValueError unless a value is a number within a range; NaN is not."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be {kind} from {least:g} to {most:g}, not {value!r}")


def check_status(status: object) -> None:
    """Raise a ValueError unless a status is that of an error. Servers send some above 599 as well."""
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 999:
        raise ValueError(f"status must be an integer from 400 to 999, not {status!r}")
