"""Random connections, beside ``hpack``: each decodes what the other encodes; and random blocks never do harm."""

from __future__ import annotations

import os

import hpack
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http._wire.h2.hpack.encoder import Encoder
from prefect_http._wire.h2.hpack.errors import HeaderListTooLarge, HPACKError
from prefect_http._wire.h2.hpack.static_table import STATIC_TABLE

# The same examples each time, so that no unrelated change fails; HTTP_FUZZ=50000 looks for new ones.
_EXAMPLES = int(os.environ.get("HTTP_FUZZ", "0"))
FUZZ = settings(max_examples=_EXAMPLES or 25, derandomize=not _EXAMPLES, deadline=None, database=None)

NAMES = st.sampled_from([*sorted({name for name, _ in STATIC_TABLE}), b"x-request-id", b"traceparent", b"a" * 200])
VALUES = st.sampled_from([b"", b"0", b"gzip", b"a" * 64, b"b" * 990, b"c" * 4100]) | st.binary()
FIELDS = st.sampled_from([*STATIC_TABLE[1:20], (b"a", b"b"), (b"c", b"d")]) | st.tuples(NAMES, VALUES)
BLOCKS = st.lists(st.lists(FIELDS, max_size=5), max_size=4)
SIZES = st.none() | st.sampled_from([0, 32, 40, 100, 1000, 4096, 10_000]) | st.integers(0, 5000)


@given(st.lists(st.tuples(st.lists(FIELDS, max_size=5), st.lists(SIZES, max_size=3)), max_size=5))
@FUZZ
def test_hpack_decodes(blocks: list[tuple[list[tuple[bytes, bytes]], list[int | None]]]) -> None:
    """``hpack`` reads what we encode, after any sequence of limits on the table."""
    encoder, decoder = Encoder(), hpack.Decoder()
    for fields, sizes in blocks:
        for size in sizes:
            if size is not None:
                encoder.set_max_table_size(size)
                decoder.max_allowed_table_size = size
        assert list(decoder.decode(encoder.encode(fields), raw=True)) == fields


@given(
    st.lists(st.tuples(st.lists(st.tuples(FIELDS, st.booleans()), max_size=5), st.booleans(), SIZES), max_size=4),
    st.booleans(),
)
@FUZZ
def test_hpack_encodes(
    blocks: list[tuple[list[tuple[tuple[bytes, bytes], bool]], bool, int | None]], is_repeated: bool
) -> None:
    """We read what ``hpack`` encodes, with Huffman coding and without, and with a table of any size."""
    encoder, decoder = hpack.Encoder(), Decoder(max_table_size=10_000)
    for fields, is_coded, size in blocks * (1 + is_repeated):
        if size is not None:
            encoder.header_table_size = size
        sent = [(NeverIndexedHeaderTuple if is_secret else HeaderTuple)(*field) for field, is_secret in fields]
        assert decoder.decode(encoder.encode(sent, huffman=is_coded)) == [field for field, _ in fields]


@given(st.lists(st.binary(max_size=60), max_size=4))
@FUZZ
def test_random_blocks(blocks: list[bytes]) -> None:
    """We read in random bytes what ``hpack`` reads in them, and refuse what it refuses."""
    _compare(blocks)


@given(BLOCKS, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
@FUZZ
def test_broken_blocks(blocks: list[list[tuple[bytes, bytes]]], changes: list[tuple[int, int]], is_cut: bool) -> None:
    """So it is with blocks in which a few bytes have been changed, and which may have been cut off."""
    encoder = hpack.Encoder()
    encoded = [bytearray(encoder.encode(fields)) for fields in blocks]
    for position, byte in changes:
        for block in encoded[position % 3 :: 3]:
            if block:
                block[position % len(block)] = byte
                if is_cut:
                    del block[position % len(block) :]
    _compare([bytes(block) for block in encoded])


def _compare(blocks: list[bytes]) -> None:
    theirs, ours = hpack.Decoder(), Decoder(max_list_size=2000, max_fields=20)
    for block in blocks:
        fields = _decode(theirs, block)
        try:
            assert ours.decode(block) == fields
        except HeaderListTooLarge:
            assert fields is not None
            assert len(fields) > 20 or sum(len(name) + len(value) + 32 for name, value in fields) > 2000
        except HPACKError as error:
            if str(error) != "an integer is too large":
                assert fields is None
            return


def _decode(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None
