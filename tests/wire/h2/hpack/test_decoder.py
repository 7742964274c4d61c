"""The decoder: RFC 7541 appendix C, blocks that are invalid, and lists that are too large."""

from __future__ import annotations

import tracemalloc

import pytest
from hpack.table import HeaderTable

from prefect_http._wire.h2.hpack.decoder import Decoder
from prefect_http._wire.h2.hpack.errors import HeaderListTooLarge, HPACKError
from prefect_http._wire.h2.hpack.field_table import FIRST_ADDED
from prefect_http._wire.h2.hpack.static_table import STATIC_NAMES, STATIC_TABLE

Field = tuple[bytes, bytes]

GET: Field = (b":method", b"GET")
HTTP: Field = (b":scheme", b"http")
HTTPS: Field = (b":scheme", b"https")
ROOT: Field = (b":path", b"/")
AUTHORITY: Field = (b":authority", b"www.example.com")
NO_CACHE: Field = (b"cache-control", b"no-cache")
PRIVATE: Field = (b"cache-control", b"private")
DATE: Field = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT")
NEXT_DATE: Field = (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT")
LOCATION: Field = (b"location", b"https://www.example.com")
COOKIE: Field = (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")

# What the blocks of one connection say, and what the table holds after each, the newest first.
REQUESTS: list[tuple[list[Field], list[Field]]] = [
    ([GET, HTTP, ROOT, AUTHORITY], [AUTHORITY]),
    ([GET, HTTP, ROOT, AUTHORITY, NO_CACHE], [NO_CACHE, AUTHORITY]),
    (
        [GET, HTTPS, (b":path", b"/index.html"), AUTHORITY, (b"custom-key", b"custom-value")],
        [(b"custom-key", b"custom-value"), NO_CACHE, AUTHORITY],
    ),
]
RESPONSES: list[tuple[list[Field], list[Field]]] = [
    ([(b":status", b"302"), PRIVATE, DATE, LOCATION], [LOCATION, DATE, PRIVATE, (b":status", b"302")]),
    ([(b":status", b"307"), PRIVATE, DATE, LOCATION], [(b":status", b"307"), LOCATION, DATE, PRIVATE]),
    (
        [(b":status", b"200"), PRIVATE, NEXT_DATE, LOCATION, (b"content-encoding", b"gzip"), COOKIE],
        [COOKIE, (b"content-encoding", b"gzip"), NEXT_DATE],
    ),
]
PLAIN_REQUESTS = (
    "828684410f7777772e6578616d706c652e636f6d",
    "828684be58086e6f2d6361636865",
    "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
)
HUFFMAN_REQUESTS = (
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
)
PLAIN_RESPONSES = (
    (
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f"
        "2f7777772e6578616d706c652e636f6d"
    ),
    "4803333037c1c0bf",
    (
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b"
        "425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
    ),
)
HUFFMAN_RESPONSES = (
    "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
    (
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af2708"
        "7f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
    ),
)


def error_of(decoder: Decoder, block: bytes) -> str:
    """Return the class and the message of the error that a block raises."""
    try:
        fields = decoder.decode(block)
    except (HPACKError, HeaderListTooLarge) as error:
        return f"{type(error).__name__}: {error}"
    return f"no error: {fields}"


def added(decoder: Decoder) -> list[Field]:
    """Return the fields that the dynamic table holds, the newest first, by reading them."""
    fields: list[Field] = []
    while True:
        try:
            fields += decoder.decode(bytes((0x80 + FIRST_ADDED + len(fields),)))
        except HPACKError:
            return fields


def test_static_table() -> None:
    """The static table is that of RFC 7541 appendix A, and a name has the lowest of its numbers."""
    assert STATIC_TABLE[1:] == HeaderTable.STATIC_TABLE
    assert {name: number for name, (number, _) in HeaderTable.STATIC_TABLE_MAPPING.items()} == STATIC_NAMES


def test_examples_of_one_field() -> None:
    """RFC 7541 appendix C.2: a field that is added, one that is not, one that never is, and one from the table."""
    for block, field, is_added in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header"), True),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False),
        ("100870617373776f726406736563726574", (b"password", b"secret"), False),
        ("82", GET, False),
    ]:
        decoder = Decoder()
        assert decoder.decode(bytes.fromhex(block)) == [field]
        assert added(decoder) == [field] * is_added


def test_examples_of_connections() -> None:
    """RFC 7541 appendix C.3 to C.6; the table for responses has 256 bytes."""
    for blocks, expected, first in [
        (PLAIN_REQUESTS, REQUESTS, b""),
        (HUFFMAN_REQUESTS, REQUESTS, b""),
        (PLAIN_RESPONSES, RESPONSES, b"\x3f\xe1\x01"),
        (HUFFMAN_RESPONSES, RESPONSES, b"\x3f\xe1\x01"),
    ]:
        for count in range(1, len(blocks) + 1):
            decoder = Decoder()
            decoder.decode(first)
            fields = [decoder.decode(bytes.fromhex(block)) for block in blocks[:count]]
            assert fields == [fields for fields, _ in expected[:count]]
            assert added(decoder) == expected[count - 1][1]


def test_every_form_of_a_literal() -> None:
    """Names and values may be empty, long, and Huffman-coded or not, and names may be in the table."""
    for block, field in [
        (b"\x00\x00\x00", (b"", b"")),
        (b"\x40\x00\x00", (b"", b"")),
        (b"\x10\x80\x80", (b"", b"")),
        (b"\x0f\x2e\x01a", (b"www-authenticate", b"a")),
        (b"\x1f\x08\x01a", (b"authorization", b"a")),
        (b"\x0f\x80\x00\x01a", (b"accept-charset", b"a")),
        (b"\x7d\x01a", (b"www-authenticate", b"a")),
        (b"\x08\x7e" + b"a" * 126, (b":status", b"a" * 126)),
        (b"\x08\x7f\x00" + b"a" * 127, (b":status", b"a" * 127)),
        (b"\x48\x7f\xac\x02" + b"a" * 427, (b":status", b"a" * 427)),
        (b"\x08\x81\x1f", (b":status", b"a")),
        (b"\x08\xff\x01" + b"\x18\xc6\x31\x8c\x63" * 25 + b"\x18\xc6\x3f", (b":status", b"a" * 204)),
    ]:
        decoder = Decoder()
        for _ in range(3):  # the second time, it may be remembered
            assert decoder.decode(block) == [field], block


def test_invalid() -> None:
    """Each of these blocks is an error of the connection."""
    for blocks, message in [
        (["80"], "field 0"),
        (["be"], "not in the table"),  # nothing has been added
        (["ff00"], "not in the table"),
        (["ffffffff7f"], "not in the table"),
        (["7e0161"], "not in the table"),
        (["0f2f0161"], "not in the table"),
        (["1f2f0161"], "not in the table"),
        (["4001610162", "bf"], "not in the table"),  # one field has been added
        (["4001610162", "be", "20be"], "not in the table"),  # and evicted
        (["3f014001610162", "be"], "not in the table"),  # too large for a table of 32 bytes
        (["ff"], "too early"),
        (["ff80"], "too early"),
        (["40"], "too early"),
        (["0f"], "too early"),
        (["4001"], "in the middle of a string"),
        (["400161"], "too early"),
        (["40016101"], "in the middle of a string"),
        (["82400161058182"], "in the middle of a string"),
        (["08ff"], "too early"),
        (["087fffffff7f"], "in the middle of a string"),
        (["087fffffffff01"], "too large"),
        (["ffffffffff01"], "too large"),
        (["0fffffffff01"], "too large"),
        (["3fffffffff01"], "too large"),
        (["0881ff"], "padding"),
        (["0884ffffffff"], "EOS"),
        (["0081ff0161"], "padding"),
        (["8220"], "after its first field"),
        (["08016120"], "after its first field"),
        (["40016101623f01"], "after its first field"),
        (["3fe21f"], "resizes the table to 4097 bytes, more than 4096"),
        (["3fe11f203fe21f"], "more than 4096"),
        (["3f"], "too early"),
    ]:
        decoder = Decoder()
        *before, last = map(bytes.fromhex, blocks)
        for block in before:
            decoder.decode(block)
        error = error_of(decoder, last)
        assert error.partition(": ")[0] == "HPACKError", blocks
        assert message in error, blocks


def test_resized() -> None:
    """A block may begin with sizes for the table, up to the limit: each evicts what no longer fits."""
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b\x40\x01c\x01d")
    assert added(decoder) == [(b"c", b"d"), (b"a", b"b")]
    assert decoder.decode(b"\x3f\x25") == []  # 68: room for two
    assert decoder.decode(b"\x3f\x24\x88") == [(b":status", b"200")]  # 67: room for one
    assert added(decoder) == [(b"c", b"d")]
    assert decoder.decode(b"\x20\x3f\xe1\x1f\x40\x01e\x01f") == [(b"e", b"f")]
    assert added(decoder) == [(b"e", b"f")]


def test_larger_than_the_table() -> None:
    """A field that is larger than the table empties it, and is a field all the same."""
    decoder = Decoder()
    large = b"\x40\x01a\x7f" + b"\xe0\x1e" + b"b" * 4063  # 4,096 bytes with its overhead
    assert decoder.decode(b"\x40\x01c\x01d" + large) == [(b"c", b"d"), (b"a", b"b" * 4063)]
    assert added(decoder) == [(b"a", b"b" * 4063)]
    larger = b"\x40\x01a\x7f" + b"\xe1\x1e" + b"b" * 4064
    assert decoder.decode(larger + b"\x82") == [(b"a", b"b" * 4064), GET]
    assert added(decoder) == []


def test_name_of_a_field_that_it_evicts() -> None:
    """The name of a field may come from the field that is evicted to make room for it (RFC 7541 section 4.4)."""
    decoder = Decoder()
    decoder.decode(b"\x3f\x03" + b"\x40\x01a\x01b")  # 34 bytes
    assert decoder.decode(b"\x7e\x01c") == [(b"a", b"c")]
    assert added(decoder) == [(b"a", b"c")]


def test_smaller_table_must_be_announced() -> None:
    """If our limit is below the default, the first block begins with a size within it (RFC 9113 section 4.3.1)."""
    for size in (0, 100, 4095):
        for block in (b"", b"\x82", b"\x3f\xe1\x1f\x82"):
            error = error_of(Decoder(max_table_size=size), block)
            assert error.startswith("HPACKError: "), (size, block)
            assert "resize" in error, (size, block)
        decoder = Decoder(max_table_size=size)
        assert decoder.decode(b"\x20\x82") == decoder.decode(b"\x82") == [GET]


def test_larger_table() -> None:
    """If our limit is above the default, the table has the default size until the peer says otherwise."""
    decoder = Decoder(max_table_size=8192)
    field = b"\x40\x01a\x7f\x81\x0f" + b"b" * 2048  # 2,081 bytes
    decoder.decode(field * 4)
    assert len(added(decoder)) == 1
    decoder.decode(b"\x3f\xe1\x3f" + field * 4)
    assert len(added(decoder)) == 3


def test_too_large() -> None:
    """A list that is too large fails alone: the whole block has been processed, and the table is in step."""
    add = b"\x40\x01c\x01d"
    for decoder, block, message in [
        (Decoder(max_list_size=83), b"\x82\x82", "is larger than 83 bytes"),  # 42 each
        (Decoder(max_list_size=100), b"\x40\x01a\x7f\x00" + b"b" * 127, "is larger than 100 bytes"),
        (Decoder(max_fields=2), b"\x82\x82\x82", "has more than 2 fields"),
        (Decoder(), b"\x82" * 257, "has more than 256 fields"),
        (Decoder(), b"\x82" * 2000, "is larger than 65536 bytes"),
    ]:
        for _ in range(2):
            assert error_of(decoder, block + add) == f"HeaderListTooLarge: the header list {message}"
        assert decoder.decode(b"\x20") == []
        assert added(decoder) == []
        assert error_of(decoder, b"\x3f\xe1\x1f" + block + add).endswith(message)
        assert decoder.decode(b"\xbe") == [(b"c", b"d")]


def test_large_enough() -> None:
    """A list may be as large as its limits."""
    assert Decoder(max_list_size=84).decode(b"\x82\x82") == [GET, GET]
    assert Decoder(max_fields=2).decode(b"\x82\x82") == [GET, GET]
    assert len(Decoder().decode(b"\x82" * 256)) == 256


def test_too_large_block_is_checked_whole() -> None:
    """What is wrong after the limit is an error of the connection all the same."""
    with pytest.raises(HPACKError):
        Decoder(max_fields=1).decode(b"\x82\x82\x80")


def test_bomb() -> None:
    """References to one large field cost neither memory nor much time: what is over the limit is not collected."""
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x7f\xe0\x1e" + b"b" * 4063)
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\xbe" * 20_000)


def test_blocks_are_not_remembered_across_changes() -> None:
    """The same block means other fields once the table has changed, also if that block was refused."""
    decoder = Decoder(max_fields=2)
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(b"\xbe") == decoder.decode(b"\xbe") == [(b"a", b"b")]
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\x82\x82\x40\x01c\x01d")
    assert decoder.decode(b"\xbe") == [(b"c", b"d")]
    decoder.decode(b"\x3f\x25")
    assert decoder.decode(b"\xbf") == [(b"a", b"b")]
    decoder.decode(b"\x3f\x24")
    with pytest.raises(HPACKError):
        decoder.decode(b"\xbf")


def test_fields_added_to_a_table_of_no_size() -> None:
    """A server may resize the table to 0 and go on adding fields, as nginx does: the blocks are remembered."""
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    block = b"\x88\x40\x01c\x81\x1f"
    assert decoder.decode(b"\x20" + block) == [(b":status", b"200"), (b"c", b"a")]
    assert decoder.decode(block) == [(b":status", b"200"), (b"c", b"a")]
    assert decoder.decode(block)[1] is decoder.decode(block)[1]
    decoder.decode(b"\x3f\xe1\x1f")
    assert added(decoder) == []
    decoder.decode(b"\x40\x01d\x01e")
    assert decoder.decode(b"\xbe" + block) == [(b"d", b"e"), (b":status", b"200"), (b"c", b"a")]
    assert decoder.decode(block + b"\xbe") == [(b":status", b"200"), (b"c", b"a"), (b"c", b"a")]


def test_a_field_larger_than_the_table_changes_it() -> None:
    """It empties the table, and blocks that refer to what was in it are not remembered."""
    decoder = Decoder()
    decoder.decode(b"\x3f\x03\x40\x01a\x01b")  # 34 bytes
    assert decoder.decode(b"\xbe") == [(b"a", b"b")]
    decoder.decode(b"\x40\x01c\x02de")
    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe")


def test_result_belongs_to_the_caller() -> None:
    """The list that is returned can be changed without an effect on the next one."""
    decoder = Decoder()
    for _ in range(3):
        decoded = decoder.decode(b"\x82")
        assert decoded == [GET]
        decoded.clear()


def coded(digits: str) -> bytes:
    """Return the Huffman code of zeros and ones, which have five bits each."""
    return int(digits.replace("0", "00000").replace("1", "00001"), 2).to_bytes(len(digits) * 5 // 8, "big")


def test_many_different_strings_and_blocks() -> None:
    """What is remembered stays right while it is dropped and built up again."""
    decoder = Decoder()
    for number in [*range(200), *range(200)]:
        digits = f"{number:08b}"
        assert decoder.decode(b"\x08\x85" + coded(digits)) == [(b":status", digits.encode())]


def test_memory_is_bounded() -> None:
    """However many strings and blocks arrive, only a few small ones are remembered."""
    blocks = [
        *(b"\x08\x8a" + coded(f"{number:016b}") for number in range(500)),  # 10 bytes each
        *(b"\x08\x7f\x81\x06" + b"%0896d" % number for number in range(100)),  # 896
        *(b"\x08\xff\xe9\x06" + coded(f"{number:01600b}") for number in range(100)),  # 1,000
    ]
    sizes: list[int] = []
    for _ in range(2):  # the first time, the code of these strings is worked out
        decoder = Decoder()
        tracemalloc.start()
        for block in blocks:
            decoder.decode(block)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert sizes[1] < 12_000
