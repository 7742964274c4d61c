"""Decoder: turns blocks into the header fields of responses. Pure. RFC 7541.

Servers repeat themselves, so two things are remembered: strings, and whole blocks that leave the table as it is. nginx
sends every field as one to be added, but if it is told our size of the table, it begins with a size of 0, so that none
is (settings.py tells it). Ten fields of nginx take 10 us if half of their strings are new, 6 if none is, and 0.6 as a
block; with the package ``hpack``, 90.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from prefect_http._wire.h2.hpack import huffman
from prefect_http._wire.h2.hpack.errors import HeaderListTooLarge, HPACKError
from prefect_http._wire.h2.hpack.field_table import DEFAULT_SIZE, FIELD_OVERHEAD, FIRST_ADDED, FieldTable
from prefect_http._wire.h2.hpack.integers import decode_integer

_T = TypeVar("_T")

# What is remembered: this many, up to this size in bytes before they are decoded.
_MAX_STRINGS = 64
_MAX_STRING_SIZE = 64
_MAX_BLOCKS = 8
_MAX_BLOCK_SIZE = 512


class Decoder:
    """Decodes the header fields that one connection receives.

    Every block that arrives must be decoded, in order, even if its stream is gone.
    """

    __slots__ = (
        *("_blocks", "_max_fields", "_max_list_size", "_max_table_size", "_needs_size_update", "_strings", "_table"),
    )

    def __init__(self, *, max_table_size: int = 4096, max_list_size: int = 65536, max_fields: int = 256) -> None:
        """Create a decoder.

        Args:
            max_table_size: our SETTINGS_HEADER_TABLE_SIZE, in bytes.
            max_list_size: the limit on the size of a header list, in bytes: its names and values, and 32 for each field
                (RFC 9113 section 6.5.2).
            max_fields: the limit on the number of fields in a header list.
        """
        self._table = FieldTable()
        self._max_table_size = max_table_size
        self._max_list_size = max_list_size
        self._max_fields = max_fields
        # The first block has to say that the peer keeps to a limit that is lower than the default.
        self._needs_size_update = max_table_size < DEFAULT_SIZE
        self._strings: dict[bytes, bytes] = {}
        self._blocks: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a block.

        Raises:
            HPACKError: the block cannot be decoded, and no other can be after it.
            HeaderListTooLarge: it has too many fields, or too large ones. The next block can be decoded.
        """
        fields = self._blocks.get(block)
        if fields is None:
            try:
                fields = self._decode(block)
            except IndexError:
                raise HPACKError("a block ends too early, or refers to a field that is not in the table") from None
        return fields.copy()

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        fields: list[tuple[bytes, bytes]] = []
        total = 0
        max_total = self._max_list_size
        known = self._table.fields
        decode_string = self._decode_string
        at = self._take_size_updates(block)
        changes_table = at > 0
        end = len(block)
        while at < end:
            first = block[at]
            at += 1
            if first >= 0x80:  # a field of the table
                number = first - 0x80
                if number == 0x7F:
                    number, at = decode_integer(block, at, 0x7F)
                elif number == 0:
                    raise HPACKError("a block refers to field 0")
                field = name, value = known[number]
                total += len(name) + len(value) + FIELD_OVERHEAD
            else:  # a literal, to be added to the table or not
                if first >= 0x40:
                    limit = 0x3F
                elif first < 0x20:
                    limit = 0x0F
                else:
                    raise HPACKError("a block resizes the table after its first field")
                # The usual forms of numbers and values are read here, since calls would take a quarter of the time.
                number = first & limit
                if number == limit:
                    if block[at] < 0x80:
                        number += block[at]
                        at += 1
                    else:
                        number, at = decode_integer(block, at, limit)
                if number:
                    name = known[number][0]
                else:
                    name, at = _string(block, at, decode_string)
                length = block[at]
                if length < 0x7F:
                    at += 1 + length
                    value = block[at - length : at]
                elif 0x80 <= length < 0xFF:
                    length -= 0x80
                    at += 1 + length
                    value = decode_string(block[at - length : at])
                else:
                    value, at = _string(block, at, decode_string)
                field = name, value
                total += len(name) + len(value) + FIELD_OVERHEAD
                # What is larger than an empty table changes nothing.
                if first >= 0x40 and (self._table.add(field) or len(known) > FIRST_ADDED):
                    changes_table = True
            if total <= max_total:
                fields.append(field)
        if at > end:
            raise HPACKError("a block ends in the middle of a string")
        if changes_table:
            self._blocks.clear()
        if total > max_total:
            raise HeaderListTooLarge(f"the header list is larger than {max_total} bytes")
        if len(fields) > self._max_fields:
            raise HeaderListTooLarge(f"the header list has more than {self._max_fields} fields")
        if end <= _MAX_BLOCK_SIZE and not changes_table:
            _remember(self._blocks, block, fields, _MAX_BLOCKS)
        return fields

    def _take_size_updates(self, block: bytes) -> int:
        """Resize the table as the beginning of a block says, and return where the fields begin."""
        at = 0
        while at < len(block) and 0x20 <= block[at] < 0x40:
            size = block[at] - 0x20
            at += 1
            if size == 0x1F:
                size, at = decode_integer(block, at, 0x1F)
            if size > self._max_table_size:
                raise HPACKError(f"a block resizes the table to {size} bytes, more than {self._max_table_size}")
            self._table.resize(size)
            self._needs_size_update = False
        if self._needs_size_update:
            raise HPACKError(f"the first block does not resize the table to at most {self._max_table_size} bytes")
        return at

    def _decode_string(self, data: bytes) -> bytes:
        """Return a string without its Huffman code."""
        string = self._strings.get(data)
        if string is None:
            string = huffman.decode(data)
            if len(data) <= _MAX_STRING_SIZE:
                _remember(self._strings, data, string, _MAX_STRINGS)
        return string


def _string(block: bytes, at: int, decode_string: Callable[[bytes], bytes]) -> tuple[bytes, int]:
    """Return the string at a position, and where the block goes on."""
    length = block[at]
    at += 1
    is_encoded = length >= 0x80
    if is_encoded:
        length -= 0x80
    if length == 0x7F:
        length, at = decode_integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HPACKError("a block ends in the middle of a string")
    string = block[at:end]
    return decode_string(string) if is_encoded else string, end


def _remember(known: dict[bytes, _T], key: bytes, value: _T, limit: int) -> None:
    """Add to a dict, after emptying it if it is full."""
    if len(known) == limit:
        known.clear()
    known[key] = value
