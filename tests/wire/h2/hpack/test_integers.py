"""Integers: RFC 7541 appendix C.1, and what is out of bounds."""

from __future__ import annotations

import pytest

from prefect_http._wire.h2.hpack.errors import HPACKError
from prefect_http._wire.h2.hpack.integers import decode_integer, encode_integer


def test_encoded_and_decoded() -> None:
    """An integer fills the first byte's bits, and goes on in the bytes after it if it does not fit into them."""
    for value, pattern, limit, encoded in [
        (10, 0x00, 0x1F, "0a"),  # C.1.1
        (1337, 0x00, 0x1F, "1f9a0a"),  # C.1.2
        (42, 0x00, 0xFF, "2a"),  # C.1.3
        (0, 0x80, 0x7F, "80"),
        (30, 0x20, 0x1F, "3e"),
        (31, 0x20, 0x1F, "3f00"),
        (0x1F + 0x7F, 0x20, 0x1F, "3f7f"),
        (0x1F + 0x80, 0x20, 0x1F, "3f8001"),
        (0x0F + 0x0FFF_FFFF, 0x10, 0x0F, "1fffffff7f"),
    ]:
        block = bytes.fromhex(encoded)
        assert encode_integer(value, pattern, limit) == block, value
        if len(block) > 1:
            assert decode_integer(b"\0" + block + b"\0", 2, limit) == (value, len(block) + 1), value


def test_padded() -> None:
    """Zeros at the end of an integer are accepted up to the limit on its length."""
    assert decode_integer(b"\x80\x80\x80\x00", 0, 0x1F) == (0x1F, 4)


def test_too_large() -> None:
    """An integer has four further bytes at most, even if they are zeros."""
    for block in (b"\xff\xff\xff\xff\x00", b"\x80\x80\x80\x80\x00", b"\xff" * 1000):
        with pytest.raises(HPACKError, match="too large"):
            decode_integer(block, 0, 0x7F)


def test_cut_off() -> None:
    """An integer that is not complete is an error."""
    for block in (b"", b"\x80", b"\xff\xff\xff"):
        with pytest.raises(IndexError):
            decode_integer(block, 0, 0x7F)
