"""Structured Fields (RFC 9651), in which a missing field and an empty one are the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeGuard, cast

import http_sf

# An Item or an Inner List, as http_sf returns it: its value, which is a list for the latter, and its parameters.
Member = tuple[object, Mapping[str, object]]
Number = int | Decimal


def is_count(value: object) -> TypeGuard[int]:
    """Whether a bare item is a non-negative Integer, and not a Boolean, a Decimal or a Token."""
    return type(value) is int and value >= 0


def as_number(member: Member) -> Number | None:
    """Return a member's value if it is a non-negative number, and None otherwise. Its parameters are ignored."""
    value, _ = member
    return value if is_count(value) or (isinstance(value, Decimal) and value >= 0) else None


def parse_list(value: str) -> list[Member]:
    """Return a List's members; an empty list if it is malformed."""
    try:
        return cast("list[Member]", http_sf.parse(value.encode("ascii"), tltype="list"))
    except ValueError:  # a StructuredFieldError, or a UnicodeEncodeError for characters beyond ASCII
        return []


def parse_dictionary(value: str) -> dict[str, Member]:
    """Return a Dictionary's members; an empty dict if it is malformed."""
    try:
        return cast("dict[str, Member]", http_sf.parse(value.encode("ascii"), tltype="dictionary"))
    except ValueError:
        return {}
