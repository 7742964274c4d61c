"""Integers, in the last bits of a byte and, if these are too few, in the bytes after it. Pure. RFC 7541 section 5.1."""

from __future__ import annotations

from prefect_http._wire.h2.hpack.errors import HPACKError

# Of the further bytes of an integer, seven bits each: enough for 268 million. The RFC demands a limit.
_SHIFTS = (0, 7, 14, 21)


def encode_integer(value: int, pattern: int, limit: int) -> bytes:
    """Return an integer.

    Args:
        value: the integer, 0 or more.
        pattern: the bits of the first byte that do not belong to the integer.
        limit: the bits of the first byte that belong to it, all of them set: 0x7F for seven.
    """
    if value < limit:
        return bytes((pattern | value,))
    encoded = bytearray((pattern | limit,))
    value -= limit
    while value >= 0x80:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_integer(block: bytes, at: int, limit: int) -> tuple[int, int]:
    """Return an integer that has all bits of its first byte set, and where the block goes on.

    Args:
        block: what holds the integer.
        at: the position after the first byte.
        limit: as in ``encode_integer()``.

    Raises:
        HPACKError: the integer is too large or too long.
        IndexError: the block ends before it does.
    """
    value = limit
    for shift in _SHIFTS:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HPACKError("an integer is too large")
