"""The encoder: what is added to the table and what is not, and how the table is resized."""

from __future__ import annotations

import tracemalloc

import hpack
from hpack.struct import NeverIndexedHeaderTuple

from prefect_http._wire.h2.hpack.encoder import Encoder

Field = tuple[bytes, bytes]


def test_static_fields() -> None:
    """A field of the static table is one byte, and a name of it is at most two."""
    encoder = Encoder()
    fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":status", b"500")]
    assert encoder.encode(fields).hex() == "8287848e"
    assert encoder.encode([(b"accept", b"a"), (b"via", b"a"), (b":path", b"/a")]).hex() == "0f0401610f2d016104022f61"


def test_repeated_fields() -> None:
    """A field is added to the table when it is sent for the second time, and referred to from then on."""
    encoder = Encoder()
    for field, encoded in [
        ((b"user-agent", b"a"), ["0f2b0161", "7a0161", "be"]),
        ((b"x-y", b"b"), ["0003782d790162", "4003782d790162", "be"]),
        ((b"", b""), ["000000", "400000", "be"]),
        ((b"accept", b""), ["0f0400", "5300", "be"]),
    ]:
        assert [encoder.encode([field]).hex() for _ in range(3)] == encoded
    assert encoder.encode([(b"user-agent", b"a"), (b"x-y", b"b"), (b"accept", b"")]).hex() == "c1c0be"
    # Even within one block.
    assert Encoder().encode([(b"via", b"a")] * 3).hex() == "0f2d01617c0161be"


def test_unique_fields() -> None:
    """Fields that are sent once push nothing out of the table, however many there are."""
    encoder = Encoder()
    kept = [(b"user-agent", b"a")]
    encoder.encode(kept * 2)
    for number in range(1000):
        assert encoder.encode(kept)[:1] == b"\xbe"
        encoder.encode([(b"traceparent", b"%055d" % number)])


def test_fields_that_are_never_added() -> None:
    """Credentials are literals that no intermediary may add to a table either; some others are just not added."""
    for name, is_never_indexed in [
        *((name, True) for name in (b"authorization", b"proxy-authorization", b"cookie", b"set-cookie")),
        *((name, True) for name in (b"api-key", b"x-api-key", b"x-auth-token")),
        *((name, False) for name in (b":path", b"content-length", b"etag", b"if-none-match", b"range")),
    ]:
        for value in (b"", b"a", b"a" * 19, b"a" * 20, b"a" * 300):
            encoder, decoder = Encoder(), hpack.Decoder()
            blocks = {encoder.encode([(name, value)]) for _ in range(3)}
            assert len(blocks) == 1, name
            (field,) = decoder.decode(blocks.pop(), raw=True)
            assert field == (name, value)
            assert isinstance(field, NeverIndexedHeaderTuple) == is_never_indexed, name


def test_large_fields() -> None:
    """A field that would take more than a quarter of the table is not added."""
    for length, is_added in ((991, True), (992, False)):  # and 33 for its name and the overhead
        encoder = Encoder()
        encoder.encode([(b"a", b"b" * length)] * 2)
        assert (len(encoder.encode([(b"a", b"b" * length)])) == 1) == is_added


def test_full_table() -> None:
    """What no longer fits is evicted, oldest first, and is added again when it is sent again."""
    encoder, decoder = Encoder(), hpack.Decoder()
    fields = [(b"a", b"%0991d" % number) for number in range(6)]  # four of them fill the table
    for sent in (fields, fields, fields[2:], fields[:2], fields[4:], fields[:4]):
        assert decoder.decode(encoder.encode(sent), raw=True) == sent
    assert len(encoder.encode(fields[:4])) < 10


def test_many_small_fields() -> None:
    """Every number that a field can have is encoded."""
    encoder, decoder = Encoder(), hpack.Decoder()
    fields = [(b"", b""), *((bytes((number,)), b"") for number in range(123))]  # 4,091 bytes
    for _ in range(3):
        assert decoder.decode(encoder.encode(fields), raw=True) == fields
    assert len(encoder.encode(fields)) == 65 + 2 * 59  # from 127 on, a number takes two bytes


def test_resizing() -> None:
    """The next block announces the size of the table, and a smaller one in between (RFC 7541 section 4.2)."""
    for sizes, announced in [
        ([], ""),
        ([4096], ""),
        ([65536], ""),  # ours is never larger
        ([65536, 4096], ""),
        ([0], "20"),
        ([0, 0], "20"),
        ([30], "3e"),
        ([31], "3f00"),
        ([4095], "3fe01f"),
        ([0, 4096], "203fe11f"),
        ([0, 65536], "203fe11f"),
        ([100, 0, 50, 4096, 200], "203fa901"),
        ([100, 200], "3f453fa901"),
        ([200, 100], "3f45"),
    ]:
        encoder = Encoder()
        for size in sizes:
            encoder.set_max_table_size(size)
        assert encoder.encode([(b":method", b"GET")]).hex() == announced + "82", sizes
        assert encoder.encode([(b":method", b"GET")]).hex() == "82", sizes


def test_resizing_twice() -> None:
    """Each size is announced once, and a larger one is, too."""
    encoder = Encoder()
    for size, announced in [(100, "3f45"), (200, "3fa901"), (200, ""), (4096, "3fe11f"), (4096, "")]:
        encoder.set_max_table_size(size)
        assert encoder.encode([]).hex() == announced


def test_resizing_evicts() -> None:
    """A smaller table, even for a moment, loses what it has no room for."""
    field = (b"via", b"a" * 20)  # 55 bytes
    for sizes, is_kept in [([220], True), ([55], True), ([54], False), ([0, 4096], False)]:
        encoder, decoder = Encoder(), hpack.Decoder()
        decoder.decode(encoder.encode([field] * 2))
        for size in sizes:
            encoder.set_max_table_size(size)
        block = encoder.encode([field])
        assert decoder.decode(block, raw=True) == [field]
        assert (len(block) < 20) == is_kept, sizes


def test_no_table() -> None:
    """With a table of no size, every field is a literal."""
    encoder = Encoder()
    encoder.set_max_table_size(0)
    assert [encoder.encode([(b"", b"")]).hex() for _ in range(3)] == ["20000000", "000000", "000000"]


def test_long_strings() -> None:
    """A length may take several bytes."""
    for length in (0, 126, 127, 254, 255, 256, 70_000):
        field = (b"x" * length, b"y" * length)
        assert hpack.Decoder(200_000).decode(Encoder().encode([field]), raw=True) == [field]


def test_memory_is_bounded() -> None:
    """However many fields are sent once, only a few are remembered, and no table takes more than the peer's."""
    encoder = Encoder()
    encoder.set_max_table_size(1_000_000)
    tracemalloc.start()
    for number in range(1000):
        encoder.encode([(b"x-request-id", b"%d" % number)])
        encoder.encode([(b"idempotency-key", b"%100d" % number)] * 2)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 40_000
