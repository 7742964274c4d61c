"""FieldTable: the fields that both ends of a connection know by a number. Pure. RFC 7541 sections 2.3 and 4.

From 1 on they are those of the static table, then those that the sender of the fields has added, the newest first.
"""

from __future__ import annotations

from prefect_http._wire.h2.hpack.static_table import STATIC_TABLE

# The size of what has been added, until both ends agree upon another (RFC 9113 section 6.5.2).
DEFAULT_SIZE = 4096
# What a field counts beside its name and its value (RFC 7541 section 4.1).
FIELD_OVERHEAD = 32
FIRST_ADDED = len(STATIC_TABLE)


class FieldTable:
    """What one end of a connection knows of the fields that one of both sends.

    Attributes:
        fields: the fields by their numbers. There is no field 0.
        max_size: what the sizes of the added fields may sum up to, in bytes.
    """

    __slots__ = ("_size", "fields", "max_size")

    def __init__(self) -> None:
        self.fields = [*STATIC_TABLE]
        self.max_size = DEFAULT_SIZE
        self._size = 0

    def add(self, field: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Add a field, and return those that had to make room for it, the oldest ones.

        One that is larger than the table only empties it.
        """
        size = size_of(field)
        evicted = self._evict(self.max_size - size)
        if size <= self.max_size:
            self.fields.insert(FIRST_ADDED, field)
            self._size += size
        return evicted

    def resize(self, max_size: int) -> list[tuple[bytes, bytes]]:
        """Set the limit on the sum of the sizes, and return the fields that no longer fit."""
        self.max_size = max_size
        return self._evict(max_size)

    def _evict(self, max_size: int) -> list[tuple[bytes, bytes]]:
        """Remove the oldest fields until the sizes of the others sum up to this, or none is left."""
        evicted: list[tuple[bytes, bytes]] = []
        while self._size > max_size and len(self.fields) > FIRST_ADDED:
            name, value = oldest = self.fields.pop()
            self._size -= len(name) + len(value) + FIELD_OVERHEAD
            evicted.append(oldest)
        return evicted


def size_of(field: tuple[bytes, bytes]) -> int:
    """Return the size of a field, in a table and in a header list."""
    return len(field[0]) + len(field[1]) + FIELD_OVERHEAD
