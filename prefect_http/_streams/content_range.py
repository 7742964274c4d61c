"""Content-Range (RFC 9110 section 14.4): which bytes of a file a response has. Pure.

Content-Range       = range-unit SP ( range-resp / unsatisfied-range )
range-resp          = incl-range "/" ( complete-length / "*" )
incl-range          = first-pos "-" last-pos
unsatisfied-range   = "*/" complete-length
"""

from __future__ import annotations

import re
from typing import NamedTuple

# At most 18 digits, so that nothing overflows anywhere: an exabyte.
_PART = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,18})", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")


class ContentRange(NamedTuple):
    """The bytes of a file that are in a response.

    Attributes:
        start: the position of the first byte.
        end: the position behind the last byte.
        total: the size of the file; None if the server does not say.
    """

    start: int
    end: int
    total: int | None


def parse_content_range(value: str) -> ContentRange | None:
    """Parse the Content-Range of a 206; None if it is malformed, contradicts itself, or has a unit other than bytes."""
    match = _PART.fullmatch(value)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last + 1, total)


def parse_unsatisfied_range(value: str) -> int | None:
    """Parse the Content-Range of a 416: the size of the file; None if it is malformed."""
    match = _UNSATISFIED.fullmatch(value)
    return None if match is None else int(match[1])


def parse_content_length(value: str) -> int | None:
    """Parse a Content-Length; None if it is malformed."""
    return int(value) if _LENGTH.fullmatch(value) else None
