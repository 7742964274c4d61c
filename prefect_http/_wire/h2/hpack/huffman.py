"""The Huffman code of strings. Pure. RFC 7541 section 5.2 and appendix B.

Strings are only decoded. Encoding a string of 23 bytes would take 3 us in Python, more than all other work for a usual
request, and save six bytes. A field that is sent often is in the table after its second time anyway.

The decoder goes through whole bytes. What a byte means depends on the bits that the ones before it have left over, the
beginning of one of the codes: 256 beginnings and 256 bytes make 65,536 cases. Working all of them out would take 0.2 s
and 8 MB, but the strings that a server sends need a few hundred, so each is worked out when it first occurs. For a
string of 23 bytes, this takes 1.5 us; going by half bytes takes 2.4 us, by symbols 3.4, and the package ``hpack`` 7.
"""

from __future__ import annotations

from prefect_http._wire.h2.hpack.errors import HPACKError

# The bytes whose codes have a length in bits. The code is canonical: codes ascend with their length, and among those of
# the same length with the byte. The last code, 30 set bits, is EOS, the end of a string, which never occurs in one.
_BY_LENGTH = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf"
    b"\xc5\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
    b"\xdc\xf9",
    30: b"\n\r\x16",
}
_EOS = "1" * 30


def _symbols() -> dict[str, bytes]:
    """Return the byte that each code, in binary digits, stands for."""
    symbols: dict[str, bytes] = {}
    code = previous = 0
    for length, values in _BY_LENGTH.items():
        code <<= length - previous
        previous = length
        for value in values:
            symbols[f"{code:0{length}b}"] = bytes((value,))
            code += 1
    return symbols


_SYMBOLS = _symbols()


# What each byte leads to: the row for the next one, the symbols that are complete, and the bits that are left over.
_Row = list["tuple[_Row, bytes, str] | None"]
# By the bits that are left over.
_ROWS: dict[str, _Row] = {"": [None] * 256}


def _step(code: str, byte: int) -> tuple[_Row, bytes, str]:
    """Return what a byte leads to after the beginning of a code."""
    symbols = b""
    for bit in f"{byte:08b}":
        code += bit
        if code in _SYMBOLS:
            symbols += _SYMBOLS[code]
            code = ""
    if code.startswith(_EOS):
        raise HPACKError("a Huffman-coded string contains EOS")
    if code not in _ROWS:
        _ROWS[code] = [None] * 256
    return _ROWS[code], symbols, code


def decode(data: bytes) -> bytes:
    """Return a string without its Huffman code.

    Raises:
        HPACKError: it contains EOS, or its last byte is not filled up with set bits.
    """
    row = _ROWS[""]
    code = ""
    decoded: list[bytes] = []
    for byte in data:
        step = row[byte]
        if step is None:
            step = row[byte] = _step(code, byte)
        row, symbols, code = step
        decoded.append(symbols)
    if len(code) > 7 or "0" in code:
        raise HPACKError("a Huffman-coded string has invalid padding")
    return b"".join(decoded)
