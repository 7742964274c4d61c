"""The Huffman code, beside that of ``hpack``, and strings that are invalid in it."""

from __future__ import annotations

import random

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from prefect_http._wire.h2.hpack import huffman
from prefect_http._wire.h2.hpack.errors import HPACKError

encode = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode


def packed(bits: str) -> bytes:
    """Return the bytes that have these bits."""
    digits = bits.replace(" ", "")
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


def test_every_byte() -> None:
    """Each byte has the code of RFC 7541 appendix B, wherever it begins."""
    strings = [b"", *(bytes((byte,)) for byte in range(256)), bytes(random.Random(1).choices(range(256), k=3000))]
    for string in strings:
        assert huffman.decode(encode(string)) == string


def test_padding() -> None:
    """The last byte is filled up with fewer than eight set bits."""
    for bits, expected in [
        ("00000 111", b"0"),
        ("010100 11", b" "),
        ("11111000 00000 111", b"&0"),
        ("00000 110", None),  # not all bits of the padding are set
        ("00000 000", None),
        ("11111111", None),  # eight bits of padding
        ("00000 111 11111111", None),
        ("11111000 11111110", None),  # the beginning of a code
        ("00000 111 11111111 11111111 11111110", None),
    ]:
        if expected is not None:
            assert huffman.decode(packed(bits)) == expected, bits
        else:
            with pytest.raises(HPACKError, match="padding"):
                huffman.decode(packed(bits))


def test_eos() -> None:
    """EOS does not occur, at the end of a string or before it."""
    for bits in ("1" * 32, "1" * 30 + "00", "00000" + "1" * 30 + "00000", "00000" + "1" * 35):
        for _ in range(2):  # nothing wrong is remembered
            with pytest.raises(HPACKError, match="EOS"):
                huffman.decode(packed(bits))
