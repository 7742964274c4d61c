"""Encoder: turns the header fields of requests into blocks. Pure. RFC 7541.

A field is added to the dynamic table when it is sent for the second time. So fields that differ in each request, such
as ``traceparent``, push nothing out of the table, and cost neither end the work of adding them.

Strings are sent without Huffman coding; huffman.py says why.
"""

from __future__ import annotations

from collections.abc import Iterable

from prefect_http._wire.h2.hpack.field_table import DEFAULT_SIZE, FIELD_OVERHEAD, FIRST_ADDED, FieldTable, size_of
from prefect_http._wire.h2.hpack.integers import encode_integer
from prefect_http._wire.h2.hpack.static_table import STATIC_NAMES, STATIC_TABLE

# Credentials stay out of the table, also of those that intermediaries keep: an attacker who can add fields to requests
# could test guesses against what is in it (RFC 7541 section 7.1).
_NEVER_INDEXED = frozenset(
    (
        *(b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"),
        *(b"api-key", b"x-api-key", b"x-auth-token"),
    )
)
# Fields that may be sent twice, but usually with many other values in between.
_NOT_INDEXED = frozenset(
    (
        *(b":path", b"content-length", b"content-range", b"etag", b"if-match", b"if-modified-since", b"if-none-match"),
        *(b"if-range", b"if-unmodified-since", b"range"),
    )
)

# The bits of a first byte that say what it begins, and those for a number (RFC 7541 section 6).
_INDEXED = (0x80, 0x7F)
_INDEXING = (0x40, 0x3F)
_SIZE_UPDATE = (0x20, 0x1F)
_NEVER = (0x10, 0x0F)
_WITHOUT = (0x00, 0x0F)
_LENGTH = (0x00, 0x7F)

# How a field is referred to by its number. An empty field is the smallest, so the table holds at most 128.
_REFERENCES = [encode_integer(number, *_INDEXED) for number in range(FIRST_ADDED + DEFAULT_SIZE // FIELD_OVERHEAD)]
_STATIC_FIELDS = {field: -number for number, field in enumerate(STATIC_TABLE) if field[1]}
# How a literal begins, by its name.
_UNINDEXED_NAMES = {name: encode_integer(STATIC_NAMES[name], *_WITHOUT) for name in _NOT_INDEXED} | {
    name: encode_integer(STATIC_NAMES[name], *_NEVER)
    if name in STATIC_NAMES
    else encode_integer(0, *_NEVER) + encode_integer(len(name), *_LENGTH) + name
    for name in _NEVER_INDEXED
}
_NAMES = {name: encode_integer(number, *_WITHOUT) for name, number in STATIC_NAMES.items()}
_NAMES_TO_ADD = {name: encode_integer(number, *_INDEXING) for name, number in STATIC_NAMES.items()}
_LENGTHS = [encode_integer(length, *_LENGTH) for length in range(256)]

# A field takes at most this part of the table.
_MAX_SHARE = 1 / 4
# How many fields that have been sent once are remembered.
_MAX_SENT = 256


class Encoder:
    """Encodes the header fields that one connection sends.

    Every block must be sent, in the order in which they were encoded, even if its stream is cancelled meanwhile: each
    may refer to what the ones before have added to the dynamic table.
    """

    __slots__ = ("_added", "_announced", "_is_resized", "_lowest", "_numbers", "_sent", "_table")

    def __init__(self) -> None:
        self._table = FieldTable()
        # For a field of the static table its number there, made negative. For any other how many had been added to the
        # table with it: its number in the table grows with each that is added after it.
        self._numbers = _STATIC_FIELDS.copy()
        self._added = 0
        self._sent = set[int]()  # hashes of fields that have been sent once: small, and they reveal nothing
        self._announced = DEFAULT_SIZE  # the size of the table that the peer knows
        self._lowest = DEFAULT_SIZE  # the lowest one since then
        self._is_resized = False

    def set_max_table_size(self, size: int) -> None:
        """Set the limit on the dynamic table: the peer's SETTINGS_HEADER_TABLE_SIZE.

        The next block announces the size. The table is never larger than 4,096 bytes.
        """
        size = min(size, DEFAULT_SIZE)
        self._lowest = min(self._lowest, size)
        self._is_resized = True
        self._forget(self._table.resize(size))

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Return a block with these fields, whose names are in lower case."""
        parts = self._size_updates() if self._is_resized else []
        numbers = self._numbers
        for field in fields:
            number = numbers.get(field)
            if number is None:
                self._add_literal(parts, field)
            elif number < 0:
                parts.append(_REFERENCES[-number])
            else:
                parts.append(_REFERENCES[FIRST_ADDED + self._added - number])
        return b"".join(parts)

    def _add_literal(self, parts: list[bytes], field: tuple[bytes, bytes]) -> None:
        name, value = field
        encoded_name = _UNINDEXED_NAMES.get(name)
        if encoded_name is None:
            if self._is_worth_adding(field):
                self._add(field)
                encoded_name = _NAMES_TO_ADD.get(name) or b"\x40" + _string(name)
            else:
                encoded_name = _NAMES.get(name) or b"\x00" + _string(name)
        parts.append(encoded_name)
        parts.append(_string(value))

    def _is_worth_adding(self, field: tuple[bytes, bytes]) -> bool:
        if size_of(field) > self._table.max_size * _MAX_SHARE:
            return False
        key = hash(field)
        if key in self._sent:
            return True
        if len(self._sent) == _MAX_SENT:
            self._sent.clear()
        self._sent.add(key)
        return False

    def _add(self, field: tuple[bytes, bytes]) -> None:
        self._forget(self._table.add(field))
        self._added += 1
        self._numbers[field] = self._added

    def _forget(self, evicted: list[tuple[bytes, bytes]]) -> None:
        for field in evicted:
            del self._numbers[field]

    def _size_updates(self) -> list[bytes]:
        """Return what announces the size of the table, and a lower one in between (RFC 7541 section 4.2)."""
        updates: list[bytes] = []
        for size in (self._lowest, self._table.max_size):
            if size != self._announced:
                updates.append(encode_integer(size, *_SIZE_UPDATE))
                self._announced = size
        self._lowest = self._announced
        self._is_resized = False
        return updates


def _string(data: bytes) -> bytes:
    length = len(data)
    return (_LENGTHS[length] if length < len(_LENGTHS) else encode_integer(length, *_LENGTH)) + data
