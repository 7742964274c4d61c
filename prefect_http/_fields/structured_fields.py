"""Structured Fields (RFC 9651), in which a missing field and an empty one are the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeGuard, cast

import http_sf

# What http_sf makes of an Item, or of an Inner List: its value, which is a list for the latter, and its parameters.
Member = tuple[object, Mapping[str, object]]
Number = int | Decimal


def is_count(value: object) -> TypeGuard[int]:
    """Tell whether a parameter is a non-negative Integer: no Boolean, no Decimal, no Token."""
    return type(value) is int and value >= 0


def parse_list(value: str) -> list[Member]:
    """Give a List's members; none if it is malformed."""
    try:
        return cast("list[Member]", http_sf.parse(value.encode("ascii"), tltype="list"))
    except ValueError:  # a StructuredFieldError or, from other characters than ASCII, a UnicodeEncodeError
        return []


def parse_dictionary(value: str) -> dict[str, Member]:
    """Give a Dictionary's members; none if it is malformed."""
    try:
        return cast("dict[str, Member]", http_sf.parse(value.encode("ascii"), tltype="dictionary"))
    except ValueError:
        return {}
